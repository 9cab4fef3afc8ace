import { fmt, must } from "../../errors.ts";
import { type Shape, sizeOf } from "../../tensor/index.ts";
import type { Emitter, Handle } from "../emitter.ts";
import type { Lowering, Physical, Target } from "../op.ts";
import { defineOp, mustRank, type TensorType, type Value } from "../value.ts";
import { reshape } from "./broadcast.ts";
import {
  convCrossCorrelate,
  convDilated,
  convGemm,
  convGroupsOnPixels,
  convNative,
  convPointwise,
  gradInputDilated,
  gradInputGemm,
  gradInputNative,
  gradInputOnPixels,
  gradInputPointwise,
  gradWeightGemm,
  gradWeightOnPixels,
  gradWeightPointwise,
  gradWeightRowsColumns,
} from "./conv-forms.ts";
import { type ConvAttrs, type ConvOptions, type Pair, pair } from "./conv-options.ts";
import {
  convByRows,
  convPaysByRows,
  gradInputByRows,
  gradInputPaysByRows,
  gradWeightByRows,
  gradWeightPaysByRows,
} from "./conv-rows.ts";
import { add, div, mul, sqrt, sub } from "./elementwise.ts";
import { asChannelShape, isShifted, splitChannelScale } from "./norm.ts";
import { pad, slice } from "./shape.ts";
import { asNormGradient, sumsToZero, zeroSum } from "./zero-sum.ts";

const withDefaults = ({ stride = 1, padding = 0, dilation = 1, groups = 1 }: ConvOptions): ConvAttrs => ({
  stride: pair(stride),
  padding: pair(padding),
  dilation: pair(dilation),
  groups,
});

/** Whether weights of this shape, with these options, are a plain matrix per position: 1×1, stride 1, one group. */
export function isPointwiseConv(weights: Shape, options: ConvOptions): boolean {
  const attrs = withDefaults(options);
  return attrs.groups === 1 && isPointwise(weights.slice(2), attrs);
}

/** Output height and width of a convolution or pooling window. */
export const windowOutput = (
  size: Shape,
  kernel: Shape,
  { stride, padding, dilation }: Omit<ConvAttrs, "groups">,
): number[] => size.map((d, i) => Math.floor((d + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) / stride[i]) + 1);

function inferConv(op: string, x: TensorType, w: TensorType, attrs: ConvAttrs): TensorType {
  mustRank(op, "x", x, 4);
  mustRank(op, "w", w, 4);
  const [n, c, ...size] = x.shape;
  const [o, cPerGroup, ...kernel] = w.shape;
  const { groups } = attrs;
  must(x.dtype === w.dtype, `${op}/dtype`, () => `${op}: x is ${x.dtype}, w is ${w.dtype}. Cast one of them.`);
  must(
    c === cPerGroup * groups && o % groups === 0,
    `${op}/channels`,
    () =>
      `${op}: x has ${c} channels, w ${fmt(w.shape)} with groups ${groups} expects ${cPerGroup} x ${groups} = ${cPerGroup * groups}; groups must divide its ${o} outputs`,
  );
  const out = windowOutput(size, kernel, attrs);
  must(
    out.every((d) => d > 0),
    `${op}/empty`,
    () =>
      `${op}: kernel ${fmt(kernel)} with dilation ${fmt(attrs.dilation)} does not fit in ${fmt(size)} with padding ${fmt(attrs.padding)}`,
  );
  return { dtype: x.dtype, shape: [n, o, ...out] };
}

/** What kind of convolution it is, which decides the fastest formulation (engine notes, measured per class). */
const isPointwise = (kernel: Shape, { stride, padding }: ConvAttrs): boolean =>
  kernel.every((k) => k === 1) && stride.every((s) => s === 1) && padding.every((p) => p === 0);
const isUnit = (p: Pair): boolean => p[0] === 1 && p[1] === 1;
/** Few channels per group: no matrix product worth the name, the native kernel is better. */
const isThin = (channelsPerGroup: number): boolean => channelsPerGroup < 16;

/** Whether the batch-last formulations serve this convolution; else it runs natively in NCHW. */
function fitsBatchLast(x: TensorType, w: TensorType, attrs: ConvAttrs): boolean {
  return x.dtype === "float64" || isUnit(attrs.stride) || !isThin(w.shape[1]);
}

