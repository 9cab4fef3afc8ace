import type { Rng, Shape } from "../tensor/index.ts";
import { sizeOf } from "../tensor/index.ts";
import type { Initializer } from "./parameter.ts";

/** Inputs of one output value: all sizes but the first (PyTorch's fan-in of weights `[out, in, …]`). */
export const fanIn = (shape: Shape): number => sizeOf(shape.slice(1));

const fill = (shape: Shape, next: () => number): Float64Array => Float64Array.from({ length: sizeOf(shape) }, next);

export const constantInit =
  (value: number): Initializer =>
  (shape) =>
    new Float64Array(sizeOf(shape)).fill(value);

/** Uniform in ±bound. */
export const uniform =
  (bound: number): Initializer =>
  (shape, random) =>
    fill(shape, () => (2 * random.next() - 1) * bound);

/** Normal with mean 0. */
export const normal =
  (std: number): Initializer =>
  (shape, random) =>
    fill(shape, () => random.normal() * std);

/**
 * Kaiming uniform: ±gain · sqrt(3 / fan-in), gain = sqrt(2 / (1 + a²)). With a = √5, PyTorch's default for convolutions
 * and linear layers, that is ±1 / sqrt(fan-in).
 */
export const kaimingUniform =
  (a = Math.sqrt(5)): Initializer =>
  (shape, random) =>
    uniform(Math.sqrt(2 / (1 + a * a)) * Math.sqrt(3 / fanIn(shape)))(shape, random);

/** Kaiming normal for ReLU networks: std sqrt(2 / fan), fan-in or fan-out. */
export const kaimingNormal =
  (mode: "fanIn" | "fanOut" = "fanIn"): Initializer =>
  (shape, random) =>
    normal(Math.sqrt(2 / (mode === "fanIn" ? fanIn(shape) : shape[0] * sizeOf(shape.slice(2)))))(shape, random);

/**
 * Orthogonal: seen as a matrix of `shape[0]` rows, the columns are orthonormal if there are at least as many rows,
 * else the rows are. Gram–Schmidt of a Gaussian matrix, i.e. its QR factor with R's diagonal positive.
 */
export const orthogonal: Initializer = (shape, random) => {
  const rows = shape[0];
  const cols = fanIn(shape);
  const [count, length] = rows < cols ? [rows, cols] : [cols, rows];
  const vectors = orthonormal(count, length, random);
  if (rows < cols) return vectors;
  const out = new Float64Array(rows * cols);
  for (let j = 0; j < cols; j++) for (let i = 0; i < rows; i++) out[i * cols + j] = vectors[j * length + i];
  return out;
};

/** `count` orthonormal vectors of `length` ≥ count, one after the other (Gram–Schmidt, four vectors at a time). */
function orthonormal(count: number, length: number, random: Rng): Float64Array {
  const v = fill([count, length], () => random.normal());
  const row = (i: number): Float64Array => v.subarray(i * length, (i + 1) * length);
  const idle = new Float64Array(length);
  for (let start = 0; start < count; start += 4) {
    const panel = Array.from({ length: Math.min(4, count - start) }, (_, i) => row(start + i));
    for (const [i, a] of panel.entries()) {
      for (const q of panel.slice(0, i)) subtractParts([a, idle, idle, idle], [q, idle, idle, idle]);
      let square = 0;
      for (let k = 0; k < length; k++) square += a[k] * a[k];
      const scale = 1 / Math.sqrt(square);
      for (let k = 0; k < length; k++) a[k] *= scale;
    }
    const basis = fourOf(panel, idle);
    for (let j = start + 4; j < count; j += 4) {
      const rest = Array.from({ length: Math.min(4, count - j) }, (_, i) => row(j + i));
      subtractParts(fourOf(rest, new Float64Array(rest.length < 4 ? length : 0)), basis);
    }
  }
  return v;
}

type Four = readonly [Float64Array, Float64Array, Float64Array, Float64Array];
const fourOf = (rows: readonly Float64Array[], filler: Float64Array): Four =>
  [0, 1, 2, 3].map((i) => rows[i] ?? filler) as unknown as Four;

/**
 * Takes the parts along four orthonormal vectors out of four others. Sixteen sums run side by side on eight loads per
 * position, which makes this several times faster than vector by vector.
 */
function subtractParts([b0, b1, b2, b3]: Four, [q0, q1, q2, q3]: Four): void {
  const n = b0.length;
  let [s00, s01, s02, s03, s10, s11, s12, s13] = [0, 0, 0, 0, 0, 0, 0, 0];
  let [s20, s21, s22, s23, s30, s31, s32, s33] = [0, 0, 0, 0, 0, 0, 0, 0];
  for (let k = 0; k < n; k++) {
    const x = b0[k];
    const y = b1[k];
    const z = b2[k];
    const w = b3[k];
    const p = q0[k];
    const q = q1[k];
    const r = q2[k];
    const s = q3[k];
    s00 += x * p;
    s01 += x * q;
    s02 += x * r;
    s03 += x * s;
    s10 += y * p;
    s11 += y * q;
    s12 += y * r;
    s13 += y * s;
    s20 += z * p;
    s21 += z * q;
    s22 += z * r;
    s23 += z * s;
    s30 += w * p;
    s31 += w * q;
    s32 += w * r;
    s33 += w * s;
  }
  for (let k = 0; k < n; k++) {
    const p = q0[k];
    const q = q1[k];
    const r = q2[k];
    const s = q3[k];
    b0[k] -= s00 * p + s01 * q + s02 * r + s03 * s;
    b1[k] -= s10 * p + s11 * q + s12 * r + s13 * s;
    b2[k] -= s20 * p + s21 * q + s22 * r + s23 * s;
    b3[k] -= s30 * p + s31 * q + s32 * r + s33 * s;
  }
}
