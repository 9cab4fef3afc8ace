import { fmt, must } from "../../errors.ts";
import { type Shape, sizeOf } from "../../tensor/index.ts";
import type { Emitter, Handle } from "../emitter.ts";
import type { Layout } from "../layout.ts";
import type { Lowering, Physical } from "../op.ts";
import { sharedBatch } from "../trace.ts";
import { defineOp, type TensorType, type Value } from "../value.ts";
import { reduceSum, reshape } from "./broadcast.ts";
import { add, cast, div, mul, neg, sqrt, sub } from "./elementwise.ts";
import { sharedMoments, sumOverProcesses } from "./processes.ts";
import { bare, normGradient, sumsToZero } from "./zero-sum.ts";

/** Values per channel: all axes but 1. */
const perChannel = (shape: Shape): number => sizeOf(shape) / shape[1];

/** Sum over all axes but the channel axis 1: `[N, C, …]` → `[C]`. */
export const channelSum = (x: Value): Value =>
  reduceSum(
    x,
    x.shape.map((_, i) => i).filter((i) => i !== 1),
  );

function mustFitChannels(op: string, x: TensorType, vectors: Readonly<Record<string, TensorType>>): void {
  must(x.shape.length >= 2, `${op}/rank`, () => `${op}: x must be [N, C, …], got ${fmt(x.shape)}`);
  for (const [name, t] of Object.entries(vectors))
    must(
      t.shape.length === 1 && t.shape[0] === x.shape[1] && t.dtype === x.dtype,
      `${op}/channels`,
      () => `${op}: x ${fmt(x.shape)} has ${x.shape[1]} channels (${x.dtype}), ${name} is ${fmt(t.shape)} (${t.dtype})`,
    );
}

/** A view of x as [1, C, rest] (batch-last) or as it is, in which ONNX finds the channels on axis 1. */
function asChannels(lowering: Lowering, x: Value): { readonly handle: Handle; readonly layout: Layout } {
  const layout = lowering.layoutOf(x);
  const handle = lowering.read(x, layout);
  if (layout === "natural") return { handle, layout };
  return { handle: lowering.emit.reshape(handle, [1, x.shape[1], perChannel(x.shape)]), layout };
}

function fromChannels(lowering: Lowering, y: Handle, shape: Shape, layout: Layout): Physical {
  const physical = layout === "batchLast" ? [...shape.slice(1), shape[0]] : shape;
  return { handle: lowering.emit.reshape(y, physical), layout };
}

interface NormAttrs {
  readonly eps: number;
}

/**
 * ONNX's inference batch norm. The CPU kernel accepts exactly eps; scale and shift alone are the case of mean 0,
 * variance 1, eps 0.
 */
const affine = (emit: Emitter, x: Handle, vectors: readonly Handle[], eps: number): Handle =>
  emit.node("BatchNormalization", [x, ...vectors], { epsilon: { float: eps } }, x.shape);

const batchNormOp = defineOp<NormAttrs>({
  name: "batchNorm",
  inputs: ["x", "weight", "bias", "mean", "variance"],
  infer: ([x, weight, bias, mean, variance]) => {
    mustFitChannels("batchNorm", x, { weight, bias, mean, variance });
    return x;
  },
  vjp: ({ inputs: [x, weight, , mean, variance], dy, attrs: { eps } }) => {
    const deviation = sqrt(add(variance, eps));
    const scale = div(weight, deviation);
    const sum = channelSum(dy);
    // Centred before it is summed: Σ dy·x − mean·Σ dy would lose what the two have in common.
    const centred = sub(x, asChannelShape(mean, x.shape.length));
    const dweight = div(channelSum(mul(dy, centred)), deviation);
    return [
      channelScale(dy, scale),
      dweight,
      sum,
      neg(mul(scale, sum)),
      mul(mul(dweight, weight), div(-0.5, add(variance, eps))),
    ];
  },
  lower: (lowering, { inputs: [x, ...vectors] }, { eps }) => {
    const { emit, target } = lowering;
    const [weight, bias, mean, variance] = vectors.map((v) => lowering.read(v));
    if (target.parameters === "initializers") {
      const { handle, layout } = asChannels(lowering, x);
      const y = affine(emit, handle, [weight, bias, mean, variance], eps);
      return fromChannels(lowering, y, x.shape, layout);
    }
    // The kernel computes x · scale + shift, where the mean hides in the shift: for training it is subtracted before, by
    // the node that the gradient reads too.
    const layout = lowering.layoutOf(x);
    const physical = lowering.read(x, layout);
    const c = x.shape[1];
    const column = physical.shape.map((_, i) => (i === (layout === "batchLast" ? 0 : 1) ? c : 1));
    const centred = emit.sub(physical, emit.reshape(mean, column));
    const view = layout === "batchLast" ? emit.reshape(centred, [1, c, perChannel(x.shape)]) : centred;
    const y = affine(emit, view, [weight, bias, emit.constantVector(0, c, x.dtype), variance], eps);
    return fromChannels(lowering, y, x.shape, layout);
  },
});

