import { describe, expect, test } from "vitest";
import { RepmlpError } from "../../src/errors.ts";
import { lower, readOnnx, targets } from "../../src/graph/index.ts";
import { readers } from "../../src/graph/read/readers.ts";
import type { AttributeValue, OnnxModel } from "../../src/onnx/index.ts";
import { compileModel } from "../../src/runtime/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { difference, feedOf, feedsFor, type InputSpec, program, specOf } from "./harness.ts";

/** What stands at an input of the node: something fed (a shape or more), or an initializer. */
type Operand = readonly number[] | InputSpec | Tensor | undefined;

interface NodeCase {
  readonly name: string;
  readonly inputs: readonly Operand[];
  readonly attrs?: Readonly<Record<string, AttributeValue>>;
  /** Default 17. */
  readonly opset?: number;
  /** Number of outputs. Default 1. */
  readonly outputs?: number;
}

const ints = (...values: number[]): Tensor => Tensor.of("int64", [values.length], values);
const floats = (...values: number[]): Tensor => Tensor.float32([values.length], values);
const scalar = (value: number): Tensor => Tensor.scalar(value);
const truth = (...values: number[]): InputSpec => ({ shape: [values.length], values, dtype: "bool" });
const fixed = (name: string, shape: readonly number[], range?: readonly [number, number]): Tensor =>
  feedOf(name, { shape, range }, "float32");

const image = [2, 3, 5, 7] as const;
const above = { shape: image, range: [0.3, 2.5] } as const;
const float = (value: number): AttributeValue => ({ float: value });

const plain = (...inputs: Operand[]): NodeCase[] => [{ name: "", inputs }];
const reductions: NodeCase[] = [
  { name: "all axes", inputs: [above], opset: 13, attrs: { keepdims: 0 } },
  { name: "axes as attribute", inputs: [above], opset: 11, attrs: { axes: [1, -1] } },
  { name: "axes as input", inputs: [above, ints(0, 2)], opset: 18, attrs: { keepdims: 0 } },
  { name: "no axes, nothing to do", inputs: [above], opset: 18, attrs: { noop_with_empty_axes: 1 } },
];

