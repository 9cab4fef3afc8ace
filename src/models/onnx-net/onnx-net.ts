import { Compactor, type ConvBranches, type MakeBranches, withBranches } from "../../blocks/index.ts";
import { fmt, listed, must, RepmlpError } from "../../errors.ts";
import {
  add,
  asChannelShape,
  asParameter,
  type BatchNormNode,
  batchNorm,
  batchNormTrain,
  type ConvNode,
  conv2d,
  type OnnxGraph,
  type Pair,
  readOnnx,
  reshape,
  type Value,
} from "../../graph/index.ts";
import {
  Buffer,
  cloneModule,
  cloneWith,
  type Initializer,
  Module,
  Parameter,
  type ResizedShapes,
  tracked,
} from "../../nn/index.ts";
import type { OnnxDim, OnnxModel } from "../../onnx/index.ts";
import {
  HostAlgebra,
  type KernelAlgebra,
  type Merge,
  type NamedTensors,
  type Reparameterizable,
} from "../../reparam/index.ts";
import { type DType, derived, isFloating, type Shape, sizeOf, Tensor, type TensorSource } from "../../tensor/index.ts";
import { type CompactorPlace, compactorPlaces, foldedPlace } from "./compactors.ts";
import { findHead, type OnnxHead, type ShapeOf, withClasses } from "./head.ts";
import { logitsOf, mustBeLogits } from "./logits.ts";
import {
  groupsAfter,
  openedFirstAxis,
  untied,
  type WithWeights,
  withGroups,
  withSizes,
  withWeights,
} from "./prepare.ts";

export interface OnnxNetOptions {
  /**
   * Tensor that is trained on, logits `[N, classes]`. Default: the only output. Where a Softmax makes it, what goes into
   * the Softmax is taken: cross entropy wants logits.
   */
  readonly output?: string;
  /** Replaces the head by a new one for so many classes: all layers that make the output and depend on that number. */
  readonly numClasses?: number;
  /** Node (or weight) that is the head, where the number of classes cannot be followed from the output to the layers. */
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

/** A convolution of the file; without the picture that it gets. */
type Conv = Omit<ConvNode, "x">;

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
    readonly convs: readonly Conv[],
  ) {}
}

const where = "onnx-net";

/**
 * A network from an ONNX model made elsewhere: its floating initializers, and the weights that it has in `Constant` nodes,
 * are the parameters under their names (running statistics of batch norms are buffers), and it trains, evaluates and saves like any other network. {@link toOnnx} gives
 * the same model with the present weights.
 *
 * Weights that the exporter merged because their values were equal are separate again. `Dropout` nodes do nothing, as in
 * the file. Everything is computed in float32, whatever types the file has, and written in those again.
 *
 * @throws RepmlpError `onnx-net/input`, `onnx-net/size`, `onnx-net/output`, `onnx-net/logits`, `onnx-net/batch`,
 *   `onnx-net/parameters`, `onnx-net/head` for a model that cannot be taken so, and what {@link readOnnx} throws (models in
 *   training mode, operators that are not known)
 * @example
 * const net = new OnnxNet(await openOnnx("model.onnx"), { numClasses: 10 });
 * await new Trainer(net, { data, epochs: 3, lr: 0.01 }).run();
 * await saveOnnx("tuned.onnx", net.toOnnx());
 */
export class OnnxNet extends Module implements Reparameterizable {
  /** Weights in the order of {@link Template.names}. */
  private readonly weights: readonly Parameter[];
  private readonly template: Template;
  /** What stands beside convolutions, by the names of their weights; see {@link replaceConvs}. */
  private readonly branches: Readonly<Record<string, ConvBranches>> = {};
  /** ResRep's, while it trains, by the names of the convolutions' weights; see {@link withCompactors}. */
  private readonly compactors: Readonly<Record<string, Compactor>> = {};
  readonly batchNorm: "frozen" | "batch";
  /** Keys of the head; none where none was found and none was asked for. */
  readonly headKeys: readonly string[];
  /** Number of outputs. */
  readonly classes: number;

  /**
   * What a user should know of the file: what is not trained although it looks like weights, what is computed in another
   * type. Sentences without their stop.
   */
  readonly remarks: readonly string[];

