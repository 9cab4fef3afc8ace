import { intAttr, intsAttr, type OnnxModel, type OnnxNode, stringAttr } from "../../onnx/index.ts";
import { type Shape, sizeOf } from "../../tensor/index.ts";
import { statedTensor } from "./prepare.ts";

export interface Axes {
  readonly model: OnnxModel;
  readonly shapeOf: (name: string) => Shape | undefined;
}

/**
 * Where one axis of a node's output comes from: inputs by number, and the axis of each. None where the axis is that of
 * no input; `undefined` where the operator mixes it with others, so that its size cannot be changed alone.
 */
export type AxisRule = (
  node: OnnxNode,
  axis: number,
  axes: Axes,
) => readonly (readonly [input: number, axis: number])[] | undefined;

const same: AxisRule = (_, axis) => [[0, axis]];

const outputShape = ({ outputs }: OnnxNode, { shapeOf }: Axes): Shape => shapeOf(outputs[0]) ?? [];
const inputShape = ({ inputs }: OnnxNode, i: number, { shapeOf }: Axes): Shape => shapeOf(inputs[i]) ?? [];

/** Inputs that have the axis, counted from the right; those of size 1 are spread over it. */
const broadcast: AxisRule = (node, axis, axes) => {
  const shape = outputShape(node, axes);
  return node.inputs.flatMap((_, i) => {
    const own = inputShape(node, i, axes);
    const at = axis - shape.length + own.length;
    return own[at] === shape[axis] ? [[i, at] as const] : [];
  });
};

/** The axis of a tensor with the same numbers in another shape: as many before it, and as many in it. */
const moved: AxisRule = (node, axis, axes) => {
  const [to, from] = [outputShape(node, axes), inputShape(node, 0, axes)];
  const before = sizeOf(to.slice(0, axis));
  const at = from.findIndex((d, i) => d === to[axis] && sizeOf(from.slice(0, i)) === before);
  return at < 0 ? undefined : [[0, at]];
};

const perChannel =
  (...parameters: readonly number[]): AxisRule =>
  (_, axis) => [[0, axis], ...(axis === 1 ? parameters.map((i) => [i, 0] as const) : [])];

const layerNorm: AxisRule = (node, axis, axes) => {
  const rank = outputShape(node, axes).length;
  const vectors = [1, 2].flatMap((i) => {
    const at = axis - rank + inputShape(node, i, axes).length;
    return node.inputs[i] && at >= 0 ? [[i, at] as const] : [];
  });
  return [[0, axis], ...vectors];
};

/** Weight and bias of a layer whose outputs are the axis. */
const layer = (node: OnnxNode, weightAxis: number, bias: readonly (readonly [number, number])[]) =>
  [[1, weightAxis] as const, ...(node.inputs[2] ? bias : [])] as const;

const gemm: AxisRule = (node, axis, axes) => {
  if (axis !== 1) return undefined;
  const bias = inputShape(node, 2, axes);
  const at = bias.length - 1;
  return layer(node, intAttr(node, "transB", 0) === 1 ? 0 : 1, bias[at] === 1 ? [] : [[2, at]]);
};

const matMul: AxisRule = (node, axis, axes) => {
  const rank = outputShape(node, axes).length;
  const [a, b] = [0, 1].map((i) => inputShape(node, i, axes).length);
  if (b === 1 && axis === rank - 1) return [[0, a - 2]];
  if (axis === rank - 1) return [[1, b - 1]];
  return axis === rank - 2 ? [[0, a - 2]] : undefined;
};

const einsum: AxisRule = (node, axis) => {
  const [sources, target = ""] = stringAttr(node, "equation").replaceAll(" ", "").split("->");
  const label = target[axis];
  return sources.split(",").flatMap((labels, i) => {
    const at = labels.indexOf(label);
    return at < 0 ? [] : [[i, at] as const];
  });
};

const conv =
  (weightAxis: number): AxisRule =>
  (node, axis) =>
    axis === 1 && intAttr(node, "group", 1) === 1 ? layer(node, weightAxis, [[2, 0]]) : undefined;

/** Over other axes; kept ones have size 1, others are gone. */
const reduced: AxisRule = (node, axis, axes) => {
  const from = inputShape(node, 0, axes);
  if (outputShape(node, axes).length === from.length) return [[0, axis]];
  const list = "axes" in node.attrs ? intsAttr(node, "axes") : statedTensor(axes.model, node.inputs[1] ?? "");
  const numbers = list && ("readSync" in list ? [...list.readSync().toFloat64()] : list);
  const gone = numbers?.map((a) => (a < 0 ? a + from.length : a));
  const at = from.map((_, i) => i).filter((i) => gone && !gone.includes(i))[axis];
  return at === undefined ? undefined : [[0, at]];
};

/** Along other axes, or all along the axis. */
const whole: AxisRule = (node, axis, axes) => {
  const [to, from] = [outputShape(node, axes), inputShape(node, 0, axes)];
  return to.length === from.length && to[axis] === from[axis] ? [[0, axis]] : undefined;
};

const gather: AxisRule = (node, axis, axes) => {
  const from = inputShape(node, 0, axes);
  const given = intAttr(node, "axis", 0);
  const at = given < 0 ? given + from.length : given;
  const picked = inputShape(node, 1, axes).length;
  if (axis < at) return [[0, axis]];
  return axis >= at + picked ? [[0, axis - picked + 1]] : undefined;
};

const concat: AxisRule = (node, axis, axes) => {
  const given = intAttr(node, "axis");
  const rank = outputShape(node, axes).length;
  return (given < 0 ? given + rank : given) === axis ? undefined : node.inputs.map((_, i) => [i, axis]);
};

const transpose: AxisRule = (node, axis, axes) => {
  const rank = outputShape(node, axes).length;
  return [[0, "perm" in node.attrs ? intsAttr(node, "perm")[axis] : rank - 1 - axis]];
};

const each = (rule: AxisRule, operators: string): [string, AxisRule][] =>
  operators.split(" ").map((opType) => [opType, rule]);

/** By operator of the standard set; one that is not there is not followed. */
export const axisRules: ReadonlyMap<string, AxisRule> = new Map([
  ...each(
    same,
    "Abs Cast Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log LogSoftmax " +
      "Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Tanh " +
      "AveragePool GlobalAveragePool GlobalMaxPool MaxPool",
  ),
  ...each(broadcast, "Add Div Max Mean Min Mul PRelu Pow Sub Sum Where"),
  ...each(moved, "Flatten Reshape Squeeze Unsqueeze"),
  ...each(
    reduced,
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
  ),
  ...each(whole, "Expand Pad Resize Slice Split Tile Upsample"),
  ["BatchNormalization", perChannel(1, 2, 3, 4)],
  ["InstanceNormalization", perChannel(1, 2)],
  ["LayerNormalization", layerNorm],
  ["Conv", conv(0)],
  ["ConvTranspose", conv(1)],
  ["Concat", concat],
  ["Einsum", einsum],
  ["Gather", gather],
  ["Gemm", gemm],
  ["MatMul", matMul],
  ["Transpose", transpose],
]);