const cases: Readonly<Record<string, readonly NodeCase[]>> = {
  ...Object.fromEntries(
    [
      "Abs",
      "Ceil",
      "Cos",
      "Erf",
      "Exp",
      "Floor",
      "Identity",
      "Neg",
      "Relu",
      "Round",
      "Sigmoid",
      "Sign",
      "Sin",
      "Softplus",
      "Softsign",
      "Tanh",
    ].map((op) => [op, plain(image)]),
  ),
  ...Object.fromEntries(["Log", "Reciprocal", "Sqrt"].map((op) => [op, plain(above)])),
  HardSwish: plain(image),
  Mish: [{ name: "", inputs: [image], opset: 18 }],
  Not: plain(truth(1, 0, 1)),
  ...Object.fromEntries(["And", "Or", "Xor"].map((op) => [op, plain(truth(1, 0, 1, 0), truth(1, 1, 0, 0))])),
  ...Object.fromEntries(["Add", "Sub", "Mul", "Div"].map((op) => [op, plain(image, fixed(op, [3, 1, 1], [0.3, 2]))])),
  ...Object.fromEntries(
    ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"].map((op) => [
      op,
      plain({ shape: [5], values: [1, 2, 3, 2, 1] }, { shape: [5], values: [1, 3, 2, 2, 0] }),
    ]),
  ),
  ...Object.fromEntries(["Max", "Min", "Sum", "Mean"].map((op) => [op, plain(image, [3, 1, 7], fixed(op, [7]))])),
  Mod: plain(ints(7, 9, 4), ints(4)),
  PRelu: plain(image, fixed("slope", [3, 1, 1])),
  Pow: [
    { name: "of another dtype", inputs: [above, ints(3).reshape([])] },
    { name: "tensor", inputs: [above, fixed("exponent", [7])] },
  ],
  Where: plain({ shape: [5, 1], values: [1, 0, 1, 1, 0], dtype: "bool" }, image, fixed("other", [7])),
  Cast: [
    { name: "to integers and back", inputs: [image], attrs: { to: 6 } },
    { name: "to booleans", inputs: [{ shape: [3], values: [0, 2, -1] }], attrs: { to: 9 } },
  ],
  Celu: [{ name: "", inputs: [image], attrs: { alpha: float(0.7) } }],
  Elu: [{ name: "", inputs: [image], attrs: { alpha: float(0.7) } }],
  Selu: plain(image),
  LeakyRelu: [
    { name: "default", inputs: [image] },
    { name: "slope", inputs: [image], attrs: { alpha: float(0.3) } },
  ],
  HardSigmoid: [
    { name: "default", inputs: [image] },
    { name: "as in PyTorch", inputs: [image], attrs: { alpha: float(1 / 6) } },
  ],
  Gelu: ["none", "tanh"].map((approximate) => ({
    name: approximate,
    inputs: [image],
    opset: 20,
    attrs: { approximate },
  })),
  Clip: [
    { name: "attributes", inputs: [image], opset: 6 + 1, attrs: { min: float(-0.5), max: float(0.25) } },
    { name: "only below", inputs: [image, scalar(-0.3)] },
    { name: "only above", inputs: [image, undefined, scalar(0.3)] },
  ],

  Reshape: [
    { name: "copied and open sizes", inputs: [image, ints(0, -1, 7)] },
    { name: "to a scalar", inputs: [[1, 1], ints()] },
  ],
  Flatten: [1, 0, -1, 4].map((axis) => ({ name: `axis ${axis}`, inputs: [image], attrs: { axis } })),
  Squeeze: [
    { name: "all", inputs: [[2, 1, 3, 1]] },
    { name: "attribute", inputs: [[2, 1, 3, 1]], opset: 11, attrs: { axes: [-1] } },
    { name: "input", inputs: [[2, 1, 3, 1], ints(1)] },
  ],
  Unsqueeze: [
    { name: "attribute", inputs: [[2, 3]], opset: 11, attrs: { axes: [0, 3] } },
    { name: "input", inputs: [[2, 3], ints(-1, 1)] },
  ],
  Transpose: [
    { name: "reversed", inputs: [image] },
    { name: "perm", inputs: [image], attrs: { perm: [0, 2, 3, 1] } },
  ],
  Concat: [{ name: "", inputs: [image, [2, 1, 5, 7]], attrs: { axis: -3 } }],
  Split: [
    { name: "even", inputs: [[2, 6]], outputs: 3, attrs: { axis: 1 } },
    { name: "attribute", inputs: [[2, 6]], outputs: 2, opset: 11, attrs: { axis: -1, split: [2, 4] } },
    { name: "input", inputs: [[2, 6], ints(1, 5)], outputs: 2, attrs: { axis: 1 } },
    { name: "uneven", inputs: [[2, 7]], outputs: 3, opset: 18, attrs: { axis: 1, num_outputs: 3 } },
  ],
  Slice: [
    {
      name: "attributes",
      inputs: [image],
      opset: 9,
      attrs: { starts: [1, -4], ends: [9223372036854775807n, -1n], axes: [1, 3] },
    },
    { name: "no axes", inputs: [image, ints(0, 1), ints(1, 3)] },
    { name: "steps", inputs: [image, ints(1, 5), ints(100, 0), ints(2, 3), ints(2, -2)] },
    { name: "backwards to the start", inputs: [image, ints(-1), ints(-100), ints(3), ints(-1)] },
  ],
  Pad: [
    { name: "attributes", inputs: [image], opset: 10, attrs: { pads: [0, 0, 1, 2, 0, 0, 0, 1], value: float(0.5) } },
    { name: "input", inputs: [image, ints(0, 1, 0, 2, 1, 0, 3, 0), scalar(-1)] },
    { name: "negative", inputs: [image, ints(0, 0, -1, 2, 0, 0, 1, -3)] },
    { name: "reflected", inputs: [image, ints(0, 0, 2, 3, 0, 0, 1, 4)], attrs: { mode: "reflect" } },
    { name: "edge", inputs: [image, ints(1, 0, 2, 0, 0, 0, 1, 4)], attrs: { mode: "edge" } },
    { name: "axes", inputs: [image, ints(1, 2, 0, 3), undefined, ints(3, 1)], opset: 18 },
    { name: "wrapped", inputs: [image, ints(0, 0, 2, 3, 0, 0, 1, 4)], opset: 19, attrs: { mode: "wrap" } },
  ],
  Expand: [
    { name: "ones keep", inputs: [[3, 1], ints(2, 1, 7)] },
    { name: "shorter shape", inputs: [[2, 3, 1], ints(3, 5)] },
  ],
  Tile: plain([2, 3, 5], ints(2, 1, 3)),
  Gather: [
    { name: "axis 1", inputs: [image, Tensor.of("int64", [2, 2], [0, 2, -1, 1])], attrs: { axis: 1 } },
    { name: "one row", inputs: [[5, 3], Tensor.scalar(-2, "int64")] },
    { name: "fed indices", inputs: [fixed("table", [5, 3]), { shape: [4], values: [0, 4, 4, 1], dtype: "int64" }] },
  ],
  Shape: [
    { name: "all", inputs: [image] },
    { name: "part", inputs: [image], attrs: { start: 1, end: -1 } },
  ],
  Size: plain(image),
  Constant: [
    { name: "tensor", inputs: [], attrs: { value: floats(1, 2, 3) } },
    { name: "float", inputs: [], attrs: { value_float: float(2) } },
    { name: "floats", inputs: [], attrs: { value_floats: { floats: [2, 3] } } },
    { name: "int", inputs: [], attrs: { value_int: 4 } },
    { name: "ints", inputs: [], attrs: { value_ints: [4, 5] } },
  ],
  ConstantOfShape: [
    { name: "default", inputs: [ints(2, 3)] },
    { name: "integers", inputs: [ints(2)], attrs: { value: ints(7) } },
  ],
  Range: [
    { name: "up", inputs: [0, 7, 2].map((v) => Tensor.scalar(v, "int64")) },
    { name: "down", inputs: [3, -1.1, -1.5].map(scalar) },
  ],
  Dropout: [
    { name: "attribute", inputs: [image], opset: 10, attrs: { ratio: float(0.4) } },
    { name: "input", inputs: [image, scalar(0.4)] },
  ],
  DepthToSpace: ["DCR", "CRD"].map((mode) => ({ name: mode, inputs: [[2, 12, 3, 5]], attrs: { blocksize: 2, mode } })),
  SpaceToDepth: [{ name: "", inputs: [[2, 3, 4, 6]], attrs: { blocksize: 2 } }],

  MatMul: [
    { name: "matrices", inputs: [[3, 5], fixed("b", [5, 2])] },
    { name: "broadcast", inputs: [[2, 1, 3, 5], fixed("b", [4, 5, 2])] },
    { name: "row", inputs: [[5], fixed("b", [2, 5, 3])] },
    { name: "column", inputs: [[2, 3, 5], fixed("b", [5])] },
    { name: "vectors", inputs: [[5], fixed("b", [5])] },
  ],
  Gemm: [
    { name: "plain", inputs: [[3, 5], fixed("b", [5, 2]), fixed("c", [2])] },
    {
      name: "turned and scaled",
      inputs: [[5, 3], fixed("b", [2, 5]), fixed("c", [3, 1])],
      attrs: { transA: 1, transB: 1, alpha: float(0.5), beta: float(-2) },
    },
    { name: "no bias", inputs: [[3, 5], fixed("b", [5, 2])] },
  ],
  Einsum: [
    { name: "attention", inputs: [[2, 3, 4, 5], fixed("b", [2, 6, 3, 5])], attrs: { equation: "bhqd,bkhd->bhqk" } },
    { name: "summed axes", inputs: [[2, 3, 4], fixed("b", [3, 5])], attrs: { equation: "abc, bd -> da" } },
    {
      name: "three operands",
      inputs: [[2, 3], fixed("b", [3, 4]), fixed("c", [4, 2])],
      attrs: { equation: "ij,jk,kl->il" },
    },
    { name: "turn and sum", inputs: [[2, 3, 4]], attrs: { equation: "abc->ca" } },
  ],

  Conv: [
    {
      name: "bias, asymmetric padding",
      inputs: [image, fixed("w", [4, 3, 3, 2]), fixed("b", [4])],
      attrs: { pads: [1, 0, 2, 1], strides: [2, 1] },
    },
    {
      name: "symmetric, groups, dilation",
      inputs: [[2, 4, 7, 6], fixed("w", [6, 2, 3, 3])],
      attrs: { pads: [2, 1, 2, 1], dilations: [2, 1], group: 2 },
    },
    {
      name: "SAME_UPPER",
      inputs: [image, fixed("w", [4, 3, 3, 4])],
      attrs: { auto_pad: "SAME_UPPER", strides: [2, 3] },
    },
    {
      name: "SAME_LOWER",
      inputs: [image, fixed("w", [4, 3, 2, 4])],
      attrs: { auto_pad: "SAME_LOWER", strides: [1, 2] },
    },
    { name: "VALID", inputs: [image, fixed("w", [4, 3, 2, 4])], attrs: { auto_pad: "VALID" } },
    {
      name: "one axis",
      inputs: [[2, 3, 11], fixed("w", [4, 3, 3]), fixed("b", [4])],
      attrs: { pads: [2, 1], strides: [2], dilations: [2] },
    },
  ],
  ConvTranspose: [
    {
      name: "output padding",
      inputs: [image, fixed("w", [3, 2, 3, 3]), fixed("b", [2])],
      attrs: { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 0] },
    },
    {
      name: "asymmetric padding",
      inputs: [image, fixed("w", [3, 2, 3, 4])],
      attrs: { strides: [2, 1], pads: [0, 1, 2, 0], output_padding: [1, 0] },
    },
    {
      name: "groups, dilation",
      inputs: [[2, 4, 3, 5], fixed("w", [4, 3, 2, 3])],
      attrs: { group: 2, dilations: [1, 2] },
    },
    {
      name: "output shape",
      inputs: [image, fixed("w", [3, 2, 3, 3])],
      attrs: { strides: [3, 2], output_shape: [14, 14] },
    },
    {
      name: "output shape, SAME_UPPER",
      inputs: [image, fixed("w", [3, 2, 3, 3])],
      attrs: { strides: [3, 2], output_shape: [14, 14], auto_pad: "SAME_UPPER" },
    },
    {
      name: "SAME_UPPER",
      inputs: [image, fixed("w", [3, 2, 4, 3])],
      attrs: { strides: [2, 2], auto_pad: "SAME_UPPER" },
    },
    {
      name: "SAME_LOWER",
      inputs: [image, fixed("w", [3, 2, 4, 3])],
      attrs: { strides: [2, 2], auto_pad: "SAME_LOWER" },
    },
    { name: "one axis", inputs: [[2, 3, 5], fixed("w", [3, 2, 3])], attrs: { strides: [2], pads: [1, 0] } },
  ],
  MaxPool: [
    { name: "plain", inputs: [image], attrs: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } },
    { name: "asymmetric", inputs: [image], attrs: { kernel_shape: [3, 2], strides: [2, 1], pads: [0, 1, 2, 0] } },
    { name: "rounded up", inputs: [[2, 3, 6, 8]], attrs: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 } },
    {
      name: "rounded up, padded",
      inputs: [image],
      attrs: { kernel_shape: [2, 2], strides: [3, 3], pads: [1, 1, 1, 1], ceil_mode: 1 },
    },
    { name: "SAME_UPPER", inputs: [image], attrs: { kernel_shape: [2, 3], strides: [2, 2], auto_pad: "SAME_UPPER" } },
    { name: "one axis", inputs: [[2, 3, 9]], attrs: { kernel_shape: [4], strides: [2], pads: [1, 2] } },
  ],
  AveragePool: [
    { name: "plain", inputs: [image], attrs: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } },
    {
      name: "padding counts",
      inputs: [image],
      attrs: { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 },
    },
    { name: "asymmetric", inputs: [image], attrs: { kernel_shape: [3, 2], strides: [2, 1], pads: [0, 1, 2, 0] } },
    {
      name: "asymmetric, padding counts",
      inputs: [image],
      attrs: { kernel_shape: [3, 2], strides: [2, 1], pads: [0, 1, 2, 0], count_include_pad: 1 },
    },
    {
      name: "rounded up",
      inputs: [[2, 3, 6, 8]],
      opset: 19,
      attrs: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 },
    },
    {
      name: "rounded up, padding counts",
      inputs: [[2, 3, 6, 8]],
      opset: 19,
      attrs: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1, pads: [1, 0, 1, 0], count_include_pad: 1 },
    },
    { name: "SAME_LOWER", inputs: [image], attrs: { kernel_shape: [2, 3], strides: [2, 2], auto_pad: "SAME_LOWER" } },
  ],
  GlobalAveragePool: plain(image),
  GlobalMaxPool: [...plain(image), { name: "one axis", inputs: [[2, 3, 5]] }],

  BatchNormalization: [
    {
      name: "images",
      inputs: [image, ...["w", "b", "m"].map((n) => fixed(n, [3])), fixed("v", [3], [0.4, 2])],
      attrs: { epsilon: float(1e-3) },
    },
    {
      name: "old",
      inputs: [[5, 3], ...["w", "b", "m"].map((n) => fixed(n, [3])), fixed("v", [3], [0.4, 2])],
      opset: 9,
    },
  ],
  LayerNormalization: [
    { name: "last axis", inputs: [[2, 3, 8], fixed("w", [8]), fixed("b", [8])] },
    { name: "two axes, no bias", inputs: [[2, 3, 8], fixed("w", [3, 8])], attrs: { axis: 1, epsilon: float(1e-2) } },
  ],
  InstanceNormalization: plain(image, fixed("w", [3]), fixed("b", [3])),
  GroupNormalization: [
    {
      name: "per group",
      inputs: [[2, 6, 3, 5], fixed("w", [2]), fixed("b", [2])],
      opset: 18,
      attrs: { num_groups: 2 },
    },
    {
      name: "per channel",
      inputs: [[2, 6, 3, 5], fixed("w", [6]), fixed("b", [6])],
      opset: 21,
      attrs: { num_groups: 2 },
    },
  ],
  Softmax: [
    { name: "default, old", inputs: [image], opset: 11 },
    { name: "axis 2, old", inputs: [image], opset: 11, attrs: { axis: 2 } },
    { name: "default", inputs: [image] },
    { name: "axis 1", inputs: [image], attrs: { axis: 1 } },
  ],
  LogSoftmax: [
    { name: "default, old", inputs: [[2, 3, 5]], opset: 11 },
    { name: "axis 0", inputs: [image], attrs: { axis: 0 } },
  ],
  ...Object.fromEntries(
    ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"].map((op) => [
      `Reduce${op}`,
      reductions,
    ]),
  ),
  ReduceSum: [...reductions.slice(0, 2), { name: "axes as input", inputs: [image, ints(1)], opset: 13 }],

  Upsample: [
    { name: "attribute", inputs: [image], opset: 7, attrs: { scales: { floats: [1, 1, 2, 3] }, mode: "nearest" } },
    { name: "input", inputs: [image, floats(1, 1, 2, 2)], opset: 9, attrs: { mode: "linear" } },
    { name: "odd scales", inputs: [image, floats(1, 1, 1.5, 2.6)], opset: 9, attrs: { mode: "nearest" } },
  ],
  Resize: [
    { name: "opset 10 up", inputs: [image, floats(1, 1, 1.7, 2)], opset: 10, attrs: { mode: "nearest" } },
    { name: "opset 10 down", inputs: [image, floats(1, 1, 0.6, 0.5)], opset: 10, attrs: { mode: "nearest" } },
    { name: "opset 10 linear", inputs: [image, floats(1, 1, 1.7, 0.5)], opset: 10, attrs: { mode: "linear" } },
    ...["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"].flatMap((nearest_mode) =>
      ["half_pixel", "asymmetric", "align_corners"].map((coordinate_transformation_mode) => ({
        name: `nearest, ${nearest_mode}, ${coordinate_transformation_mode}`,
        inputs: [image, undefined, undefined, ints(2, 3, 4, 12)],
        attrs: { mode: "nearest", nearest_mode, coordinate_transformation_mode },
      })),
    ),
    ...["linear", "cubic"].flatMap((mode) =>
      ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"].flatMap((coordinate_transformation_mode) => [
        {
          name: `${mode}, ${coordinate_transformation_mode}, sizes`,
          inputs: [image, undefined, undefined, ints(2, 3, 8, 4)],
          attrs: { mode, coordinate_transformation_mode },
        },
        {
          name: `${mode}, ${coordinate_transformation_mode}, scales`,
          inputs: [image, undefined, floats(1, 1, 1.5, 0.7)],
          attrs: { mode, coordinate_transformation_mode },
        },
      ]),
    ),
    {
      name: "cubic without the outside",
      inputs: [image, undefined, floats(1, 1, 1.5, 0.7)],
      attrs: { mode: "cubic", exclude_outside: 1, cubic_coeff_a: float(-0.5) },
    },
    { name: "axes", inputs: [image, undefined, floats(2, 1.5)], opset: 18, attrs: { mode: "linear", axes: [3, 2] } },
    { name: "one axis", inputs: [[2, 3, 5], undefined, undefined, ints(2, 3, 9)], attrs: { mode: "linear" } },
  ],
};

