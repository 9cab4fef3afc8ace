import { fmt, listed, must, RepmlpError } from "../../errors.ts";
import { constantInit, type Initializer, uniform } from "../../nn/index.ts";
import { intAttr, type OnnxModel, type OnnxNode, type OnnxValueInfo } from "../../onnx/index.ts";
import { isFloating, type Shape, sizeOf, Tensor } from "../../tensor/index.ts";
import { type Axes, type AxisRule, axisRules } from "./class-axis.ts";
import { dependents, producerOf, withReshapes } from "./prepare.ts";

/** A tensor of the head: one row (or column) per class. */
export interface HeadTensor {
  readonly shape: Shape;
  /** Axis of the classes. */
  readonly axis: number;
  /** Initial values: PyTorch's, that is uniform within 1/√features for layers, and 1 and 0 for scales and shifts. */
  readonly init: Initializer;
}

/** What of a classifier in a file depends on the number of classes: all layers that turn features into the output. */
export interface OnnxHead {
  /** Its layers with a weight (or their outputs, where nodes have no name), in the order of the file. */
  readonly layers: readonly string[];
  /** Initializers by name; of each layer the weight first. */
  readonly tensors: ReadonlyMap<string, HeadTensor>;
  readonly classes: number;
  /** Reshapes that state the number of classes, and where. */
  readonly reshapes: ReadonlyMap<OnnxNode, number>;
}

/** Shapes of the tensors of a file. */
export type ShapeOf = (name: string) => Shape | undefined;

const nameOf = ({ name, outputs }: OnnxNode): string => name || outputs[0];
const described = (node: OnnxNode): string => `${node.opType} node "${nameOf(node)}"`;

/** Axis of the classes in the weight of a layer; `undefined` for nodes that cannot be one of the head. */
function classAxis({ initializers }: OnnxModel, node: OnnxNode): number | undefined {
  const weight = initializers.get(node.inputs[1] ?? "");
  if (!weight || node.domain) return undefined;
  if (node.opType === "Conv") return intAttr(node, "group", 1) === 1 ? 0 : undefined;
  if (weight.shape.length !== 2) return undefined;
  if (node.opType === "Gemm") return intAttr(node, "transB", 0) === 1 ? 0 : 1;
  return node.opType === "MatMul" ? 1 : undefined;
}

const candidates = (model: OnnxModel): string[] =>
  model.nodes
    .filter((node) => classAxis(model, node) !== undefined)
    .map(nameOf)
    .reverse();

/**
 * Finds the head of a classifier by following the axis of the classes from the output back to the weights that it comes
 * from, through everything that is added, scaled, normalized, averaged or moved on the way; or takes the layer that is
 * named (by the node or by its weight), with what is added or scaled per class behind it.
 *
 * @throws `onnx-net/head` naming the node at which the number of classes cannot be followed
 */
export function findHead(model: OnnxModel, output: string, shapeOf: ShapeOf, name?: string): OnnxHead {
  const node = name === undefined ? undefined : named(model, name);
  let found: OnnxHead;
  try {
    found = followed(model, output, shapeOf);
  } catch (error) {
    if (!(error instanceof RepmlpError) || !node) throw error;
    return alone(model, node);
  }
  return !node || found.layers.includes(nameOf(node)) ? found : alone(model, node);
}

/** One place at which the axis of the classes has been found. */
interface Place {
  readonly tensor: string;
  readonly axis: number;
  /** What reads it there. */
  readonly reader?: { readonly node: OnnxNode; readonly input: number };
  /** Bound of a weight's initial values; absent on the way from the layers to the output. */
  readonly init?: Initializer;
}

const layerOps = new Set(["Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"]);
const reshaping = new Set(["Flatten", "Reshape", "Squeeze", "Unsqueeze"]);