/**
 * Depthwise convolutions whose weight gradient is one convolution of images with gradients: the other forms copy an
 * activation for each tap or each row and column of the kernel, which for 31×31 is more than fits in memory.
 */
const hasManyTaps = (x: TensorType, [, perGroup, kh, kw]: Shape, { dilation }: ConvAttrs): boolean =>
  x.dtype !== "float64" && perGroup === 1 && kh * kw > (isUnit(dilation) ? 49 : 9);

interface Operands {
  readonly emit: Emitter;
  readonly device: Target["device"];
  readonly attrs: ConvAttrs;
}

const operandsOf = ({ emit, target }: Lowering, attrs: ConvAttrs): Operands => ({ emit, device: target.device, attrs });

/** Runs `batchLast` or `native` with the operand `x` (and its gradient's result) in the matching layout. */
function chooseLayout(
  lowering: Lowering,
  fits: boolean,
  batchLast: () => Handle,
  native: () => Handle,
  dtype: string,
): Physical {
  const useBatchLast = fits && (lowering.target.layout === "batchLast" || dtype === "float64");
  return useBatchLast ? { handle: batchLast(), layout: "batchLast" } : { handle: native(), layout: "natural" };
}

const conv2dOp = defineOp<ConvAttrs>({
  name: "conv2d",
  inputs: ["x", "w"],
  infer: ([x, w], attrs) => inferConv("conv2d", x, w, attrs),
  vjp: ({ inputs: [x, w], outputs: [y], dy, attrs }) => {
    // A factor per output channel belongs on the weights, which are small; only the fully connected layers on pixels
    // have more weights than activations.
    const { x: d, scale } = isPixels(x.shape) ? { x: dy, scale: undefined } : splitChannelScale(dy);
    const perOutput = scale && reshape(scale, [w.shape[0], 1, 1, 1]);
    const times = (v: Value): Value => (perOutput ? mul(v, perOutput) : v);
    const dx = gradInput(d, times(w), x.shape, attrs);
    // A 1×1 convolution passes on as many times each weight as it gets.
    const known = sumsToZero(dy) && isPointwise(w.shape.slice(2), attrs);
    return [
      known ? zeroSum(dx) : dx,
      gradScaleBeforeNorm(x, y, w, dy, attrs) ?? times(gradWeight(x, d, w.shape, attrs)),
    ];
  },
  lower: (lowering, { inputs: [x, w], outputs: [y] }, attrs) => {
    const operands = operandsOf(lowering, attrs);
    const kernel = w.shape.slice(2);
    return chooseLayout(
      lowering,
      fitsBatchLast(x.type, w.type, attrs),
      () => {
        const [xs, ws] = [lowering.read(x, "batchLast"), lowering.read(w)];
        if (isPointwise(kernel, attrs)) return convPointwise(operands, xs, ws);
        if (!isUnit(attrs.stride) || x.dtype === "float64") return convGemm(operands, xs, ws);
        return isUnit(attrs.dilation) && convPaysByRows(x.shape, w.shape, attrs.groups)
          ? convByRows(operands, xs, ws, attrs.padding)
          : convDilated(operands, xs, ws, attrs.padding);
      },
      () => {
        const [xs, ws] = [lowering.read(x), lowering.read(w)];
        return isPixels(x.shape) && isPointwise(kernel, attrs)
          ? convGroupsOnPixels(operands, xs, ws, lowering.target.parameters === "initializers")
          : convNative(operands, xs, ws, y.shape);
      },
      x.dtype,
    );
  },
});

/** 1×1 images: fully connected layers in disguise. */
const isPixels = (shape: Shape): boolean => shape[2] === 1 && shape[3] === 1;

/**
 * Gradient of weights of which each makes a channel alone, where the output y = w·x goes through a batch norm by its own
 * statistics: the norm undoes the factor but for its eps. With D the gradient of the norm's output and a the norm's
 * factor over the deviation, Σ dy·x = a·Σ (D − mean D)·x · eps/(variance + eps), of which nothing cancels.
 */