/** A model of one node. */
function modelOf(opType: string, { inputs, attrs = {}, opset = 17, outputs = 1 }: NodeCase): OnnxModel {
  const names = inputs.map((operand, i) => (operand ? `i${i}` : ""));
  const fed = inputs.flatMap((operand, i) =>
    operand && !(operand instanceof Tensor)
      ? [{ name: names[i], dtype: specOf(operand).dtype ?? "float32", shape: specOf(operand).shape } as const]
      : [],
  );
  const outputNames = Array.from({ length: outputs }, (_, i) => `o${i}`);
  return {
    nodes: [{ opType, name: "node", inputs: names, outputs: outputNames, attrs }],
    inputs: fed,
    // Their types are worked out by ONNX Runtime.
    outputs: outputNames.map((name) => ({ name, dtype: outputDtype(opType, attrs, inputs) })),
    initializers: new Map(inputs.flatMap((operand, i) => (operand instanceof Tensor ? [[names[i], operand]] : []))),
    opset,
  };
}

function outputDtype(
  opType: string,
  attrs: NodeCase["attrs"] = {},
  inputs: readonly Operand[],
): "float32" | "int64" | "int32" | "bool" {
  if (opType === "Cast") return attrs.to === 6 ? "int32" : "bool";
  if (/^(Not|And|Or|Xor|Equal|Greater|Less)/.test(opType)) return "bool";
  const first = inputs[0];
  const whole = (t: unknown): boolean => t instanceof Tensor && t.dtype === "int64";
  if (["Shape", "Size"].includes(opType) || "value_int" in attrs || "value_ints" in attrs || whole(attrs.value))
    return "int64";
  return ["Range", "Mod"].includes(opType) && whole(first) ? "int64" : "float32";
}

