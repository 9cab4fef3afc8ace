import { mergeOnnx } from "../convert/onnx/index.ts";
import { listed, must } from "../errors.ts";
import type { IntegerRange } from "../graph/index.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { type CompileOptions, compileModel, type Feeds, type Program } from "../runtime/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";
import { channelMaxima, type QuantizationStep, symmetricQuantization } from "./affine.ts";
import { type CalibratorName, calibrated, calibrators } from "./calibrators.ts";
import { addColumns, type ColumnSums, columnMeans, waysOf } from "./columns.ts";
import { exactKernels } from "./exact.ts";
import { agreementOf, decibels, squaredShare } from "./noise.ts";
import {
  constantsOf,
  mustBeQuantizable,
  nameOf,
  planQuantization,
  type QuantizationPlan,
  type WeightedNode,
} from "./plan.ts";
import {
  type IntegerWeight,
  integerWeight,
  namer,
  type QuantizationTargetName,
  quantizationTargets,
  quantizedModel,
  used,
  withQuantizedTensors,
} from "./qdq.ts";
import { raiseOpset } from "./raise-opset.ts";
import { biasShift, equalizeLayers } from "./repair.ts";
import { splitOutliers } from "./split.ts";
import { CalibrationStatistics, observe } from "./statistics.ts";

export interface QuantizeOnnxOptions {
  /** How ranges of activations are chosen. Default `auto`: for each tensor the one with the least error of the outputs. */
  readonly calibrator?: CalibratorName | "auto";
  /** Which machines it is for. Default `portable`: 7-bit weights, exact everywhere. */
  readonly target?: QuantizationTargetName;
  /**
   * What stays in float: layers by the names of nodes, of their outputs or of their weights; so many of those that cost the
   * outputs most when they alone are integers; or `auto`, as many of those as it takes to keep the budget.
   */
  readonly keepFloat?: readonly string[] | number | "auto";
  /** For `auto`: share of the inputs compared whose class, the largest output, may become another one. Default 0.01. */
  readonly budget?: number;
  /** Takes what rounding a weight adds to the mean of its outputs from the bias. Default true. */
  readonly biasCorrection?: boolean;
  /** A scale for each output channel of a weight, or one for all of it: what runtimes without scales per channel need. Default true. */
  readonly perChannel?: boolean;
  /** Writes a model of operator set 9 to 12 as one of 13 first, see {@link raiseOpset}. Default false: it is refused. */
  readonly raiseOpset?: boolean;
  /** Splits kernels whose middle is so large that it spoils all other weights, see {@link splitOutliers}. Default false. */
  readonly splitOutliers?: boolean;
  /** Evens the ranges of channels of successive convolutions first. Default false. */
  readonly equalize?: boolean;
  readonly compile?: CompileOptions;
  readonly signal?: AbortSignal | undefined;
  /** Is told of each step of the work. */
  readonly onProgress?: (progress: { readonly label: string; readonly done: number; readonly total?: number }) => void;
  /** What to call the model in messages. */
  readonly name?: string;
}

/** A tensor that became integers. */
export interface QuantizedTensor extends QuantizationStep {
  readonly name: string;
  /** Of the calibration data. */
  readonly min: number;
  readonly max: number;
  readonly calibrator: CalibratorName;
  /** Whether its integers are −128 … 127 instead of 0 … 255. */
  readonly signed: boolean;
}

export interface QuantizedOnnx {
  readonly model: OnnxModel;
  readonly tensors: readonly QuantizedTensor[];
  /** Nodes whose weights became integers. */
  readonly layers: readonly string[];
  /** Nodes with weights that stay in float, and why. */
  readonly kept: QuantizationPlan["kept"];
  /** What one should know of the model or the data, as sentences. */
  readonly notes: readonly string[];
  /** Signal to quantization noise of the outputs on a sample of the calibration data, in decibels. */
  readonly sqnr: number;
  /** Share of that sample whose class, the largest output, is that of the float model. */
  readonly agreement: number;
  /** Where layers were chosen to stay in float: noise of the outputs when each alone is integers, the worst first. */
  readonly sensitivity?: readonly LayerSensitivity[];
  /** The model as it was before rounding: merged, and with what else was asked for. */
  readonly float: OnnxModel;
  /** What the ranges come from; another call may take it in place of the data. */
  readonly statistics: CalibrationStatistics;
  /** Inputs that the ranges come from, counted by their first axis. */
  readonly samples: number;
}

