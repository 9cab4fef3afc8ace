import { fmt, must } from "../errors.ts";
import { type DType, type Shape, Tensor } from "../tensor/index.ts";
import { mapRows, numbersOf, type RowMap, scaledColumns, scaledRows } from "./rows.ts";

/*
 * The merge algebra on the host. Everything is computed in float64 and rounded once to the dtype of the result, so that
 * the order of the operations does not matter in float32.
 */

/** An affine map per output channel: y = scale · x + shift. */
export interface ChannelAffine {
  readonly scale: Float64Array;
  readonly shift: Float64Array;
}

export interface BatchNormTensors {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly mean: Tensor;
  readonly variance: Tensor;
  readonly eps: number;
}

/**
 * A batch norm in evaluation mode as scale and shift: scale = weight / sqrt(variance + eps),
 * shift = bias − mean · scale. All `[C]`.
 */
export function batchNormAffine({ weight, bias, mean, variance, eps }: BatchNormTensors): ChannelAffine {
  const [gamma, beta, mu, sigma2] = [weight, bias, mean, variance].map((t) => t.toFloat64());
  const scale = gamma.map((g, i) => g / Math.sqrt(sigma2[i] + eps));
  return { scale, shift: beta.map((b, i) => b - mu[i] * scale[i]) };
}

/** Multiplies row r of `[rows, …]` weights by scale[r]. */
export const scaleRows = (weight: Tensor, scale: Float64Array): Tensor =>
  mapRows(weight, scaledRows(scale, weight.size / scale.length));

/** Bias after a batch norm: scale · bias + shift; shift where there was no bias. */
export const fuseBias = (dtype: DType, { scale, shift }: ChannelAffine, bias?: Tensor): Tensor => {
  const b = bias?.toFloat64();
  return Tensor.of(dtype, [shift.length], b ? shift.map((t, i) => t + scale[i] * b[i]) : shift);
};

/** One k × k branch of a sum of convolutions with its batch norm; weight `[O, C/g, k, k]`. */
export interface KernelBranch {
  readonly weight: Tensor;
  readonly affine: ChannelAffine;
}

/** A convolution kernel in float64. */
export interface Kernel {
  /** `[O, C/g, k, k]`, row-major. */
  readonly values: Float64Array;
  readonly shape: Shape;
}

function mustBeCentred(shape: Shape): void {
  const [, , height, width] = shape;
  must(
    height === width && height % 2 === 1,
    "merge/kernel",
    () => `merge: kernels must be square and odd, so that they have a middle, got ${fmt(shape)}`,
  );
}

/**
 * The single kernel equal to a sum of parallel convolutions, each followed by its batch norm: every kernel is scaled,
 * zero-padded evenly to the largest size, and added.
 *
 * @throws `merge/kernel` for kernels that are not square and odd
 */
export function sumKernels(branches: readonly KernelBranch[]): Kernel & { readonly bias: Float64Array } {
  const largest = Math.max(...branches.map((b) => b.weight.shape[2]));
  const [o, c] = branches[0].weight.shape;
  const values = new Float64Array(o * c * largest * largest);
  const bias = new Float64Array(o);
  for (const { weight, affine } of branches) {
    const k = weight.shape[2];
    mustBeCentred(weight.shape);
    const w = numbersOf(weight);
    const edge = (largest - k) / 2;
    for (let f = 0, i = 0; f < o * c; f++) {
      const s = affine.scale[Math.floor(f / c)];
      for (let y = 0; y < k; y++)
        for (let x = 0; x < k; x++, i++) values[(f * largest + y + edge) * largest + x + edge] += w[i] * s;
    }
    for (let i = 0; i < o; i++) bias[i] += affine.shift[i];
  }
  return { values, shape: [o, c, largest, largest], bias };
}

/** Height and width of a partition in pixels. */
export type PartitionSize = readonly [height: number, width: number];