  constructor(file: OnnxModel, options: OnnxNetOptions = {}) {
    super();
    const { numClasses, batchNorm = "frozen" } = options;
    const { model: whole, constants } = weightsOf(file);
    const input = onlyInput(whole);
    const chosen = chosenOutput(whole, options.output);
    const output = logitsOf(whole, chosen);
    mustBeLogits(whole, output);
    const size = imageSize(whole, input, options.imageShape);
    const before = read(whole, { input, output, size, trainable: options.trainable });
    const classes = mustClassify(before.graph.outputs.get(output)!.shape, output);
    const head = headOf(whole, output, before.graph.shapeOf, options);
    const after = head && numClasses !== undefined ? replaced(whole, head, numClasses, { ...before, output }) : before;
    this.classes = after === before ? classes : numClasses!;
    const { model, open } = after;
    const { parameters } = after.graph;
    must(
      parameters.size > 0,
      "onnx-net/parameters",
      () => `${where}: no layer has a weight in the file, so there is nothing to train.`,
      "file",
    );
    const names = [...model.initializers.keys()].filter((name) => parameters.has(name));
    const statistics = statisticsOf(open);
    const fresh = after === before ? undefined : head?.tensors;
    this.template = new Template(model, open, input, output, names, after.convs);
    this.weights = names.map((name) => {
      const source = parameters.get(name)!.source();
      const Kind = statistics.has(name) ? Buffer : Parameter;
      const made = fresh?.get(name);
      return made ? withInit(source, made.init, Kind) : withValues(Kind, source);
    });
    this.batchNorm = batchNorm;
    this.headKeys = head ? [...head.tensors.keys()].filter((name) => parameters.has(name)) : [];
    this.remarks = remarksOn(after.graph, constants);
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

  override *members(): ReturnType<Module["members"]> {
    for (const [i, name] of this.template.names.entries()) yield [name, this.weights[i]];
    for (const [weight, branches] of Object.entries(this.branches)) yield [`${layerOf(weight)}.branches`, branches];
    for (const [weight, compactor] of Object.entries(this.compactors))
      yield [`${layerOf(weight)}.compactor`, compactor];
  }

  /** The file's nodes take over what weights of other shapes mean: groups of depthwise convolutions, targets of Reshapes. */
  override afterResize(before: this, after: ResizedShapes): object {
    const { model, open, input, output, names, convs } = this.template;
    const shapes = (net: OnnxNet): ReadonlyMap<string, Shape> =>
      new Map(names.map((name, i) => [name, net.weights[i].shape]));
    const groupsOf = groupsAfter(shapes(before), shapes(this));
    // Shapes of values in between that the file notes for viewers hold no longer.
    const change = ({ valueInfo: _, ...m }: OnnxModel): OnnxModel => {
      const initializers = new Map(m.initializers);
      for (const [i, name] of names.entries())
        initializers.set(name, cast(this.weights[i].source(), initializers.get(name)!.dtype));
      return withSizes(withGroups({ ...m, initializers }, groupsOf), after);
    };
    const own = convs.map((conv) => ({ ...conv, groups: groupsOf(conv.weight, conv.groups) }));
    return { template: new Template(change(model), change(open), input, output, names, own) };
  }

  /** `[N, C, H, W]` → logits `[N, classes]`. */
  forward(x: Value): Value {
    const { open, input, output, names } = this.template;
    const places = this.compactorPlaces();
    /** What convolutions make whose norms come first. */
    const waiting = new Map<Value, Compactor>();
    const withStatistics = this.training && this.batchNorm === "batch" ? withBatchStatistics : () => undefined;
    const { outputs } = readOnnx(open, {
      single: true,
      values: new Map([[input, x], ...names.map((name, i) => [name, this.weights[i].value] as const)]),
      trainable: () => false,
      batchNorm: (node) => {
        const y = withStatistics(node);
        const compactor = waiting.get(node.x);
        if (!compactor) return y;
        return compactor.forward(y ?? batchNorm(node.x, node.weight, node.bias, node.mean, node.variance, node.eps));
      },
      conv: (node) => {
        const compactor = this.compactors[node.weight];
        if (!compactor) return this.branchedConv(node);
        const y = this.plainConv(node);
        if (!places.get(node.weight)?.norm) return compactor.forward(y);
        waiting.set(y, compactor);
        return y;
      },
    });
    const y = outputs.get(output)!;
    return reshape(y, y.shape.slice(0, 2));
  }

  private plainConv({ x, weight, bias, ...options }: ConvNode): Value {
    const y = conv2d(x, this.weight(weight).value, options);
    return bias === undefined ? y : add(y, asChannelShape(this.weight(bias).value, 4));
  }

  private branchedConv(node: ConvNode): Value | undefined {
    const branches = this.branches[node.weight];
    return branches && add(this.plainConv(node), branches.forward(node.x));
  }

  private weight(name: string): Parameter {
    return this.weights[this.template.names.indexOf(name)];
  }

  /** A copy with branches beside its convolutions; how {@link replaceConvs} treats it. */
  withBranches(make: MakeBranches): OnnxNet {
    const { convs, names, model } = this.template;
    const users = model.nodes.flatMap((node) => node.inputs);
    const branches: Record<string, ConvBranches> = { ...this.branches };
    for (const { weight, bias, groups, ...sizes } of convs) {
      const reason = branches[weight]
        ? "has branches already"
        : [weight, bias].some((name) => name !== undefined && !names.includes(name))
          ? "its weights are not trained"
          : users.filter((name) => name === weight).length > 1
            ? "other layers have the same weights"
            : undefined;
      const [outChannels, perGroup, ...kernel] = model.initializers.get(weight)?.shape ?? [1, 1, 1, 1];
      const kernelSize = kernel as unknown as Pair;
      const place = { ...sizes, groups, inChannels: perGroup * groups, outChannels, kernelSize };
      const made = make(layerOf(weight), place, reason);
      if (made) branches[weight] = made.train(this.training);
    }
    return Object.assign(cloneWith(this as OnnxNet, {}), { branches });
  }

  /** Where compactors can stand, by the names of the convolutions' weights; of those without branches. */
  compactorPlaces(): ReadonlyMap<string, CompactorPlace> {
    const { model, convs, names } = this.template;
    const plain = convs.map(({ weight }) => weight).filter((weight) => !this.branches[weight]);
    return compactorPlaces(model, plain, names);
  }

  /**
   * A copy with ResRep's compactors behind convolutions and their batch norms, the identity at first. Keys
   * `<layer>.compactor.pwc.weight`.
   *
   * @param weights  names of the convolutions' weights, of {@link compactorPlaces}
   * @throws `resrep/layer` for one where none can stand
   */
  withCompactors(weights: readonly string[]): OnnxNet {
    const places = this.compactorPlaces();
    const wrong = weights.find((weight) => !places.has(weight));
    must(
      wrong === undefined,
      "resrep/layer",
      () =>
        `resrep: "${wrong}" is no weight of a convolution of one group that is used once, so that no compactor can follow. There are ${listed([...places.keys()])}.`,
      "usage",
    );
    const compactors = Object.fromEntries(
      weights.map((weight) => [weight, new Compactor(this.weight(weight).shape[0]).train(this.training)]),
    );
    return Object.assign(cloneModule(this as OnnxNet), { compactors });
  }

  /** A copy with the compactors taken into convolutions and batch norms: in evaluation mode it computes the same. */
  withoutCompactors(): OnnxNet {
    const places = this.compactorPlaces();
    const made: OnnxNet = cloneModule(this as OnnxNet);
    Object.assign(made, { compactors: {} });
    for (const [weight, compactor] of Object.entries(this.compactors)) {
      const q = compactor.pwc.weight.data.toFloat64();
      const folded = foldedPlace(places.get(weight)!, (name) => this.weight(name).data.toFloat64(), q);
      for (const [name, values] of Object.entries(folded)) {
        const parameter = made.weight(name);
        parameter.set(Tensor.of(parameter.dtype, parameter.shape, values));
      }
    }
    return made;
  }

  /** Weights and biases of convolutions with the branches beside them. */
  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return Object.fromEntries(
      this.template.convs.flatMap(({ weight, bias }) => {
        const branches = this.branches[weight];
        if (!branches) return [];
        const own = {
          weight: k.of(this.weight(weight)),
          bias: bias === undefined ? undefined : k.of(this.weight(bias)),
        };
        const merged = withBranches(k, own, branches);
        return [
          [weight, merged.weight],
          [bias ?? newBias(this.template.model, weight), merged.bias],
        ];
      }),
    );
  }