/**
 * Quantizes an ONNX model after training: batch norms and branches are merged first, then convolutions and matrix products
 * get symmetric 8-bit weights with a scale per output channel, and their activations 8 bits with a range each, taken from
 * `calibration` in one pass, so that memory does not grow with the data. The result is plain ONNX in QDQ form.
 *
 * @param calibration  inputs like those that the model will see, prepared alike; a batch at a time. Or what an earlier call
 *   has seen of them, of the same model with the same `equalize` and
 *   `splitOutliers`
 * @throws RepmlpError `quantize/already`, `quantize/control-flow`, `quantize/training`, `quantize/opset`, `quantize/nothing`,
 *   `quantize/keep-float`, `quantize/budget`, `quantize/no-data` without any input, `quantize/statistics` for those of another
 *   model, `quantize/finite` where a weight or an activation is NaN or
 *   infinite, and what running the model throws
 * @example
 * const { model } = await quantizeOnnx(await openOnnx("net.onnx"), batches, { target: "vnni" });
 * await saveOnnx("net.int8.onnx", model);
 */
export async function quantizeOnnx(
  source: OnnxModel,
  calibration: Iterable<Feeds> | AsyncIterable<Feeds> | CalibrationStatistics,
  options: QuantizeOnnxOptions = {},
): Promise<QuantizedOnnx> {
  const { calibrator = "auto", keepFloat = [], name = "model" } = options;
  const target = quantizationTargets[options.target ?? "portable"];
  const { model, notes } = prepared(source, options, name);
  const named = Array.isArray(keepFloat) ? (keepFloat as readonly string[]) : [];
  const whole = planQuantization(model, named, name);
  const data =
    calibration instanceof CalibrationStatistics
      ? calibration.mustBeOf(whole, name)
      : await observe(model, whole, calibration, options);
  const stepOf = (root: string, by: CalibratorName): QuantizationStep =>
    calibrated(data.histograms.get(root)!, by, target.activations);
  const roots = [...new Set(whole.tensors.values())];
  const chosen = new Map<string, CalibratorName>(roots.map((r) => [r, calibrator === "auto" ? "mse" : calibrator]));
  const work = new QuantizationRun(model, data, options);
  const stepsBy = (choice: ReadonlyMap<string, CalibratorName>): Map<string, QuantizationStep> =>
    new Map(roots.map((r) => [r, stepOf(r, choice.get(r)!)]));
  if (calibrator === "auto") {
    const first = work.weightsFor(whole, stepsBy(chosen));
    const ranking = await chooseCalibrators(model, whole, first, { chosen, stepOf, data, target, options });
    // Biases are corrected for the ranges that were chosen, which may bring others in front.
    const uniform = ranking.slice(0, 2).map((one) => new Map(roots.map((r) => [r, one] as const)));
    let least = Number.POSITIVE_INFINITY;
    let best = chosen;
    for (const choice of [new Map(chosen), ...uniform]) {
      const share = await work.correctBiases(whole, stepsBy(choice));
      if (share < least) [least, best] = [share, choice];
    }
    for (const [root, by] of best) chosen.set(root, by);
  }
  const steps = stepsBy(chosen);
  await work.correctBiases(whole, steps);
  const kept = Array.isArray(keepFloat) ? undefined : await keptLayers(work, whole, steps, options);
  const plan = kept ? planQuantization(model, kept.layers, name) : whole;
  if (kept?.layers.length) await work.correctBiases(plan, steps);
  const result = work.quantized(plan, steps);
  const { share, agreement } = await work.compared(result);
  const used = new Set(plan.tensors.values());
  return {
    model: result,
    layers: plan.weighted.map(({ node }) => nameOf(node)),
    kept: plan.kept.map((entry) =>
      kept?.layers.includes(entry.name) ? { ...entry, reason: "costs the outputs most" } : entry,
    ),
    tensors: roots
      .filter((root) => used.has(root))
      .map((root) => {
        const { min, max } = data.histograms.get(root)!;
        const signed = target.activations.qmin < 0;
        return { name: root, min, max, calibrator: chosen.get(root)!, signed, ...steps.get(root)! };
      }),
    notes: [...notes, ...notesOn(model, data), ...(kept?.notes ?? [])],
    sqnr: decibels(share),
    agreement,
    samples: data.samples,
    float: model,
    statistics: data,
    ...(kept && { sensitivity: kept.sensitivity }),
  };
}