/**
 * Rows of a fully connected weight scaled, plus the fully connected matrix that equals the convolution `kernel`
 * (stride 1, zero padding floor(k/2), groups g) on a partition of h × w pixels.
 *
 * Rows are output features (o, i, j), columns the C/g · h · w inputs (c, u, v) of the row's group:
 * M[(o,i,j), (c,u,v)] = F[o, c, u − i + r, v − j + r], r = floor(k/2), where the kernel reaches, else 0. Holds for any
 * number of input and output channels. (RepMLP, arXiv 2105.01883, section 3.3.)
 */
export function mergedFcRows(
  { scale }: Pick<ChannelAffine, "scale">,
  { values, shape: [, c, k] }: Kernel,
  [h, w]: PartitionSize,
): RowMap {
  const r = (k - 1) / 2;
  const columns = c * h * w;
  const scaled = scaledRows(scale, columns);
  return (x, first, out) => {
    scaled(x, first, out);
    for (let start = 0, row = first; start < x.length; start += columns, row++) {
      const [f, i, j] = [Math.floor(row / (h * w)), Math.floor(row / w) % h, row % w];
      const [uStart, uEnd, vStart, vEnd] = [
        Math.max(0, i - r),
        Math.min(h, i + r + 1),
        Math.max(0, j - r),
        Math.min(w, j + r + 1),
      ];
      const s = scale[row];
      // Where the kernel reaches, the sum is computed anew and stored over the scaled value: it is rounded once.
      for (let ch = 0; ch < c; ch++)
        for (let u = uStart; u < uEnd; u++) {
          const from = ((f * c + ch) * k + u - i + r) * k + r - j;
          const to = start + (ch * h + u) * w;
          for (let v = vStart; v < vEnd; v++) out[to + v] = x[to + v] * s + values[from + v];
        }
    }
  };
}

/**
 * A convolution as a fully connected weight `[O·h·w, C/g·h·w]`; see {@link mergedFcRows}.
 *
 * @throws `merge/kernel` for a kernel that is not square and odd
 */
export function convToFc(kernel: Kernel, size: PartitionSize, dtype: DType = "float32"): Tensor {
  mustBeCentred(kernel.shape);
  const [o, c] = kernel.shape;
  const area = size[0] * size[1];
  const nothing = Tensor.zeros(dtype, [o * area, c * area]);
  return mapRows(nothing, mergedFcRows({ scale: new Float64Array(o * area) }, kernel, size));
}

/** Bias of the merged FC3: the batch norm's shift plus each convolution bias repeated h·w times, channel outermost. */
export const mergeFcBias = (dtype: DType, { shift }: ChannelAffine, local: Float64Array | undefined): Tensor =>
  Tensor.of(
    dtype,
    [shift.length],
    local ? shift.map((b, i) => b + local[Math.floor((i * local.length) / shift.length)]) : shift,
  );

/**
 * Takes a per-channel affine map that comes before a linear layer into that layer. Its inputs are `repeat` positions
 * per channel, channel outermost: weight' = weight · scale (per column), bias' = bias + weight · shift.
 */
export const foldInputWeight = (weight: Tensor, { scale }: ChannelAffine): Tensor =>
  mapRows(weight, scaledColumns(scale, weight.shape[1] / scale.length));

/** The bias that belongs to {@link foldInputWeight}; `weight` is the one before folding. */
export function foldInputBias(weight: Tensor, bias: Tensor, { shift }: ChannelAffine): Tensor {
  const [rows, columns] = weight.shape;
  const repeat = columns / shift.length;
  const w = numbersOf(weight);
  const b = bias.toFloat64();
  const sums = new Float64Array(rows);
  for (let r = 0, i = 0; r < rows; r++) {
    let sum = b[r];
    for (let c = 0; c < shift.length; c++) for (const t = shift[c], end = i + repeat; i < end; i++) sum += w[i] * t;
    sums[r] = sum;
  }
  return Tensor.of(bias.dtype, [rows], sums);
}
