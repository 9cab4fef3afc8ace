import { fmt, listed, must, RepmlpError } from "../../errors.ts";
import { uniform } from "../../nn/index.ts";
import { intAttr, type OnnxModel, type OnnxNode, type OnnxValueInfo } from "../../onnx/index.ts";
import { type Shape, sizeOf, Tensor } from "../../tensor/index.ts";
import { dependents, producerOf, withReshapes } from "./prepare.ts";

/** The last layer of a classifier in a file: what turns features into one number per class. */
export interface OnnxHead {
  /** Name of the node, or of its output where it has none. */
  readonly name: string;
  readonly node: OnnxNode;
  /** Initializers with one row (or column) per class, by name: the weight first, then biases. */
  readonly tensors: ReadonlyMap<string, { readonly shape: Shape; readonly axis: number }>;
  readonly classes: number;
  /** Values that go into each class. */
  readonly features: number;
}

/** What may stand between the head and the output, without weights of its own. */
const passing = new Set(
  (
    "Softmax LogSoftmax Identity Flatten Reshape Squeeze Unsqueeze Dropout Relu Clip Sigmoid Cast Transpose " +
    "GlobalAveragePool AveragePool ReduceMean Add Mul Div"
  ).split(" "),
);

const nameOf = ({ name, outputs }: OnnxNode): string => name || outputs[0];

/** Axis of the classes in the weight of a node; `undefined` for nodes that cannot be a head. */
function classAxis({ initializers }: OnnxModel, node: OnnxNode): number | undefined {
  const weight = initializers.get(node.inputs[1] ?? "");
  if (!weight || node.domain) return undefined;
  if (node.opType === "Conv") return intAttr(node, "group", 1) === 1 ? 0 : undefined;
  if (weight.shape.length !== 2) return undefined;
  if (node.opType === "Gemm") return intAttr(node, "transB", 0) === 1 ? 0 : 1;
  return node.opType === "MatMul" ? 1 : undefined;
}

/**
 * Finds the head of a classifier: the last Gemm, MatMul or Conv with a weight of the file before `output`, or the one
 * that is named (by the node or by its weight).
 *
 * @throws `onnx-net/head` when there is none, naming what stands there instead
 */
export function findHead(model: OnnxModel, output: string, name?: string): OnnxHead {
  const node = name === undefined ? lastLayer(model, output) : named(model, name);
  const axis = classAxis(model, node);
  must(
    axis !== undefined,
    "onnx-net/head",
    () =>
      `onnx-net: ${node.opType} node "${nameOf(node)}" cannot be the head: it is no Gemm, MatMul or ungrouped Conv with a weight of the file. Name another one of ${listed(candidates(model))}.`,
    "usage",
  );
  const weight = model.initializers.get(node.inputs[1])!;
  const classes = weight.shape[axis];
  const tensors = new Map([[node.inputs[1], { shape: weight.shape, axis }]]);
  const behind = dependents(model, node.outputs[0]);
  const biases = [node.inputs[2] ?? "", ...behind.flatMap((n) => (n.opType === "Add" ? n.inputs : []))];
  for (const bias of biases) {
    const shape = model.initializers.get(bias)?.shape;
    const at = shape?.indexOf(classes) ?? -1;
    if (shape && at >= 0 && sizeOf(shape) === classes) tensors.set(bias, { shape, axis: at });
  }
  return { name: nameOf(node), node, tensors, classes, features: sizeOf(weight.shape) / classes };
}

const candidates = (model: OnnxModel): string[] =>
  model.nodes
    .filter((node) => classAxis(model, node) !== undefined)
    .map(nameOf)
    .reverse();

function named(model: OnnxModel, name: string): OnnxNode {
  const found = model.nodes.find((node) => nameOf(node) === name || node.inputs[1] === name);
  if (found) return found;
  throw new RepmlpError(
    "onnx-net/head",
    `onnx-net: there is no node or weight "${name}". The file has ${listed(candidates(model)) || "no layer that could be the head"}.`,
    "usage",
  );
}

/** Goes back from the output along the first input, or from an addition along the one that is no weight. */
function lastLayer(model: OnnxModel, output: string): OnnxNode {
  for (let at = output; ; ) {
    const node = producerOf(model, at);
    if (node && classAxis(model, node) !== undefined) return node;
    if (!node || !passing.has(node.opType) || node.domain)
      throw new RepmlpError(
        "onnx-net/head",
        `onnx-net: no head found: before output "${output}" stands ${node ? `${node.opType} node "${nameOf(node)}"` : `"${at}", which no node makes`}. Name the layer to replace (head), one of ${listed(candidates(model)) || "none"}.`,
        "usage",
      );
    at = node.inputs.find((input) => !model.initializers.has(input)) ?? node.inputs[0];
  }
}

/** A head for another number of classes. */
export interface NewHead {
  readonly model: OnnxModel;
  /** Initial values of its tensors: PyTorch's for linear layers and convolutions, uniform within 1/√features. */
  readonly init: ReturnType<typeof uniform>;
}

/**
 * The model with its head for `classes` classes: shapes of the head's tensors, targets of Reshapes and sizes of outputs
 * behind it. The head's values are placeholders.
 *
 * @throws `onnx-net/head` when other nodes use the head's weight as well
 */
export function withClasses(model: OnnxModel, head: OnnxHead, classes: number): NewHead {
  const [weight] = head.tensors.keys();
  const users = model.nodes.filter(({ inputs }) => inputs.includes(weight));
  must(
    users.length === 1,
    "onnx-net/head",
    () =>
      `onnx-net: the weight "${weight}" ${fmt(head.tensors.get(weight)!.shape)} of the head is also used by ${listed(users.filter((n) => n !== head.node).map(nameOf))}. Such a head cannot be replaced.`,
    "file",
  );
  const behind = dependents(model, head.node.outputs[0]);
  const resized = withReshapes(model, behind, (target) =>
    target.map((d, i) => (i > 0 && d === head.classes ? classes : d)),
  );
  const initializers = new Map(resized.initializers);
  for (const [name, { shape, axis }] of head.tensors)
    initializers.set(name, Tensor.zeros(initializers.get(name)!.dtype, shape.with(axis, classes)));
  const made = new Set([...head.node.outputs, ...behind.flatMap(({ outputs }) => outputs)]);
  const open = (info: OnnxValueInfo): OnnxValueInfo =>
    made.has(info.name) && info.shape
      ? { ...info, shape: info.shape.map((d, i) => (i > 0 && d === head.classes ? classes : d)) }
      : info;
  const valueInfo = model.valueInfo?.filter(({ name }) => !made.has(name));
  return {
    model: { ...resized, initializers, outputs: model.outputs.map(open), ...(valueInfo && { valueInfo }) },
    init: uniform(1 / Math.sqrt(head.features)),
  };
}