/** The model as it is quantized: merged, and with what else is asked for. */
function prepared(
  source: OnnxModel,
  { equalize, splitOutliers: asked, target = "portable", raiseOpset: raises }: QuantizeOnnxOptions,
  name: string,
): { readonly model: OnnxModel; readonly notes: readonly string[] } {
  // What was kept of a file as it stands names outputs and types that do not hold any more.
  const { kept: _, ...bare } = source;
  const raised = raises ? raiseOpset(bare, name) : bare;
  mustBeQuantizable(raised, name);
  const merged = mergeOnnx(raised).model;
  const even = equalize ? equalized(merged) : merged;
  if (!asked) return { model: even, notes: [] };
  const { model, split } = splitOutliers(even, quantizationTargets[target].weights);
  const what = split.length ? `split by their outliers: ${listed(split, 5)}` : "no kernel gains a bit by being split";
  return { model, notes: [what] };
}

/**
 * Looks at calibration data for {@link quantizeOnnx}, to be used for several settings of it; with the same `equalize` and `splitOutliers`.
 *
 * @throws RepmlpError as of {@link quantizeOnnx}
 */
export async function calibrationStatistics(
  source: OnnxModel,
  calibration: Iterable<Feeds> | AsyncIterable<Feeds>,
  options: Pick<
    QuantizeOnnxOptions,
    "equalize" | "splitOutliers" | "target" | "raiseOpset" | "compile" | "signal" | "onProgress" | "name"
  > = {},
): Promise<CalibrationStatistics> {
  const { name = "model" } = options;
  const { model } = prepared(source, options, name);
  return observe(model, planQuantization(model, [], name), calibration, options);
}

/** A model that is being quantized, with what was seen of its values. */
class QuantizationRun {
  private readonly constants: ReadonlyMap<string, TensorSource>;

  constructor(
    readonly model: OnnxModel,
    readonly data: CalibrationStatistics,
    readonly options: QuantizeOnnxOptions,
  ) {
    this.constants = constantsOf(model);
  }

  /** What quantization adds to the means of a layer's outputs, by the layer's output: it is taken from the bias. */
  private shifts: ReadonlyMap<string, Float64Array> = new Map();

  /** See {@link exactColumns}: the same whatever becomes integers. */
  private exact: ReadonlyMap<string, Float64Array> | undefined;

