import { fmt, must } from "../../errors.ts";
import { type Shape, sameShape, sizeOf, Tensor } from "../../tensor/index.ts";
import { broadcastShapes, type Handle } from "../emitter.ts";
import { type Layout, physicalAxis } from "../layout.ts";
import type { Lowering, Physical } from "../op.ts";
import { constant, defineOp, type Node, type Op, type Value } from "../value.ts";
import { normalizeAxes, permuteEntries } from "./axes.ts";
import { expandTensor } from "./fold.ts";
import { sumsToZero } from "./zero-sum.ts";

/*
 * Reshape, expand and sum stand together, since the gradients of broadcasting are made of all three.
 */

const reshapeOp = defineOp<{ readonly shape: Shape }>({
  name: "reshape",
  inputs: ["x"],
  infer: ([x], { shape }) => {
    must(
      sizeOf(shape) === sizeOf(x.shape) && shape.every((d) => Number.isInteger(d) && d >= 0),
      "reshape/size",
      () => `reshape: ${fmt(x.shape)} has ${sizeOf(x.shape)} values, ${fmt(shape)} needs ${sizeOf(shape)}`,
    );
    return { dtype: x.dtype, shape };
  },
  vjp: ({ inputs: [x], dy }) => [reshape(dy, x.shape)],
  lower: (lowering, { inputs: [x] }, { shape }) => {
    // As long as the batch axis stays, the values can stay batch-last.
    const layout: Layout =
      lowering.layoutOf(x) === "batchLast" && shape.length >= 2 && shape[0] === x.shape[0] ? "batchLast" : "natural";
    return { handle: lowering.emit.reshape(lowering.read(x, layout), permuteEntries(shape, layout)), layout };
  },
  fold: ([x], { shape }) => x.reshape(shape),
});

/** The same values in row-major order under another shape; one entry may be −1. */
export function reshape(x: Value, shape: Shape): Value {
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
  const missing = sizeOf(x.shape) / known;
  must(
    shape.filter((d) => d === -1).length <= 1 && (!shape.includes(-1) || Number.isInteger(missing)),
    "reshape/unknown",
    () => `reshape: ${fmt(x.shape)} has ${sizeOf(x.shape)} values, which ${fmt(shape)} cannot hold; one size may be −1`,
  );
  const full = shape.map((d) => (d === -1 ? missing : d));
  return full.length === x.shape.length && full.every((d, i) => d === x.shape[i]) ? x : reshapeOp([x], { shape: full });
}

/** Joins axes `from` … `to` (inclusive) into one. */
export const flatten = (x: Value, from = 1, to = x.shape.length - 1): Value =>
  reshape(x, [...x.shape.slice(0, from), sizeOf(x.shape.slice(from, to + 1)), ...x.shape.slice(to + 1)]);

