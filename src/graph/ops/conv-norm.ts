import { fmt, must } from "../../errors.ts";
import { type DType, type Shape, Tensor } from "../../tensor/index.ts";
import type { Handle } from "../emitter.ts";
import type { Lowering } from "../op.ts";
import { sharedBatch } from "../trace.ts";
import { constant, defineOp, mustRank, type TensorType, type Value } from "../value.ts";
import { reduceSum, reshape } from "./broadcast.ts";
import { conv2d, convTranspose2d, gradWeight } from "./conv.ts";
import { convCrossCorrelate, convNative, convPointwise } from "./conv-forms.ts";
import type { ConvAttrs } from "./conv-options.ts";
import { add, div, mul, neg, sqrt, sub } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { type BatchNormalized, batchNormTrain, centreChannels, channelSum, normalizeByBatch } from "./norm.ts";
import { concat, slice, transpose } from "./shape.ts";
import { sumsToZero, zeroSum } from "./zero-sum.ts";

/*
 * A 1×1 convolution and the batch norm of its output, with the batch's own statistics, computed without the output
 * before the norm. Mean and variance of a linear map follow from the mean and the covariance of its input,
 *
 *   mean = W m,   variance = diag(W S Wᵀ),   m = Σx / P,   S = Σ x xᵀ / P − m mᵀ,
 *
 * and then the norm is part of the weights, as in the merge for inference: y = (a·W) x + (bias − a·mean) with
 * a = weight / sqrt(variance + eps). The gradient needs the output before the norm neither.
 *
 * What makes that as precise as the two steps: x is centred before, so that no mean hides what varies; and S is summed
 * and used in float64, since W S Wᵀ loses twice the digits that W x loses where channels are correlated. (What is left:
 * the sums G of the gradient are of float32, and rows of W that nearly cancel a common signal keep few digits of W ∘ G.)
 * Where float64 is missing (WebGPU) or images do not lie batch-last, the two steps are written after all.
 */

const pointwise: ConvAttrs = { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };

/** Whether the statistics come from the input's covariance: where 1×1 convolutions are matrix products. */
const byCovariance = ({ target }: Lowering, dtype: DType): boolean =>
  dtype === "float64" || (target.layout === "batchLast" && target.device === "cpu");

const positionsOf = ([n, , h, w]: Shape): number => n * h * w;

interface Moments {
  /** Mean of every channel, float64 `[C, 1]`. */
  readonly mean: Handle;
  /** Float64 `[C, C]`. */
  readonly covariance: Handle;
}

/** Moments of all but the last channel of `extended`, which is 1 everywhere; equal calls share their nodes. */
function momentsOf(lowering: Lowering, extended: Value): Moments {
  const { emit } = lowering;
  const c = extended.shape[1] - 1;
  const positions = positionsOf(extended.shape);
  const rows = emit.cast(emit.reshape(lowering.read(extended, "batchLast"), [c + 1, positions]), "float64");
  const all = emit.binary("Div", emit.gemm(rows, rows, false, true), emit.scalar(positions, "float64", 2));
  const [first, last] = [
    { start: 0, end: c },
    { start: c, end: c + 1 },
  ];
  const mean = emit.slice(all, { axis: 0, ...first }, { axis: 1, ...last });
  const square = emit.gemm(mean, mean, false, true);
  return { mean, covariance: emit.sub(emit.slice(all, { axis: 0, ...first }, { axis: 1, ...first }), square) };
}

/** `[O, C]` times the covariance of x, in float64. */
const timesCovariance = ({ emit }: Lowering, w: Handle, { covariance }: Moments): Handle =>
  emit.matmul(emit.cast(w, "float64"), covariance);

/** The output before the norm, `[N, O, H, W]`. */
function outputBefore({ emit, target }: Lowering, x: Handle, w: Handle): Handle {
  const [n, c, ...size] = x.shape;
  const o = w.shape[0];
  const form = { emit, device: target.device, attrs: pointwise };
  return convNative(form, x, emit.reshape(w, [o, c, 1, 1]), [n, o, ...size]);
}

const inferPair = (name: string, x: TensorType, extended: TensorType, w: TensorType): void => {
  mustRank(name, "x", x, 4);
  mustRank(name, "w", w, 2);
  must(
    w.shape[1] === x.shape[1] && extended.shape[1] === x.shape[1] + 1,
    `${name}/channels`,
    () => `${name}: x ${fmt(x.shape)} has ${x.shape[1]} channels, w is ${fmt(w.shape)}`,
  );
};

/*
 * In all ops here `extended` is x with a channel of ones, which brings sums along and takes shifts with it; gradients
 * flow to x alone. Both are inputs, so that all of them read the same copy.
 */

