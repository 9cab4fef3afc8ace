import { must } from "../../errors.ts";
import { add, mul } from "../../graph/index.ts";
import { type StateTensor, type StepAt, stateName, type UpdateRule } from "./rule.ts";

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

/** What the average is kept as: the state tensors `ema:<key>`. */
export const averageOf = (key: string): string => stateName("ema", key);

/**
 * Averages parameters and running statistics as the rules before have left them; starts from the values of the first
 * step. Everything else stays.
 *
 * @throws `ema/decay` for a decay outside [0, 1)
 */
export function movingAverage({ decay, warmup = false }: EmaOptions): UpdateRule {
  must(decay >= 0 && decay < 1, "ema/decay", () => `ema: decay must be at least 0 and below 1, got ${decay}`, "usage");
  /** The warm-up is that of TensorFlow's `ExponentialMovingAverage`. */
  const kept = ({ step }: StepAt): number => (warmup ? Math.min(decay, (1 + step) / (10 + step)) : decay);
  return {
    name: "movingAverage",
    settings: { decay, warmup },
    // Both shares in float64; in float32, 1 − decay would lose most of its digits.
    scalars: { emaKept: kept, emaTaken: (at) => 1 - kept(at) },
    state: ({ parameters, statistics }) =>
      [...parameters, ...statistics].map((p): StateTensor => {
        const { key, dtype, shape } = p;
        // Whichever values it has by then.
        return { name: averageOf(key), dtype, shape, source: () => p.source() };
      }),
    apply: ({ parameters, statistics, state, scalars }) => ({
      state: Object.fromEntries(
        [...parameters, ...statistics].map(({ key, value }) => [
          averageOf(key),
          add(mul(state[averageOf(key)], scalars.emaKept), mul(value, scalars.emaTaken)),
        ]),
      ),
    }),
  };
}
