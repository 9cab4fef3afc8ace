import { fmt, listed, must, RepmlpError } from "../errors.ts";
import type { OnnxDim, OnnxModel, OnnxNode } from "../onnx/index.ts";
import { type DType, isFloating, type Shape, sizeOf, type TensorSource } from "../tensor/index.ts";
import { inLayer } from "./path.ts";
import {
  type BatchNormNode,
  type ConvNode,
  describe,
  knownTensor,
  NodeContext,
  simplified,
  type Tensors,
  withReadingLimit,
} from "./read/context.ts";
import { readers } from "./read/readers.ts";
import { inType, widened } from "./read/widen.ts";
import { constant, input, type ParameterRef, parameter, type Value } from "./value.ts";

export interface ReadOnnxOptions {
  /** Shapes of inputs by name, where the file leaves sizes open or another size is wanted. */
  readonly inputShapes?: Readonly<Record<string, Shape>>;
  /** Sizes by the names that the file gives them, e.g. `{ sequence: 128 }`. */
  readonly dims?: Readonly<Record<string, number>>;
  /** Size of an open first axis. */
  readonly batch?: number;
  /**
   * Which floating initializers become parameters; the others become constants. Default: all but single numbers of
   * rank 0, which exporters leave where a formula has a number.
   */
  readonly trainable?: (name: string, shape: Shape) => boolean;
  /**
   * Computes what the file has in float64 in float32, as training does. Sizes and formulas, which depend on nothing that
   * is fed or trained, keep their type.
   */
  readonly single?: boolean;
  /** Values for inputs and initializers by name, in place of leaves made for them: a graph of one's own to build on. */
  readonly values?: ReadonlyMap<string, Value>;
  /** Another reading of batch norms (with the statistics of the batch); `undefined` leaves one as it is. */
  readonly batchNorm?: (node: BatchNormNode) => Value | undefined;
  /** Another reading of convolutions (with branches beside them); `undefined` leaves one as it is. */
  readonly conv?: (node: ConvNode) => Value | undefined;
}

/** A weight of the file; its name is that of the initializer. */
export interface OnnxParameter extends ParameterRef {
  readonly name: string;
  /** The weight in the graph, to differentiate by. */
  readonly value: Value;
}

/** An ONNX model as a graph of our ops. */
export interface OnnxGraph {
  readonly inputs: ReadonlyMap<string, Value>;
  readonly outputs: ReadonlyMap<string, Value>;
  /** Those that the outputs depend on, running statistics of batch norms among them. */
  readonly parameters: ReadonlyMap<string, OnnxParameter>;
  /** Names of the parameters, as `lower` takes them. */
  readonly names: ReadonlyMap<ParameterRef, string>;
  /** Whether something that the file has in float64 is computed in float32; see {@link ReadOnnxOptions.single}. */
  readonly narrowed: boolean;
  /** Shape of a tensor of the file that the outputs depend on. */
  shapeOf(name: string): Shape | undefined;
}

/** Values of one output, beside some times what the file stores: of one that is computed from what is fed, … */
const VALUE_LIMIT = 2 ** 31;

/** … and of one that is not. Real models expand constants to the size of a picture at most. */
const CONSTANT_LIMIT = 2 ** 26;

/** Operator set versions whose meanings the readers know. */
const opsets = [7, 22] as const;

/**
 * Reads an ONNX model as a graph of this library's ops, so that it can be differentiated, trained, merged and lowered
 * again, whoever made it. Shape arithmetic is computed here: every shape in the graph is known. Nodes keep their names
 * as layer paths. Half-precision tensors are read as float32.
 *
 * @throws RepmlpError of kind `file`: `read-onnx/op` names the operators (and nodes) that are not supported,
 *   `read-onnx/shape` the inputs whose sizes are open, `read-onnx/dynamic` a node whose shape depends on what is fed
 */
