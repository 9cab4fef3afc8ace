import { afterAll, expect, test } from "vitest";
import { RepmlpError } from "../../src/errors.ts";
import {
  add,
  batchNorm,
  batchNormTrain,
  cast,
  concat,
  conv2d,
  convTranspose2d,
  crossEntropy,
  defineOp,
  dropout,
  exp,
  expand,
  gather,
  grad,
  greater,
  inLayer,
  input,
  linear,
  lower,
  matmul,
  maxPool2d,
  opTable,
  pad,
  parameter,
  partitionImage,
  reduceSum,
  relu,
  reshape,
  resize2d,
  select,
  slice,
  softmax,
  targets,
  transpose,
  unpartition,
  updateBuffer,
} from "../../src/graph/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { refOf } from "./harness.ts";

const x = input("x", [2, 3, 5, 7]);
const whole = input("whole", [2, 3], "int64");

const mistakes: Readonly<Record<string, () => unknown>> = {
  "convolution of the wrong channels": () => conv2d(x, input("w", [4, 2, 3, 3])),
  "convolution with groups that do not divide": () => conv2d(x, input("w", [4, 1, 3, 3]), { groups: 3 }),
  "convolution of rows": () => conv2d(input("rows", [2, 3]), input("w", [4, 3, 1, 1])),
  "convolution larger than the image": () => conv2d(x, input("w", [4, 3, 7, 7]), { padding: [0, 1], dilation: 2 }),
  "convolution of two dtypes": () => conv2d(x, input("w", [4, 3, 3, 3], "float64")),
  "transposed convolution of the wrong channels": () => convTranspose2d(x, input("w", [4, 3, 3, 3])),
  "transposed convolution, output padding": () => convTranspose2d(x, input("w", [3, 4, 3, 3]), { outputPadding: 1 }),
  "linear of the wrong features": () => linear(input("rows", [2, 3]), input("w", [5, 4])),
  "product of matrices that do not fit": () => matmul(x, input("b", [6, 2])),
  "product of batches that do not fit": () => matmul(input("a", [2, 3, 4]), input("b", [3, 4, 5])),
  "sum of shapes that do not broadcast": () => add(x, input("b", [3, 5])),
  "sum of two dtypes": () => add(x, input("b", [7], "float64")),
  "exponential of integers": () => exp(whole),
  "sum of booleans": () => reduceSum(greater(x, 0)),
  "condition that is a number": () => select(x, x, 0),
  "reshape to another size": () => reshape(x, [2, 100]),
  "reshape with a remainder": () => reshape(x, [4, -1]),
  "reshape with two unknown sizes": () => reshape(x, [-1, -1]),
  "transpose of the wrong rank": () => transpose(x, [0, 2, 1]),
  "concatenation of different heights": () => concat([x, input("b", [2, 3, 4, 7])], 1),
  "slice beyond the end": () => slice(x, [{ axis: 1, start: 3, end: 9 }]),
  "slice of a missing axis": () => slice(x, [{ axis: 4, start: 0, end: 1 }]),
  "negative padding": () => pad(x, [0, 0, -1, 0], [0, 0, 0, 0]),
  "expansion of a size that is not one": () => expand(x, [2, 3, 5, 14]),
  "gather by numbers": () => gather(x, cast(whole, "float32")),
  "softmax over a missing axis": () => softmax(x, 4),
  "pool padded by more than half": () => maxPool2d(x, { kernelSize: 3, padding: 2 }),
  "pool larger than the image": () => maxPool2d(x, { kernelSize: 8 }),
  "partition with a remainder": () => partitionImage(x, [5, 3]),
  "partitions that do not fill the image": () => unpartition(x, [5, 7], [10, 10]),
  "resize to nothing": () => resize2d(x, [0, 3]),
  "batch norm of the wrong channels": () => batchNorm(x, ...(["a", "b", "c", "d"].map((n) => input(n, [5])) as Four)),
  "training batch norm of one value": () =>
    batchNormTrain(input("one", [1, 3, 1, 1]), input("w", [3]), input("b", [3])),
  "labels for another batch": () => crossEntropy(input("logits", [4, 10]), input("labels", [5], "int64")),
  "label smoothing of one": () =>
    crossEntropy(input("logits", [4, 10]), input("labels", [4], "int64"), { labelSmoothing: 1 }),
  "dropout of everything": () => dropout(x, 1),
  "gradient of many numbers": () => grad(relu(x), [x]),
  "running statistics outside a trace": () =>
    inLayer("stage1.bn", () => updateBuffer(refOf(Tensor.float32([1], [0])), x)),
  "parameter outside the model": () =>
    lower({ outputs: { y: parameter(refOf(Tensor.float32([2, 1], [1, 2]))) } }, { target: targets.cpuTraining }),
};
type Input = typeof x;
type Four = [Input, Input, Input, Input];