const covarianceOp = defineOp<Record<string, never>>({
  name: "outputInputCovariance",
  inputs: ["x", "extended", "w"],
  infer: ([x, extended, w]) => {
    inferPair("outputInputCovariance", x, extended, w);
    return w;
  },
  // d ⟨D, W S⟩ = ⟨D S, dW⟩ + Σ ⟨(Q + Qᵀ)(x − m), dx⟩ / P with Q = Wᵀ D.
  vjp: ({ inputs: [x, extended, w], dy }) => {
    const q = matmul(transpose(w, [1, 0]), dy);
    const both = div(add(q, transpose(q, [1, 0])), positionsOf(x.shape));
    return [throughCentred(x, extended, both), undefined, outputInputCovariance(x, extended, dy)];
  },
  lower: (lowering, { inputs: [x, extended, w] }) => {
    const { emit, target } = lowering;
    if (byCovariance(lowering, x.dtype)) {
      const product = timesCovariance(lowering, lowering.read(w), momentsOf(lowering, extended));
      return { handle: emit.cast(product, x.dtype), layout: "natural" };
    }
    const images = lowering.read(x);
    const y = outputBefore(lowering, images, lowering.read(w));
    const mean = emit.reduce("ReduceMean", y, [0, 2, 3], true);
    const form = { emit, device: target.device, attrs: pointwise };
    const total = convCrossCorrelate(form, images, emit.sub(y, mean), [...w.shape, 1, 1]);
    const count = emit.scalar(positionsOf(x.shape), x.dtype, 2);
    return { handle: emit.binary("Div", emit.reshape(total, w.shape), count), layout: "natural" };
  },
});

/** W S, for W `[O, C]` and the covariance S of x: `[O, C]`. */
const outputInputCovariance = (x: Value, extended: Value, w: Value): Value => covarianceOp([x, extended, w], {});

/** M (x − m) at every position, for M `[C, C]`. */
function throughCentred(x: Value, extended: Value, m: Value): Value {
  const mean = reshape(div(channelSum(x), positionsOf(x.shape)), [x.shape[1], 1]);
  return throughExtended(extended, m, neg(matmul(m, mean)));
}

/** A x + b at every position, for A `[O, C]` and b `[O, 1]`. */
const throughExtended = (extended: Value, a: Value, b: Value): Value =>
  conv2d(extended, reshape(concat([a, b], 1), [a.shape[0], extended.shape[1], 1, 1]));

