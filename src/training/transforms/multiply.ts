import { fmt, listed, must, nearest } from "../../errors.ts";
import { mul } from "../../graph/index.ts";
import { sameShape, type Tensor } from "../../tensor/index.ts";
import { forEachParameter, stateName, type TrainedParameter, type UpdateRule } from "./rule.ts";

/** Factors of gradients by parameter key, each of its parameter's shape; the gradients of other keys stay. */
export type GradientMultipliers = ReadonlyMap<string, Tensor>;

/**
 * Multiplies gradients elementwise. The factors are state, `optimizer.multiplier:<key>`: they are saved with checkpoints,
 * which a resumed run takes them from, and the host can replace them.
 *
 * @throws `multiply/key`, `multiply/shape` where the factors do not fit the parameters that are trained
 */
export function multiplyGradients(multipliers: GradientMultipliers): UpdateRule {
  const rule = forEachParameter({
    name: "multiplyGradients",
    settings: { multipliers: multipliers.size },
    state: ({ key, dtype, shape }: TrainedParameter) => {
      const factors = multipliers.get(key);
      if (!factors) return [];
      must(
        sameShape(factors.shape, shape) && factors.dtype === dtype,
        "multiply/shape",
        () =>
          `multiplyGradients: the factors of ${key} are ${factors.dtype} ${fmt(factors.shape)}, the parameter is ${dtype} ${fmt(shape)}. They must agree.`,
        "usage",
      );
      return [{ name: stateName("multiplier", key), dtype, shape, source: () => factors }];
    },
    apply: ({ gradient, state: { multiplier } }) => (multiplier ? { gradient: mul(gradient, multiplier) } : {}),
  });
  return {
    ...rule,
    state(subjects) {
      const keys = subjects.parameters.map(({ key }) => key);
      for (const key of multipliers.keys())
        must(
          keys.includes(key),
          "multiply/key",
          () =>
            `multiplyGradients: there is no trained parameter "${key}". Did you mean ${listed(nearest(key, keys), 3)}?`,
          "usage",
        );
      return rule.state?.(subjects) ?? [];
    },
  };
}
