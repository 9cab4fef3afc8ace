import {
  abs,
  adaptiveAvgPool2d,
  adaptiveMaxPool2d,
  add,
  after,
  asChannelShape,
  avgPool2d,
  batchNorm,
  batchNormTrain,
  cast,
  ceil,
  channelAffine,
  channelScale,
  clip,
  concat,
  constant,
  conv2d,
  convTranspose2d,
  cos,
  div,
  equal,
  erf,
  exp,
  expand,
  fakeQuantize,
  flip,
  floor,
  gather,
  grad,
  greater,
  hardtanh,
  kthLargest,
  linear,
  log,
  logSoftmax,
  matmul,
  maximum,
  maxPool2d,
  minimum,
  mul,
  neg,
  nonNegative,
  pad,
  partitionImage,
  pointwiseNormTrain,
  positive,
  pow,
  reciprocal,
  reduceMax,
  reduceMean,
  reduceSum,
  relu,
  reshape,
  resize2d,
  round,
  roundStraightThrough,
  select,
  sigmoid,
  sin,
  slice,
  softmax,
  sqrt,
  stopGradient,
  sub,
  sumOverProcesses,
  tanh,
  trace,
  transpose,
  unpartition,
  type Value,
} from "../../src/graph/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import type { Inputs } from "./harness.ts";

export interface OpCase {
  /** The op of the table that the case is for; its graph must contain it. */
  readonly op: string;
  readonly name: string;
  readonly inputs: Inputs;
  readonly build: (values: Readonly<Record<string, Value>>) => Value | readonly Value[];
  /** What has the derivatives that are wanted, where the op's gradient is not that of its values. Default `build`. */
  readonly differentiatedAs?: OpCase["build"];
  /** Relative tolerance in float32. Default 2e-5. */
  readonly tolerance?: number;
}

type Build = OpCase["build"];
const variants = (op: string, list: Readonly<Record<string, readonly [inputs: Inputs, build: Build]>>): OpCase[] =>
  Object.entries(list).map(([name, [inputs, build]]) => ({ op, name, inputs, build }));

const image = [2, 3, 5, 7] as const;
const positiveRange = [0.3, 2.5] as const;

// --- elementwise ---------------------------------------------------------------------------------------------------

const unaryCases = (
  list: Readonly<Record<string, readonly [(x: Value) => Value, (readonly [number, number])?]>>,
): OpCase[] =>
  Object.entries(list).flatMap(([op, [f, range]]) =>
    ([image, []] as const).map((shape) => ({
      op,
      name: `rank ${shape.length}`,
      inputs: { x: { shape, range } },
      build: ({ x }) => f(x),
    })),
  );

const binaryShapes: Readonly<Record<string, readonly [readonly number[], readonly number[]]>> = {
  "equal shapes": [image, image],
  "scalar of rank 0": [image, []],
  "lower rank": [image, [3, 1, 7]],
  "over the batch": [[1, 3, 5, 7], image],
  "scalar of rank 0 first": [[], [3, 2]],
  "one per column": [[3, 7], [7]],
  "one per channel": [image, [1, 3, 1, 1]],
  "both broadcast": [
    [2, 1, 5, 1],
    [1, 3, 1, 7],
  ],
  vectors: [[5], [5]],
};

const binaryCases = (
  list: Readonly<Record<string, readonly [(a: Value, b: Value) => Value, (readonly [number, number])?]>>,
): OpCase[] =>
  Object.entries(list).flatMap(([op, [f, range]]) =>
    // All share one lowering, so the whole list for one of them.
    Object.entries(binaryShapes)
      .slice(0, op === "div" ? undefined : 4)
      .map(([name, [a, b]]) => ({
        op,
        name,
        inputs: { a: { shape: a, range }, b: { shape: b, range } },
        build: (v) => f(v.a, v.b),
      })),
  );

