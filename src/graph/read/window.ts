import { reshape } from "../ops/broadcast.ts";
import type { Pair } from "../ops/conv-options.ts";
import type { Value } from "../value.ts";
import type { NodeContext } from "./context.ts";

/** Geometry of a convolution or pooling window over two axes. */
export interface Window {
  readonly kernel: Pair;
  readonly stride: Pair;
  readonly dilation: Pair;
  readonly before: Pair;
  readonly after: Pair;
}

/** Images of one row: operators over one axis are read as operators over two. */
export const asImages = (x: Value): Value =>
  x.shape.length === 3 ? reshape(x, [x.shape[0], x.shape[1], 1, x.shape[2]]) : x;

/** Takes the row away again that {@link asImages} added for `x`. */
export const likeInput = (y: Value, x: Value): Value =>
  x.shape.length === 3 ? reshape(y, [y.shape[0], y.shape[1], y.shape[3]]) : y;

/** A list with one entry per spatial axis as a pair. */
export function spatialPair(node: NodeContext, list: readonly number[] | undefined, fallback: number): Pair {
  if (!list) return [fallback, fallback];
  if (list.length > 2) node.fail("rank", `windows over ${list.length} axes are not supported, only over 1 or 2.`);
  return list.length === 2 ? [list[0], list[1]] : [fallback, list[0]];
}

/** Reach of a kernel with its gaps. */
export const reachOf = (kernel: Pair, dilation: Pair): Pair => [
  dilation[0] * (kernel[0] - 1) + 1,
  dilation[1] * (kernel[1] - 1) + 1,
];

/** The window's geometry from the attributes, with automatic padding worked out for `size`. */
export function readWindow(node: NodeContext, size: Pair, kernel: Pair): Window {
  const stride = spatialPair(node, node.intList("strides"), 1);
  const dilation = spatialPair(node, node.intList("dilations"), 1);
  const mode = node.text("auto_pad", "NOTSET");
  const pads = node.intList("pads");
  if (mode === "NOTSET") {
    const half = (pads?.length ?? 0) / 2;
    const before = spatialPair(node, pads?.slice(0, half), 0);
    return { kernel, stride, dilation, before, after: spatialPair(node, pads?.slice(half), 0) };
  }
  if (mode === "VALID") return { kernel, stride, dilation, before: [0, 0], after: [0, 0] };
  if (mode !== "SAME_UPPER" && mode !== "SAME_LOWER") node.fail("auto_pad", `auto_pad ${mode} is not supported.`);
  const reach = reachOf(kernel, dilation);
  const totals = [0, 1].map((i) => Math.max(0, (Math.ceil(size[i] / stride[i]) - 1) * stride[i] + reach[i] - size[i]));
  const small = totals.map((t) => Math.floor(t / 2));
  const large = totals.map((t, i) => t - small[i]);
  const [before, after] = mode === "SAME_UPPER" ? [small, large] : [large, small];
  return { kernel, stride, dilation, before: [before[0], before[1]], after: [after[0], after[1]] };
}

export const isSymmetric = ({ before, after }: Window): boolean => before[0] === after[0] && before[1] === after[1];
