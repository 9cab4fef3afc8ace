import { must } from "../../errors.ts";
import { type Shape, Tensor } from "../../tensor/index.ts";
import { constant, defineOp, mustRank, type Value } from "../value.ts";
import { reduceSum, reshape } from "./broadcast.ts";
import { conv2d } from "./conv.ts";
import { add, div, mul, relu, sqrt, sub } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import type { BatchNormalized } from "./norm.ts";
import { concat, slice, transpose } from "./shape.ts";

const channelGramOp = defineOp<Record<string, never>>({
  name: "channelGram",
  inputs: ["x"],
  infer: ([x]) => {
    mustRank("channelGram", "x", x, 4);
    return { dtype: x.dtype, shape: [x.shape[1], x.shape[1]] };
  },
  // Both factors are x, so that the two halves of the gradient are one product.
  vjp: ({ inputs: [x], dy }) => [conv2d(x, reshape(add(dy, transpose(dy, [1, 0])), [...dy.shape, 1, 1]))],
  lower: (lowering, { inputs: [x] }) => {
    const { emit } = lowering;
    const [n, c, h, w] = x.shape;
    const rows = emit.reshape(lowering.read(x, "batchLast"), [c, h * w * n]);
    return { handle: emit.gemm(rows, rows, false, true), layout: "natural" };
  },
});

/** Products of all pairs of channels, summed over images and positions: `[N, C, H, W]` → `[C, C]`. */
export const channelGram = (x: Value): Value => channelGramOp([x], {});

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
 * A 1×1 convolution and the batch norm of its output, with the batch's own statistics, computed without the output
 * before the norm. Mean and variance of a linear map follow from the mean and the covariance of its input,
 *
 *   mean = W m,   variance = diag(W S Wᵀ),   m = Σx / P,   S = Σ x xᵀ / P − m mᵀ,
 *
 * and then the norm is part of the weights, as in the merge for inference: y = (a·W) x + (bias − a·mean) with
 * a = weight / sqrt(variance + eps). The gradient of these formulas needs the output before the norm neither.
 *
 * @param x  `[N, C, H, W]`
 * @param w  `[O, C, 1, 1]`
 * @returns `y` `[N, O, H, W]`, and the statistics of the convolution's output
 */
export function pointwiseNormTrain(x: Value, w: Value, weight: Value, bias: Value, eps = 1e-5): BatchNormalized {
  mustRank("pointwiseNormTrain", "x", x.type, 4);
  const [n, c, height, width] = x.shape;
  const o = w.shape[0];
  const positions = n * height * width;
  must(
    positions > 1,
    "pointwiseNormTrain/samples",
    () => "pointwiseNormTrain: expected more than 1 value per channel when training. Use a larger batch or eval mode.",
  );
  // A channel of ones brings the sums of x along, and takes the shift of y with it.
  const ones = constant(Tensor.full(x.dtype, [n, 1, height, width], 1));
  const extended = concat([x, ones], 1);
  const moments = div(channelGram(extended), positions);
  const part = (rows: readonly [number, number], columns: readonly [number, number]): Value =>
    slice(moments, [
      { axis: 0, start: rows[0], end: rows[1] },
      { axis: 1, start: columns[0], end: columns[1] },
    ]);
  const m = part([0, c], [c, c + 1]);
  const covariance = sub(part([0, c], [0, c]), matmul(m, transpose(m, [1, 0])));
  const matrix = reshape(w, [o, c]);
  const mean = matmul(matrix, m);
  // Rounding may leave a variance just below 0.
  const variance = relu(reduceSum(mul(matmul(matrix, covariance), matrix), 1));
  const scale = reshape(div(weight, sqrt(add(variance, eps))), [o, 1]);
  const shift = sub(reshape(bias, [o, 1]), mul(scale, mean));
  const folded = reshape(concat([mul(matrix, scale), shift], 1), [o, c + 1, 1, 1]);
  return { y: conv2d(extended, folded), mean: reshape(mean, [o]), variance };
}