const threeWay = { shape: [2, 3, 5], values: Array.from({ length: 30 }, (_, i) => (i * i) % 3) };
const elementwise: OpCase[] = [
  ...unaryCases({
    neg: [neg],
    exp: [exp],
    log: [log, positiveRange],
    sqrt: [sqrt, positiveRange],
    abs: [abs],
    reciprocal: [reciprocal, positiveRange],
    erf: [erf],
    tanh: [tanh],
    sigmoid: [sigmoid],
    relu: [relu],
    floor: [floor],
    ceil: [ceil],
    round: [round],
    sin: [sin],
    cos: [cos],
    positive: [positive],
    nonNegative: [nonNegative],
  }),
  ...binaryCases({
    add: [add],
    sub: [sub],
    mul: [mul],
    div: [div, positiveRange],
    maximum: [maximum],
    minimum: [minimum],
    pow: [pow, positiveRange],
  }),
  // Their gradient is another function's on purpose.
  ...(["rank 4", "rank 0"] as const).map(
    (name): OpCase => ({
      op: "roundStraightThrough",
      name,
      inputs: { x: { shape: name === "rank 4" ? image : [], range: [-3, 3] } },
      build: ({ x }) => roundStraightThrough(x),
      differentiatedAs: ({ x }) => x,
    }),
  ),
  {
    op: "fakeQuantize",
    name: "one scale, values beyond the range",
    inputs: { x: { shape: image, range: [-3, 3] } },
    build: ({ x }) => fakeQuantize(x, constant(Tensor.full(x.dtype, [1], 0.25)), { qmin: -8, qmax: 7 }),
    differentiatedAs: ({ x }) => clip(x, -8.5 * 0.25, 7.5 * 0.25),
  },
  {
    op: "fakeQuantize",
    name: "stored as integers",
    inputs: { x: { shape: image, range: [-3, 3] } },
    build: ({ x }) =>
      x.dtype === "float32"
        ? fakeQuantize(
            x,
            constant(Tensor.float32([1], [0.25])),
            { qmin: -128, qmax: 127, stored: "int8" },
            constant(Tensor.float32([1], [3])),
          )
        : fakeQuantize(x, constant(Tensor.full(x.dtype, [1], 0.25)), { qmin: -128, qmax: 127 }),
    differentiatedAs: ({ x }) => x,
  },
  {
    op: "fakeQuantize",
    name: "a scale and a zero point per channel",
    inputs: { x: { shape: image, range: [-3, 3] } },
    build: ({ x }) => {
      const perChannel = (f: (i: number) => number): Value =>
        constant(
          Tensor.of(
            x.dtype,
            [image[1]],
            Array.from({ length: image[1] }, (_, i) => f(i)),
          ),
        );
      const options = { qmin: 0, qmax: 255, axis: 1 };
      return fakeQuantize(
        x,
        perChannel((i) => 0.05 * (i + 1)),
        options,
        perChannel((i) => 100 + i),
      );
    },
    differentiatedAs: ({ x }) => x,
  },
  {
    op: "stopGradient",
    name: "beside what has a gradient",
    inputs: { x: image, y: image },
    build: ({ x, y }) => add(stopGradient(mul(x, 3)), mul(y, y)),
    differentiatedAs: ({ x, y }) => add(mul(x, 0), mul(y, y)),
  },
  ...variants("pow", { "constant exponent": [{ x: image }, ({ x }) => pow(x, 3)] }),
  ...variants("mul", { "a number first": [{ x: image }, ({ x }) => mul(2.5, x)] }),
  ...variants("after", {
    "two products": [
      { x: image, a: [2, 3], b: [3, 4] },
      ({ x, a, b }) => [after(mul(x, 2), [mul(a, 2), matmul(a, b)]), matmul(a, b)],
    ],
    "a scalar": [{ x: [1], y: image }, ({ x, y }) => mul(y, after(x, [relu(y)]))],
  }),
  ...variants("clip", {
    both: [{ x: image }, ({ x }) => clip(x, -0.7, 0.8)],
    "closed at the bounds": [{ x: image }, ({ x }) => hardtanh(x, -0.7, 0.8)],
    "only below": [{ x: image }, ({ x }) => clip(x, -0.7, Number.POSITIVE_INFINITY)],
    "only above": [{ x: [11] }, ({ x }) => clip(x, Number.NEGATIVE_INFINITY, 0.3)],
  }),
  ...variants("cast", {
    "to float64 and back": [{ x: image }, ({ x }) => cast(mul(cast(x, "float64"), 2), x.dtype)],
    "of booleans": [{ a: image, b: [3, 1, 1] }, ({ a, b }) => mul(a, cast(greater(a, b), a.dtype))],
  }),
  ...variants("greater", {
    "one per channel": [{ a: image, b: [3, 1, 1] }, ({ a, b }) => select(greater(a, b), a, 2)],
  }),
  ...variants("equal", {
    "of whole numbers": [
      { a: threeWay, b: { ...threeWay, values: threeWay.values.map((v, i) => (v + (i % 2)) % 3) }, c: [2, 3, 5] },
      ({ a, b, c }) => select(equal(a, b), c, 0),
    ],
  }),
  ...variants("where", {
    "all broadcast": [
      { c: { shape: [2, 1, 5, 1], values: [1, 0, 0, 1, 1, 0, 1, 1, 0, 1], dtype: "bool" }, a: [3, 1, 7], b: image },
      ({ c, a, b }) => select(c, a, b),
    ],
    "a number": [
      { c: { shape: [3, 5], values: [1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1], dtype: "bool" }, a: [3, 5] },
      ({ c, a }) => select(c, a, -1),
    ],
  }),
];

// --- shapes --------------------------------------------------------------------------------------------------------

