import { must } from "../errors.ts";
import { add, div, mul, sqrt, sub, type Value } from "../graph/index.ts";

/** The scalars that an optimizer needs at one step, computed by the host in float64 and fed to the graph. */
export type StepScalars = Readonly<Record<string, number>>;

/** What the update rule sees of one parameter: flat values `[n]` and scalars `[1]`. */
export interface UpdateArgs {
  readonly parameter: Value;
  readonly gradient: Value;
  /** State tensors by slot. */
  readonly slots: Readonly<Record<string, Value>>;
  readonly scalars: Readonly<Record<string, Value>>;
  /** Factor of the learning rate for this parameter. */
  readonly lrScale: number;
  readonly weightDecay: number;
}

/** New parameter and slots, flat. */
export interface Updated {
  readonly parameter: Value;
  readonly slots: Readonly<Record<string, Value>>;
}

/** A first-order optimizer as a graph transform. */
export interface Optimizer {
  readonly name: string;
  /** State tensors per parameter, of its shape, zero at the start. */
  readonly slots: readonly string[];
  /** Weight decay of parameters that no group sets otherwise. */
  readonly weightDecay: number;
  /** Names of what {@link scalars} returns. */
  readonly scalarNames: readonly string[];
  /** Scalars of a step. `step` counts from 1. */
  scalars(lr: number, step: number): StepScalars;
  /** One update of one parameter. */
  update(args: UpdateArgs): Updated;
  /** For logs and checkpoints. */
  readonly settings: Readonly<Record<string, number | boolean>>;
}

const scaled = (lr: Value, by: number): Value => (by === 1 ? lr : mul(lr, by));

export interface SgdOptions {
  /** Default 0. */
  readonly momentum?: number;
  /** Default false; needs momentum. */
  readonly nesterov?: boolean;
  /** Default 0. */
  readonly weightDecay?: number;
}

/**
 * Stochastic gradient descent as in PyTorch: d = g + wd·w; v = momentum·v + d; w −= lr·v, or with Nesterov
 * lr·(d + momentum·v).
 */
export function sgd({ momentum = 0, nesterov = false, weightDecay = 0 }: SgdOptions = {}): Optimizer {
  mustBeIn("sgd", { momentum }, 0, 1);
  mustBeIn("sgd", { weightDecay }, 0, Number.POSITIVE_INFINITY);
  must(
    !nesterov || momentum > 0,
    "sgd/nesterov",
    () => `sgd: nesterov needs a momentum above 0, got ${momentum}`,
    "usage",
  );
  return {
    name: "sgd",
    slots: momentum ? ["momentum"] : [],
    weightDecay,
    scalarNames: ["lr"],
    scalars: (lr) => ({ lr }),
    settings: { momentum, nesterov, weightDecay },
    update: ({ parameter, gradient, slots, scalars, lrScale, weightDecay: decay }): Updated => {
      const lr = scaled(scalars.lr, lrScale);
      const d = decay ? add(gradient, mul(parameter, decay)) : gradient;
      if (!momentum) return { parameter: sub(parameter, mul(d, lr)), slots: {} };
      const v = add(mul(slots.momentum, momentum), d);
      const step = nesterov ? add(d, mul(v, momentum)) : v;
      return { parameter: sub(parameter, mul(step, lr)), slots: { momentum: v } };
    },
  };
}

export interface AdamWOptions {
  /** Default 0.9, 0.999. */
  readonly betas?: readonly [number, number];
  /** Default 1e-8. */
  readonly eps?: number;
  /** Decoupled from the gradient. Default 0.01. */
  readonly weightDecay?: number;
}

/** Adam with decoupled weight decay, as PyTorch's AdamW: w ·= 1 − lr·wd, then Adam; eps is added to sqrt(v̂). */
export function adamW({ betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01 }: AdamWOptions = {}): Optimizer {
  mustBeIn("adamW", { beta1: betas[0], beta2: betas[1] }, 0, 1);
  mustBeIn("adamW", { eps, weightDecay }, 0, Number.POSITIVE_INFINITY);
  const [beta1, beta2] = betas;
  return {
    name: "adamw",
    slots: ["mean", "square"],
    weightDecay,
    scalarNames: ["lr", "stepSize", "correction"],
    // stepSize = lr / (1 − β1^t); sqrt(v̂) = sqrt(v) · correction with correction = 1 / sqrt(1 − β2^t).
    scalars: (lr, step) => ({
      lr,
      stepSize: lr / (1 - beta1 ** step),
      correction: 1 / Math.sqrt(1 - beta2 ** step),
    }),
    settings: { beta1, beta2, eps, weightDecay },
    update: ({ parameter, gradient, slots, scalars, lrScale, weightDecay: decay }): Updated => {
      const kept = decay ? sub(parameter, mul(parameter, mul(scaled(scalars.lr, lrScale), decay))) : parameter;
      const mean = add(mul(slots.mean, beta1), mul(gradient, 1 - beta1));
      const square = add(mul(slots.square, beta2), mul(mul(gradient, gradient), 1 - beta2));
      const denominator = add(mul(sqrt(square), scalars.correction), eps);
      const step = mul(div(mean, denominator), scaled(scalars.stepSize, lrScale));
      return { parameter: sub(kept, step), slots: { mean, square } };
    },
  };
}

function mustBeIn(where: string, values: Readonly<Record<string, number>>, from: number, below: number): void {
  for (const [name, value] of Object.entries(values))
    must(
      value >= from && value < below,
      `${where}/option`,
      () =>
        `${where}: ${name} must be at least ${from}${Number.isFinite(below) ? ` and below ${below}` : ""}, got ${value}`,
      "usage",
    );
}