  merge(): Merge {
    if (Object.keys(this.compactors).length) {
      const whole = this.withoutCompactors();
      const merge = whole.merge();
      return { merged: "merged" in merge ? merge.merged : whole, note: "compactors into the convolutions before them" };
    }
    const count = Object.keys(this.branches).length;
    if (count === 0) return { kept: "already merged" };
    const merged = Object.entries(this.equivalent(new HostAlgebra())).map(
      ([name, tensor]) => [name, Parameter.from(tensor.source())] as const,
    );
    const { names, ...template } = this.template;
    const values = new Map([...names.map((name, i) => [name, this.weights[i]] as const), ...merged]);
    const whole = { ...template, names: [...values.keys()] };
    for (const { weight, bias } of template.convs)
      if (this.branches[weight] && bias === undefined) giveBias(whole, weight);
    const { model, open, input, output, convs } = whole;
    return {
      merged: Object.assign(cloneWith(this as OnnxNet, {}), {
        weights: [...values.values()],
        template: new Template(model, open, input, output, whole.names, convs),
        branches: {},
      }),
      note: `branches into the ${count} convolutions beside them`,
    };
  }

  /**
   * The model of the file with the present weights, rounded to the file's types: its nodes, names, operator set and
   * metadata; of the weights only those that were read as parameters are others.
   *
   * Branches beside convolutions and compactors behind them are merged into them.
   *
   * @param metadata  entries to be added or replaced
   */
  toOnnx(metadata: Readonly<Record<string, string>> = {}): OnnxModel {
    const merge = this.merge();
    if ("merged" in merge) return (merge.merged as OnnxNet).toOnnx(metadata);
    const { model } = this.template;
    const initializers = new Map(model.initializers);
    for (const [name, source] of this.stateDict()) initializers.set(name, cast(source, initializers.get(name)!.dtype));
    const all = { ...model.metadata, ...metadata };
    return { ...model, initializers, ...(Object.keys(all).length > 0 && { metadata: all }) };
  }
}