function gradScaleBeforeNorm(x: Value, y: Value, w: Value, dy: Value, attrs: ConvAttrs): Value | undefined {
  const norm = asNormGradient(dy);
  if (!norm || sizeOf(w.shape.slice(1)) !== 1 || !isShifted(norm.x, y)) return undefined;
  const { dy: d, weight, variance, sum, count, eps } = norm;
  const mean = div(sum, count);
  const total = gradWeight(x, sub(d, asChannelShape(mean, d.shape.length)), w.shape, attrs);
  const spread = add(variance, eps);
  const factor = div(mul(weight, eps), mul(spread, sqrt(spread)));
  return mul(total, reshape(factor, w.shape));
}

interface GradInputAttrs extends ConvAttrs {
  readonly inputShape: Shape;
}

const gradInputOp = defineOp<GradInputAttrs>({
  name: "conv2dGradInput",
  inputs: ["dy", "w"],
  infer: ([dy, w], { inputShape, ...attrs }) => {
    const forward = inferConv("conv2dGradInput", { dtype: dy.dtype, shape: inputShape }, w, attrs);
    must(
      forward.shape.every((d, i) => d === dy.shape[i]),
      "conv2dGradInput/shape",
      () =>
        `conv2dGradInput: an input ${fmt(inputShape)} gives an output ${fmt(forward.shape)}, but dy is ${fmt(dy.shape)}`,
    );
    return { dtype: dy.dtype, shape: inputShape };
  },
  vjp: ({ inputs: [dy, w], dy: z, attrs: { inputShape: _, ...attrs } }) => [
    conv2d(z, w, attrs),
    gradWeight(z, dy, w.shape, attrs),
  ],
  lower: (lowering, { inputs: [dy, w] }, { inputShape, ...attrs }) => {
    const operands = operandsOf(lowering, attrs);
    const kernel = w.shape.slice(2);
    const { padding, dilation } = attrs;
    const flippable = isUnit(attrs.stride) && padding.every((p, i) => p <= dilation[i] * (kernel[i] - 1));
    return chooseLayout(
      lowering,
      fitsBatchLast(dy.type, w.type, attrs),
      () => {
        const [d, ws] = [lowering.read(dy, "batchLast"), lowering.read(w)];
        if (isPointwise(kernel, attrs)) return gradInputPointwise(operands, d, ws);
        if (!flippable || dy.dtype === "float64") return gradInputGemm(operands, d, ws, inputShape);
        return isUnit(attrs.dilation) && gradInputPaysByRows(dy.shape, w.shape)
          ? gradInputByRows(operands, d, ws)
          : gradInputDilated(operands, d, ws);
      },
      () => {
        const [d, ws] = [lowering.read(dy), lowering.read(w)];
        return isPixels(inputShape) && isPointwise(kernel, attrs)
          ? gradInputOnPixels(operands, d, ws)
          : gradInputNative(operands, d, ws, inputShape);
      },
      dy.dtype,
    );
  },
});

interface GradWeightAttrs extends ConvAttrs {
  readonly weightShape: Shape;
}

const gradWeightOp = defineOp<GradWeightAttrs>({
  name: "conv2dGradWeight",
  inputs: ["x", "dy"],
  infer: ([x, dy], { weightShape, ...attrs }) => {
    const forward = inferConv("conv2dGradWeight", x, { dtype: dy.dtype, shape: weightShape }, attrs);
    must(
      forward.shape.every((d, i) => d === dy.shape[i]),
      "conv2dGradWeight/shape",
      () =>
        `conv2dGradWeight: weights ${fmt(weightShape)} give an output ${fmt(forward.shape)}, but dy is ${fmt(dy.shape)}`,
    );
    return { dtype: x.dtype, shape: weightShape };
  },
  vjp: ({ inputs: [x, dy], dy: z, attrs: { weightShape: _, ...attrs } }) => [
    gradInput(dy, z, x.shape, attrs),
    conv2d(x, z, attrs),
  ],
  lower: (lowering, { inputs: [x, dy] }, { weightShape, ...attrs }) => {
    const operands = operandsOf(lowering, attrs);
    const kernel = weightShape.slice(2);
    const form = chooseLayout(
      lowering,
      fitsBatchLast(x.type, { dtype: dy.dtype, shape: weightShape }, attrs) && !hasManyTaps(x.type, weightShape, attrs),
      () => {
        const [xs, d] = [lowering.read(x, "batchLast"), lowering.read(dy, "batchLast")];
        if (isPointwise(kernel, attrs)) return gradWeightPointwise(operands, xs, d, weightShape);
        const shiftable = isUnit(attrs.stride) && isUnit(attrs.dilation);
        if (shiftable && x.dtype !== "float64" && gradWeightPaysByRows(x.shape, weightShape))
          return gradWeightByRows(operands, xs, d, weightShape);
        return shiftable && weightShape[1] <= 128
          ? gradWeightRowsColumns(operands, xs, d, weightShape)
          : gradWeightGemm(operands, xs, d, weightShape);
      },
      () => {
        const [xs, d] = [lowering.read(x), lowering.read(dy)];
        return isPixels(x.shape) && isPointwise(kernel, attrs)
          ? gradWeightOnPixels(operands, xs, d, weightShape)
          : convCrossCorrelate(operands, xs, d, weightShape);
      },
      x.dtype,
    );
    return { handle: form.handle, layout: "natural" };
  },
});