  /**
   * Corrects biases for the steps that were chosen, layer by layer: each takes in what the rounding of its weights does, and
   * what it reads in the quantized model, which rounding, clamping and the layers in front of it have moved. Those up to the
   * layer behind which the outputs of the sample are nearest keep their corrections; there may be none, where outputs are
   * mostly noise and means are no guide.
   *
   * @returns squared error of the outputs by their squares
   */
  async correctBiases(plan: QuantizationPlan, steps: ReadonlyMap<string, QuantizationStep>): Promise<number> {
    this.shifts = new Map();
    const { biasCorrection = true, compile, signal, onProgress } = this.options;
    const weights = this.weightsFor(plan, steps);
    const layers = biasCorrection ? plan.weighted.filter(({ groups }) => groups !== undefined) : [];
    const { simulated, feedOf, biasOf, back } = simulation(this.model, plan, weights, this.target.activationType);
    const inputs = new Set(layers.map(({ node }) => back(node.inputs[0])));
    await using program = await compileModel(withOutputs(simulated, inputs), compile);
    // The first plan is of all layers, later ones of some of them.
    this.exact ??= await this.exactColumns(layers);
    const { exact } = this;
    const outputs = this.model.outputs.map(({ name }) => name);
    const own = Object.assign(
      {},
      ...[...new Set(plan.tensors.values())].map((root) => feedOf(root, steps.get(root)!)),
    ) as Record<string, Tensor>;
    for (const { node } of plan.weighted) Object.assign(own, biasOf(node, weights.get(node)!.bias));
    const shifts = new Map<string, Float64Array>();
    let least = Number.POSITIVE_INFINITY;
    for (const [i, entry] of [...layers, undefined].entries()) {
      signal?.throwIfAborted();
      const sums = new Map<string, ColumnSums>();
      const input = entry && back(entry.node.inputs[0]);
      const pairs = await pairsOf(this.data, async (feeds) => {
        const made = await program.run({ ...feeds, ...own }, input === undefined ? outputs : [...outputs, input]);
        if (entry) addColumns(sums, entry.node.outputs[0], made[input!], this.waysOf(entry));
        return made;
      });
      const share = squaredShare(pairs);
      if (share < least) [least, this.shifts] = [share, new Map(shifts)];
      if (!entry) break;
      onProgress?.({ label: "correct biases", done: i + 1, total: layers.length });
      const { node, groups = 1 } = entry;
      const [layer] = node.outputs;
      const { rounded, bias } = weights.get(node)!;
      const [found, before] = [columnMeans(sums).get(layer)!, exact.get(layer)!];
      const means = this.data.means.get(layer)!;
      const moved = means.map((mean, i) => mean + found[i] - before[i]);
      const weight = this.constants.get(node.inputs[1])!.readSync();
      const shift = biasShift({ weight, groups }, rounded, means, moved).toFloat64();
      shifts.set(layer, shift);
      const corrected = bias?.toFloat64() ?? new Float64Array(shift.length);
      Object.assign(
        own,
        biasOf(
          node,
          Tensor.float32(
            [shift.length],
            corrected.map((b, c) => b - shift[c]),
          ),
        ),
      );
    }
    return least;
  }

  private waysOf = ({ node }: WeightedNode): ReturnType<typeof waysOf> =>
    waysOf(node, this.constants.get(node.inputs[1])!.shape);

  /** Means of what each weight is multiplied by in the float model, on the sample. */
  private async exactColumns(layers: readonly WeightedNode[]): Promise<Map<string, Float64Array>> {
    const sums = new Map<string, ColumnSums>();
    const inputs = new Set(layers.map(({ node }) => node.inputs[0]));
    await using program = await compileModel(withOutputs(this.model, inputs), this.options.compile);
    for (const { feeds } of layers.length ? this.data.compared : []) {
      const made = await program.run(feeds);
      for (const entry of layers) {
        const [name] = entry.node.inputs;
        addColumns(sums, entry.node.outputs[0], made[name] ?? feeds[name], this.waysOf(entry));
      }
    }
    return columnMeans(sums);
  }

  private get target(): (typeof quantizationTargets)[QuantizationTargetName] {
    return quantizationTargets[this.options.target ?? "portable"];
  }

  weightsFor(
    { weighted, tensors }: QuantizationPlan,
    steps: ReadonlyMap<string, QuantizationStep>,
  ): Map<OnnxNode, IntegerWeight> {
    const { perChannel = true } = this.options;
    return new Map(
      weighted.map((entry) => {
        const { inputs, outputs } = entry.node;
        const bias = this.constants.get(inputs[2] ?? "")?.readSync();
        const { scale } = steps.get(tensors.get(inputs[0])!)!;
        const weight = this.constants.get(inputs[1])!.readSync();
        const shift = this.shifts.get(outputs[0]);
        const scales = perChannel ? undefined : oneScale(weight, entry.axis, this.target.weights);
        const made = integerWeight(entry, weight, bias, this.target.weights, scale, {
          ...(shift && { shift }),
          ...(scales && { scales }),
        });
        return [entry.node, made];
      }),
    );
  }

  quantized(plan: QuantizationPlan, steps: ReadonlyMap<string, QuantizationStep>): OnnxModel {
    return quantizedModel(this.model, plan, steps, this.weightsFor(plan, steps), this.target);
  }

  /** What a model's outputs are worth beside the float model's. */
  async compared(model: OnnxModel): Promise<{ readonly share: number; readonly agreement: number }> {
    await using program = await compileModel(model, exactKernels(this.options.compile));
    const pairs = await pairsOf(this.data, (feeds) => program.run(feeds));
    return { share: squaredShare(pairs), agreement: agreementOf(pairs) };
  }
}

