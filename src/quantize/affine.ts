import { must } from "../errors.ts";
import type { IntegerRange } from "../graph/index.ts";
import { type DType, isFloating, sizeOf, Tensor } from "../tensor/index.ts";

/** Integers of the usual types. */
export const integerRanges = {
  /** Activations on x86 and in ONNX's defaults. */
  uint8: { qmin: 0, qmax: 255 },
  /** Activations on ARM. */
  int8: { qmin: -128, qmax: 127 },
  /** Weights, with zero point 0. */
  symmetric8: { qmin: -127, qmax: 127 },
  /** Weights whose products with uint8 do not saturate in AVX2's 16-bit sums: 2 · 255 · 64 < 2¹⁵. */
  symmetric7: { qmin: -64, qmax: 64 },
} as const satisfies Readonly<Record<string, IntegerRange>>;

/** How real numbers are stored as integers: real = (integer − zeroPoint) · scale. */
export interface QuantizationStep {
  readonly scale: number;
  readonly zeroPoint: number;
}

/** One {@link QuantizationStep} for a whole tensor, or one for each index of an axis. */
export interface Quantization extends IntegerRange {
  readonly steps: readonly QuantizationStep[];
  /** Axis with an entry of `steps` per index; absent where there is one for all. */
  readonly axis?: number | undefined;
}

/** Nearest integer, halves to even: how IEEE, PyTorch and ONNX Runtime round. */
export function roundHalfEven(x: number): number {
  const r = Math.round(x);
  return r - x === 0.5 && r % 2 !== 0 ? r - 1 : r;
}

const clamp = (x: number, { qmin, qmax }: IntegerRange): number => Math.min(qmax, Math.max(qmin, x));

function mustBeFinite(...values: readonly number[]): void {
  must(
    values.every(Number.isFinite),
    "quantize/finite",
    () => `quantize: a range must be finite, got ${values.join(" to ")}. Look for NaN and infinities in the values.`,
    "model",
  );
}

/**
 * The affine quantization of [min, max], widened so that it holds 0, which is then exact: scale = (max − min) / (qmax − qmin).
 * A range of nothing but 0 has scale 1.
 *
 * @throws RepmlpError `quantize/finite`
 */
export function affineQuantization(
  min: number,
  max: number,
  range: IntegerRange = integerRanges.uint8,
): QuantizationStep {
  mustBeFinite(min, max);
  const [low, high] = [Math.min(min, 0), Math.max(max, 0)];
  const scale = Math.fround((high - low) / (range.qmax - range.qmin));
  if (scale === 0) return { scale: 1, zeroPoint: clamp(0, range) };
  return { scale, zeroPoint: clamp(range.qmin - roundHalfEven(low / scale), range) };
}

/**
 * The symmetric quantization of [−maxAbs, maxAbs]: zero point 0, scale = maxAbs / min(−qmin, qmax). 0 has scale 1.
 *
 * @throws RepmlpError `quantize/finite`
 */
export function symmetricQuantization(
  maxAbs: number,
  range: IntegerRange = integerRanges.symmetric8,
): QuantizationStep {
  mustBeFinite(maxAbs);
  const scale = Math.fround(Math.abs(maxAbs) / Math.min(-range.qmin, range.qmax));
  return { scale: scale || 1, zeroPoint: 0 };
}

/** The largest absolute value for each index of `axis`; NaN where a value is NaN. */
export function channelMaxima(tensor: Tensor, axis: number): Float64Array {
  const maxima = new Float64Array(tensor.shape[axis]);
  const channelOf = channels(tensor, axis);
  // Math.max keeps NaN, a comparison would lose it.
  tensor.toFloat64().forEach((v, i) => {
    maxima[channelOf(i)] = Math.max(maxima[channelOf(i)], Math.abs(v));
  });
  return maxima;
}

/**
 * Symmetric quantization of a weight, one scale per index of `axis` (output channels).
 *
 * @throws RepmlpError `quantize/finite` where a weight is NaN or infinite
 */
export const weightQuantization = (
  weight: Tensor,
  { axis, range = integerRanges.symmetric8 }: { readonly axis: number; readonly range?: IntegerRange },
): Quantization => ({
  ...range,
  axis,
  steps: Array.from(channelMaxima(weight, axis), (maxAbs) => symmetricQuantization(maxAbs, range)),
});

/** Index on an axis by the place of a value in row-major order. */
function channels({ shape }: Pick<Tensor, "shape">, axis: number | undefined): (i: number) => number {
  if (axis === undefined) return () => 0;
  const inner = sizeOf(shape.slice(axis + 1));
  return (i) => Math.floor(i / inner) % shape[axis];
}

function mustFit({ shape }: Pick<Tensor, "shape">, { steps, axis }: Quantization): void {
  const wanted = axis === undefined ? 1 : shape[axis];
  must(
    steps.length === wanted,
    "quantize/steps",
    () => `quantize: ${steps.length} scales for a tensor of shape [${shape.join(", ")}], expected ${wanted}`,
  );
}

/**
 * clamp(round(x / scale) + zeroPoint, qmin, qmax), halves to even; the division is float32's, as in the runtime.
 *
 * @param dtype  type of the result, which must hold qmin to qmax
 * @throws RepmlpError `quantize/steps` for another number of scales than the axis has, `quantize/finite` for NaN
 */
export function quantizeTensor(tensor: Tensor, quantization: Quantization, dtype: DType = "int32"): Tensor {
  mustFit(tensor, quantization);
  const { steps, axis } = quantization;
  const channelOf = channels(tensor, axis);
  const values = tensor.toFloat64().map((x, i) => {
    const { scale, zeroPoint } = steps[channelOf(i)];
    return clamp(roundHalfEven(Math.fround(x / scale)) + zeroPoint, quantization);
  });
  must(!values.some(Number.isNaN), "quantize/finite", () => "quantize: the tensor holds NaN", "model");
  return Tensor.of(dtype, tensor.shape, values);
}

/** (integer − zeroPoint) · scale, as float32. Throws `quantize/steps`. */
export function dequantizeTensor(tensor: Tensor, quantization: Quantization): Tensor {
  mustFit(tensor, quantization);
  must(
    !isFloating(tensor.dtype),
    "quantize/dtype",
    () => `dequantize: expected integers, got ${tensor.dtype}. Quantize it first.`,
  );
  const { steps, axis } = quantization;
  const channelOf = channels(tensor, axis);
  return Tensor.float32(
    tensor.shape,
    tensor.toFloat64().map((q, i) => (q - steps[channelOf(i)].zeroPoint) * steps[channelOf(i)].scale),
  );
}