const shapes: OpCase[] = [
  ...variants("reshape", {
    "keeps the batch": [{ x: image }, ({ x }) => reshape(x, [2, 7, 15])],
    "breaks the batch": [{ x: image }, ({ x }) => reshape(x, [3, 14, -1])],
    "to a vector": [{ x: image }, ({ x }) => reshape(x, [-1])],
    "of one value": [{ x: [1, 1] }, ({ x }) => reshape(x, [])],
  }),
  ...variants("transpose", {
    "keeps the batch": [{ x: image }, ({ x }) => transpose(x, [0, 3, 1, 2])],
    "moves the batch": [{ x: image }, ({ x }) => transpose(x, [2, 0, 3, 1])],
    "of a matrix": [{ x: [3, 5] }, ({ x }) => transpose(x, [1, 0])],
    "unit axes": [{ x: [2, 1, 5, 1] }, ({ x }) => transpose(x, [3, 0, 1, 2])],
    twice: [{ x: image }, ({ x }) => transpose(mul(transpose(x, [1, 2, 3, 0]), 2), [3, 1, 0, 2])],
  }),
  ...variants("concat", {
    channels: [{ a: image, b: [2, 2, 5, 7], c: image }, ({ a, b, c }) => concat([a, b, c], 1)],
    batch: [{ a: image, b: [1, 3, 5, 7] }, ({ a, b }) => concat([a, b], 0)],
    vectors: [{ a: [3], b: [2] }, ({ a, b }) => concat([a, b], -1)],
  }),
  ...variants("slice", {
    "two axes": [
      { x: image },
      ({ x }) =>
        slice(x, [
          { axis: 2, start: 1, end: 4 },
          { axis: -1, start: -5, end: -1 },
        ]),
    ],
    steps: [
      { x: image },
      ({ x }) =>
        slice(x, [
          { axis: 3, start: 1, end: 7, step: 3 },
          { axis: 2, start: 0, end: 5, step: 2 },
        ]),
    ],
    batch: [{ x: [5, 3] }, ({ x }) => slice(x, [{ axis: 0, start: 1, end: 5, step: 2 }])],
  }),
  ...variants("pad", {
    zeros: [{ x: image }, ({ x }) => pad(x, [0, 0, 1, 2], [0, 0, 3, 0])],
    "a value, all axes": [{ x: image }, ({ x }) => pad(x, [1, 0, 2, 0], [0, 1, 0, 3], -0.5)],
  }),
  ...variants("expand", {
    channels: [{ x: [2, 1, 5, 1] }, ({ x }) => expand(x, image)],
    batch: [{ x: [1, 3, 5] }, ({ x }) => expand(x, [4, 3, 5])],
    "new axes": [{ x: [5, 1] }, ({ x }) => expand(x, [2, 3, 5, 7])],
  }),
  ...variants("gather", {
    "rows, twice the same": [{ x: [5, 3] }, ({ x }) => gather(x, [4, 0, 4, 1])],
    "last axis, from the end": [{ x: image }, ({ x }) => gather(x, [-1, 2, 2], 3)],
    "matrix of indices": [
      { x: [2, 5, 3], i: { shape: [2, 2], values: [0, 3, 4, 0], dtype: "int64" } },
      ({ x, i }) => gather(x, i, 1),
    ],
    "int32 indices": [
      { x: [5, 3], i: { shape: [3], values: [2, 0, 2], dtype: "int32" } },
      ({ x, i }) => gather(x, i, 0),
    ],
    flip: [{ x: image }, ({ x }) => flip(x, [1, 3])],
  }),
  ...variants("scatterAdd", {
    "by differentiating gather": [
      { x: [2, 5, 3], z: [2, 4, 3] },
      ({ x, z }) => grad(reduceSum(mul(gather(x, [4, 0, 4, 1], 1), z)), [x])[0],
    ],
  }),
  ...variants("partition", {
    "[6, 10] into [3, 5]": [{ x: [2, 3, 6, 10] }, ({ x }) => partitionImage(x, [3, 5])],
    "[6, 10] into [2, 5]": [{ x: [3, 2, 6, 10] }, ({ x }) => partitionImage(x, [2, 5])],
  }),
  ...variants("unpartition", {
    "[6, 10] from [3, 5]": [{ x: [8, 3, 3, 5] }, ({ x }) => unpartition(x, [3, 5], [6, 10])],
    "[6, 10] from [2, 5]": [{ x: [18, 2, 2, 5] }, ({ x }) => unpartition(x, [2, 5], [6, 10])],
  }),
];

// --- reductions and products ----------------------------------------------------------------------------------------

const selections = variants("kthLargest", {
  "of a matrix": [{ x: [3, 5] }, ({ x }) => kthLargest(x, 4)],
  "the smallest": [{ x: [7] }, ({ x }) => kthLargest(x, 7)],
  "of pictures": [{ x: image }, ({ x }) => kthLargest(x, 11)],
});

/** A build for the only one of the processes that share a batch. */
const sharing =
  (build: Build): Build =>
  (values) =>
    trace(() => build(values), undefined, { rank: 0, shares: [1] }).result;