test("every operator that is read has a case", () => {
  expect([...readers.keys()].filter((op) => !cases[op])).toEqual([]);
});

describe.each(Object.keys(cases))("%s is read as ONNX Runtime computes it", (op) => {
  test.each(cases[op])("$name", async (testCase) => {
    const model = modelOf(op, testCase);
    const feeds = Object.fromEntries(
      testCase.inputs.flatMap((operand, i) =>
        operand && !(operand instanceof Tensor)
          ? [[`i${i}`, feedOf(`${op} ${testCase.name} ${i}`, specOf(operand), "float32")]]
          : [],
      ),
    );
    // As written: merging nodes is what other tests doubt.
    await using original = await compileModel(model, { session: { graphOptimizationLevel: "disabled" } });
    const expected = await original.run(feeds);
    const { outputs, names } = readOnnx(model);
    const again = lower({ outputs: Object.fromEntries(outputs) }, { target: targets.inference, names }).model;
    await using compiled = await program(again);
    const actual = await compiled.run(feedsFor(again, feeds));
    for (const [key, value] of Object.entries(expected)) {
      expect(outputs.get(key)!.shape).toEqual(value.shape);
      expect(actual[key].dtype).toBe(value.dtype);
      expect(difference(actual[key], value)).toBeLessThan(2e-6);
    }
  });
});

