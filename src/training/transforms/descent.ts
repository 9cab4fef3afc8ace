import { add, mul, sub, type Value } from "../../graph/index.ts";
import { forEachParameter, mustBeIn, rate, type StepAt, type UpdateRule } from "./rule.ts";

/** A scalar times a group's factor. */
const scaled = (scalar: Value, by = 1): Value => (by === 1 ? scalar : mul(scalar, by));

/** A group's weight decay, else the rule's. */
function decayOf(where: string, { weightDecay }: { readonly weightDecay?: number }, usual: number): number {
  mustBeIn(where, { weightDecay }, 0, Number.POSITIVE_INFINITY);
  return weightDecay ?? usual;
}

/** Adds the gradient of an L2 penalty: g + wd·w. */
export const addDecay = (weightDecay: number): UpdateRule =>
  forEachParameter({
    name: "addDecay",
    settings: { weightDecay },
    apply: ({ value, gradient, group }) => {
      const decay = decayOf("addDecay", group, weightDecay);
      return decay ? { gradient: add(gradient, mul(value, decay)) } : {};
    },
  });

/** Decay apart from the gradient, as in AdamW: w ·= 1 − lr·wd. */
export const shrinkWeights = (weightDecay: number): UpdateRule =>
  forEachParameter({
    name: "shrinkWeights",
    settings: { weightDecay },
    scalars: rate,
    apply: ({ value, group, scalars }) => {
      const decay = decayOf("shrinkWeights", group, weightDecay);
      return decay ? { value: sub(value, mul(value, mul(scaled(scalars.lr, group.lrScale), decay))) } : {};
    },
  });

/**
 * The step itself: w −= size·g, with the gradient as the rules before have left it. The size is the learning rate, or
 * another scalar that takes something in.
 */
export const descend = (scalar = "lr", size: (at: StepAt) => number = rate.lr): UpdateRule =>
  forEachParameter({
    name: "descend",
    settings: {},
    scalars: { [scalar]: size },
    apply: ({ value, gradient, group, scalars }) => ({
      value: sub(value, mul(gradient, scaled(scalars[scalar], group.lrScale))),
    }),
  });