/** Several processes are in test/distributed. */
const processes = [
  ...variants("sumOverProcesses", {
    "of one process": [{ x: image }, ({ x }) => sumOverProcesses(mul(x, x), 1)],
  }),
  ...variants("channelMoments", {
    "before a norm of a shared batch": [
      { x: image, w: [3], b: [3] },
      sharing(({ x, w, b }) => batchNormTrain(x, w, b, 1e-3).y),
    ],
    "before one, with its statistics, far from 0": [
      { x: { shape: image, range: [20, 22] }, w: [3], b: [3] },
      sharing(({ x, w, b }) => Object.values(batchNormTrain(x, w, b))),
    ],
    "of rows": [{ x: [5, 3], w: [3], b: [3] }, sharing(({ x, w, b }) => Object.values(batchNormTrain(x, w, b)))],
    "of a factor before such a norm": [
      { x: [3, 4, 5, 2], w: [4, 1, 1, 1], t: [4], g: { shape: [4], range: positiveRange }, b: [4] },
      sharing(
        ({ x, w, t, g, b }) => batchNormTrain(add(conv2d(x, w, { groups: 4 }), asChannelShape(t, 4)), g, b, 0.1).y,
      ),
    ],
  }),
];

const reductions: OpCase[] = Object.entries({ reduceSum, reduceMean, reduceMax }).flatMap(([op, f]) =>
  variants(op, {
    "spatial axes": [{ x: image }, ({ x }) => f(x, [2, 3])],
    "spatial axes kept": [{ x: image }, ({ x }) => f(x, [2, 3], { keepDims: true })],
    "all but the channels": [{ x: image }, ({ x }) => f(x, [0, 2, 3])],
    "batch kept": [{ x: image }, ({ x }) => f(x, 0, { keepDims: true })],
    batch: [{ x: image }, ({ x }) => f(x, 0)],
    "scattered axes": [{ x: image }, ({ x }) => f(x, [1, -1])],
    all: [{ x: [3, 5] }, ({ x }) => f(x)],
    "to [N]": [{ x: [3, 5] }, ({ x }) => f(x, 1)],
  }),
);

const products: OpCase[] = [
  ...variants("matmul", {
    matrices: [{ a: [3, 5], b: [5, 2] }, ({ a, b }) => matmul(a, b)],
    batches: [{ a: [2, 3, 5], b: [2, 5, 7] }, ({ a, b }) => matmul(a, b)],
    "batches broadcast": [{ a: [2, 1, 3, 5], b: [3, 5, 2] }, ({ a, b }) => matmul(a, b)],
    "one matrix for all": [{ a: [2, 3, 5], b: [5, 7] }, ({ a, b }) => matmul(a, b)],
  }),
  ...variants("linear", {
    "no bias": [{ x: [3, 5], w: [7, 5] }, ({ x, w }) => linear(x, w)],
    bias: [{ x: [3, 5], w: [7, 5], b: [7] }, ({ x, w, b }) => linear(x, w, b)],
    "batch of one": [{ x: [1, 5], w: [3, 5] }, ({ x, w }) => linear(x, w)],
  }),
  ...variants("softmax", {
    "last axis": [{ x: [3, 7] }, ({ x }) => softmax(x, -1)],
    channels: [{ x: image }, ({ x }) => softmax(x)],
    batch: [{ x: [3, 5] }, ({ x }) => softmax(x, 0)],
  }),
  ...variants("logSoftmax", {
    "last axis": [{ x: [3, 7] }, ({ x }) => logSoftmax(x, -1)],
    channels: [{ x: image }, ({ x }) => logSoftmax(x)],
    batch: [{ x: [3, 5] }, ({ x }) => logSoftmax(x, 0)],
  }),
];

// --- convolutions --------------------------------------------------------------------------------------------------

export interface ConvCase {
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly stride?: number | readonly [number, number];
  readonly padding?: number | readonly [number, number];
  readonly dilation?: number | readonly [number, number];
  readonly groups?: number;
  readonly outputPadding?: number | readonly [number, number];
}