/** The scale of the largest weight, for every output channel. */
function oneScale(weight: Tensor, axis: number, range: IntegerRange): number[] {
  const { scale } = symmetricQuantization(Math.max(...channelMaxima(weight, axis)), range);
  return Array.from({ length: weight.shape[axis] }, () => scale);
}

/** How much the outputs suffer when a layer alone is integers. */
export interface LayerSensitivity {
  readonly layer: string;
  readonly operator: string;
  /** Signal to noise of the outputs, in decibels. */
  readonly sqnr: number;
}

/** Finds the layers that cost most, and how many of them are to stay in float. */
async function keptLayers(
  work: QuantizationRun,
  { weighted }: QuantizationPlan,
  steps: ReadonlyMap<string, QuantizationStep>,
  { keepFloat, budget = 0.01, name = "model", signal, onProgress }: QuantizeOnnxOptions,
): Promise<{ readonly layers: readonly string[]; readonly sensitivity: LayerSensitivity[]; readonly notes: string[] }> {
  must(
    keepFloat === "auto" || (Number.isInteger(keepFloat) && (keepFloat as number) > 0),
    "quantize/keep-float",
    () => `${name}: \`keepFloat\` must be names of layers, a number of them from 1, or auto, got ${keepFloat}.`,
    "usage",
  );
  must(
    budget >= 0 && budget < 1,
    "quantize/budget",
    () => `${name}: the budget is a share of the inputs from 0 to below 1, got ${budget}.`,
    "usage",
  );
  const all = weighted.map(({ node }) => nameOf(node));
  const limit = keepFloat === "auto" ? all.length - 1 : Math.min(keepFloat as number, all.length - 1);
  const planWithout = (layers: readonly string[]): QuantizationPlan => planQuantization(work.model, layers, name);
  const within = async (layers: readonly string[]): Promise<boolean> => {
    const plan = planWithout(layers);
    await work.correctBiases(plan, steps);
    return 1 - (await work.compared(work.quantized(plan, steps))).agreement <= budget;
  };
  if (keepFloat === "auto" && (await within([]))) return { layers: [], sensitivity: [], notes: [] };
  const sensitivity: LayerSensitivity[] = [];
  for (const [i, { node }] of weighted.entries()) {
    signal?.throwIfAborted();
    const alone = planWithout(all.filter((_, k) => k !== i));
    const share = await work.correctBiases(alone, steps);
    sensitivity.push({ layer: all[i], operator: node.opType, sqnr: decibels(share) });
    onProgress?.({ label: "try layers", done: i + 1, total: all.length });
  }
  sensitivity.sort((a, b) => a.sqnr - b.sqnr);
  const worst = sensitivity.map(({ layer }) => layer);
  if (keepFloat !== "auto") return { layers: worst.slice(0, limit), sensitivity, notes: [] };
  for (let count = 1; count <= limit; count++) {
    signal?.throwIfAborted();
    const layers = worst.slice(0, count);
    if (await within(layers)) return { layers, sensitivity, notes: [] };
    onProgress?.({ label: "keep layers in float", done: count, total: limit });
  }
  const notes = [`the budget of ${100 * budget} % of other classes is not kept with one layer of integers either`];
  return { layers: worst.slice(0, limit), sensitivity, notes };
}

/** Outputs of the float model on the sample, each with that of another model. */
async function pairsOf(
  { compared }: CalibrationStatistics,
  run: (feeds: Feeds) => Promise<Readonly<Record<string, Tensor>>>,
): Promise<(readonly [exact: Tensor, other: Tensor])[]> {
  const pairs: (readonly [Tensor, Tensor])[] = [];
  for (const { feeds, outputs } of compared) {
    const made = await run(feeds);
    for (const [name, exact] of Object.entries(outputs)) pairs.push([exact, made[name]]);
  }
  return pairs;
}

interface Choice {
  /** Is filled in. */
  readonly chosen: Map<string, CalibratorName>;
  readonly stepOf: (root: string, by: CalibratorName) => QuantizationStep;
  readonly data: CalibrationStatistics;
  readonly target: (typeof quantizationTargets)[QuantizationTargetName];
  readonly options: QuantizeOnnxOptions;
}

