import { type DType, dtypes, type Shape, sizeOf, Tensor, type TypedArray } from "../tensor/index.ts";

/*
 * Weights are merged row by row: a row of the result needs the same row of the weight and a few small tensors. So a
 * weight can pass through in pieces that stay in a processor's cache, and need never be held.
 */

type Numbers = Float32Array | Float64Array;

/**
 * How a weight `[rows, …]` is changed: takes the numbers of some whole rows, of which `first` is the number of the
 * first one, and writes as many to `out`. Computes in float64, so that the only rounding is that of storing in `out`.
 */
export type RowMap = (w: Numbers, first: number, out: Numbers) => void;

/** The numbers of a tensor without a copy where the dtype allows it. */
export const numbersOf = (t: Tensor): Numbers => (t.data instanceof Float32Array ? t.data : t.toFloat64());

/**
 * Results that `fill` writes, rounded once to `dtype`.
 *
 * @param memory  used for the result where it is of that dtype and large enough
 */
function rounded(dtype: DType, shape: Shape, fill: (out: Numbers) => void, memory?: TypedArray): Tensor {
  const size = sizeOf(shape);
  if (dtype === "float32" || dtype === "float64") {
    const ArrayOf = dtypes[dtype].array;
    const fits = memory instanceof ArrayOf && memory.length >= size;
    const data = (fits ? memory.subarray(0, size) : new ArrayOf(size)) as TypedArray;
    fill(data as Numbers);
    return new Tensor(dtype, shape, data);
  }
  const wide = new Float64Array(size);
  fill(wide);
  return Tensor.of(dtype, shape, wide);
}

/** Applies a map to rows of a weight, all of them or those from `first` on. */
export const mapRows = (rows: Tensor, map: RowMap, first = 0, memory?: TypedArray): Tensor =>
  rounded(rows.dtype, rows.shape, (out) => map(numbersOf(rows), first, out), memory);

/** Multiplies the numbers from `start` to `end` by `s`. Four at a time takes half as long: engines do not unroll. */
function scaleRun(w: Numbers, out: Numbers, start: number, end: number, s: number): void {
  let i = start;
  for (; i < end - 3; i += 4) {
    out[i] = w[i] * s;
    out[i + 1] = w[i + 1] * s;
    out[i + 2] = w[i + 2] * s;
    out[i + 3] = w[i + 3] * s;
  }
  for (; i < end; i++) out[i] = w[i] * s;
}

/** Multiplies row r by `scale[r]`. */
export const scaledRows =
  (scale: Float64Array, columns: number): RowMap =>
  (w, first, out) => {
    for (let i = 0, r = first; i < w.length; i += columns, r++) scaleRun(w, out, i, i + columns, scale[r]);
  };

/** Multiplies `repeat` columns each by `scale[0]`, `scale[1]`, …. */
export const scaledColumns =
  (scale: Float64Array, repeat: number): RowMap =>
  (w, _, out) => {
    for (let i = 0; i < w.length; ) for (const s of scale) for (const end = i + repeat; i < end; i++) out[i] = w[i] * s;
  };