const layerOf = (weight: string): string => weight.replace(/\.weight$/, "");

/** Name of the bias that a convolution gets which had none. */
function newBias({ initializers }: OnnxModel, weight: string): string {
  let name = `${layerOf(weight)}.bias`;
  while (initializers.has(name)) name += "_";
  return name;
}

/** Gives the convolution of a weight a bias. */
function giveBias(template: { model: OnnxModel; open: OnnxModel; convs: readonly Conv[] }, weight: string): void {
  const bias = newBias(template.model, weight);
  const changed = (model: OnnxModel): OnnxModel => {
    const { dtype, shape } = model.initializers.get(weight)!;
    return {
      ...model,
      initializers: new Map<string, TensorSource>([...model.initializers, [bias, Tensor.zeros(dtype, [shape[0]])]]),
      nodes: model.nodes.map((node) =>
        node.opType === "Conv" && node.inputs[1] === weight
          ? { ...node, inputs: [node.inputs[0], weight, bias] }
          : node,
      ),
    };
  };
  Object.assign(template, {
    model: changed(template.model),
    open: changed(template.open),
    convs: template.convs.map((conv) => (conv.weight === weight ? { ...conv, bias } : conv)),
  });
}

/** Batch size of the first look at a model: unlike 1, no size of a network. */
const PROBE = 3;

function onlyInput({ inputs }: OnnxModel): string {
  const [first, ...more] = inputs;
  must(
    first && !more.length && isFloating(first.dtype),
    "onnx-net/input",
    () =>
      `${where}: must take one input of pictures in a floating type, but takes ${inputs.map(({ name, dtype, shape }) => `"${name}" (${dtype} ${shape ? fmt(shape.map((d) => d || "?")) : "of any shape"})`).join(", ") || "none"}. Export the model without preprocessing and further inputs.`,
    "file",
  );
  return first.name;
}