/**
 * Finds the calibrator of each tensor with the least error of the model's outputs, one tensor after the other, from the
 * best that is the same for all. One session does for all: scales and zero points are inputs of it.
 *
 * @returns those that are the same for all, the best first
 */
async function chooseCalibrators(
  model: OnnxModel,
  plan: QuantizationPlan,
  weights: ReadonlyMap<OnnxNode, IntegerWeight>,
  { chosen, stepOf, data, target, options }: Choice,
): Promise<readonly CalibratorName[]> {
  const names = Object.keys(calibrators) as CalibratorName[];
  const roots = [...chosen.keys()];
  const { simulated, feedOf, biasOf } = simulation(model, plan, weights, target.activationType);
  await using program: Program = await compileModel(simulated, options.compile);
  const biases = plan.weighted.map(({ node }) => biasOf(node, weights.get(node)!.bias));
  const steps = new Map(roots.map((r) => [r, new Map(names.map((n) => [n, stepOf(r, n)]))]));
  const errorOf = async (choice: ReadonlyMap<string, CalibratorName>): Promise<number> => {
    options.signal?.throwIfAborted();
    const ranges = roots.map((r) => feedOf(r, steps.get(r)!.get(choice.get(r)!)!));
    const own = Object.assign({}, ...ranges, ...biases) as Feeds;
    return squaredShare(await pairsOf(data, (feeds) => program.run({ ...feeds, ...own })));
  };
  let least = Number.POSITIVE_INFINITY;
  const consider = async (choice: ReadonlyMap<string, CalibratorName>): Promise<number> => {
    const error = await errorOf(choice);
    if (error >= least) return error;
    least = error;
    for (const [root, by] of choice) chosen.set(root, by);
    return error;
  };
  const errors = new Map<CalibratorName, number>();
  for (const one of names) errors.set(one, await consider(new Map(roots.map((r) => [r, one]))));
  for (const [i, root] of roots.entries()) {
    const seen = new Set([JSON.stringify(steps.get(root)!.get(chosen.get(root)!))]);
    for (const one of names) {
      const key = JSON.stringify(steps.get(root)!.get(one));
      if (seen.has(key)) continue;
      seen.add(key);
      await consider(new Map([...chosen, [root, one]]));
    }
    options.onProgress?.({ label: "choose ranges", done: i + 1, total: roots.length });
  }
  return names.toSorted((a, b) => errors.get(a)! - errors.get(b)!);
}

/** A model that gives further values as outputs. */
function withOutputs(model: OnnxModel, names: ReadonlySet<string>): OnnxModel {
  const given = new Set([...model.inputs, ...model.outputs].map(({ name }) => name));
  const more = [...names].filter((name) => !given.has(name));
  return { ...model, outputs: [...model.outputs, ...more.map((name) => ({ name, dtype: "float32" as const }))] };
}

interface Simulation {
  readonly simulated: OnnxModel;
  /** Scale and zero point of a tensor. */
  readonly feedOf: (root: string, step: QuantizationStep) => Feeds;
  /** The bias of a layer, zeros where there is none; nothing for layers that cannot have one. */
  readonly biasOf: (node: OnnxNode, bias: Tensor | undefined) => Feeds;
  /** What stands for a tensor that is stored as integers. */
  readonly back: (tensor: string) => string;
}

