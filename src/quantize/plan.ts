import { listed, must, nearest } from "../errors.ts";
import { floatAttr, intAttr, type OnnxModel, type OnnxNode } from "../onnx/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";

/** A node whose weight becomes integers. */
export interface WeightedNode {
  readonly node: OnnxNode;
  /** Axis of the weight with a scale per index. */
  readonly axis: number;
  /** Channels of the input and how the weight reads them, for the correction of the bias; absent where there is no bias. */
  readonly groups?: number;
}

/** What becomes integers in a model, and what does not. */
export interface QuantizationPlan {
  readonly weighted: readonly WeightedNode[];
  /** Tensors that are stored as integers, each with the one whose scale it takes: itself, but behind a pooling or reshape. */
  readonly tensors: ReadonlyMap<string, string>;
  /** Nodes with weights that stay in float, and why. */
  readonly kept: readonly { readonly name: string; readonly operator: string; readonly reason: string }[];
}

const words = (list: string): ReadonlySet<string> => new Set(list.split(" "));

/** Operators that pass values on as they are, or choose among them. */
const passing = words("MaxPool Reshape Flatten Transpose Squeeze Unsqueeze");
/** Operators that kernels take with what makes their input. */
const activations = words("Relu Clip");
const integerOperators = /^(De)?Quantize|^DynamicQuantize|^QLinear|Integer(ToFloat)?$|^QGemm$|^MatMulNBits$/;
const controlFlow = words("If Loop Scan");

/** The lowest operator set with a scale per channel. */
const LOWEST_OPSET = 13;

/**
 * Says what a model has that cannot be quantized.
 *
 * @throws RepmlpError `quantize/already`, `quantize/control-flow`, `quantize/training`, `quantize/opset`, of kind `model`
 */
export function mustBeQuantizable({ nodes, opset }: OnnxModel, where: string): void {
  const find = (test: (node: OnnxNode) => boolean): OnnxNode | undefined => nodes.find(test);
  const integer = find(({ opType }) => integerOperators.test(opType));
  must(
    !integer,
    "quantize/already",
    () => `${where}: is quantized already (${integer!.opType} ${nameOf(integer!)}). Give the model in float.`,
    "model",
  );
  const branch = find(({ opType }) => controlFlow.has(opType));
  must(
    !branch,
    "quantize/control-flow",
    () =>
      `${where}: ${branch!.opType} ${nameOf(branch!)} decides at run time what is computed, so its values cannot be looked at. Export the model without control flow.`,
    "model",
  );
  const training = find((node) => node.opType === "BatchNormalization" && intAttr(node, "training_mode", 0) === 1);
  must(
    !training,
    "quantize/training",
    () =>
      `${where}: BatchNormalization ${nameOf(training!)} is in training mode. Export the model in evaluation mode (model.eval()).`,
    "model",
  );
  must(
    opset >= LOWEST_OPSET,
    "quantize/opset",
    () =>
      `${where}: operator set ${opset} has no scale per channel, ${LOWEST_OPSET} is the first. Export the model with opset_version=${LOWEST_OPSET} or higher, or have it raised: repmlp quantize --raise-opset.`,
    "model",
  );
}

/** Name of a node, or of its first output where it has none. */
export const nameOf = ({ name, outputs }: OnnxNode): string => name || outputs[0] || "";

/** Initializers and the tensors of `Constant` nodes. */
export function constantsOf({ nodes, initializers }: OnnxModel): Map<string, TensorSource> {
  const constants = new Map(initializers);
  for (const { opType, attrs, outputs } of nodes)
    if (opType === "Constant" && attrs.value instanceof Tensor) constants.set(outputs[0], attrs.value);
  return constants;
}

/**
 * Decides what becomes integers: the input and the weight of each convolution and matrix product with a constant weight,
 * the output of convolutions (behind their ReLU or Clip), sums of integer tensors, and what pools or reshapes them.
 *
 * @param keepFloat  names of nodes, of their outputs or of their weights that stay in float
 * @throws RepmlpError `quantize/keep-float` for a name that none has, `quantize/nothing` where nothing is left
 */