/** Batch norm with given statistics: (x − mean) / sqrt(variance + eps) · weight + bias over channel axis 1. */
export const batchNorm = (x: Value, weight: Value, bias: Value, mean: Value, variance: Value, eps = 1e-5): Value =>
  batchNormOp([x, weight, bias, mean, variance], { eps });

const channelAffineOp = defineOp<Record<string, never>>({
  name: "channelAffine",
  inputs: ["x", "scale", "shift"],
  infer: ([x, scale, shift]) => {
    mustFitChannels("channelAffine", x, { scale, shift });
    return x;
  },
  vjp: ({ inputs: [x, scale], dy }) => [channelScale(dy, scale), channelSum(mul(dy, x)), channelSum(dy)],
  lower: (lowering, { inputs: [x, scale, shift] }) => {
    const { emit } = lowering;
    const { handle, layout } = asChannels(lowering, x);
    const c = x.shape[1];
    const [zero, one] = [0, 1].map((v) => emit.constantVector(v, c, x.dtype));
    const y = affine(emit, handle, [lowering.read(scale), lowering.read(shift), zero, one], 0);
    return fromChannels(lowering, y, x.shape, layout);
  },
});

/** x · scale + shift per channel (axis 1) in one pass. */
export const channelAffine = (x: Value, scale: Value, shift: Value): Value => channelAffineOp([x, scale, shift], {});

const channelScaleOp = defineOp<Record<string, never>>({
  name: "channelScale",
  inputs: ["x", "scale"],
  infer: ([x, scale]) => {
    mustFitChannels("channelScale", x, { scale });
    return x;
  },
  vjp: ({ inputs: [x, scale], dy }) => [channelScale(dy, scale), channelSum(mul(dy, x))],
  lower: (lowering, { inputs: [x, scale] }) => {
    const { emit } = lowering;
    const { handle, layout } = asChannels(lowering, x);
    const rest = handle.shape.length - 2;
    const s = emit.reshape(lowering.read(scale), [1, x.shape[1], ...new Array<number>(rest).fill(1)]);
    return fromChannels(lowering, emit.mul(handle, s), x.shape, layout);
  },
});

/** x · scale per channel (axis 1). Kept apart from `mul` so that a convolution before it can take the factor over. */
export const channelScale = (x: Value, scale: Value): Value => channelScaleOp([x, scale], {});

/**
 * Splits `channelScale(x, s)` into `x` and `s`: the gradient of a batch norm ends with a factor per channel, which is
 * cheaper on the weights of the layer before it than on the activation.
 */
export function splitChannelScale(v: Value): { readonly x: Value; readonly scale: Value | undefined } {
  const { node } = bare(v);
  if (node.op.name !== channelScaleOp.name) return { x: v, scale: undefined };
  return { x: node.inputs[0], scale: node.inputs[1] };
}

