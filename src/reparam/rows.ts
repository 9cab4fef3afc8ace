import type { Pair } from "../graph/index.ts";
import { type DType, dtypes, type Shape, sizeOf, Tensor, type TypedArray } from "../tensor/index.ts";

/*
 * Inner loops of the host's kernel algebra. Weights are merged row by row: a row of the result needs the same row of the
 * weight and a few small tensors. So a weight can pass through in pieces that stay in a processor's cache, and need never
 * be held.
 */

export type Numbers = Float32Array | Float64Array;

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
export function rounded(dtype: DType, shape: Shape, fill: (out: Numbers) => void, memory?: TypedArray): Tensor {
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

/** Multiplies the numbers from `start` to `end` by `s`. Four at a time takes half as long: engines do not unroll. */
export function scaleRun(w: Numbers, out: Numbers, start: number, end: number, s: number): void {
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
  (scale: Numbers, columns: number): RowMap =>
  (w, first, out) => {
    for (let i = 0, r = first; i < w.length; i += columns, r++) scaleRun(w, out, i, i + columns, scale[r]);
  };

/** Multiplies `repeat` columns each by `scale[0]`, `scale[1]`, …. */
export const scaledColumns =
  (scale: Numbers, repeat: number): RowMap =>
  (w, _, out) => {
    for (let i = 0; i < w.length; ) for (const s of scale) for (const end = i + repeat; i < end; i++) out[i] = w[i] * s;
  };

/**
 * Row r scaled by `scale[r]`, plus the row of the fully connected matrix that equals a convolution of h × w pixels by
 * `kernel`; see `KernelAlgebra.convToFc`.
 *
 * @param kernel  `[O, C/g, kH, kW]`, odd sizes
 */
export function fcRows(scale: Numbers, kernel: Numbers, [, c, kh, kw]: Shape, [h, w]: Pair): RowMap {
  const [down, along] = [(kh - 1) / 2, (kw - 1) / 2];
  const columns = c * h * w;
  const scaled = scaledRows(scale, columns);
  return (x, first, out) => {
    scaled(x, first, out);
    for (let start = 0, row = first; start < x.length; start += columns, row++) {
      const [f, i, j] = [Math.floor(row / (h * w)), Math.floor(row / w) % h, row % w];
      const [uStart, uEnd, vStart, vEnd] = [
        Math.max(0, i - down),
        Math.min(h, i + down + 1),
        Math.max(0, j - along),
        Math.min(w, j + along + 1),
      ];
      const s = scale[row];
      // Where the kernel reaches, the sum is computed anew and stored over the scaled value: it is rounded once.
      for (let ch = 0; ch < c; ch++)
        for (let u = uStart; u < uEnd; u++) {
          const from = ((f * c + ch) * kh + u - i + down) * kw + along - j;
          const to = start + (ch * h + u) * w;
          for (let v = vStart; v < vEnd; v++) out[to + v] = x[to + v] * s + kernel[from + v];
        }
    }
  };
}