const pointwiseNormOp = defineOp<{ readonly eps: number }>({
  name: "pointwiseNorm",
  inputs: ["x", "extended", "w", "weight", "bias"],
  infer: ([x, extended, w, weight, bias]) => {
    inferPair("pointwiseNorm", x, extended, w);
    const [o] = w.shape;
    for (const [name, { shape }] of Object.entries({ weight, bias }))
      must(
        shape.length === 1 && shape[0] === o,
        "pointwiseNorm/vectors",
        () => `pointwiseNorm: w ${fmt(w.shape)} has ${o} outputs, ${name} is ${fmt(shape)}`,
      );
    const vector = { dtype: x.dtype, shape: [o] };
    return [{ dtype: x.dtype, shape: x.shape.with(1, o) }, vector, vector, { dtype: x.dtype, shape: [x.shape[1]] }];
  },
  /*
   * The outputs are y, mean, variance, and the mean m of x. With D = dy, G = ΣD xᵀ, s1 = ΣD, a = weight / deviation:
   *   dbias = s1,   dweight = (rows of W ∘ G, summed − mean·s1) / deviation,
   * to the cotangents of mean and variance come −a·s1 and −½·a·dweight / deviation, and with these
   *   dW = a·G + dmean·mᵀ + 2·dvar·(W S),   dx = Wᵀ(a·D) + (Wᵀ dmean + dm) / P + 2/P · Wᵀ diag(dvar) W (x − m).
   */
  vjp: ({ inputs: [x, extended, w, weight], outputs: [, mean, variance, m], grads, attrs: { eps } }) => {
    const [dy, dmeanGiven, dvarianceGiven, dm] = grads;
    const [o, c] = w.shape;
    const positions = positionsOf(x.shape);
    const column = (v: Value): Value => reshape(v, [v.shape[0], 1]);
    const sumOf = (a: Value | undefined, b: Value | undefined): Value | undefined => (a && b ? add(a, b) : (a ?? b));
    let [dmean, dvariance] = [dmeanGiven, dvarianceGiven];
    let [dw, dx, dweight, dbias]: (Value | undefined)[] = [];
    if (dy) {
      const deviation = sqrt(add(variance, eps));
      const a = div(weight, deviation);
      const sums = reshape(gradWeight(extended, dy, [o, c + 1, 1, 1], pointwise), [o, c + 1]);
      const part = (start: number, end: number): Value => slice(sums, [{ axis: 1, start, end }]);
      const g = part(0, c);
      const sum = reshape(part(c, c + 1), [o]);
      dbias = sumsToZero(dy) ? channelSum(dy) : sum;
      dweight = div(sub(reduceSum(mul(w, g), 1), mul(mean, sum)), deviation);
      dmean = sumOf(dmean, neg(mul(a, sum)));
      dvariance = sumOf(dvariance, div(mul(mul(a, dweight), -0.5), deviation));
      dw = mul(g, column(a));
      dx = convTranspose2d(dy, reshape(mul(w, column(a)), [o, c, 1, 1]));
    }
    const turned = transpose(w, [1, 0]);
    let matrix: Value | undefined;
    let shift: Value | undefined;
    if (dmean) {
      dw = sumOf(dw, mul(column(dmean), reshape(m, [1, c])));
      shift = matmul(turned, column(dmean));
    }
    if (dm) shift = sumOf(shift, column(dm));
    shift = shift && div(shift, positions);
    if (dvariance) {
      const twice = mul(dvariance, 2);
      dw = sumOf(dw, mul(outputInputCovariance(x, extended, w), column(twice)));
      matrix = div(matmul(turned, mul(w, column(twice))), positions);
      shift = sumOf(shift, neg(matmul(matrix, column(m))));
    }
    if (shift) {
      const zero = matrix ?? constant(Tensor.zeros(x.dtype, [c, c]));
      dx = sumOf(dx, throughExtended(extended, zero, shift));
    }
    const alone = !(dmeanGiven || dvarianceGiven || dm);
    return [dx && alone ? zeroSum(dx) : dx, undefined, dw, dweight, dbias];
  },
  lower: (lowering, { inputs: [x, extended, w, weight, bias] }, { eps }) => {
    const { emit } = lowering;
    const [matrix, gamma, beta] = [w, weight, bias].map((v) => lowering.read(v));
    const natural = (handle: Handle) => ({ handle, layout: "natural" }) as const;
    if (!byCovariance(lowering, x.dtype)) {
      const images = lowering.read(x);
      const before = outputBefore(lowering, images, matrix);
      const { y, mean, variance } = normalizeByBatch(lowering, before, gamma, beta, eps);
      return [y, mean, variance, emit.reduce("ReduceMean", images, [0, 2, 3], false)].map(natural);
    }
    const [o, c] = w.shape;
    const moments = momentsOf(lowering, extended);
    const column = (h: Handle): Handle => emit.reshape(emit.cast(h, "float64"), [o, 1]);
    const wide = emit.cast(matrix, "float64");
    const mean = emit.matmul(wide, moments.mean);
    const variance = emit.reduce("ReduceSum", emit.mul(timesCovariance(lowering, matrix, moments), wide), [1], true);
    const deviation = emit.unary("Sqrt", emit.add(variance, emit.scalar(eps, "float64", 2)));
    const scale = emit.binary("Div", column(gamma), deviation);
    const shift = emit.sub(column(beta), emit.mul(scale, mean));
    const folded = emit.cast(emit.concat([emit.mul(wide, scale), shift], 1), x.dtype);
    const form = { emit, device: lowering.target.device, attrs: pointwise };
    const y = convPointwise(form, lowering.read(extended, "batchLast"), emit.reshape(folded, [o, c + 1, 1, 1]));
    const vector = (h: Handle, size: number) => natural(emit.reshape(emit.cast(h, x.dtype), [size]));
    return [{ handle: y, layout: "batchLast" }, vector(mean, o), vector(variance, o), vector(moments.mean, c)];
  },
});

/**
 * Whether {@link pointwiseNormTrain} costs less than convolution and batch norm one after the other: it adds products
 * (the Gram matrix, its gradient, and some of the weights' size) and saves about 13 passes over the output.
 */
export function pointwiseNormPays([n, c, h, w]: Shape, outputs: number): boolean {
  const positions = n * h * w;
  const added = 2 * c * c * positions + 3 * outputs * c * c;
  return outputs * positions >= 1e5 && added < 250 * outputs * positions;
}

/**
 * {@link batchNormTrain} of the output of a 1×1 convolution, in one with it.
 *
 * @param x  `[N, C, H, W]`
 * @param w  `[O, C, 1, 1]`
 * @returns `y` `[N, O, H, W]`, and the statistics of the convolution's output
 */
export function pointwiseNormTrain(x: Value, w: Value, weight: Value, bias: Value, eps = 1e-5): BatchNormalized {
  mustRank("pointwiseNormTrain", "x", x.type, 4);
  const [n, c, height, width] = x.shape;
  const o = w.shape[0];
  must(
    positionsOf(x.shape) > 1 || sharedBatch(),
    "pointwiseNormTrain/samples",
    () => "pointwiseNormTrain: expected more than 1 value per channel when training. Use a larger batch or eval mode.",
  );
  // So few positions leave little but what cancels in the gradient; shared statistics are of the output.
  if (positionsOf(x.shape) < 4 * c || sharedBatch()) return batchNormTrain(conv2d(x, w), weight, bias, eps);
  const { centred, shift } = centreChannels(x);
  const ones = constant(Tensor.full(x.dtype, [n, 1, height, width], 1));
  const matrix = reshape(w, [o, c]);
  const inputs = [centred, concat([centred, ones], 1), matrix, weight, bias];
  const [y, mean, variance] = pointwiseNormOp.all(inputs, { eps });
  return { y, mean: add(reshape(matmul(matrix, reshape(shift, [c, 1])), [o]), mean), variance };
}