/** Every class of convolution that the lowering tells apart, and the borders between them. */
export const convCases: Readonly<Record<string, ConvCase>> = {
  "1x1": { x: [2, 3, 5, 7], w: [5, 3, 1, 1] },
  "1x1, 2 groups": { x: [2, 6, 3, 5], w: [4, 3, 1, 1], groups: 2 },
  "1x1 on 1x1 images": { x: [3, 5, 1, 1], w: [7, 5, 1, 1] },
  "1x1 on 1x1 images, 3 groups": { x: [2, 6, 1, 1], w: [9, 2, 1, 1], groups: 3 },
  "1x1 padded": { x: [2, 3, 5, 2], w: [2, 3, 1, 1], padding: [1, 2] },
  "1x1 stride 2": { x: [2, 3, 5, 7], w: [5, 3, 1, 1], stride: 2 },
  "1x1 stride 2, 17 channels": { x: [2, 17, 5, 3], w: [2, 17, 1, 1], stride: 2 },
  "3x3": { x: [2, 3, 5, 7], w: [2, 3, 3, 3], padding: 1 },
  "3x3 unpadded": { x: [2, 3, 5, 7], w: [2, 3, 3, 3] },
  "3x3 on 1x1 images": { x: [2, 3, 1, 1], w: [5, 3, 3, 3], padding: 1 },
  "3x3 padded by 3": { x: [2, 2, 3, 5], w: [3, 2, 3, 3], padding: 3 },
  // Few rows and few channels per group: rows as channels. More rows than the kernels can join: not.
  "5x5 2 groups": { x: [3, 4, 7, 6], w: [6, 2, 5, 5], padding: 2, groups: 2 },
  "7x7 padded by [1, 3], larger than the image": { x: [2, 4, 5, 4], w: [2, 2, 7, 7], padding: [1, 3], groups: 2 },
  "3x5 unpadded, 3 groups": { x: [2, 3, 4, 6], w: [6, 1, 3, 5], groups: 3 },
  "3x3 tall": { x: [2, 3, 19, 4], w: [2, 3, 3, 3], padding: 1 },
  "3x3 tall, 2 groups": { x: [2, 4, 23, 3], w: [6, 2, 3, 3], padding: [0, 1], groups: 2 },
  "3x3 depthwise": { x: [2, 3, 5, 7], w: [3, 1, 3, 3], padding: 1, groups: 3 },
  "3x3 depthwise, 2 each": { x: [2, 3, 5, 7], w: [6, 1, 3, 3], padding: 1, groups: 3 },
  "3x3 4 groups of 6 outputs": { x: [2, 8, 3, 5], w: [24, 2, 3, 3], padding: 1, groups: 4 },
  "3x3 2 groups": { x: [2, 4, 5, 3], w: [6, 2, 3, 3], padding: 1, groups: 2 },
  "3x3 dilated": { x: [2, 3, 7, 9], w: [2, 3, 3, 3], padding: [2, 3], dilation: [2, 3] },
  "3x3 stride 2": { x: [2, 3, 5, 8], w: [2, 3, 3, 3], padding: 1, stride: 2 },
  "3x3 stride 2, 17 channels": { x: [2, 17, 5, 6], w: [2, 17, 3, 3], padding: 1, stride: 2 },
  "3x3 stride [3, 2] dilated, 16 channels": {
    x: [2, 16, 8, 7],
    w: [2, 16, 3, 3],
    padding: 2,
    stride: [3, 2],
    dilation: [1, 2],
  },
  "3x3 stride 2, 2 groups of 16": { x: [2, 32, 4, 5], w: [4, 16, 3, 3], padding: 1, stride: 2, groups: 2 },
  "stride above the kernel": { x: [2, 16, 7, 8], w: [3, 16, 2, 1], stride: 3 },
  "1x3 and 5x1 parts": { x: [2, 3, 5, 7], w: [2, 3, 5, 1], padding: [2, 0] },
  "2x4": { x: [2, 3, 5, 7], w: [2, 3, 2, 4], padding: [1, 2], stride: [1, 2] },
  "5x5 stride 4": { x: [1, 3, 11, 9], w: [2, 3, 5, 5], padding: 2, stride: 4 },
  "9x9 depthwise, larger than the image": { x: [2, 3, 5, 7], w: [3, 1, 9, 9], padding: 4, groups: 3 },
  "9x7 depthwise, 2 each, unpadded columns": { x: [2, 2, 5, 8], w: [4, 1, 9, 7], padding: [4, 0], groups: 2 },
  "5x5 depthwise, dilated": { x: [2, 2, 7, 9], w: [2, 1, 5, 5], padding: [4, 6], dilation: [2, 3], groups: 2 },
  "3x3 with 130 channels": { x: [1, 130, 2, 3], w: [2, 130, 3, 3], padding: 1 },
};

export const transposedCases: Readonly<Record<string, ConvCase>> = {
  "2x2 stride 2": { x: [2, 3, 3, 5], w: [3, 2, 2, 2], stride: 2 },
  "3x3 stride 2 output padding": { x: [2, 3, 3, 5], w: [3, 2, 3, 3], stride: 2, padding: 1, outputPadding: 1 },
  "4x4 stride 2, 17 outputs": { x: [2, 2, 3, 2], w: [2, 17, 4, 4], stride: 2, padding: 1 },
  "3x3 stride 1": { x: [2, 3, 4, 5], w: [3, 2, 3, 3], padding: 1 },
  "2 groups": { x: [2, 4, 3, 5], w: [4, 3, 3, 3], stride: 2, padding: 1, groups: 2 },
  "dilated, output padding above the stride": {
    x: [2, 3, 3, 5],
    w: [3, 2, 3, 2],
    stride: [1, 2],
    padding: [1, 0],
    dilation: [3, 2],
    outputPadding: [2, 1],
  },
};

