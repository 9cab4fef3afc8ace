import { describe, expect, test } from "vitest";
import { BottleneckBlock, ConvBn, RepMLP, type RepMLPOptions } from "../../src/blocks/index.ts";
import { RepmlpError } from "../../src/errors.ts";
import { input, trace } from "../../src/graph/index.ts";
import {
  AvgPool2d,
  BatchNorm1d,
  BatchNorm2d,
  Conv2d,
  ConvTranspose2d,
  Dropout,
  Linear,
  MaxPool2d,
  Parameter,
} from "../../src/nn/index.ts";

/** Message and kind of the error. */
function refusal(build: () => unknown): string {
  try {
    build();
  } catch (error) {
    expect(error).toBeInstanceOf(RepmlpError);
    const { code, kind, message } = error as RepmlpError;
    return `${code} (${kind}) ${message}`;
  }
  throw new Error("nothing was thrown");
}

test("bad options of layers are refused where the layer is built", () => {
  const conv = (options: object) => () => new Conv2d(6, 4, { kernelSize: 3, ...options });
  const refusals = [
    conv({ kernelSize: 0 }),
    conv({ kernelSize: [3, 2.5] }),
    conv({ stride: 0 }),
    conv({ padding: -1 }),
    conv({ dilation: [1, 0] }),
    conv({ groups: 4 }),
    conv({ groups: -2 }),
    () => new Conv2d(-3, 4, { kernelSize: 1 }),
    () => new ConvTranspose2d(3, 4, { kernelSize: 2, outputPadding: -1 }),
    () => new ConvTranspose2d(4, 6, { kernelSize: 2, groups: 3 }),
    () => new Linear(2.5, 3),
    () => new BatchNorm2d(0),
    () => new MaxPool2d({ kernelSize: 2, stride: -1 }),
    () => new AvgPool2d({ kernelSize: 0 }),
    () => new Parameter([2, -1], { init: () => [] }),
  ].map(refusal);
  expect(refusals).toMatchInlineSnapshot(`
    [
      "conv2d/size (usage) conv2d: kernelSize must be a positive integer, got [0, 0]",
      "conv2d/size (usage) conv2d: kernelSize must be a positive integer, got [3, 2.5]",
      "conv2d/size (usage) conv2d: stride must be a positive integer, got [0, 0]",
      "conv2d/size (usage) conv2d: padding must be an integer, 0 or more, got [-1, -1]",
      "conv2d/size (usage) conv2d: dilation must be a positive integer, got [1, 0]",
      "conv2d/channels (usage) conv2d: inChannels must be a positive multiple of groups, got 6 with 4 groups",
      "conv2d/channels (usage) conv2d: inChannels must be a positive multiple of groups, got 6 with -2 groups",
      "conv2d/channels (usage) conv2d: inChannels must be a positive integer, got -3",
      "convTranspose2d/size (usage) convTranspose2d: outputPadding must be an integer, 0 or more, got [-1, -1]",
      "convTranspose2d/channels (usage) convTranspose2d: inChannels must be a positive multiple of groups, got 4 with 3 groups",
      "linear/channels (usage) linear: inFeatures must be a positive integer, got 2.5",
      "batchNorm/channels (usage) batchNorm: channels must be a positive integer, got 0",
      "maxPool2d/size (usage) maxPool2d: stride must be a positive integer, got [-1, -1]",
      "avgPool2d/size (usage) avgPool2d: kernelSize must be a positive integer, got [0, 0]",
      "parameter/shape (shape) parameter: sizes must be positive integers, got [2, -1]",
    ]
  `);
});

test("bad inputs of layers are refused when the graph is built", () => {
  const image = input("x", [1, 3, 4, 4]);
  const refusals = [
    () => new Conv2d(4, 4, { kernelSize: 3 }).forward(image),
    () => new Conv2d(3, 4, { kernelSize: 7 }).forward(image),
    () => new Linear(4, 4).forward(image),
    () => new BatchNorm2d(4).eval().forward(image),
    () => new BatchNorm2d(3).eval().forward(input("x", [2, 3])),
    () => trace(() => new BatchNorm1d(3).forward(input("x", [1, 3]))),
    () => new BatchNorm2d(3).forward(image),
    () => new Dropout(1).forward(image),
  ].map(refusal);
  expect(refusals).toMatchInlineSnapshot(`
    [
      "conv2d/channels (shape) conv2d: x has 3 channels, w [4, 4, 3, 3] with groups 1 expects 4 x 1 = 4; groups must divide its 4 outputs",
      "conv2d/empty (shape) conv2d: kernel [7, 7] with dilation [1, 1] does not fit in [4, 4] with padding [0, 0]",
      "linear/rank (shape) linear: x must have rank 2, got shape [1, 3, 4, 4]",
      "batchNorm/channels (shape) batchNorm: x [1, 3, 4, 4] has 3 channels (float32), weight is [4] (float32)",
      "batchNorm2d/rank (shape) batchNorm2d: x must be [N, C, H, W], got [2, 3]",
      "batchNormTrain/samples (shape) batchNormTrain: expected more than 1 value per channel when training, got [1, 3]. Use a larger batch or eval mode.",
      "trace/outside (model) trace: a layer in training mode was run outside trace(). Call model.eval() first, or run it through trace() or a Trainer.",
      "dropout/p (usage) dropout: the probability must be in [0, 1), got 1",
    ]
  `);
});