const centreOp = defineOp<Record<string, never>>({
  name: "centreChannels",
  inputs: ["x"],
  infer: ([x]) => {
    must(x.shape.length >= 2, "centreChannels/rank", () => `centreChannels: x must be [N, C, …], got ${fmt(x.shape)}`);
    return [x, { dtype: x.dtype, shape: [x.shape[1]] }];
  },
  // The shift counts as a constant; see below.
  vjp: ({ grads: [dcentred] }) => [dcentred],
  lower: (lowering, { inputs: [x] }) => {
    const { emit } = lowering;
    const layout = lowering.layoutOf(x);
    const [n, c, ...rest] = x.shape;
    const { axes, column, view } =
      layout === "batchLast"
        ? { view: [c, perChannel(x.shape)], axes: [1], column: [c, 1] }
        : { view: [n, c, sizeOf(rest)], axes: [0, 2], column: [1, c, 1] };
    const handle = emit.reshape(lowering.read(x, layout), view);
    const shift = emit.reduce("ReduceMean", handle, axes, false);
    const centred = emit.sub(handle, emit.reshape(shift, column));
    return [fromChannels(lowering, centred, x.shape, layout), { handle: shift, layout: "natural" }];
  },
});

/** Whether `v` is `x`, but for a shift per channel (axis 1), as a batch norm by its own statistics sees it. */
export function isShifted(v: Value, x: Value): boolean {
  if (v === x) return true;
  const { op, inputs } = v.node;
  const perChannelOnly = ({ shape }: Value): boolean =>
    shape.length === x.shape.length && shape.every((d, i) => i === 1 || d === 1);
  if (op.name === centreOp.name) return v === v.node.outputs[0] && isShifted(inputs[0], x);
  return op.name === "add" && perChannelOnly(inputs[1]) && isShifted(inputs[0], x);
}

/**
 * x minus a shift per channel (axis 1), and the shift `[C]`: the channel's mean, but for rounding. Where a mean is large
 * beside the deviation, float32 has few digits left for what varies; the difference to a number so close is exact.
 *
 * To be used only where the result is the same for any shift, as that of a batch norm is: the gradient takes the shift
 * for a constant.
 */
export function centreChannels(x: Value): { readonly centred: Value; readonly shift: Value } {
  const [centred, shift] = centreOp.all([x], {});
  return { centred, shift };
}

/** Axes of a handle from {@link asChannels} that its channels are reduced over, and the shape that broadcasts back. */
const channelAxes = ({ shape }: Handle): { readonly axes: number[]; readonly column: Shape } => ({
  axes: shape.map((_, i) => i).filter((i) => i !== 1),
  column: shape.map((d, i) => (i === 1 ? d : 1)),
});

const mustHaveSamples = (shape: Shape, count: number): void =>
  must(
    count > 1,
    "batchNormTrain/samples",
    () =>
      `batchNormTrain: expected more than 1 value per channel when training, got ${fmt(shape)}. Use a larger batch or eval mode.`,
  );

interface BatchNormAttrs extends NormAttrs {
  /** Of a batch that processes share: how many they are, and the values per channel of all together. */
  readonly shared?: { readonly processes: number; readonly count: number };
}

