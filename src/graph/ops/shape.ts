import { fmt, must } from "../../errors.ts";
import { type Shape, sizeOf, stridesOf, Tensor } from "../../tensor/index.ts";
import { physicalAxis } from "../layout.ts";
import { constant, defineOp, type Value } from "../value.ts";
import { normalizeAxes, permuteEntries } from "./axes.ts";
import { reshape } from "./broadcast.ts";
import { concatTensors, copyStrided, gatherTensor } from "./fold.ts";

const transposeOp = defineOp<{ readonly perm: readonly number[] }>({
  name: "transpose",
  inputs: ["x"],
  infer: ([x], { perm }) => {
    must(
      perm.length === x.shape.length && x.shape.every((_, i) => perm.includes(i)),
      "transpose/perm",
      () => `transpose: ${fmt(perm)} is not a permutation of the ${x.shape.length} axes of ${fmt(x.shape)}`,
    );
    return { dtype: x.dtype, shape: perm.map((i) => x.shape[i]) };
  },
  vjp: ({ dy, attrs: { perm } }) => [transpose(dy, inverse(perm))],
  lower: (lowering, { inputs: [x] }, { perm }) => {
    const layout = perm[0] === 0 ? lowering.layoutOf(x) : "natural";
    const rank = perm.length;
    const physical =
      layout === "batchLast" ? permuteEntries(perm, layout).map((a) => physicalAxis(a, rank, layout)) : perm;
    return { handle: lowering.emit.transpose(lowering.read(x, layout), physical), layout };
  },
  fold: ([x], { perm }) =>
    copyStrided(
      x,
      perm.map((i) => x.shape[i]),
      perm.map((i) => stridesOf(x.shape)[i]),
    ),
});

const inverse = (perm: readonly number[]): number[] => perm.map((_, i) => perm.indexOf(i));

/** Permutes axes: axis i of the result is axis `perm[i]` of x. */
export const transpose = (x: Value, perm: readonly number[]): Value =>
  perm.every((p, i) => p === i) ? x : transposeOp([x], { perm });

const concatOp = defineOp<{ readonly axis: number }>({
  name: "concat",
  inputs: ["...xs"],
  infer: (types, { axis }) => {
    const [first, ...rest] = types;
    for (const t of rest) {
      must(
        t.dtype === first.dtype &&
          t.shape.length === first.shape.length &&
          t.shape.every((d, i) => i === axis || d === first.shape[i]),
        "concat/shape",
        () => `concat: ${types.map((x) => fmt(x.shape)).join(", ")} differ outside axis ${axis}`,
      );
    }
    const shape = [...first.shape];
    shape[axis] = types.reduce((n, t) => n + t.shape[axis], 0);
    return { dtype: first.dtype, shape };
  },
  vjp: ({ inputs, dy, attrs: { axis } }) => {
    let start = 0;
    return inputs.map((x) => {
      const end = start + x.shape[axis];
      const part = slice(dy, [{ axis, start, end }]);
      start = end;
      return part;
    });
  },
  lower: (lowering, { inputs }, { axis }) => {
    const layout = lowering.layoutFor(inputs);
    const handles = inputs.map((v) => lowering.read(v, layout));
    return { handle: lowering.emit.concat(handles, physicalAxis(axis, inputs[0].shape.length, layout)), layout };
  },
  fold: (xs, { axis }) => concatTensors(xs, axis),
});

/** Joins tensors along an axis. */
export const concat = (xs: readonly Value[], axis: number): Value =>
  xs.length === 1 ? xs[0] : concatOp(xs, { axis: normalizeAxes("concat", xs[0].shape.length, axis)[0] });

/** Joins tensors along a new axis. */
export const stack = (xs: readonly Value[], axis: number): Value =>
  concat(
    xs.map((x) => reshape(x, [...x.shape.slice(0, axis), 1, ...x.shape.slice(axis)])),
    axis,
  );

export interface SliceRange {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
  /** Positive, default 1. For the reverse order use {@link flip}. */
  readonly step?: number;
}