describe("RepMLP", () => {
  const base: RepMLPOptions = { inChannels: 8, height: 8, width: 8, partition: 4 };
  const repmlp = (options: Partial<Record<keyof RepMLPOptions, unknown>>) => () =>
    new RepMLP({ ...base, ...options } as RepMLPOptions);

  test("bad options", () => {
    const refusals = [
      repmlp({ reparamConvKernels: [1, 2] }),
      repmlp({ reparamConvKernels: [3, -1] }),
      repmlp({ reparamConvKernels: [1.5] }),
      repmlp({ reparamConvKernels: [1, 3, 1] }),
      repmlp({ groups: 3 }),
      repmlp({ groups: 4, outChannels: 6 }),
      repmlp({ groups: 0 }),
      repmlp({ inChannels: -8 }),
      repmlp({ height: 0 }),
      repmlp({ width: 7.5 }),
      repmlp({ partition: [9, 4] }),
      repmlp({ partition: 0 }),
      repmlp({ fc1Fc2Reduction: 0.5 }),
      repmlp({ fc1Fc2Reduction: 33 }),
      repmlp({ height: undefined }),
    ].map(refusal);
    expect(refusals).toMatchInlineSnapshot(`
      [
        "repmlp/even-kernel (usage) repmlp: reparamConvKernels must be odd positive integers so that padding keeps the size, got 2 in [1, 2]",
        "repmlp/even-kernel (usage) repmlp: reparamConvKernels must be odd positive integers so that padding keeps the size, got -1 in [3, -1]",
        "repmlp/even-kernel (usage) repmlp: reparamConvKernels must be odd positive integers so that padding keeps the size, got 1.5 in [1.5]",
        "repmlp/twice (usage) repmlp: reparamConvKernels lists 1 twice in [1, 3, 1]. Name each size once.",
        "repmlp/groups (usage) repmlp: groups must divide inChannels and outChannels; 3 does not divide 8 and 8",
        "repmlp/groups (usage) repmlp: groups must divide inChannels and outChannels; 4 does not divide 8 and 6",
        "repmlp/option (usage) repmlp: groups must be a positive integer, got 0",
        "repmlp/option (usage) repmlp: inChannels must be a positive integer, got -8",
        "repmlp/option (usage) repmlp: height must be a positive integer, got 0",
        "repmlp/option (usage) repmlp: width must be a positive integer, got 7.5",
        "repmlp/partition (usage) repmlp: a 9 x 4 partition is larger than the 8 x 8 feature map. Use a smaller partition, or larger pictures.",
        "repmlp/option (usage) repmlp: partitionHeight must be a positive integer, got 0",
        "repmlp/option (usage) repmlp: fc1Fc2Reduction must be a positive integer, got 0.5",
        "repmlp/reduction (usage) repmlp: fc1Fc2Reduction 33 leaves nothing of the 32 inputs of FC1",
        "repmlp/option (usage) repmlp: height must be a positive integer, got undefined",
      ]
    `);
  });

  test("undefined stands for the default", () => {
    const given = new RepMLP({ ...base, groups: undefined, reparamConvKernels: undefined, outChannels: undefined });
    expect(given.options).toEqual(new RepMLP(base).options);
  });

  test("another input size gives the size that fits", () => {
    const block = new RepMLP(base).eval();
    const refusals = [
      [1, 8, 8, 9],
      [1, 7, 8, 8],
      [4, 8, 4, 4],
      [8, 8, 8],
    ].map((shape) => refusal(() => block.forward(input("x", shape))));
    expect(refusals).toMatchInlineSnapshot(`
      [
        "repmlp/input (shape) repmlp: the block was built for inputs [N, 8, 8, 8], got [1, 8, 8, 9]. The fully connected layers fix the size; build the network for this one.",
        "repmlp/input (shape) repmlp: the block was built for inputs [N, 8, 8, 8], got [1, 7, 8, 8]. The fully connected layers fix the size; build the network for this one.",
        "repmlp/input (shape) repmlp: the block was built for inputs [N, 8, 8, 8], got [4, 8, 4, 4]. The fully connected layers fix the size; build the network for this one.",
        "repmlp/input (shape) repmlp: the block was built for inputs [N, 8, 8, 8], got [8, 8, 8]. The fully connected layers fix the size; build the network for this one.",
      ]
    `);
  });
});

test("blocks pass on what their parts say", () => {
  const around = { inChannels: 4, midChannels: 4, outChannels: 4, height: 4, width: 4, partition: 2 };
  const refusals = [
    () => new ConvBn(3, 4, { kernelSize: 3, groups: 2 }),
    () => new BottleneckBlock({ ...around, reduction: 8 }),
    () => new BottleneckBlock({ ...around, reduction: 2, groups: 4 }),
  ].map(refusal);
  expect(refusals).toMatchInlineSnapshot(`
    [
      "conv2d/channels (usage) conv2d: inChannels must be a positive multiple of groups, got 3 with 2 groups",
      "conv2d/channels (usage) conv2d: outChannels must be a positive integer, got 0",
      "repmlp/groups (usage) repmlp: groups must divide inChannels and outChannels; 4 does not divide 2 and 2",
    ]
  `);
});
