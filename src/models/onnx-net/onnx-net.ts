import { fmt, listed, must, RepmlpError } from "../../errors.ts";
import { asParameter, type BatchNormNode, batchNormTrain, readOnnx, reshape, type Value } from "../../graph/index.ts";
import { Buffer, type Initializer, Module, Parameter, tracked } from "../../nn/index.ts";
import type { OnnxDim, OnnxModel } from "../../onnx/index.ts";
import { type DType, derived, isFloating, type Shape, sizeOf, type TensorSource } from "../../tensor/index.ts";
import { findHead, type OnnxHead, withClasses } from "./head.ts";
import { openedFirstAxis, producerOf, untied } from "./prepare.ts";

export interface OnnxNetOptions {
  /**
   * Tensor that is trained on, logits `[N, classes]`. Default: the only output. Where a Softmax makes it, what goes into
   * the Softmax is taken: cross entropy wants logits.
   */
  readonly output?: string;
  /** Replaces the head by a new one for so many classes; see {@link findHead}. */
  readonly numClasses?: number;
  /** Node (or weight) that is the head. Default: the last layer with a weight before the output. */
  readonly head?: string;
  /**
   * `frozen`: batch norms go on using the running statistics of the file, their scales and biases are trained; right for
   * small data and small batches. `batch`: they use the statistics of the batch and update the running ones with the
   * file's momentum, as PyTorch's training mode does. Default `frozen`.
   */
  readonly batchNorm?: "frozen" | "batch";
  /** Size of one picture, `[C, H, W]`, where the file leaves sizes open. */
  readonly imageShape?: Shape;
  /** Which floating initializers are parameters. Default: all but single numbers. */
  readonly trainable?: (name: string, shape: Shape) => boolean;
}

/** What the weights of a net belong to: data that all copies of it share. */
class Template {
  constructor(
    /** As it is written again. */
    readonly model: OnnxModel,
    /** As it is traced: one input of any batch size, one output. */
    readonly open: OnnxModel,
    readonly input: string,
    readonly output: string,
    /** Names of the weights, in the order of the file. */
    readonly names: readonly string[],
  ) {}
}

const where = "onnx-net";

/**
 * A network from an ONNX model made elsewhere: its floating initializers are the parameters, under their names (running
 * statistics of batch norms are buffers), and it trains, evaluates and saves like any other network. {@link toOnnx} gives
 * the same model with the present weights.
 *
 * Weights that the exporter merged because their values were equal are separate again. `Dropout` nodes do nothing, as in
 * the file.
 *
 * @throws RepmlpError `onnx-net/input`, `onnx-net/output`, `onnx-net/batch`, `onnx-net/parameters`, `onnx-net/head` for a
 *   model that cannot be taken so, and what {@link readOnnx} throws
 * @example
 * const net = new OnnxNet(await openOnnx("model.onnx"), { numClasses: 10 });
 * await new Trainer(net, { data, epochs: 3, lr: 0.01 }).run();
 * await saveOnnx("tuned.onnx", net.toOnnx());
 */
export class OnnxNet extends Module {
  /** Weights in the order of {@link Template.names}. */
  private readonly weights: readonly Parameter[];
  private readonly template: Template;
  readonly batchNorm: "frozen" | "batch";
  /** Keys of the head; none where none was found and none was asked for. */
  readonly headKeys: readonly string[];
  /** Number of outputs. */
  readonly classes: number;

  constructor(file: OnnxModel, options: OnnxNetOptions = {}) {
    super();
    const { numClasses, batchNorm = "frozen" } = options;
    const whole = untied(file);
    const input = onlyInput(whole);
    const output = logitsOf(whole, chosenOutput(whole, options.output));
    const head = headOf(whole, output, options);
    const renewed = numClasses !== undefined && head ? withClasses(whole, head, numClasses) : undefined;
    const model = renewed?.model ?? whole;
    const open = openedFirstAxis({ ...model, outputs: [{ name: output, dtype: "float32" }] }, input);
    const { outputs, parameters } = readOnnx(open, {
      batch: PROBE,
      trainable: options.trainable ?? ((_, shape) => shape.length > 0 && sizeOf(shape) > 0),
      ...(options.imageShape && { inputShapes: { [input]: [PROBE, ...options.imageShape] } }),
    });
    this.classes = mustClassify(outputs.get(output)!.shape, output, numClasses);
    must(
      parameters.size > 0,
      "onnx-net/parameters",
      () =>
        `${where}: no initializer is a weight, so there is nothing to train. Weights in Constant nodes have to become initializers first; exporters and simplifiers do that.`,
      "file",
    );
    const names = [...model.initializers.keys()].filter((name) => parameters.has(name));
    const statistics = statisticsOf(open);
    const fresh = new Set(renewed && head ? head.tensors.keys() : []);
    this.template = new Template(model, open, input, output, names);
    this.weights = names.map((name) => {
      const source = parameters.get(name)!.source();
      const Kind = statistics.has(name) ? Buffer : Parameter;
      return fresh.has(name) ? withInit(source, renewed!.init) : withValues(Kind, source);
    });
    this.batchNorm = batchNorm;
    this.headKeys = head ? [...head.tensors.keys()].filter((name) => parameters.has(name)) : [];
  }

  /** Name of the tensor that {@link forward} returns. */
  get output(): string {
    return this.template.output;
  }

  /** One picture as the file takes it, `[C, H, W]`; names for sizes that it leaves open. */
  get imageShape(): readonly OnnxDim[] {
    const { open, input } = this.template;
    return open.inputs.find(({ name }) => name === input)?.shape?.slice(1) ?? [];
  }

