import { must } from "../errors.ts";
import { add, mul, type Value } from "../graph/index.ts";

/** An exponential moving average of the weights, kept beside them. */
export interface EmaOptions {
  /** Share of the average that a step keeps, such as 0.9999. */
  readonly decay: number;
  /**
   * Begins with a lower decay, min(decay, (1 + t) / (10 + t)) at the t-th step, so that a short run's average does not
   * consist of its initial values. Default false.
   */
  readonly warmup?: boolean;
}

/** Scalars that the average needs at a step, as inputs of the step's graph. */
export const emaScalarNames = ["emaKept", "emaTaken"] as const;

/** Throws `ema/decay` for a decay outside [0, 1). */
export function checkEma({ decay }: EmaOptions): void {
  must(decay >= 0 && decay < 1, "ema/decay", () => `ema: decay must be at least 0 and below 1, got ${decay}`, "usage");
}

/** Share kept by step `step`, counted from 1. The warm-up is that of TensorFlow's `ExponentialMovingAverage`. */
export const emaDecay = ({ decay, warmup = false }: EmaOptions, step: number): number =>
  warmup ? Math.min(decay, (1 + step) / (10 + step)) : decay;

/** Both shares in float64; in float32, 1 − decay would lose most of its digits. */
export function emaScalars(options: EmaOptions, step: number): Readonly<Record<string, number>> {
  const decay = emaDecay(options, step);
  return { emaKept: decay, emaTaken: 1 - decay };
}

/** The next average of flat values. */
export const averagedWith = (average: Value, value: Value, scalars: Readonly<Record<string, Value>>): Value =>
  add(mul(average, scalars.emaKept), mul(value, scalars.emaTaken));