export function readOnnx(model: OnnxModel, options: ReadOnnxOptions = {}): OnnxGraph {
  const [first, last] = opsets;
  must(
    model.opset >= first && model.opset <= last,
    "read-onnx/opset",
    () => `read-onnx: operator set ${model.opset} is not supported, only ${first} to ${last}. Convert the model.`,
    "file",
  );
  const nodes = neededNodes(model);
  mustKnow(nodes);
  const reading = new Reading(model, options);
  withReadingLimit(() => {
    for (const node of nodes) reading.read(node);
  });
  const outputs = new Map(model.outputs.map(({ name }) => [name, reading.output(name)]));
  const { inputs, parameters } = reading;
  return {
    inputs,
    outputs,
    parameters,
    names: new Map([...parameters].map(([name, ref]) => [ref, name])),
    narrowed: reading.narrowed,
    shapeOf: (name) => reading.shapeOf(name),
  };
}

class Reading implements Tensors {
  readonly inputs = new Map<string, Value>();
  readonly parameters = new Map<string, OnnxParameter>();
  private readonly values: Map<string, Value>;
  private readonly used: ReadonlySet<string>;
  /** Values that nothing fed goes into; the runtime computes them before it starts. */
  private readonly constants = new Set<string>();
  /** Number of values in the file. */
  private readonly stored: number;
  /** Whether something in float64 is computed in float32. */
  narrowed = false;

  constructor(
    private readonly model: OnnxModel,
    private readonly options: ReadOnnxOptions,
  ) {
    this.used = new Set([...model.nodes.flatMap((n) => n.inputs), ...model.outputs.map(({ name }) => name)]);
    this.values = new Map(options.values);
    this.stored = [...model.initializers.values()].reduce((n, { shape }) => n + sizeOf(shape), 0);
    for (const { name, dtype, shape } of model.inputs) {
      const given = this.values.get(name);
      const wanted = given ? { inputShapes: { [name]: given.shape } } : options;
      const size = inputShape(name, shape, wanted);
      this.inputs.set(name, given ?? input(name, size, this.computed(dtype, [name])));
    }
  }

  initializer(name: string): TensorSource | undefined {
    return this.model.initializers.get(name);
  }

  shapeOf(name: string): Shape | undefined {
    return (this.values.get(name) ?? this.inputs.get(name) ?? this.initializer(name))?.shape;
  }

  /** Initializers become values when a node first reads them as such. */
  value(name: string): Value | undefined {
    const known = this.values.get(name) ?? this.inputs.get(name);
    const source = known ? undefined : this.initializer(name);
    if (!source) return known;
    const made = this.weight(name, source);
    this.values.set(name, made);
    return made;
  }

  /** Sizes and formulas keep their type: what depends on nothing that is fed or trained is computed here. */
  computed(dtype: DType, inputs: readonly string[]): DType {
    if (!this.options.single || dtype !== "float64") return widened(dtype);
    if (inputs.every((name) => name === "" || this.isFixed(name))) return dtype;
    this.narrowed = true;
    return "float32";
  }

  private isFixed(name: string): boolean {
    const value = this.values.get(name) ?? this.inputs.get(name);
    if (value) return knownTensor(value) !== undefined;
    const source = this.initializer(name);
    return source !== undefined && !this.isTrainable(name, source);
  }

  private isTrainable(name: string, { dtype, shape }: TensorSource): boolean {
    const { trainable = () => shape.length > 0 } = this.options;
    return isFloating(dtype) && trainable(name, shape);
  }

  private weight(name: string, source: TensorSource): Value {
    if (!isFloating(source.dtype)) return constant(source.readSync());
    const fixed = inType(source, widened(source.dtype));
    if (!this.isTrainable(name, source)) return constant(fixed.shape.length ? fixed : fixed.readSync());
    const wide = inType(source, this.computed(source.dtype, [name]));
    const ref = { dtype: wide.dtype, shape: wide.shape, source: () => wide };
    const value = parameter(ref);
    // The leaf knows the parameter by identity, so it is the same object that carries the value.
    this.parameters.set(name, Object.assign(ref, { name, value }));
    return value;
  }