const sliceOp = defineOp<{ readonly ranges: readonly Required<SliceRange>[] }>({
  name: "slice",
  inputs: ["x"],
  infer: ([x], { ranges }) => {
    const shape = [...x.shape];
    for (const { axis, start, end, step } of ranges) {
      must(
        start >= 0 && end <= x.shape[axis] && start < end && step >= 1,
        "slice/range",
        () => `slice: ${start}:${end}:${step} does not fit axis ${axis} of ${fmt(x.shape)}`,
      );
      shape[axis] = Math.ceil((end - start) / step);
    }
    return { dtype: x.dtype, shape };
  },
  vjp: ({ inputs: [x], dy, attrs: { ranges } }) => [unslice(dy, x.shape, ranges)],
  lower: (lowering, { inputs: [x] }, { ranges }) => {
    const rank = x.shape.length;
    const layout = lowering.layoutOf(x);
    const physical = ranges.map((r) => ({ ...r, axis: physicalAxis(r.axis, rank, layout) }));
    return { handle: lowering.emit.slice(lowering.read(x, layout), ...physical), layout };
  },
  fold: ([x], { ranges }) => {
    const strides = stridesOf(x.shape);
    const offset = ranges.reduce((n, r) => n + r.start * strides[r.axis], 0);
    const shape = x.shape.map((d, i) => {
      const r = ranges.find(({ axis }) => axis === i);
      return r ? Math.ceil((r.end - r.start) / r.step) : d;
    });
    const steps = strides.map((s, i) => s * (ranges.find(({ axis }) => axis === i)?.step ?? 1));
    return copyStrided(x, shape, steps, offset);
  },
});

/** A part of the tensor, per axis from `start` to `end` (exclusive). Negative positions count from the end. */
export function slice(x: Value, ranges: readonly SliceRange[]): Value {
  const full = ranges
    .map(({ axis, start, end, step = 1 }) => {
      const [a] = normalizeAxes("slice", x.shape.length, axis);
      const d = x.shape[a];
      return { axis: a, start: start < 0 ? start + d : start, end: Math.min(end < 0 ? end + d : end, d), step };
    })
    .filter(({ axis, start, end, step }) => start !== 0 || end !== x.shape[axis] || step !== 1);
  return full.length ? sliceOp([x], { ranges: full }) : x;
}

/** The adjoint of a slice: `dy` placed into zeros of `shape`. Steps are undone by interleaving zeros. */
function unslice(dy: Value, shape: Shape, ranges: readonly Required<SliceRange>[]): Value {
  let z = dy;
  const before = new Array<number>(shape.length).fill(0);
  const after = new Array<number>(shape.length).fill(0);
  for (const { axis, start, step } of ranges) {
    if (step > 1) z = interleaveZeros(z, axis, step);
    before[axis] = start;
  }
  const trimmed = ranges.map(({ axis, start }) => ({
    axis,
    start: 0,
    end: Math.min(z.shape[axis], shape[axis] - start),
  }));
  z = slice(z, trimmed);
  for (const [i, d] of shape.entries()) after[i] = d - before[i] - z.shape[i];
  return pad(z, before, after);
}

/** [.., n, ..] → [.., n·step, ..] with the values at multiples of `step`. */
function interleaveZeros(x: Value, axis: number, step: number): Value {
  const unit = [...x.shape.slice(0, axis + 1), 1, ...x.shape.slice(axis + 1)];
  const after = unit.map((_, i) => (i === axis + 1 ? step - 1 : 0));
  const padded = pad(
    reshape(x, unit),
    unit.map(() => 0),
    after,
  );
  const joined = [...x.shape];
  joined[axis] *= step;
  return reshape(padded, joined);
}

interface PadAttrs {
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly value: number;
}

const padOp = defineOp<PadAttrs>({
  name: "pad",
  inputs: ["x"],
  infer: ([x], { before, after }) => {
    must(
      before.length === x.shape.length && after.length === x.shape.length && [...before, ...after].every((p) => p >= 0),
      "pad/amount",
      () => `pad: ${fmt(before)} before and ${fmt(after)} after do not fit shape ${fmt(x.shape)}; amounts must be ≥ 0`,
    );
    return { dtype: x.dtype, shape: x.shape.map((d, i) => d + before[i] + after[i]) };
  },
  vjp: ({ inputs: [x], dy, attrs: { before } }) => [
    slice(
      dy,
      before.map((start, axis) => ({ axis, start, end: start + x.shape[axis] })),
    ),
  ],
  lower: (lowering, { inputs: [x] }, { before, after, value }) => {
    const layout = lowering.layoutOf(x);
    const [b, a] = [before, after].map((p) => permuteEntries(p, layout));
    return { handle: lowering.emit.pad(lowering.read(x, layout), b, a, value), layout };
  },
});