/** The model with rounded weights in float, and with biases and the activations' scales and zero points as inputs. */
function simulation(
  model: OnnxModel,
  plan: QuantizationPlan,
  weights: ReadonlyMap<OnnxNode, IntegerWeight>,
  type: "uint8" | "int8",
): Simulation {
  const unique = namer(model);
  const names = new Map(
    [...new Set(plan.tensors.values())].map((root) => [
      root,
      { scale: unique(`${root}.scale`), zeroPoint: unique(`${root}.zero_point`) },
    ]),
  );
  const biased = plan.weighted.filter(({ groups }) => groups !== undefined);
  const biases = new Map(biased.map(({ node }) => [node, unique(`${node.outputs[0]}.bias`)]));
  const constants = new Map<string, TensorSource>();
  const nodes = model.nodes.map((node) => {
    const made = weights.get(node);
    if (!made) return node;
    const weight = unique(`${node.inputs[1]}.rounded`);
    constants.set(weight, made.rounded);
    return { ...node, inputs: [node.inputs[0], weight, ...[biases.get(node) ?? node.inputs[2] ?? []].flat()] };
  });
  const all = withQuantizedTensors(
    nodes,
    model.inputs.map((v) => v.name),
    plan,
    (root) => names.get(root)!,
    unique,
  );
  // A layer reads what stands for its input.
  const read = new Map(all.map(({ outputs, inputs }) => [outputs[0], inputs[0]]));
  const replaced = new Map(plan.weighted.map(({ node }) => [node.inputs[0], read.get(node.outputs[0])!]));
  const inputs = [
    ...[...names.values()].flatMap(({ scale, zeroPoint }) => [
      { name: scale, dtype: "float32" as const, shape: [] },
      { name: zeroPoint, dtype: type, shape: [] },
    ]),
    ...biased.map(({ node }) => ({
      ...{ name: biases.get(node)!, dtype: "float32" as const },
      shape: [weights.get(node)!.rounded.shape[0]],
    })),
  ];
  const { valueInfo: _, ...rest } = model;
  return {
    simulated: {
      ...rest,
      nodes: all,
      inputs: [...model.inputs, ...inputs],
      initializers: used(all, model, constants),
    },
    feedOf: (root, { scale, zeroPoint }) => {
      const own = names.get(root)!;
      return { [own.scale]: Tensor.scalar(scale), [own.zeroPoint]: Tensor.scalar(zeroPoint, type) };
    },
    biasOf: (node, bias) => {
      const name = biases.get(node);
      return name === undefined
        ? {}
        : { [name]: bias ?? Tensor.zeros("float32", [weights.get(node)!.rounded.shape[0]]) };
    },
    back: (tensor) => replaced.get(tensor)!,
  };
}

function notesOn({ nodes }: OnnxModel, { histograms }: CalibrationStatistics): string[] {
  const norms = nodes.filter(({ opType }) => opType === "BatchNormalization").length;
  const constant = [...histograms]
    .filter(([, { min, max }]) => min === max)
    .map(([name, { min }]) => `${name} (${min})`);
  return [
    ...(norms ? [`${norms} batch norms could not be merged and stay in float`] : []),
    ...constant.map((name) => `${name} has one value on all calibration data: a dead layer, or too little data`),
  ];
}

/** Passes over all pairs of convolutions. */
const EQUALIZATIONS = 2;

/** Evens the ranges of channels between convolutions that only a ReLU, or nothing, stands between. */
function equalized(model: OnnxModel): OnnxModel {
  const { nodes, outputs } = model;
  const initializers = new Map(model.initializers);
  const users = (name: string): OnnxNode[] => nodes.filter((node) => node.inputs.includes(name));
  const isOutput = new Set(outputs.map(({ name }) => name));
  const only = (name: string): OnnxNode | undefined => {
    const found = users(name);
    return found.length === 1 && !isOutput.has(name) ? found[0] : undefined;
  };
  /** A convolution whose weight and bias nothing else reads. */
  const isOwn = ({ opType, inputs }: OnnxNode): boolean =>
    opType === "Conv" &&
    inputs.slice(1).every((name) => initializers.get(name)?.dtype === "float32" && users(name).length === 1);
  const pairs = nodes.filter(isOwn).flatMap((first) => {
    const next = only(first.outputs[0]);
    const second = next?.opType === "Relu" ? only(next.outputs[0]) : next;
    return second && isOwn(second) && second.inputs[0] !== first.inputs[0] ? [[first, second] as const] : [];
  });
  const layerOf = ({ inputs: [, weight, bias], attrs }: OnnxNode) => ({
    weight: initializers.get(weight)!.readSync(),
    bias: bias ? initializers.get(bias)!.readSync() : undefined,
    groups: Number(attrs.group ?? 1),
  });
  for (let pass = 0; pass < EQUALIZATIONS; pass++)
    for (const [first, second] of pairs) {
      const [a, b] = equalizeLayers(layerOf(first), layerOf(second));
      initializers.set(first.inputs[1], a.weight);
      if (a.bias) initializers.set(first.inputs[2], a.bias);
      initializers.set(second.inputs[1], b.weight);
    }
  return { ...model, initializers };
}