test("messages name the op, both shapes and what to do", () => {
  const messages = Object.entries(mistakes).map(([name, make]) => {
    try {
      make();
    } catch (error) {
      if (error instanceof RepmlpError) return `${name}\n  ${error.code}: ${error.message}`;
      throw error;
    }
    return `${name}\n  no error`;
  });
  expect(`\n${messages.join("\n")}\n`).toMatchInlineSnapshot(`
    "
    convolution of the wrong channels
      conv2d/channels: conv2d: x has 3 channels, w [4, 2, 3, 3] with groups 1 expects 2 x 1 = 2; groups must divide its 4 outputs
    convolution with groups that do not divide
      conv2d/channels: conv2d: x has 3 channels, w [4, 1, 3, 3] with groups 3 expects 1 x 3 = 3; groups must divide its 4 outputs
    convolution of rows
      conv2d/rank: conv2d: x must have rank 4, got shape [2, 3]
    convolution larger than the image
      conv2d/empty: conv2d: kernel [7, 7] with dilation [2, 2] does not fit in [5, 7] with padding [0, 1]
    convolution of two dtypes
      conv2d/dtype: conv2d: x is float32, w is float64. Cast one of them.
    transposed convolution of the wrong channels
      convTranspose2d/channels: convTranspose2d: x [2, 3, 5, 7] has 3 channels, w [4, 3, 3, 3] expects 4; groups 1 must divide them
    transposed convolution, output padding
      convTranspose2d/output-padding: convTranspose2d: output padding [1, 1] must be smaller than stride [1, 1] or dilation [1, 1]
    linear of the wrong features
      linear/features: linear: x [2, 3] has 3 features (float32), weight [5, 4] expects 4 (float32)
    product of matrices that do not fit
      matmul/shape: matmul: [2, 3, 5, 7] float32 times [6, 2] float32; the last axis of a must equal the last but one of b
    product of batches that do not fit
      matmul/broadcast: matmul: [2, 3, 4] times [3, 4, 5]: the axes before the last two do not broadcast
    sum of shapes that do not broadcast
      add/broadcast: add: shapes [2, 3, 5, 7] and [3, 5] do not broadcast
    sum of two dtypes
      add/dtype: add: operands are float32 and float64. Cast one of them.
    exponential of integers
      exp/dtype: exp: x is int64. Cast it to a floating type.
    sum of booleans
      reduceSum/dtype: reduceSum: x is bool. Cast it to a number type.
    condition that is a number
      where/dtype: where: the condition must be bool, got float32
    reshape to another size
      reshape/size: reshape: [2, 3, 5, 7] has 210 values, [2, 100] needs 200
    reshape with a remainder
      reshape/unknown: reshape: [2, 3, 5, 7] has 210 values, which [4, -1] cannot hold; one size may be −1
    reshape with two unknown sizes
      reshape/unknown: reshape: [2, 3, 5, 7] has 210 values, which [-1, -1] cannot hold; one size may be −1
    transpose of the wrong rank
      transpose/perm: transpose: [0, 2, 1] is not a permutation of the 4 axes of [2, 3, 5, 7]
    concatenation of different heights
      concat/shape: concat: [2, 3, 5, 7], [2, 3, 4, 7] differ outside axis 1
    slice beyond the end
      slice/range: slice: 3:3:1 does not fit axis 1 of [2, 3, 5, 7]
    slice of a missing axis
      slice/axis: slice: axes [4] are outside a tensor of rank 4
    negative padding
      pad/amount: pad: [0, 0, -1, 0] before and [0, 0, 0, 0] after do not fit shape [2, 3, 5, 7]; amounts must be ≥ 0
    expansion of a size that is not one
      expand/shape: expand: [2, 3, 5, 7] does not broadcast to [2, 3, 5, 14]
    gather by numbers
      gather/dtype: gather: indices must be int32 or int64, got float32
    softmax over a missing axis
      softmax/axis: softmax: axes [4] are outside a tensor of rank 4
    pool padded by more than half
      maxPool2d/padding: maxPool2d: padding [2, 2] must be at most half of the kernel [3, 3]
    pool larger than the image
      maxPool2d/empty: maxPool2d: kernel [8, 8] does not fit in [5, 7] with padding [0, 0]
    partition with a remainder
      partition/size: partition: a 5 x 7 image does not divide into 5 x 3 partitions. Pad it to a multiple.
    partitions that do not fill the image
      unpartition/size: unpartition: [2, 3, 5, 7] does not hold 5 x 7 partitions of whole 10 x 10 images
    resize to nothing
      resize2d/size: resize2d: size must be two positive integers, got [0, 3]
    batch norm of the wrong channels
      batchNorm/channels: batchNorm: x [2, 3, 5, 7] has 3 channels (float32), weight is [5] (float32)
    training batch norm of one value
      batchNormTrain/samples: batchNormTrain: expected more than 1 value per channel when training, got [1, 3, 1, 1]. Use a larger batch or eval mode.
    labels for another batch
      crossEntropy/target: crossEntropy: logits are [4, 10], so the target must be [4] or [4, 10], got [5]
    label smoothing of one
      crossEntropy/smoothing: crossEntropy: label smoothing must be in [0, 1), got 1
    dropout of everything
      dropout/p: dropout: the probability must be in [0, 1), got 1
    gradient of many numbers
      grad/scalar: grad: the output has shape [2, 3, 5, 7]. Reduce it to one number, or pass a cotangent of that shape.
    running statistics outside a trace
      trace/outside: trace: a layer in training mode (stage1.bn) was run outside trace(). Call model.eval() first, or run it through trace() or a Trainer.
    parameter outside the model
      lower/parameter: lower: a parameter of shape [2, 1] is used in the graph but is not part of the model. Assign it to a field of a module.
    "
  `);
});