const convolutions: OpCase[] = [
  ...Object.entries(convCases).flatMap(([name, { x, w, ...options }]): OpCase[] => [
    { op: "conv2d", name, inputs: { x, w }, build: (v) => conv2d(v.x, v.w, options) },
    {
      op: "conv2dGradInput",
      name,
      inputs: { x, w },
      build: (v) => grad(reduceSum(conv2d(mul(v.x, v.x), v.w, options)), [v.x])[0],
    },
    {
      op: "conv2dGradWeight",
      name,
      inputs: { x, w },
      build: (v) => grad(reduceSum(conv2d(v.x, mul(v.w, v.w), options)), [v.w])[0],
    },
  ]),
  ...Object.entries(transposedCases).map(
    ([name, { x, w, ...options }]): OpCase => ({
      op: "conv2dGradInput",
      name: `transposed ${name}`,
      inputs: { x, w },
      build: (v) => convTranspose2d(v.x, v.w, options),
    }),
  ),
  ...variants("conv2d", {
    "takes over a batch norm's factor": [
      { x: [2, 3, 5, 7], w: [2, 3, 3, 3], g: { shape: [2], range: positiveRange }, b: [2] },
      ({ x, w, g, b }) => batchNormTrain(conv2d(x, w, { padding: 1 }), g, b).y,
    ],
    "on pixels, with a batch norm": [
      { x: [7, 6, 1, 1], w: [4, 3, 1, 1], g: { shape: [4], range: positiveRange }, b: [4] },
      ({ x, w, g, b }) => batchNormTrain(conv2d(x, w, { groups: 2 }), g, b).y,
    ],
  }),
];

const factor = { shape: [4], range: positiveRange };
/** Where the gradient of a weight or a bias is zero by theory, or but for eps, and where it only looks so. */
const channelsBeforeNorm: Record<string, [Inputs, Build]> = {
  "of a factor per channel": [
    { x: [3, 4, 5, 2], w: [4, 1, 1, 1], t: [4], g: factor, b: [4] },
    ({ x, w, t, g, b }) => batchNormTrain(add(conv2d(x, w, { groups: 4 }), asChannelShape(t, 4)), g, b, 0.1).y,
  ],
  "of factors at stride 2, padded, two per channel": [
    { x: [3, 2, 5, 4], w: [4, 1, 1, 1], g: factor, b: [4] },
    ({ x, w, g, b }) => batchNormTrain(conv2d(x, w, { groups: 2, stride: 2, padding: 1 }), g, b, 0.1).y,
  ],
  "of a factor whose channel goes elsewhere, too": [
    { x: [3, 4, 5, 2], w: [4, 1, 1, 1], g: factor, b: [4] },
    ({ x, w, g, b }) => {
      const y = conv2d(x, w, { groups: 4 });
      return add(batchNormTrain(y, g, b, 0.1).y, mul(y, y));
    },
  ],
  "of a factor whose channel is part of what is normalised": [
    { x: [3, 4, 5, 2], w: [4, 1, 1, 1], g: factor, b: [4] },
    ({ x, w, g, b }) => batchNormTrain(add(conv2d(x, w, { groups: 4 }), mul(x, x)), g, b, 0.1).y,
  ],
  "of rows with a bias": [
    { x: [7, 3], w: [4, 3], t: [4], g: factor, b: [4] },
    ({ x, w, t, g, b }) => batchNormTrain(linear(x, w, t), g, b, 0.1).y,
  ],
};
const normsBeforeNorm: Record<string, [Inputs, Build]> = {
  "through a 1×1 convolution": [
    { x: [3, 3, 5, 2], w: [4, 3, 1, 1], g: [3], b: [3], h: factor, c: [4] },
    ({ x, w, g, b, h, c }) => batchNormTrain(conv2d(batchNormTrain(x, g, b, 0.1).y, w), h, c, 0.1).y,
  ],
  "through a 1×1 convolution in one with its norm": [
    { x: [3, 3, 5, 2], w: [4, 3, 1, 1], g: [3], b: [3], h: factor, c: [4] },
    ({ x, w, g, b, h, c }) => pointwiseNormTrain(batchNormTrain(x, g, b, 0.1).y, w, h, c, 0.1).y,
  ],
  "through a padded 3×3 convolution, which keeps no sum": [
    { x: [3, 3, 5, 2], w: [4, 3, 3, 3], g: [3], b: [3], h: factor, c: [4] },
    ({ x, w, g, b, h, c }) => batchNormTrain(conv2d(batchNormTrain(x, g, b, 0.1).y, w, { padding: 1 }), h, c, 0.1).y,
  ],
};
/** The gradients of cases, for the ops that only gradients hold. */
const gradientsOf = (op: string, table: Record<string, [Inputs, Build]>, ...names: string[]): OpCase[] =>
  names.map((name) => {
    const [inputs, build] = table[name];
    const gradients: Build = (values) =>
      grad(reduceSum(sigmoid([build(values)].flat()[0] as Value)), [values.x, values.w]);
    return { op, name, inputs, build: gradients };
  });