export interface ReduceAttrs {
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

export interface ReduceOptions {
  /** Keeps the reduced axes with size 1. Default false. */
  readonly keepDims?: boolean;
}

const reducedShape = (shape: Shape, { axes, keepDims }: ReduceAttrs): Shape =>
  keepDims ? shape.map((d, i) => (axes.includes(i) ? 1 : d)) : shape.filter((_, i) => !axes.includes(i));

/** Groups neighbouring axes that are reduced (or kept) together: long inner loops, and the kernels' fast paths. */
function collapse(lowering: Lowering, opType: string, x: Handle, axes: readonly number[]): Handle {
  const sizes: number[] = [];
  const reduced: number[] = [];
  let last: boolean | undefined;
  for (const [i, d] of x.shape.entries()) {
    const isReduced = axes.includes(i);
    if (isReduced === last) sizes[sizes.length - 1] *= d;
    else {
      if (isReduced) reduced.push(sizes.length);
      sizes.push(d);
    }
    last = isReduced;
  }
  const { emit } = lowering;
  return emit.reduce(opType, emit.reshape(x, sizes), reduced, false);
}

function lowerReduce(opType: string, lowering: Lowering, node: Node, attrs: ReduceAttrs): Physical {
  const [x] = node.inputs;
  const rank = x.shape.length;
  const shape = node.outputs[0].shape;
  const keepsBatch = attrs.keepDims || !attrs.axes.includes(0);
  const layout: Layout = rank >= 2 ? lowering.layoutOf(x) : "natural";
  if (!attrs.axes.length) return { handle: lowering.read(x, layout), layout };
  const handle = lowering.read(x, layout);
  const total = collapse(
    lowering,
    opType,
    handle,
    attrs.axes.map((a) => physicalAxis(a, rank, layout)),
  );
  const outLayout: Layout = layout === "batchLast" && keepsBatch && shape.length >= 2 ? "batchLast" : "natural";
  const physical = outLayout === "batchLast" ? [...shape.slice(1), shape[0]] : shape;
  return { handle: lowering.emit.reshape(total, physical), layout: outLayout };
}

export const defineReduce = (
  name: string,
  onnx: string,
  vjp: (x: Value, y: Value, dy: Value, axes: readonly number[]) => Value,
): Op<ReduceAttrs> =>
  defineOp<ReduceAttrs>({
    name,
    inputs: ["x"],
    infer: ([x], attrs) => {
      must(x.dtype !== "bool", `${name}/dtype`, () => `${name}: x is bool. Cast it to a number type.`);
      return { dtype: x.dtype, shape: reducedShape(x.shape, attrs) };
    },
    vjp: ({ inputs: [x], outputs: [y], dy, attrs: { axes } }) => {
      const kept = reducedShape(x.shape, { axes, keepDims: true });
      return [vjp(x, reshape(y, kept), reshape(dy, kept), axes)];
    },
    lower: (lowering, node, attrs) => lowerReduce(onnx, lowering, node, attrs),
  });

const sumOp = defineReduce("reduceSum", "ReduceSum", (x, _, dy) => expand(dy, x.shape));
/** The public function of a reduction. */
export const reducer =
  (op: Op<ReduceAttrs>) =>
  (x: Value, axes?: readonly number[] | number, { keepDims = false }: ReduceOptions = {}): Value =>
    op([x], { axes: normalizeAxes(op.name, x.shape.length, axes), keepDims });

const sum = reducer(sumOp);
/** Sum over `axes` (default: all); no more than a zero where all but the channels (axis 1) are known to sum to it. */
export function reduceSum(x: Value, axes?: readonly number[] | number, options: ReduceOptions = {}): Value {
  if (!sumsToZero(x)) return sum(x, axes, options);
  const reduced = normalizeAxes(sumOp.name, x.shape.length, axes);
  if (!x.shape.every((_, i) => i === 1 || reduced.includes(i))) return sum(x, axes, options);
  const { keepDims = false } = options;
  return constant(Tensor.zeros(x.dtype, reducedShape(x.shape, { axes: reduced, keepDims })));
}
const expandOp = defineOp<{ readonly shape: Shape }>({
  name: "expand",
  inputs: ["x"],
  infer: ([x], { shape }) => {
    const out = broadcastShapes(x.shape, shape);
    must(
      out.length === shape.length && out.every((d, i) => d === shape[i] && Number.isInteger(d) && d >= 0),
      "expand/shape",
      () => `expand: ${fmt(x.shape)} does not broadcast to ${fmt(shape)}`,
    );
    return { dtype: x.dtype, shape };
  },
  vjp: ({ inputs: [x], dy }) => [unbroadcast(dy, x.shape)],
  lower: (lowering, { inputs: [x] }, { shape }) => {
    const { emit } = lowering;
    const layout: Layout = x.shape.length === shape.length ? lowering.layoutOf(x) : "natural";
    const handle = lowering.read(x, layout);
    const physical = permuteEntries(shape, layout);
    return { handle: emit.node("Expand", [handle, emit.int64(physical)], {}, physical), layout };
  },
  fold: ([x], { shape }) => expandTensor(x, shape),
});

/** Broadcasts to `shape`. */
export const expand = (x: Value, shape: Shape): Value =>
  x.shape.length === shape.length && x.shape.every((d, i) => d === shape[i]) ? x : expandOp([x], { shape });

/** Sums a cotangent over the axes along which an operand of shape `shape` was broadcast. */
export function unbroadcast(dy: Value, shape: Shape): Value {
  if (sameShape(dy.shape, shape)) return dy;
  const lead = dy.shape.length - shape.length;
  const axes = dy.shape.flatMap((d, i) => (i < lead || (shape[i - lead] === 1 && d !== 1) ? [i] : []));
  return reshape(axes.length ? reduceSum(dy, axes, { keepDims: true }) : dy, shape);
}