describe("damaged nodes are refused in words", () => {
  /** The case with inputs left out, of other ranks, or without attributes. */
  const damaged = (c: NodeCase): NodeCase[] => [
    { ...c, inputs: [] },
    ...c.inputs.map((_, i) => ({ ...c, inputs: c.inputs.slice(0, i) })),
    ...c.inputs.map((_, i) => ({ ...c, inputs: c.inputs.with(i, undefined) })),
    ...[[], [1], [0, 3], [1, 1, 1, 1, 1]].flatMap((shape) =>
      c.inputs.map((_, i) => ({ ...c, inputs: c.inputs.with(i, shape) })),
    ),
    ...c.inputs.map((_, i) => ({ ...c, inputs: c.inputs.with(i, ints(-9, 0, 3)) })),
    ...c.inputs.map((_, i) => ({ ...c, inputs: c.inputs.with(i, floats(Number.NaN, Number.POSITIVE_INFINITY)) })),
    ...[{}, ...Object.keys(c.attrs ?? {}).map((key) => ({ ...c.attrs, [key]: [-1, 0] }))].map((attrs) => ({
      ...c,
      attrs,
    })),
    ...Object.keys(c.attrs ?? {}).map((key) => ({ ...c, attrs: { ...c.attrs, [key]: -7 } })),
    ...Object.keys(c.attrs ?? {}).map((key) => ({ ...c, attrs: { ...c.attrs, [key]: [0, 0, 0, 0] } })),
  ];

  test.each(Object.keys(cases))("%s", (op) => {
    for (const testCase of cases[op].flatMap(damaged)) {
      try {
        for (const { shape } of readOnnx(modelOf(op, testCase)).outputs.values())
          if (!shape.every((d) => Number.isInteger(d) && d >= 0))
            throw new Error(`${JSON.stringify(testCase)} made ${shape}`);
      } catch (error) {
        expect(error).toBeInstanceOf(RepmlpError);
      }
    }
  });
});