const beforeNorms: OpCase[] = [
  ...variants("batchNormTrain", { ...channelsBeforeNorm, ...normsBeforeNorm }),
  ...gradientsOf(
    "normGradient",
    channelsBeforeNorm,
    ...["of a factor whose channel goes elsewhere, too", "of a factor whose channel is part of what is normalised"],
    "of rows with a bias",
  ),
  ...gradientsOf(
    "zeroSum",
    normsBeforeNorm,
    ...["through a 1×1 convolution", "through a 1×1 convolution in one with its norm"],
  ),
  // Where what is left of a derivative is rounding, it is not small beside the others.
].map((c) => ({ ...c, tolerance: 2e-4 }));

const pointwiseNorm: Record<string, [Inputs, Build]> = {
  "output and statistics": [
    { x: [3, 4, 5, 2], w: [6, 4, 1, 1], g: { shape: [6], range: positiveRange }, b: [6] },
    ({ x, w, g, b }) => Object.values(pointwiseNormTrain(x, w, g, b)),
  ],
  "only the output": [
    { x: [3, 4, 5, 2], w: [6, 4, 1, 1], g: { shape: [6], range: positiveRange }, b: [6] },
    ({ x, w, g, b }) => pointwiseNormTrain(x, w, g, b).y,
  ],
  "only the mean": [
    { x: [3, 4, 5, 2], w: [6, 4, 1, 1], g: [6], b: [6] },
    ({ x, w, g, b }) => pointwiseNormTrain(x, w, g, b).mean,
  ],
  "only the variance": [
    { x: [3, 4, 5, 2], w: [6, 4, 1, 1], g: [6], b: [6] },
    ({ x, w, g, b }) => pointwiseNormTrain(x, w, g, b).variance,
  ],
};
const pointwiseNorms: OpCase[] = [
  ...variants("pointwiseNorm", pointwiseNorm),
  ...variants("outputInputCovariance", {
    "the gradient of a variance": [
      { x: [3, 4, 5, 2], w: [6, 4, 1, 1], g: [6], b: [6], d: [6] },
      ({ x, w, g, b, d }) => grad(reduceSum(mul(pointwiseNormTrain(x, w, g, b).variance, d)), [w]),
    ],
  }),
];

// --- pools, resizing, norms ----------------------------------------------------------------------------------------

const pools = {
  "2x2": { kernelSize: 2 },
  "[5, 7] in one": { kernelSize: [5, 7] },
  "3x3 stride 2": { kernelSize: 3, stride: 2, padding: 1 },
  "3x3 stride 1": { kernelSize: 3, stride: 1, padding: 1 },
  "[2, 3] stride [1, 2]": { kernelSize: [2, 3], stride: [1, 2], padding: [1, 0] },
  "2x2 stride 3": { kernelSize: 2, stride: 3 },
  "4x4 stride 2 padded by 2": { kernelSize: 4, stride: 2, padding: 2 },
} as const;

const negative = { shape: image, range: [-2, -0.5] } as const;
const zeroPadded = (x: Value, p: number): Value => pad(x, [0, 0, p, p], [0, 0, p, p]);