const batchNormTrainOp = defineOp<BatchNormAttrs>({
  name: "batchNormTrain",
  // Of a shared batch the moments are given: what was subtracted from x, then mean and variance of the whole in float64.
  inputs: ["x", "weight", "bias", "...moments"],
  infer: ([x, weight, bias], { shared }) => {
    mustFitChannels("batchNormTrain", x, { weight, bias });
    mustHaveSamples(x.shape, shared?.count ?? perChannel(x.shape));
    return shared ? [x, weight, weight, weight] : [x, weight, weight];
  },
  /*
   * With m values per channel, D = dy, s1 = ΣD, s2 = ΣD·x and inv = 1/sqrt(var + eps):
   *   dbias = s1, dweight = inv·(s2 − mean·s1), dx = weight·inv·(D + b·x + c),
   *   b = −inv²·(s2 − mean·s1)/m, c = −s1/m − b·mean.
   * Cotangents of the mean and the variance add dmean/m + 2·dvar·(x − mean)/m.
   * x is centred, so mean is what rounding left, and nothing large cancels.
   * Of a batch that processes share, m and the sums in dx are those of all; the weight's and the bias's gradients add up
   * over the processes as every parameter's do.
   */
  vjp: ({ inputs: [x, weight], outputs: [, mean, variance], grads, attrs: { eps, shared } }) => {
    const [dy, dcentred, dvariance, dwhole] = grads;
    const m = shared?.count ?? perChannel(x.shape);
    const total = (v: Value): Value => (shared ? sumOverProcesses(v, shared.processes) : v);
    const [dmean, dvar] = [dwhole ?? dcentred, dvariance].map((v) => v && total(v));
    let dx: Value | undefined;
    let dweight: Value | undefined;
    let dbias: Value | undefined;
    if (dy) {
      const inv = div(1, sqrt(add(variance, eps)));
      dbias = channelSum(dy);
      // Where that is zero by theory, what rounding made of it is to be taken away all the same.
      const own = channelSum(bare(dy));
      const ownProduct = sub(channelSum(mul(dy, x)), mul(mean, own));
      dweight = mul(inv, ownProduct);
      const [sum, product] = [total(own), total(ownProduct)];
      // Of as few roundings as can be: with few samples b·x + c and D are almost the same.
      const b = neg(div(product, mul(add(variance, eps), m)));
      const c = sub(div(neg(sum), m), mul(b, mean));
      dx = channelScale(add(dy, channelAffine(x, b, c)), mul(weight, inv));
      const known = { dy, x, weight, variance, sum: sumsToZero(dy) ? dbias : sum, count: m, eps };
      if (!(dmean || dvar)) dx = normGradient(dx, known);
    }
    if (dmean || dvar) {
      const slope = dvar ? mul(dvar, 2 / m) : mul(mean, 0);
      const offset = sub(dmean ? div(dmean, m) : mul(mean, 0), mul(slope, mean));
      const extra = channelAffine(x, slope, offset);
      dx = dx ? add(dx, extra) : extra;
    }
    return [dx, dweight, dbias];
  },
  lower: (lowering, { inputs: [x, weight, bias, ...moments] }, { eps }) => {
    const { emit } = lowering;
    const { handle, layout } = asChannels(lowering, x);
    const [gamma, beta] = [weight, bias].map((v) => lowering.read(v));
    const natural = (h: Handle): Physical => ({ handle: h, layout: "natural" });
    if (!moments.length) {
      const { y, mean, variance } = normalizeByBatch(lowering, handle, gamma, beta, eps);
      return [fromChannels(lowering, y, x.shape, layout), natural(mean), natural(variance)];
    }
    const [shift, whole, variance] = moments.map((v) => lowering.read(v));
    const given = { mean: emit.sub(whole, emit.cast(shift, whole.dtype)), variance };
    const y = normalizeBy(lowering, handle, gamma, beta, given, eps);
    const statistics = [given.mean, variance, whole].map((h) => natural(emit.cast(h, x.dtype)));
    return [fromChannels(lowering, y, x.shape, layout), ...statistics];
  },
});

/** Up to so many values per channel, where a pass more costs little, a norm is computed in steps and in float64. */
const few = 1024;

interface Moments {
  readonly mean: Handle;
  readonly variance: Handle;
}

/** As moments are taken of it: in float64, as PyTorch does on the CPU, where few samples are left and there is float64. */
const widened = ({ emit, target }: Lowering, x: Handle): Handle =>
  target.device === "webgpu" || perChannel(x.shape) > few ? x : emit.cast(x, "float64");

/** `x` less a mean per channel. */
const lessMean = ({ emit }: Lowering, x: Handle, mean: Handle): Handle =>
  emit.sub(x, emit.reshape(emit.cast(mean, x.dtype), channelAxes(x).column));

/** Mean and biased variance of every channel of `x` `[N, C, …]`; precise where x is centred. */
function momentsOf(lowering: Lowering, x: Handle): Moments {
  const { emit } = lowering;
  const { axes } = channelAxes(x);
  const wide = widened(lowering, x);
  const mean = emit.reduce("ReduceMean", wide, axes, false);
  const centred = lessMean(lowering, wide, mean);
  return { mean, variance: emit.reduce("ReduceMean", emit.mul(centred, centred), axes, false) };
}

/** The norm of `x` by given moments. */
function normalizeBy(
  lowering: Lowering,
  x: Handle,
  gamma: Handle,
  beta: Handle,
  { mean, variance }: Moments,
  eps: number,
): Handle {
  const { emit } = lowering;
  const centred = emit.cast(lessMean(lowering, widened(lowering, x), mean), x.dtype);
  const zero = emit.constantVector(0, x.shape[1], x.dtype);
  return affine(emit, centred, [gamma, beta, zero, emit.cast(variance, x.dtype)], eps);
}