  override *members(): Iterable<readonly [string, Parameter]> {
    for (const [i, name] of this.template.names.entries()) yield [name, this.weights[i]];
  }

  /** `[N, C, H, W]` → logits `[N, classes]`. */
  forward(x: Value): Value {
    const { open, input, output, names } = this.template;
    const { outputs } = readOnnx(open, {
      values: new Map([[input, x], ...names.map((name, i) => [name, this.weights[i].value] as const)]),
      trainable: () => false,
      ...(this.training && this.batchNorm === "batch" && { batchNorm: withBatchStatistics }),
    });
    const y = outputs.get(output)!;
    return reshape(y, y.shape.slice(0, 2));
  }

  /**
   * The model of the file with the present weights, rounded to the file's types: its nodes, names, operator set and
   * metadata; of the weights only those that were read as parameters are others.
   *
   * @param metadata  entries to be added or replaced
   */
  toOnnx(metadata: Readonly<Record<string, string>> = {}): OnnxModel {
    const { model } = this.template;
    const initializers = new Map(model.initializers);
    for (const [name, source] of this.stateDict()) initializers.set(name, cast(source, initializers.get(name)!.dtype));
    const all = { ...model.metadata, ...metadata };
    return { ...model, initializers, ...(Object.keys(all).length > 0 && { metadata: all }) };
  }
}

/** Batch size of the first look at a model: unlike 1, no size of a network. */
const PROBE = 3;

function onlyInput({ inputs }: OnnxModel): string {
  const [first, ...more] = inputs;
  must(
    first && !more.length && isFloating(first.dtype) && first.dtype !== "float64",
    "onnx-net/input",
    () =>
      `${where}: must take one input of pictures in float32, but takes ${inputs.map(({ name, dtype, shape }) => `"${name}" (${dtype} ${shape ? fmt(shape.map((d) => d || "?")) : "of any shape"})`).join(", ") || "none"}. Export the model without preprocessing and further inputs.`,
    "file",
  );
  return first.name;
}

function chosenOutput({ outputs, nodes }: OnnxModel, name: string | undefined): string {
  const names = outputs.map((o) => o.name);
  must(
    name !== undefined || names.length === 1,
    "onnx-net/output",
    () => `${where}: has ${names.length} outputs, ${listed(names)}. Say which are the logits.`,
    "usage",
  );
  const chosen = name ?? names[0];
  must(
    names.includes(chosen) || nodes.some((node) => node.outputs.includes(chosen)),
    "onnx-net/output",
    () => `${where}: there is no tensor "${chosen}". The outputs are ${listed(names)}.`,
    "usage",
  );
  return chosen;
}

/** What goes into the Softmax that makes an output, or the output itself. */
function logitsOf(model: OnnxModel, output: string): string {
  const node = producerOf(model, output);
  return node?.opType === "Softmax" && !node.domain ? logitsOf(model, node.inputs[0]) : output;
}

/** A head that was neither named nor is to be replaced may be missing. */
function headOf(model: OnnxModel, output: string, { head, numClasses }: OnnxNetOptions): OnnxHead | undefined {
  try {
    return findHead(model, output, head);
  } catch (error) {
    if (error instanceof RepmlpError && head === undefined && numClasses === undefined) return undefined;
    throw error;
  }
}

function mustClassify(shape: Shape, output: string, numClasses: number | undefined): number {
  const [batch, classes, ...rest] = shape;
  must(
    batch === PROBE,
    "onnx-net/batch",
    () =>
      `${where}: output "${output}" has shape ${fmt(shape)} for ${PROBE} pictures, so the model does not treat pictures apart. Export it with an open batch size.`,
    "file",
  );
  must(
    shape.length >= 2 && sizeOf(rest) === 1,
    "onnx-net/output",
    () =>
      `${where}: output "${output}" must be [N, classes], but is ${fmt(["N", ...shape.slice(1)])}. Choose another one.`,
    "usage",
  );
  must(
    numClasses === undefined || classes === numClasses,
    "onnx-net/head",
    () =>
      `${where}: with the new head for ${numClasses} classes output "${output}" still has ${classes}. Name the layer that decides it (head).`,
    "usage",
  );
  return classes;
}

/** Initializers that nothing but batch norms reads, as their statistics. */
function statisticsOf({ nodes }: OnnxModel): Set<string> {
  const found = new Set(nodes.flatMap((n) => (n.opType === "BatchNormalization" ? n.inputs.slice(3, 5) : [])));
  for (const { opType, inputs } of nodes)
    for (const name of opType === "BatchNormalization" ? inputs.slice(0, 3) : inputs) found.delete(name);
  return found;
}

function withValues(Kind: typeof Parameter, source: TensorSource): Parameter {
  const made = withInit(source, () => [], Kind);
  made.set(source);
  return made;
}

const withInit = ({ shape, dtype }: TensorSource, init: Initializer, Kind = Parameter): Parameter =>
  new Kind(shape, { init, dtype });

const cast = (source: TensorSource, dtype: DType): TensorSource =>
  source.dtype === dtype ? source : derived(dtype, source.shape, [source], (t) => t.cast(dtype));

/** Where the statistics are not weights of their own there is nothing to update; the node stays as it is. */
function withBatchStatistics({ x, weight, bias, mean, variance, eps, momentum }: BatchNormNode): Value | undefined {
  const [runningMean, runningVar] = [mean, variance].map((v) => asParameter(v)?.ref);
  if (!(runningMean instanceof Buffer && runningVar instanceof Buffer)) return undefined;
  return tracked(batchNormTrain(x, weight, bias, eps), { runningMean, runningVar, momentum });
}