test("inside a model the layer is named, too", () => {
  const inside = () => inLayer("stage1.0.conv", () => conv2d(x, input("w", [4, 2, 3, 3])));
  expect(inside).toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: conv2d (layer stage1.0.conv): x has 3 channels, w [4, 2, 3, 3] with groups 1 expects 2 x 1 = 2; groups must divide its 4 outputs]`,
  );
});

const noGradient = defineOp<Record<string, never>>({
  name: "testOnlyNoGradient",
  inputs: ["x"],
  infer: ([type]) => type,
  vjp: undefined,
  lower: (lowering, { inputs: [value] }) => ({ handle: lowering.read(value), layout: "natural" }),
});

// Tests that share this process look through the table of ops, in which there is to be no such one.
afterAll(() => (opTable as Map<string, unknown>).delete("testOnlyNoGradient"));

test("a missing gradient is found when the graph is built, with the op and the layer", () => {
  const y = inLayer("stage2.0.sample", () => noGradient([x], {}));
  expect(() => grad(reduceSum(relu(y)), [x])).toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: grad: testOnlyNoGradient (layer stage2.0.sample) has no gradient. Use another op there, or leave its inputs out of the parameters to train.]`,
  );
  // Where nothing trainable lies below, it does no harm.
  expect(grad(reduceSum(add(y, input("b", [7]))), [input("b", [7])])[0].shape).toEqual([7]);
});