/** Constant padding, `before` and `after` each axis. */
export const pad = (x: Value, before: readonly number[], after: readonly number[], value = 0): Value =>
  [...before, ...after].every((p) => p === 0) ? x : padOp([x], { before, after, value });

const gatherOp = defineOp<{ readonly axis: number }>({
  name: "gather",
  inputs: ["x", "indices"],
  infer: ([x, indices], { axis }) => {
    must(
      indices.dtype === "int64" || indices.dtype === "int32",
      "gather/dtype",
      () => `gather: indices must be int32 or int64, got ${indices.dtype}`,
    );
    return { dtype: x.dtype, shape: [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)] };
  },
  vjp: ({ inputs: [x, indices], dy, attrs }) => [
    scatterAddOp([dy, indices], { ...attrs, size: x.shape[attrs.axis] }),
    undefined,
  ],
  lower: (lowering, { inputs: [x, indices], outputs: [y] }, { axis }) => {
    const handle = lowering.emit.node("Gather", [lowering.read(x), lowering.read(indices)], { axis }, y.shape);
    return { handle, layout: "natural" };
  },
  fold: ([x, indices], { axis }) => gatherTensor(x, indices, axis),
});

/** Takes entries along an axis: the result has the shape of `indices` in the place of that axis. */
export const gather = (x: Value, indices: Value | readonly number[], axis = 0): Value =>
  gatherOp([x, "node" in indices ? indices : constant(Tensor.of("int64", [indices.length], indices))], {
    axis: normalizeAxes("gather", x.shape.length, axis)[0],
  });

/** The adjoint of gather: adds each entry of `dy` into zeros at its index. */
const scatterAddOp = defineOp<{ readonly axis: number; readonly size: number }>({
  name: "scatterAdd",
  inputs: ["dy", "indices"],
  infer: ([dy, indices], { axis, size }) => ({
    dtype: dy.dtype,
    shape: [...dy.shape.slice(0, axis), size, ...dy.shape.slice(axis + indices.shape.length)],
  }),
  vjp: ({ inputs: [, indices], dy: z, attrs: { axis } }) => [gather(z, indices, axis), undefined],
  lower: (lowering, { inputs: [dy, indices], outputs: [y] }, { axis }) => {
    const { emit } = lowering;
    // ScatterND adds whole rows along the first axis: bring the indexed axes to the front.
    const lead = dy.shape.slice(0, axis);
    const tail = dy.shape.slice(axis + indices.shape.length);
    const count = sizeOf(indices.shape);
    const rows = emit.reshape(lowering.read(dy), [sizeOf(lead), count, sizeOf(tail)]);
    const updates = emit.transpose(rows, [1, 0, 2]);
    const at = emit.reshape(emit.cast(lowering.read(indices), "int64"), [count, 1]);
    const shape = [y.shape[axis], sizeOf(lead), sizeOf(tail)];
    const zeros = emit.node(
      "ConstantOfShape",
      [emit.int64(shape)],
      { value: Tensor.zeros(dy.dtype, [1]) },
      shape,
      dy.dtype,
    );
    const sum = emit.node("ScatterND", [zeros, at, updates], { reduction: "add" }, shape, dy.dtype);
    return { handle: emit.reshape(emit.transpose(sum, [1, 0, 2]), y.shape), layout: "natural" };
  },
});

/** Reverses axes. */
export function flip(x: Value, axes: readonly number[] | number): Value {
  let y = x;
  for (const axis of normalizeAxes("flip", x.shape.length, axes)) {
    const last = x.shape[axis] - 1;
    y = gather(
      y,
      Array.from({ length: last + 1 }, (_, i) => last - i),
      axis,
    );
  }
  return y;
}
