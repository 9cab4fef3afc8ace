import { must } from "../../errors.ts";
import { add, div, mul, sqrt } from "../../graph/index.ts";
import { forEachParameter, type StepAt, type UpdateRule, zerosLike } from "./rule.ts";

export interface MomentOptions {
  readonly betas: readonly [number, number];
  readonly eps: number;
}

/**
 * Adam's direction in place of the gradient: m / (√v̂ + eps), with v̂ corrected for its start at zero and m not, whose
 * correction is one number and belongs to the size of the step: {@link correctedRate}.
 */
export const adamDirection = ({ betas: [beta1, beta2], eps }: MomentOptions): UpdateRule =>
  forEachParameter({
    name: "adam",
    settings: { beta1, beta2, eps },
    // √v̂ = √v · correction
    scalars: { correction: ({ step }) => 1 / Math.sqrt(1 - beta2 ** step) },
    state: (p) => {
      must(
        p.group.momentum === undefined,
        "adam/momentum",
        () => `adam: the group of ${p.key} sets a momentum, which Adam has not. Leave it out, or use sgd.`,
        "usage",
      );
      return [zerosLike("mean", p), zerosLike("square", p)];
    },
    apply: ({ gradient, state, scalars }) => {
      const mean = add(mul(state.mean, beta1), mul(gradient, 1 - beta1));
      const square = add(mul(state.square, beta2), mul(mul(gradient, gradient), 1 - beta2));
      const denominator = add(mul(sqrt(square), scalars.correction), eps);
      return { gradient: div(mean, denominator), state: { mean, square } };
    },
  });

/** Size of Adam's step: lr / (1 − β1^t). */
export const correctedRate =
  (beta1: number) =>
  ({ lr, step }: StepAt): number =>
    lr / (1 - beta1 ** step);