const gradInput = (dy: Value, w: Value, inputShape: Shape, attrs: ConvAttrs): Value =>
  gradInputOp([dy, w], { ...attrs, inputShape });
/** Gradient of {@link conv2d} for its weights. */
export const gradWeight = (x: Value, dy: Value, weightShape: Shape, attrs: ConvAttrs): Value =>
  gradWeightOp([x, dy], { ...attrs, weightShape });

/** Convolution: `[N, C, H, W]` ∗ `[O, C/groups, kH, kW]` → `[N, O, H', W']` (no bias). */
export const conv2d = (x: Value, w: Value, options: ConvOptions = {}): Value => conv2dOp([x, w], withDefaults(options));

/** Transposed convolution: `[N, C, H, W]` with weights `[C, O/groups, kH, kW]` → `[N, O, H', W']` (no bias). */
export function convTranspose2d(
  x: Value,
  w: Value,
  { outputPadding = 0, ...options }: ConvOptions & { readonly outputPadding?: number | Pair } = {},
): Value {
  mustRank("convTranspose2d", "x", x.type, 4);
  mustRank("convTranspose2d", "w", w.type, 4);
  const attrs = withDefaults(options);
  const { stride, padding, dilation, groups } = attrs;
  const extra = pair(outputPadding);
  must(
    x.shape[1] === w.shape[0] && x.shape[1] % groups === 0,
    "convTranspose2d/channels",
    () =>
      `convTranspose2d: x ${fmt(x.shape)} has ${x.shape[1]} channels, w ${fmt(w.shape)} expects ${w.shape[0]}; groups ${groups} must divide them`,
  );
  must(
    extra.every((p, i) => p >= 0 && p < Math.max(stride[i], dilation[i])),
    "convTranspose2d/output-padding",
    () =>
      `convTranspose2d: output padding ${fmt(extra)} must be smaller than stride ${fmt(stride)} or dilation ${fmt(dilation)}`,
  );
  // Without padding every tap of every pixel lands inside.
  const whole = [0, 1].map((i) => (x.shape[i + 2] - 1) * stride[i] + dilation[i] * (w.shape[i + 2] - 1) + 1);
  const size = whole.map((d, i) => d - 2 * padding[i] + extra[i]);
  must(
    size.every((d) => d > 0),
    "convTranspose2d/empty",
    () => `convTranspose2d: padding ${fmt(padding)} leaves nothing of ${fmt(x.shape)}`,
  );
  const batchAndChannels = [x.shape[0], w.shape[1] * groups];
  if (extra.every((p, i) => p < stride[i]))
    return gradInputOp([x, w], { ...attrs, inputShape: [...batchAndChannels, ...size] });
  // More than a stride of extra rows is not the gradient of any convolution: crop the whole and append zeros.
  const full = gradInputOp([x, w], { ...attrs, padding: [0, 0], inputShape: [...batchAndChannels, ...whole] });
  const ends = size.map((d, i) => padding[i] + d);
  const cropped = slice(
    full,
    ends.map((end, i) => ({ axis: i + 2, start: padding[i], end: Math.min(end, whole[i]) })),
  );
  return pad(cropped, [0, 0, 0, 0], [0, 0, ...ends.map((end, i) => Math.max(0, end - whole[i]))]);
}
