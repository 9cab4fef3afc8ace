import type { Lowering, Physical } from "../op.ts";
import { attrsIf, defineOp, type Value } from "../value.ts";

/*
 * What algebra knows of a gradient and rounding would hide. The gradient that a batch norm by its own statistics passes
 * on sums to zero in every channel, since its output stays the same whatever is added to a channel. So the gradient of a
 * bias in front of such a norm is zero, where summing gives what rounding left; and that of a weight that makes a channel
 * alone (a depthwise 1×1 convolution) is zero but for the norm's eps. Ops that change nothing carry the knowledge: they
 * are put around the value that it is about.
 */

const asItIs = (lowering: Lowering, x: Value): Physical => {
  const layout = lowering.layoutOf(x);
  return { handle: lowering.read(x, layout), layout };
};

const zeroSumOp = defineOp<Record<string, never>>({
  name: "zeroSum",
  inputs: ["x"],
  infer: ([x]) => x,
  vjp: ({ dy }) => [dy],
  lower: (lowering, { inputs: [x] }) => asItIs(lowering, x),
});

const normGradientOp = defineOp<Pick<NormGradient, "eps" | "count">>({
  name: "normGradient",
  inputs: ["dx", "dy", "x", "weight", "variance", "sum"],
  infer: ([dx]) => dx,
  vjp: ({ dy }) => [dy],
  lower: (lowering, { inputs: [dx] }) => asItIs(lowering, dx),
});

/** How a gradient came through a batch norm by its own statistics. */
export interface NormGradient {
  /** Gradient of the norm's output. */
  readonly dy: Value;
  /** What the norm was of. */
  readonly x: Value;
  /** The norm's factor, and the biased variance of x; `[C]`. */
  readonly weight: Value;
  readonly variance: Value;
  /** Sum of dy over the batch that the norm is by, `[C]`, and how many values that is of. */
  readonly sum: Value;
  readonly count: number;
  readonly eps: number;
}

/** `x` `[N, C, …]`, known to sum to zero in every channel (axis 1) but for rounding. */
export const zeroSum = (x: Value): Value => zeroSumOp([x], {});

/** `dx`, known to be the gradient of a batch norm for its input; a {@link zeroSum}, too. */
export const normGradient = (dx: Value, { dy, x, weight, variance, sum, ...attrs }: NormGradient): Value =>
  normGradientOp([dx, dy, x, weight, variance, sum], attrs);

/** Whether a value is known to sum to zero in every channel. */
export const sumsToZero = (v: Value): boolean => [zeroSumOp.name, normGradientOp.name].includes(v.node.op.name);

/** The value without what is known of it. */
export const bare = (v: Value): Value => (sumsToZero(v) ? v.node.inputs[0] : v);

/** What is known of a value that {@link normGradient} made. */
export function asNormGradient(v: Value): NormGradient | undefined {
  const attrs = attrsIf(v, normGradientOp);
  if (!attrs) return undefined;
  const [, dy, x, weight, variance, sum] = v.node.inputs;
  return { dy, x, weight, variance, sum, ...attrs };
}
