import type { IntegerRange } from "../graph/index.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { type DType, Tensor, type TensorSource } from "../tensor/index.ts";
import {
  dequantizeTensor,
  integerRanges,
  type Quantization,
  type QuantizationStep,
  quantizeTensor,
  weightQuantization,
} from "./affine.ts";
import { nameOf, type QuantizationPlan, type WeightedNode } from "./plan.ts";

/** Integers of a machine's kernels. */
export interface QuantizationTarget {
  readonly activations: IntegerRange;
  readonly activationType: Extract<DType, "uint8" | "int8">;
  readonly weights: IntegerRange;
  /** Where the file computes exactly what it says. */
  readonly exactOn: string;
}

/** Machines to quantize for. */
export const quantizationTargets = {
  portable: {
    activations: integerRanges.uint8,
    activationType: "uint8",
    weights: integerRanges.symmetric7,
    exactOn: "every CPU: weights have 7 bits, so that sums of two products fit 16 bits",
  },
  vnni: {
    activations: integerRanges.uint8,
    activationType: "uint8",
    weights: integerRanges.symmetric8,
    exactOn: "x86 with VNNI (AVX-512 VNNI or AVX-VNNI) and ARM; other x86 saturates in 16-bit sums",
  },
  arm: {
    activations: integerRanges.int8,
    activationType: "int8",
    weights: integerRanges.symmetric8,
    exactOn: "every CPU, but fast on ARM only",
  },
} as const satisfies Readonly<Record<string, QuantizationTarget>>;

export type QuantizationTargetName = keyof typeof quantizationTargets;

/** A weight as integers, and the float that they stand for. */
export interface IntegerWeight {
  readonly quantization: Quantization;
  readonly integers: Tensor;
  readonly rounded: Tensor;
  /** With the correction; absent where the node has none and needs none. */
  readonly bias?: Tensor;
}

/** Largest part of int32 that a bias may take; the rest is left to the sum of products. */
const BIAS_LIMIT = 2 ** 30;

/**
 * A node's weight as integers. A scale is enlarged where the bias, whose scale is that of the input times that of the weight,
 * would not fit 32 bits; a channel without weights takes the scale that represents its bias best.
 *
 * @param inputStep   scale of the node's input
 * @param shift       what the weight's rounding adds to the means of the outputs, taken from the bias, see {@link biasShift}
 * @param scales      of the output channels; default from the largest weights
 */
export function integerWeight(
  { axis }: Pick<WeightedNode, "axis">,
  weight: Tensor,
  bias: Tensor | undefined,
  range: IntegerRange,
  inputStep: number,
  { shift, scales }: { readonly shift?: ArrayLike<number>; readonly scales?: ArrayLike<number> } = {},
): IntegerWeight {
  const found = weightQuantization(weight, { axis, range });
  const asked = bias?.toFloat64();
  const maxima = scales ? Array.from(scales) : found.steps.map(({ scale }) => scale);
  const empty = emptyChannels(weight, axis);
  const steps = maxima.map((scale, c) => {
    const least = Math.fround(Math.abs(asked?.[c] ?? 0) / inputStep / BIAS_LIMIT) * (1 + 2 ** -20);
    if (empty[c] && least > 0) return { scale: Math.fround(least), zeroPoint: 0 };
    return { scale: Math.fround(Math.max(scale, least)), zeroPoint: 0 };
  });
  const quantization: Quantization = { ...found, steps };
  const integers = quantizeTensor(weight, quantization, "int8");
  const rounded = dequantizeTensor(integers, quantization);
  if (!shift) return { quantization, integers, rounded, ...(bias && { bias }) };
  const corrected = Tensor.float32(
    [shift.length],
    Float64Array.from(shift, (s, c) => (asked?.[c] ?? 0) - s),
  );
  return { quantization, integers, rounded, bias: corrected };
}

function emptyChannels(weight: Tensor, axis: number): boolean[] {
  const filled = new Set<number>();
  const inner = weight.shape.slice(axis + 1).reduce((n, d) => n * d, 1);
  weight.toFloat64().forEach((v, i) => {
    if (v !== 0) filled.add(Math.floor(i / inner) % weight.shape[axis]);
  });
  return Array.from({ length: weight.shape[axis] }, (_, c) => !filled.has(c));
}

/** Names that no value of a model has, made of others. */
export function namer({ nodes, inputs, initializers }: OnnxModel): (base: string) => string {
  const taken = new Set([
    ...nodes.flatMap((node) => [...node.outputs, node.name]),
    ...inputs.map(({ name }) => name),
    ...initializers.keys(),
  ]);
  return (base) => {
    let name = base;
    for (let i = 1; taken.has(name); i++) name = `${base}_${i}`;
    taken.add(name);
    return name;
  };
}

/** Where the scale and the zero point of a tensor are to be found. */
export interface StepNames {
  readonly scale: string;
  readonly zeroPoint: string;
}

/**
 * Puts QuantizeLinear and DequantizeLinear behind every tensor of the plan; all that read it read what comes out. Outputs
 * of the model stay as they are.
 */
