import { must } from "../../errors.ts";
import { add, clip, div, minimum, mul, reduceSum, sqrt, type Value } from "../../graph/index.ts";
import type { UpdateRule } from "./rule.ts";

function mustBeLimit(name: string, limit: number): void {
  must(
    Number.isFinite(limit) && limit > 0,
    "clipping/limit",
    () => `clipping: ${name} must be a positive number, got ${limit}. Leave it out to clip nothing.`,
    "usage",
  );
}

/** 2-norm of all values of flat gradients `[n]` together, `[1]`. */
export const globalNorm = (gradients: readonly Value[]): Value =>
  sqrt(gradients.map((g) => reduceSum(mul(g, g), 0, { keepDims: true })).reduce((a, b) => add(a, b)));

/** Tells the norm of all gradients, as they come to this rule: output `gradientNorm`. */
export const reportNorm = (): UpdateRule => ({
  name: "reportNorm",
  settings: {},
  apply: ({ gradients }) => ({ outputs: { gradientNorm: globalNorm(gradients) } }),
});

/**
 * Scales all gradients by one factor where their common 2-norm is above `limit`: PyTorch's `clip_grad_norm_`, whose factor
 * is `limit / (norm + 1e-6)`, at most 1.
 */
export function clipByNorm(limit: number): UpdateRule {
  mustBeLimit("clipNorm", limit);
  return {
    name: "clipByNorm",
    settings: { limit },
    apply: ({ gradients }) => {
      const factor = minimum(div(limit, add(globalNorm(gradients), 1e-6)), 1);
      return { gradients: gradients.map((g) => mul(g, factor)) };
    },
  };
}

/** Limits every single value of the gradients to ±limit: PyTorch's `clip_grad_value_`. */
export function clipByValue(limit: number): UpdateRule {
  mustBeLimit("clipValue", limit);
  return {
    name: "clipByValue",
    settings: { limit },
    apply: ({ gradients }) => ({ gradients: gradients.map((g) => clip(g, -limit, limit)) }),
  };
}