function chosenOutput({ outputs, nodes }: OnnxModel, name: string | undefined): string {
  const names = outputs.map((o) => o.name);
  must(
    name !== undefined || names.length === 1,
    "onnx-net/output",
    () => `${where}: has ${names.length} outputs, ${listed(names)}. Say which are the logits with \`output\`.`,
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

/** A head that was neither named nor is to be replaced may be missing. */
function headOf(
  model: OnnxModel,
  output: string,
  shapeOf: ShapeOf,
  { head, numClasses }: OnnxNetOptions,
): OnnxHead | undefined {
  try {
    return findHead(model, output, shapeOf, head);
  } catch (error) {
    if (error instanceof RepmlpError && head === undefined && numClasses === undefined) return undefined;
    throw error;
  }
}

interface Setting extends Pick<OnnxNetOptions, "trainable"> {
  readonly input: string;
  /** The logits. */
  readonly output: string;
  /** Of one picture. */
  readonly size: Shape;
}

/** A model as it is written, as it is traced, and its graph for {@link PROBE} pictures. */
interface ReadModel extends Setting {
  readonly model: OnnxModel;
  readonly open: OnnxModel;
  readonly graph: OnnxGraph;
  readonly convs: readonly Conv[];
}

const isWeight = (_: string, shape: Shape): boolean => shape.length > 0 && sizeOf(shape) > 0;

function read(model: OnnxModel, { input, output, size, trainable = isWeight }: Setting): ReadModel {
  const open = openedFirstAxis({ ...model, outputs: [{ name: output, dtype: "float32" }] }, input);
  const convs: Conv[] = [];
  const graph = readOnnx(open, {
    ...{ single: true, trainable, inputShapes: { [input]: [PROBE, ...size] } },
    conv: ({ x: _, ...conv }) => void convs.push(conv),
  });
  return { input, output, size, trainable, model, open, graph, convs };
}

/**
 * The model with a new head. Whether the rest goes along with another number of classes is tried, with one more where the
 * number stays the same: a part that keeps the old classes would not show.
 */
function replaced(whole: OnnxModel, head: OnnxHead, numClasses: number, setting: Setting): ReadModel {
  const made = (classes: number): ReadModel => {
    try {
      const result = read(withClasses(whole, head, classes), setting);
      mustMake(result.graph.outputs.get(setting.output)!.shape[1], classes, setting.output, head);
      return result;
    } catch (cause) {
      if (!(cause instanceof RepmlpError) || cause.code === "onnx-net/head") throw cause;
      throw new RepmlpError(
        "onnx-net/head",
        `${where}: with a new head (${listed(head.layers)}) for ${classes} classes the model does not fit together: ${cause.message}`,
        "usage",
        { cause },
      );
    }
  };
  if (numClasses === head.classes) made(numClasses + 1);
  return made(numClasses);
}

function mustMake(found: number, classes: number, output: string, { layers }: OnnxHead): void {
  must(
    found === classes,
    "onnx-net/head",
    () =>
      `${where}: with a new head (${listed(layers)}) for ${classes} classes output "${output}" still has ${found}. Name the layer that decides it with \`head\`.`,
    "usage",
  );
}

/** Sizes of one picture: as the file states them, else as asked for. */
function imageSize({ inputs }: OnnxModel, input: string, wanted: Shape | undefined): Shape {
  const stated = inputs.find(({ name }) => name === input)!.shape;
  const said = stated ? fmt(stated.map((d) => d || "?")) : "of any shape";
  const size = wanted ?? stated?.slice(1);
  must(
    size?.every((d) => typeof d === "number"),
    "onnx-net/size",
    () =>
      `${where}: input "${input}" is ${said} in the file, which leaves the size of a picture open. Say it with \`imageShape\`.`,
    "usage",
  );
  const sizes = size as Shape;
  must(
    !stated || fits(stated.slice(1), sizes),
    "onnx-net/size",
    () =>
      `${where}: input "${input}" is ${said} in the file, which pictures of ${fmt(sizes)} do not fit. Change \`imageShape\`.`,
    "usage",
  );
  return sizes;
}

const fits = (stated: readonly OnnxDim[], sizes: Shape): boolean =>
  stated.length === sizes.length && stated.every((d, i) => typeof d === "string" || d === sizes[i]);

/** Every weight as a tensor of its own. */
function weightsOf(file: OnnxModel): WithWeights {
  const { model, constants } = withWeights(file);
  return { model: untied(model), constants };
}

function remarksOn({ narrowed }: OnnxGraph, constants: readonly string[]): string[] {
  return [
    ...(narrowed ? ["what the file has in float64 is computed in float32"] : []),
    ...(constants.length ? [`numbers in Constant nodes are not trained: ${listed(constants)}`] : []),
  ];
}

function mustClassify(shape: Shape, output: string): number {
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
      `${where}: output "${output}" must be [N, classes], but is ${fmt(["N", ...shape.slice(1)])}. Choose another one with \`output\`.`,
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
