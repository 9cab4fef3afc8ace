import { type DType, dtypes, type Shape, sizeOf, stridesOf, Tensor } from "../../tensor/index.ts";
import { broadcastShapes } from "../emitter.ts";

/*
 * Evaluation of ops on the host, for constant sub-graphs: the shape arithmetic of models made elsewhere. Values that
 * are only moved keep their bits; numbers are computed in float64 and rounded once.
 */

/** Calls `visit` with every index of `shape` in row-major order, as an offset under each list of strides. */
function walk(shape: Shape, strides: readonly (readonly number[])[], visit: (i: number, at: number[]) => void): void {
  const index = new Array<number>(shape.length).fill(0);
  const at = strides.map(() => 0);
  for (let i = 0, n = sizeOf(shape); i < n; i++) {
    visit(i, at);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      for (const [k, s] of strides.entries()) at[k] += s[axis];
      if (++index[axis] < shape[axis]) break;
      for (const [k, s] of strides.entries()) at[k] -= s[axis] * shape[axis];
      index[axis] = 0;
    }
  }
}

/** A copy with given strides, in elements. */
export function copyStrided(x: Tensor, shape: Shape, strides: readonly number[], offset = 0): Tensor {
  const data = new dtypes[x.dtype].array(sizeOf(shape));
  walk(shape, [strides], (i, [at]) => {
    data[i] = x.data[offset + at];
  });
  return new Tensor(x.dtype, shape, data);
}

/** Strides of `x` in a larger shape that it broadcasts to. */
function broadcastStrides(x: Shape, shape: Shape): number[] {
  const lead = shape.length - x.length;
  const own = stridesOf(x);
  return shape.map((_, i) => (i < lead || x[i - lead] === 1 ? 0 : own[i - lead]));
}

export const expandTensor = (x: Tensor, shape: Shape): Tensor =>
  copyStrided(x, shape, broadcastStrides(x.shape, shape));

/** The ends of int64 that a float64 can hold; ONNX writes "to the end" as the largest integer. */
const int64Range = [-(2 ** 63), 2 ** 63 - 1024] as const;

/** An elementwise function of tensors that broadcast. */
export function mapTensors(inputs: readonly Tensor[], dtype: DType, f: (...values: number[]) => number): Tensor {
  const shape = inputs.map((t) => t.shape).reduce<Shape>(broadcastShapes, []);
  const values = inputs.map((t) => t.toFloat64());
  const out = new Float64Array(sizeOf(shape));
  const [low, high] = dtype === "int64" ? int64Range : [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  const strides = inputs.map((t) => broadcastStrides(t.shape, shape));
  walk(shape, strides, (i, at) => {
    const value = f(...values.map((v, k) => v[at[k]]));
    out[i] = value < low ? low : value > high ? high : value;
  });
  return Tensor.of(dtype, shape, out);
}

export function concatTensors(xs: readonly Tensor[], axis: number): Tensor {
  const [{ dtype, shape: first }] = xs;
  const shape = first.with(
    axis,
    xs.reduce((n, x) => n + x.shape[axis], 0),
  );
  const data = new dtypes[dtype].array(sizeOf(shape));
  const outer = sizeOf(shape.slice(0, axis));
  for (let row = 0, at = 0; row < outer; row++)
    for (const x of xs) {
      const length = x.size / outer;
      for (let i = row * length; i < (row + 1) * length; i++) data[at++] = x.data[i];
    }
  return new Tensor(dtype, shape, data);
}

export function gatherTensor(x: Tensor, indices: Tensor, axis: number): Tensor {
  const [outer, d, inner] = [x.shape.slice(0, axis), x.shape.slice(axis, axis + 1), x.shape.slice(axis + 1)].map(
    sizeOf,
  );
  const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
  const data = new dtypes[x.dtype].array(sizeOf(shape));
  const at = indices.toFloat64();
  let i = 0;
  for (let row = 0; row < outer; row++)
    for (const k of at) {
      const start = (row * d + (k < 0 ? k + d : k)) * inner;
      for (let j = 0; j < inner; j++) data[i++] = x.data[start + j];
    }
  return new Tensor(x.dtype, shape, data);
}
