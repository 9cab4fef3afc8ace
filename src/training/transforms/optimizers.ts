import { must } from "../../errors.ts";
import { adamDirection, correctedRate, type MomentOptions } from "./adam.ts";
import { addDecay, descend, shrinkWeights } from "./descent.ts";
import { withMomentum } from "./momentum.ts";
import { type GradientMultipliers, multiplyGradients } from "./multiply.ts";
import { chain, mustBeIn, type UpdateRule } from "./rule.ts";

/** A rule that moves the parameters: {@link sgd}, {@link adamW}, or a chain of one's own. */
export interface Optimizer extends UpdateRule {
  /**
   * The same under RepOptimizer (arXiv 2205.15242), if it has that form.
   *
   * @param multipliers  gives the factors of the gradients for scales to this power
   */
  readonly repOptimized?: (multipliers: (power: 1 | 2) => GradientMultipliers) => Optimizer;
}

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
 * lr·(d + momentum·v). Momentum, decay and rate may differ by group.
 */
export function sgd(options: SgdOptions = {}): Optimizer {
  const { momentum = 0, nesterov = false, weightDecay = 0 } = options;
  mustBeIn("sgd", { momentum }, 0, 1);
  mustBeIn("sgd", { weightDecay }, 0, Number.POSITIVE_INFINITY);
  must(
    !nesterov || momentum > 0,
    "sgd/nesterov",
    () => `sgd: nesterov needs a momentum above 0, got ${momentum}`,
    "usage",
  );
  return {
    ...chain(addDecay(weightDecay), withMomentum({ momentum, nesterov }), descend()),
    name: "sgd",
    settings: { momentum, nesterov, weightDecay },
    repOptimized: (multipliers) => repSgd(multipliers(2), options),
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
export function adamW(options: AdamWOptions = {}): Optimizer {
  const { weightDecay, moments, settings } = checkedAdamW(options);
  return {
    ...chain(shrinkWeights(weightDecay), adamDirection(moments), adamDescent(moments)),
    name: "adamw",
    settings,
    repOptimized: (multipliers) => repAdamW(multipliers(1), options),
  };
}

const adamDescent = ({ betas: [beta1] }: MomentOptions): UpdateRule => descend("stepSize", correctedRate(beta1));

function checkedAdamW({ betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01 }: AdamWOptions) {
  const [beta1, beta2] = betas;
  mustBeIn("adamW", { beta1, beta2 }, 0, 1);
  mustBeIn("adamW", { eps, weightDecay }, 0, Number.POSITIVE_INFINITY);
  return { weightDecay, moments: { betas, eps }, settings: { beta1, beta2, eps, weightDecay } };
}

/**
 * {@link sgd} whose gradients are multiplied elementwise before decay and momentum (RepOptimizer, arXiv 2205.15242): a
 * plain network then trains as one with branches of constant scales would.
 */
export function repSgd(multipliers: GradientMultipliers, options: SgdOptions = {}): Optimizer {
  const [scale, plain] = [multiplyGradients(multipliers), sgd(options)];
  return { ...chain(scale, plain), name: "repsgd", settings: { ...plain.settings, ...scale.settings } };
}

/**
 * {@link adamW} in the way of RepOptimizer: gradients are multiplied before they enter the moments, and the first moment
 * once more where the step is made of it.
 */
export function repAdamW(multipliers: GradientMultipliers, options: AdamWOptions = {}): Optimizer {
  const { weightDecay, moments, settings } = checkedAdamW(options);
  const scale = multiplyGradients(multipliers);
  return {
    ...chain(shrinkWeights(weightDecay), scale, adamDirection(moments), scale, adamDescent(moments)),
    name: "repadamw",
    settings: { ...settings, ...scale.settings },
  };
}