function refuse(why: string, model: OnnxModel): never {
  const names = listed(candidates(model));
  throw new RepmlpError(
    "onnx-net/head",
    `onnx-net: no head found that can be replaced: ${why}. ${names ? `Name the layer to replace with \`head\`, one of ${names}.` : "No layer of the file could be the head."}`,
    "usage",
  );
}

function followed(model: OnnxModel, output: string, shapeOf: ShapeOf): OnnxHead {
  const axes: Axes = { model, shapeOf };
  const classes = shapeOf(output)![1];
  const tensors = new Map<string, HeadTensor>();
  const layers = new Set<OnnxNode>();
  const reshapes = new Map<OnnxNode, number>();
  const seen = new Map<string, number>();
  const read = new Set<string>();
  const todo: Place[] = [{ tensor: output, axis: 1 }];
  for (let place = todo.pop(); place; place = todo.pop()) {
    const { tensor, axis, reader, init } = place;
    if (reader) read.add(`${model.nodes.indexOf(reader.node)}:${reader.input}`);
    const before = seen.get(tensor);
    if (before === axis) continue;
    if (before !== undefined) refuse(`the classes are axis ${before} and axis ${axis} of "${tensor}"`, model);
    seen.set(tensor, axis);
    const source = model.initializers.get(tensor);
    if (source) {
      if (!isFloating(source.dtype)) refuse(`"${tensor}" (${source.dtype}) states something for each class`, model);
      tensors.set(tensor, { shape: source.shape, axis, init: init ?? constantInit(0) });
      continue;
    }
    const node = producerOf(model, tensor);
    if (!node) refuse(`output "${output}" follows input "${tensor}" without a layer between`, model);
    const rule: AxisRule | undefined = node.domain ? undefined : axisRules.get(node.opType);
    const found = rule?.(node, axis, axes);
    if (!found) refuse(`${described(node)} lies between the layers with weights and output "${output}"`, model);
    const stored = found.some(([input]) => model.initializers.has(node.inputs[input]));
    if (layerOps.has(node.opType) && (stored || !init)) layers.add(node);
    if (reshaping.has(node.opType)) reshapes.set(node, axis);
    for (const [input, at] of found) {
      const next = node.inputs[input];
      todo.push({
        ...{ tensor: next, axis: at, reader: { node, input } },
        init: initOf(axes, classes, node, input, init),
      });
    }
  }
  mustOwn(model, tensors, read);
  if (!layers.size) refuse(`no layer with a weight makes output "${output}"`, model);
  const order = [...model.initializers.keys()];
  // In the file's order, of each layer the weight first.
  const keys = [...tensors.keys()].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const ordered = [...model.nodes.filter((n) => layers.has(n)).flatMap(({ inputs }) => inputs), ...keys];
  return {
    layers: model.nodes.filter((n) => layers.has(n)).map(nameOf),
    tensors: new Map(ordered.flatMap((key) => (tensors.has(key) ? [[key, tensors.get(key)!] as const] : []))),
    classes,
    reshapes,
  };
}

/**
 * What a tensor that a node of the head reads starts with, if it is a weight or is computed from weights alone; `before`
 * is what was found so for the node's output.
 */
function initOf(
  { model, shapeOf }: Axes,
  classes: number,
  { opType, inputs }: OnnxNode,
  input: number,
  before: Initializer | undefined,
): Initializer | undefined {
  const bound = (weight: string): Initializer => uniform(Math.sqrt(classes / sizeOf(shapeOf(weight)!)));
  const stored = model.initializers.has(inputs[input]);
  switch (opType) {
    case "Conv":
    case "ConvTranspose":
    case "Gemm":
      return bound(inputs[1]);
    case "Einsum":
    case "MatMul":
      return bound(inputs[input]);
    case "BatchNormalization":
    case "InstanceNormalization":
    case "LayerNormalization":
      return input === 0 ? before : constantInit(input === 1 || input === 4 ? 1 : 0);
    case "PRelu":
      return input === 0 ? before : constantInit(0.25);
    case "Mul":
    case "Div":
      return stored && sizeOf(shapeOf(inputs[input])!) === classes ? constantInit(1) : before;
    case "Add":
    case "Sum": {
      const layer = inputs.map((name) => producerOf(model, name)).find((n) => n && layerOps.has(n.opType));
      return stored && layer ? bound(layer.inputs[1]) : before;
    }
    default:
      return before;
  }
}

/** Other readers would go on expecting the old number of classes. */
function mustOwn(model: OnnxModel, tensors: OnnxHead["tensors"], read: ReadonlySet<string>): void {
  for (const [name, { shape }] of tensors) {
    const others = model.nodes.filter((node, i) =>
      node.inputs.some((input, at) => input === name && !read.has(`${i}:${at}`)),
    );
    must(
      !others.length,
      "onnx-net/head",
      () =>
        `onnx-net: the weight "${name}" ${fmt(shape)} of the head is also used by ${listed(others.map(nameOf))}. Such a head cannot be replaced.`,
      "file",
    );
  }
}

/** The layer that is named by its node or weight. */
function named(model: OnnxModel, name: string): OnnxNode {
  const found = model.nodes.find((node) => nameOf(node) === name || node.inputs[1] === name);
  const names = listed(candidates(model)) || "no layer that could be the head";
  if (!found)
    throw new RepmlpError(
      "onnx-net/head",
      `onnx-net: there is no node or weight "${name}". The file has ${names}.`,
      "usage",
    );
  must(
    classAxis(model, found) !== undefined,
    "onnx-net/head",
    () =>
      `onnx-net: ${described(found)} cannot be the head: it is no Gemm, MatMul or ungrouped Conv with a weight of the file. Name another one of ${names}.`,
    "usage",
  );
  return found;
}

/** One layer with its bias, and what is added or scaled per class behind it, as far as that can be seen from sizes. */
function alone(model: OnnxModel, node: OnnxNode): OnnxHead {
  const [, weight, ownBias = ""] = node.inputs;
  const { shape } = model.initializers.get(weight)!;
  const axis = classAxis(model, node)!;
  const classes = shape[axis];
  const init = uniform(Math.sqrt(classes / sizeOf(shape)));
  const tensors = new Map<string, HeadTensor>([[weight, { shape, axis, init }]]);
  const take = (name: string, start: Initializer): void => {
    const source = model.initializers.get(name);
    const at = source?.shape.indexOf(classes) ?? -1;
    if (source && at >= 0 && isFloating(source.dtype) && sizeOf(source.shape) === classes && !tensors.has(name))
      tensors.set(name, { shape: source.shape, axis: at, init: start });
  };
  take(ownBias, init);
  const behind = dependents(model, node.outputs[0]);
  for (const { opType, inputs } of behind)
    for (const [i, name] of inputs.entries()) {
      const start = startBehind[opType]?.(i);
      if (start !== undefined) take(name, opType === "Add" ? init : constantInit(start));
    }
  const read = new Set([node, ...behind].flatMap((n) => n.inputs.map((_, i) => `${model.nodes.indexOf(n)}:${i}`)));
  mustOwn(model, tensors, read);
  return { layers: [nameOf(node)], tensors, classes, reshapes: new Map() };
}

/** Initial value of what stands behind a head, by operator and input. */
const startBehind: Readonly<Record<string, (input: number) => number>> = {
  Add: () => 0,
  Sub: () => 0,
  Mul: () => 1,
  Div: () => 1,
  BatchNormalization: (input) => (input === 1 || input === 4 ? 1 : 0),
};

/**
 * The model with its head for `classes` classes: shapes of the head's tensors, targets of Reshapes and sizes of outputs
 * behind it. The head's values are placeholders.
 */
export function withClasses(model: OnnxModel, head: OnnxHead, classes: number): OnnxModel {
  const { tensors, reshapes } = head;
  const first = model.nodes.findIndex(({ inputs }) => inputs.some((name) => tensors.has(name)));
  const starts = model.nodes[first]?.outputs ?? [];
  const behind = starts.flatMap((name) => dependents(model, name));
  const resized = withReshapes(model, new Set([...reshapes.keys(), ...behind]), (target, node) => {
    const at = reshapes.get(node);
    return target.map((d, i) => ((at === undefined ? i > 0 : i === at) && d === head.classes ? classes : d));
  });
  const initializers = new Map(resized.initializers);
  for (const [name, { shape, axis }] of tensors)
    initializers.set(name, Tensor.zeros(initializers.get(name)!.dtype, shape.with(axis, classes)));
  const made = new Set([...starts, ...behind.flatMap(({ outputs }) => outputs)]);
  const open = (info: OnnxValueInfo): OnnxValueInfo =>
    made.has(info.name) && info.shape
      ? { ...info, shape: info.shape.map((d, i) => (i > 0 && d === head.classes ? classes : d)) }
      : info;
  const valueInfo = model.valueInfo?.filter(({ name }) => !made.has(name));
  return { ...resized, initializers, outputs: model.outputs.map(open), ...(valueInfo && { valueInfo }) };
}