const pooling: OpCase[] = [
  ...Object.entries(pools).flatMap(([name, options]): OpCase[] => [
    { op: "maxPool2d", name, inputs: { x: image }, build: ({ x }) => maxPool2d(x, options) },
    {
      op: "maxPool2dGrad",
      name,
      inputs: { x: image },
      build: ({ x }) => grad(reduceSum(exp(maxPool2d(x, options))), [x])[0],
    },
    { op: "avgPool2d", name, inputs: { x: image }, build: ({ x }) => avgPool2d(x, options) },
    {
      op: "avgPool2d",
      name: `${name}, padding not counted`,
      inputs: { x: image },
      build: ({ x }) => avgPool2d(x, { ...options, countIncludePad: false }),
    },
  ]),
  // ONNX Runtime merges paddings into pools where it must not.
  ...variants("maxPool2d", {
    "after zeros": [{ x: negative }, ({ x }) => maxPool2d(zeroPadded(x, 1), { kernelSize: 3, stride: 2, padding: 1 })],
    "after many zeros": [{ x: negative }, ({ x }) => maxPool2d(zeroPadded(x, 3), { kernelSize: 2, stride: 1 })],
  }),
  ...variants("avgPool2d", {
    "after zeros": [{ x: image }, ({ x }) => avgPool2d(zeroPadded(x, 2), { kernelSize: 3, padding: 1 })],
    "after many zeros": [
      { x: image },
      ({ x }) => avgPool2d(zeroPadded(x, 4), { kernelSize: 3, stride: 1, countIncludePad: false }),
    ],
  }),
  ...variants("maxPool2dPick", {
    "by differentiating twice": [
      { x: image, z: image },
      ({ x, z }) => {
        const y = maxPool2d(x, { kernelSize: 3, stride: 2, padding: 1 });
        const dx = grad(reduceSum(exp(y)), [x])[0];
        return grad(reduceSum(mul(dx, z)), [y])[0];
      },
    ],
  }),
  ...variants("avgPool2d", {
    "adaptive, even": [{ x: [2, 3, 6, 10] }, ({ x }) => adaptiveAvgPool2d(x, [2, 5])],
  }),
  ...variants("matmul", {
    "adaptive average": [{ x: [2, 3, 7, 11] }, ({ x }) => adaptiveAvgPool2d(x, [3, 4])],
  }),
  ...variants("maxPool2d", { "adaptive, even": [{ x: [2, 3, 6, 10] }, ({ x }) => adaptiveMaxPool2d(x, [2, 5])] }),
  ...variants("reduceMax", { "adaptive maximum": [{ x: [2, 3, 7, 11] }, ({ x }) => adaptiveMaxPool2d(x, [3, 4])] }),
];

const resizes = {
  "nearest up": [[11, 13], {}],
  "nearest twice": [[10, 14], {}],
  "nearest down": [[3, 4], {}],
  "bilinear up": [[11, 13], { mode: "bilinear" }],
  "bilinear down": [[3, 4], { mode: "bilinear" }],
  "bilinear to one": [[1, 1], { mode: "bilinear" }],
  "bilinear up, corners aligned": [[11, 13], { mode: "bilinear", alignCorners: true }],
  "bilinear down, corners aligned": [[1, 4], { mode: "bilinear", alignCorners: true }],
} as const;

const resizing: OpCase[] = Object.entries(resizes).map(
  ([name, [size, options]]): OpCase => ({
    op: "resize2d",
    name,
    inputs: { x: image },
    build: ({ x }) => resize2d(x, size, options),
  }),
);

const perChannel = { shape: [3], range: positiveRange } as const;
const norms: OpCase[] = [
  ...variants("batchNorm", {
    images: [
      { x: image, w: [3], b: [3], m: [3], v: perChannel },
      ({ x, w, b, m, v }) => batchNorm(x, w, b, m, v, 1e-3),
    ],
    rows: [{ x: [5, 3], w: [3], b: [3], m: [3], v: perChannel }, ({ x, w, b, m, v }) => batchNorm(x, w, b, m, v)],
  }),
  ...[image, [5, 3], [2, 3, 4]].flatMap((shape) =>
    variants("batchNormTrain", {
      [`output, rank ${shape.length}`]: [
        { x: shape, w: [3], b: [3] },
        ({ x, w, b }) => batchNormTrain(x, w, b, 1e-3).y,
      ],
      [`output and statistics, rank ${shape.length}`]: [
        { x: shape, w: [3], b: [3] },
        ({ x, w, b }) => Object.values(batchNormTrain(x, w, b)),
      ],
      [`only the variance, rank ${shape.length}`]: [
        { x: shape, w: [3], b: [3] },
        ({ x, w, b }) => batchNormTrain(x, w, b).variance,
      ],
    }),
  ),
  ...variants("centreChannels", {
    "before a norm, far from 0": [
      { x: { shape: image, range: [20, 22] }, w: [3], b: [3] },
      ({ x, w, b }) => Object.values(batchNormTrain(x, w, b)),
    ],
  }),
  ...variants("channelAffine", {
    images: [{ x: image, s: [3], t: [3] }, ({ x, s, t }) => channelAffine(x, s, t)],
    rows: [{ x: [5, 3], s: [3], t: [3] }, ({ x, s, t }) => channelAffine(x, s, t)],
  }),
  ...variants("channelScale", {
    images: [{ x: image, s: [3] }, ({ x, s }) => channelScale(x, s)],
    rows: [{ x: [5, 3], s: [3] }, ({ x, s }) => channelScale(x, s)],
  }),
];

const leaves: OpCase[] = [
  ...variants("input", { image: [{ x: image }, ({ x }) => x] }),
  ...variants("constant", {
    "with an input": [{ x: [3, 5] }, ({ x }) => mul(x, constant(Tensor.of(x.dtype, [5], [1, 2, 3, 4, 5])))],
  }),
];

export const opCases: readonly OpCase[] = [
  ...leaves,
  ...elementwise,
  ...shapes,
  ...reductions,
  ...selections,
  ...processes,
  ...products,
  ...convolutions,
  ...pointwiseNorms,
  ...beforeNorms,
  ...pooling,
  ...resizing,
  ...norms,
];