  read(node: OnnxNode): void {
    const { batchNorm, conv } = this.options;
    const context = new NodeContext(node, this.model.opset, this, this.used, batchNorm, conv);
    const made = inLayer(node.name || node.outputs[0], () => orDamaged(context));
    const list = [made].flat() as readonly Value[];
    this.mustBeSane(context, list);
    for (const [i, name] of node.outputs.entries())
      if (name !== "" && list[i]) this.values.set(name, simplified(list[i]));
  }

  /** Nothing is computed here, but the runtime would: a few bytes of a file can ask for any size. */
  private mustBeSane(context: NodeContext, made: readonly Value[]): void {
    const { node } = context;
    const isConstant = node.inputs.every((name) => name === "" || this.constants.has(name) || this.initializer(name));
    if (isConstant) for (const name of node.outputs) this.constants.add(name);
    const limit = (isConstant ? CONSTANT_LIMIT : VALUE_LIMIT) + 4 * this.stored;
    for (const { shape } of made)
      if (!(sizeOf(shape) <= limit))
        context.fail("size", `its output ${fmt(shape)} has ${sizeOf(shape)} values, at most ${limit} are supported.`);
  }

  output(name: string): Value {
    const value = this.value(name);
    must(
      value,
      "read-onnx/output",
      () => `read-onnx: no node makes the output "${name}". The file is damaged.`,
      "file",
    );
    return value;
  }
}

/** Readers may take for granted what the standard demands; where a file breaks it, that is the file's fault. */
function orDamaged(context: NodeContext): Value | readonly Value[] {
  try {
    return readers.get(context.node.opType)!(context);
  } catch (cause) {
    if (cause instanceof RepmlpError) throw cause;
    return context.fail("damaged", `it cannot be read (${String(cause)}). The file is damaged.`, cause);
  }
}

/** The nodes that the outputs depend on, in the file's order. */
function neededNodes({ nodes, outputs }: OnnxModel): OnnxNode[] {
  const needed = new Set(outputs.map(({ name }) => name));
  return nodes
    .toReversed()
    .filter((node) => {
      const used = node.outputs.some((name) => needed.has(name));
      if (used) for (const name of node.inputs) needed.add(name);
      return used;
    })
    .reverse();
}

/** All unknown operators at once, so that one attempt tells whether a model can be read. */
function mustKnow(nodes: readonly OnnxNode[]): void {
  const unknown = nodes.filter(({ opType, domain }) => domain || !readers.has(opType));
  const kinds = new Map(unknown.map((node) => [`${node.domain ?? ""}.${node.opType}`, describe(node)]));
  must(
    !unknown.length,
    "read-onnx/op",
    () =>
      `read-onnx: no op for ${listed([...kinds.values()])}. Replace it before exporting, or have the exporter decompose it.`,
    "file",
  );
}

function inputShape(
  name: string,
  shape: readonly OnnxDim[] | undefined,
  { inputShapes = {}, dims = {}, batch }: ReadOnnxOptions,
): Shape {
  const given = inputShapes[name];
  if (given) {
    must(
      !shape || (shape.length === given.length && shape.every((d, i) => typeof d === "string" || d === given[i])),
      "read-onnx/shape",
      () =>
        `read-onnx: input "${name}" is ${fmt(shape!.map((d) => d || "?"))} in the file, which ${fmt(given)} does not fit.`,
      "usage",
    );
    return given;
  }
  const sizes = shape?.map((d, i) => (typeof d === "number" ? d : (dims[d] ?? (i === 0 ? batch : undefined))));
  must(
    sizes?.every((d) => d !== undefined),
    "read-onnx/shape",
    () =>
      `read-onnx: input "${name}" has ${shape ? `open sizes: ${fmt(shape.map((d) => d || "?"))}` : "no shape in the file"}. ` +
      `Pass inputShapes: { "${name}": [...] }${shape ? ", or dims or batch" : ""}.`,
    "usage",
  );
  return sizes as Shape;
}