/** The norm of `x` `[N, C, …]`, channels on axis 1, by its own statistics; precise where x is centred. */
export function normalizeByBatch(
  lowering: Lowering,
  x: Handle,
  gamma: Handle,
  beta: Handle,
  eps: number,
): { readonly y: Handle; readonly mean: Handle; readonly variance: Handle } {
  const { emit, target } = lowering;
  if (target.device === "webgpu" || x.dtype === "float64" || perChannel(x.shape) <= few) {
    // Moments, then the inference kernel with them: WebGPU has no training batch norm, and the CPU's rounds more, which
    // shows where few samples are left.
    const moments = momentsOf(lowering, x);
    const y = normalizeBy(lowering, x, gamma, beta, moments, eps);
    return { y, mean: emit.cast(moments.mean, x.dtype), variance: emit.cast(moments.variance, x.dtype) };
  }
  // The CPU kernel writes its statistics over its own mean and variance inputs, even over constants: every node gets
  // inputs of its own. Their values do not matter with momentum 0; the factors are such as nobody multiplies by, since
  // ONNX Runtime merges equal nodes, too.
  const own = (of: Handle): Handle =>
    emit.nodeAll("Mul", [of, emit.scalar(1e-30 * lowering.nextPrivate(), of.dtype)], {}, [of], { unique: true })[0];
  const [y, mean, variance] = emit.nodeAll(
    "BatchNormalization",
    [x, gamma, beta, own(beta), own(gamma)],
    { epsilon: { float: eps }, momentum: { float: 0 }, training_mode: 1 },
    [x, gamma, gamma],
    { unique: true },
  );
  return { y, mean, variance };
}

/** Output of a batch norm with the batch's own statistics; its mean and its biased variance, `[C]` each. */
export interface BatchNormalized {
  readonly y: Value;
  readonly mean: Value;
  readonly variance: Value;
}

/** Values per channel (axis 1) behind the statistics of a batch norm of pictures of this shape: of all processes' shares. */
export function valuesPerChannel(shape: Shape): number {
  const batch = sharedBatch();
  return batch ? Math.round(perChannel(shape) / batch.shares[batch.rank]) : perChannel(shape);
}

const channelMomentsOp = defineOp<Record<string, never>>({
  name: "channelMoments",
  inputs: ["x"],
  infer: ([x]) => new Array<TensorType>(2).fill({ dtype: "float64", shape: [x.shape[1]] }),
  // The norm that they are for has the gradient of all; see batchNormTrain.
  vjp: () => [undefined],
  lower: (lowering, { inputs: [x] }) => {
    const { mean, variance } = momentsOf(lowering, asChannels(lowering, x).handle);
    return [mean, variance].map((h) => ({ handle: lowering.emit.cast(h, "float64"), layout: "natural" }));
  },
});

/** Batch norm with the batch's own statistics; with those of all processes' shares where {@link sharedBatch} says so. */
export function batchNormTrain(x: Value, weight: Value, bias: Value, eps = 1e-5): BatchNormalized {
  const { centred, shift } = centreChannels(x);
  const batch = sharedBatch();
  if (batch) {
    const [own, ownVariance] = channelMomentsOp.all([centred], {});
    const moments = sharedMoments({ mean: add(cast(shift, "float64"), own), variance: ownVariance }, batch);
    const shared = { processes: batch.shares.length, count: valuesPerChannel(x.shape) };
    const inputs = [centred, weight, bias, shift, moments.mean, moments.variance];
    const [y, , variance, mean] = batchNormTrainOp.all(inputs, { eps, shared });
    return { y, mean, variance };
  }
  const [y, mean, variance] = batchNormTrainOp.all([centred, weight, bias], { eps });
  return { y, mean: add(shift, mean), variance };
}

/** A per-channel vector `[C]` as `[1, C, 1, …]`, to broadcast against `[N, C, …]`. */
export const asChannelShape = (v: Value, rank: number): Value =>
  reshape(v, [1, v.shape[0], ...new Array<number>(rank - 2).fill(1)]);