export function planQuantization(model: OnnxModel, keepFloat: readonly string[], where: string): QuantizationPlan {
  const { nodes, outputs } = model;
  const constants = constantsOf(model);
  const users = new Map<string, OnnxNode[]>();
  for (const node of nodes)
    for (const name of new Set(node.inputs)) users.set(name, [...(users.get(name) ?? []), node]);
  const isOutput = new Set(outputs.map(({ name }) => name));
  const weighted: WeightedNode[] = [];
  const kept: { name: string; operator: string; reason: string }[] = [];
  const unused = new Set(keepFloat);
  const candidates = nodes.filter(
    (node) => node.inputs.length > 1 && !node.domain && Object.hasOwn(readers, node.opType),
  );
  for (const node of candidates) {
    const names = [node.name, node.outputs[0], node.inputs[1]];
    const asked = keepFloat.filter((name) => names.includes(name));
    for (const name of asked) unused.delete(name);
    const found = asked.length ? "asked for" : readers[node.opType](node, constants);
    if (typeof found === "string") kept.push({ name: nameOf(node), operator: node.opType, reason: found });
    else weighted.push({ node, ...found });
  }
  must(
    unused.size === 0,
    "quantize/keep-float",
    () => {
      const [wrong] = unused;
      const near = nearest(
        wrong,
        candidates.flatMap((node) => [nameOf(node), node.inputs[1]]),
      );
      return `${where}: no convolution or matrix product is called "${wrong}"${near.length ? `; near are ${listed(near)}` : ""}. Give the name of a node, its output or its weight.`;
    },
    "usage",
  );
  must(
    weighted.length > 0,
    "quantize/nothing",
    () =>
      `${where}: there is nothing to quantize: ${kept.length ? `${kept[0].operator} ${kept[0].name}: ${kept[0].reason}` : "it has no convolution or matrix product with a constant weight"}.`,
    "model",
  );
  const integer = new Set(weighted.map(({ node }) => node.inputs[0]));
  /** The value that a kernel writes: behind an activation that only it feeds. */
  const written = (node: OnnxNode): string => {
    const [output] = node.outputs;
    const [user, ...others] = users.get(output) ?? [];
    return user && !others.length && !isOutput.has(output) && activations.has(user.opType) ? user.outputs[0] : output;
  };
  for (const { node } of weighted) if (node.opType === "Conv") integer.add(written(node));
  for (const node of nodes)
    if (node.opType === "Add" && node.inputs.every((name) => integer.has(name))) integer.add(written(node));
  // What a reshape or pooling passes on to a kernel is what came into it.
  for (const { opType, inputs, outputs: made } of nodes.toReversed())
    if (passing.has(opType) && integer.has(made[0]) && !constants.has(inputs[0])) integer.add(inputs[0]);
  const roots = new Map<string, string>();
  const makers = new Map(nodes.map((node) => [node.outputs[0], node] as const));
  const rootOf = (name: string): string => {
    const maker = makers.get(name);
    return maker && passing.has(maker.opType) && integer.has(maker.inputs[0]) ? rootOf(maker.inputs[0]) : name;
  };
  for (const name of integer) roots.set(name, rootOf(name));
  return { weighted, tensors: roots, kept };
}

/**
 * What becomes integers where the tensors are given that do: each weight that `isInteger` names, behind such a tensor, and
 * what passes the tensor's values on to it.
 *
 * @param steps  by tensor
 */
export function planOfTensors(
  model: OnnxModel,
  steps: ReadonlyMap<string, unknown>,
  isInteger: (weight: string) => boolean,
): QuantizationPlan {
  const constants = constantsOf(model);
  const makers = new Map(model.nodes.map((node) => [node.outputs[0], node] as const));
  const tensors = new Map([...steps.keys()].map((name) => [name, name] as const));
  /** The tensor with a step that a value was passed on from; those on the way take its step. */
  const rootOf = (name: string): string | undefined => {
    if (tensors.has(name)) return tensors.get(name);
    const maker = makers.get(name);
    if (!maker || !(passing.has(maker.opType) || maker.opType === "Slice")) return undefined;
    const root = rootOf(maker.inputs[0]);
    if (root !== undefined) tensors.set(name, root);
    return root;
  };
  const weighted: WeightedNode[] = [];
  const kept: { name: string; operator: string; reason: string }[] = [];
  for (const node of model.nodes) {
    if (node.inputs.length < 2 || node.domain || !Object.hasOwn(readers, node.opType)) continue;
    const found = isInteger(node.inputs[1]) ? readers[node.opType](node, constants) : "asked for";
    if (typeof found !== "string" && rootOf(node.inputs[0]) !== undefined) weighted.push({ node, ...found });
    else
      kept.push({
        name: nameOf(node),
        operator: node.opType,
        reason: typeof found === "string" ? found : "its input has no range",
      });
  }
  return { weighted, tensors, kept };
}

type Read = (node: OnnxNode, constants: ReadonlyMap<string, TensorSource>) => Omit<WeightedNode, "node"> | string;

const weightProblem = (
  node: OnnxNode,
  constants: ReadonlyMap<string, TensorSource>,
  rank?: number,
): string | undefined => {
  const weight = constants.get(node.inputs[1]);
  if (!weight) return "its weight is computed";
  if (constants.has(node.inputs[0])) return "its input is a constant";
  if (weight.dtype !== "float32") return `its weight is ${weight.dtype}, only float32 is quantized`;
  if (rank !== undefined && weight.shape.length !== rank) return `its weight has ${weight.shape.length} axes`;
  const [, , bias] = node.inputs;
  return bias && !constants.has(bias) ? "its bias is computed" : undefined;
};

const isOne = (node: OnnxNode, key: string): boolean => floatAttr(node, key, 1) === 1;

/** How the weight of an operator is read, or why it stays in float. */
const readers: Readonly<Record<string, Read>> = {
  Conv: (node, constants) => weightProblem(node, constants) ?? { axis: 0, groups: intAttr(node, "group", 1) },
  Gemm: (node, constants) => {
    const problem = weightProblem(node, constants, 2);
    if (problem) return problem;
    if (intAttr(node, "transA", 0) !== 0) return "its input is transposed";
    if (!isOne(node, "alpha") || !isOne(node, "beta")) return "its product or bias is scaled";
    const columns = constants.get(node.inputs[1])!.shape[intAttr(node, "transB", 0) ? 0 : 1];
    const bias = constants.get(node.inputs[2] ?? "");
    if (bias && (bias.shape.length !== 1 || bias.shape[0] !== columns)) return "its bias is not one number per output";
    // Correcting the bias reads weights as [outputs, inputs].
    return intAttr(node, "transB", 0) ? { axis: 0, groups: 1 } : { axis: 1 };
  },
  MatMul: (node, constants) => weightProblem(node, constants, 2) ?? { axis: 1 },
};