export function withQuantizedTensors(
  nodes: readonly OnnxNode[],
  inputs: readonly string[],
  { tensors }: QuantizationPlan,
  stepNames: (root: string) => StepNames,
  unique: (base: string) => string,
): OnnxNode[] {
  const back = new Map([...tensors.keys()].map((name) => [name, unique(`${name}.dequantized`)] as const));
  const pair = (name: string): OnnxNode[] => {
    const { scale, zeroPoint } = stepNames(tensors.get(name)!);
    const integers = unique(`${name}.quantized`);
    const node = (opType: string, from: string, to: string): OnnxNode => ({
      ...{ opType, name: unique(`${name}.${opType}`), inputs: [from, scale, zeroPoint], outputs: [to], attrs: {} },
    });
    return [node("QuantizeLinear", name, integers), node("DequantizeLinear", integers, back.get(name)!)];
  };
  const rewired = nodes.flatMap((node) => [
    node.inputs.some((name) => back.has(name))
      ? { ...node, inputs: node.inputs.map((name) => back.get(name) ?? name) }
      : node,
    ...node.outputs.filter((name) => back.has(name)).flatMap(pair),
  ]);
  return [...inputs.filter((name) => back.has(name)).flatMap(pair), ...rewired];
}

/**
 * The model with integer weights, biases and activations, as DequantizeLinear in front of the float nodes and a pair of
 * QuantizeLinear and DequantizeLinear behind each tensor (QDQ), of which ONNX Runtime makes integer kernels.
 */
export function quantizedModel(
  model: OnnxModel,
  plan: QuantizationPlan,
  steps: ReadonlyMap<string, QuantizationStep>,
  weights: ReadonlyMap<OnnxNode, IntegerWeight>,
  { activationType }: QuantizationTarget,
): OnnxModel {
  const unique = namer(model);
  const constants = new Map<string, TensorSource>();
  const store = (base: string, tensor: Tensor): string => {
    const name = unique(base);
    constants.set(name, tensor);
    return name;
  };
  const names = new Map<string, StepNames>();
  const stepNames = (root: string): StepNames => {
    const known = names.get(root);
    if (known) return known;
    const { scale, zeroPoint } = steps.get(root)!;
    const made = {
      scale: store(`${root}.scale`, Tensor.scalar(scale)),
      zeroPoint: store(`${root}.zero_point`, Tensor.scalar(zeroPoint, activationType)),
    };
    names.set(root, made);
    return made;
  };
  const nodes = model.nodes.flatMap((node): OnnxNode[] => {
    const made = weights.get(node);
    if (!made) return [node];
    const { axis = 0, steps: own } = made.quantization;
    const scales = own.map(({ scale }) => scale);
    const base = node.inputs[1];
    const restored = (what: string, integers: Tensor, values: readonly number[], along: number): OnnxNode => ({
      opType: "DequantizeLinear",
      name: unique(`${nameOf(node)}.${what}`),
      inputs: [
        store(
          `${what === "bias" && node.inputs[2] ? node.inputs[2] : base}.${what === "bias" ? "int32" : "int8"}`,
          integers,
        ),
        store(`${base}.${what}_scale`, Tensor.float32([values.length], values)),
        store(`${base}.${what}_zero_point`, Tensor.zeros(integers.dtype, [values.length])),
      ],
      outputs: [unique(`${base}.${what}_dequantized`)],
      attrs: { axis: along },
    });
    const weight = restored("weight", made.integers, scales, axis);
    if (!made.bias) return [weight, { ...node, inputs: [node.inputs[0], weight.outputs[0]] }];
    const inputScale = steps.get(plan.tensors.get(node.inputs[0])!)!.scale;
    const biasScales = scales.map((s) => Math.fround(s * inputScale));
    const int32 = { qmin: -(2 ** 31), qmax: 2 ** 31 - 1, axis: 0 };
    const biasSteps = biasScales.map((scale) => ({ scale, zeroPoint: 0 }));
    const integers = quantizeTensor(made.bias, { ...int32, steps: biasSteps }, "int32");
    const bias = restored("bias", integers, biasScales, 0);
    return [weight, bias, { ...node, inputs: [node.inputs[0], weight.outputs[0], bias.outputs[0]] }];
  });
  const all = withQuantizedTensors(
    withoutUnreadConstants(nodes, model),
    model.inputs.map(({ name }) => name),
    plan,
    stepNames,
    unique,
  );
  const { valueInfo: _, ...rest } = model;
  return { ...rest, nodes: all, initializers: used(all, model, constants) };
}

/** Nodes without constants that nothing reads any more: weights in float, where a file has them in nodes. */
export function withoutUnreadConstants(nodes: readonly OnnxNode[], { outputs }: OnnxModel): OnnxNode[] {
  const read = new Set([...nodes.flatMap(({ inputs }) => inputs), ...outputs.map(({ name }) => name)]);
  return nodes.filter((node) => node.opType !== "Constant" || node.outputs.some((name) => read.has(name)));
}

/** Initializers that some node reads. */
export function used(
  nodes: readonly OnnxNode[],
  { initializers, outputs }: OnnxModel,
  added: ReadonlyMap<string, TensorSource>,
): Map<string, TensorSource> {
  const read = new Set([...nodes.flatMap(({ inputs }) => inputs), ...outputs.map(({ name }) => name)]);
  return new Map([...initializers, ...added].filter(([name]) => read.has(name)));
}
