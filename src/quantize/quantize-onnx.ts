import { mergeOnnx } from "../convert/onnx/index.ts";
import { listed, must } from "../errors.ts";
import type { IntegerRange } from "../graph/index.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { type CompileOptions, compileModel, type Feeds, type Program } from "../runtime/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";
import { channelMaxima, type QuantizationStep, roundHalfEven, symmetricQuantization } from "./affine.ts";
import { type CalibratorName, calibrated, calibrators } from "./calibrators.ts";
import { exactKernels } from "./exact.ts";
import { agreementOf, decibels, squaredShare } from "./noise.ts";
import { constantsOf, mustBeQuantizable, nameOf, planQuantization, type QuantizationPlan } from "./plan.ts";
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
import { equalizeLayers } from "./repair.ts";
import { splitOutliers } from "./split.ts";
import { addMeans, CalibrationStatistics, type ChannelSum, observe } from "./statistics.ts";

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
    const uniform = (Object.keys(calibrators) as CalibratorName[]).map(
      (one) => new Map(roots.map((r) => [r, one] as const)),
    );
    const first = work.weightsFor(whole, stepsBy(chosen));
    await chooseCalibrators(model, whole, first, { chosen, stepOf, data, target, options });
    // Biases are corrected for the ranges that were chosen, which may bring others in front.
    let least = Number.POSITIVE_INFINITY;
    let best = chosen;
    for (const choice of [new Map(chosen), ...uniform]) {
      const share = await work.correctRoundedInputs(whole, stepsBy(choice));
      if (share < least) [least, best] = [share, choice];
    }
    for (const [root, by] of best) chosen.set(root, by);
  }
  const steps = stepsBy(chosen);
  await work.correctRoundedInputs(whole, steps);
  const kept = Array.isArray(keepFloat) ? undefined : await keptLayers(work, whole, steps, options);
  const plan = kept ? planQuantization(model, kept.layers, name) : whole;
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

  /** By how much rounding moves the means of the channels of what layers read. */
  private moved: ReadonlyMap<string, Float64Array> = new Map();

  /**
   * Looks at how rounding and clamping with the steps that were chosen move the means of inputs, on the sample: clamping cuts
   * off one side of most activations, and what follows would be off by the same in every picture. Biases take it in where
   * that brings the outputs nearer; where a few large values are all that is clamped, it does not.
   *
   * @returns squared error of the outputs by their squares
   */
  async correctRoundedInputs(plan: QuantizationPlan, steps: ReadonlyMap<string, QuantizationStep>): Promise<number> {
    this.moved = new Map();
    const before = await this.compared(this.quantized(plan, steps));
    await this.seeRoundedInputs(plan, steps);
    if (!this.moved.size) return before.share;
    const after = await this.compared(this.quantized(plan, steps));
    if (after.share >= before.share) this.moved = new Map();
    return Math.min(after.share, before.share);
  }

  private async seeRoundedInputs(
    { weighted, tensors }: QuantizationPlan,
    steps: ReadonlyMap<string, QuantizationStep>,
  ): Promise<void> {
    const { biasCorrection = true, compile } = this.options;
    const names = [...new Set(weighted.flatMap(({ node, groups }) => (groups === undefined ? [] : [node.inputs[0]])))];
    if (!biasCorrection || !names.length) return;
    const inputs = new Set(this.model.inputs.map(({ name }) => name));
    const shown = names.filter((name) => !inputs.has(name) && !this.model.outputs.some((o) => o.name === name));
    const outputs = [...this.model.outputs, ...shown.map((name) => ({ name, dtype: "float32" as const }))];
    await using program = await compileModel({ ...this.model, outputs }, compile);
    const sums = new Map<string, ChannelSum>();
    const { activations: range } = this.target;
    for (const { feeds } of this.data.compared) {
      const made = await program.run(feeds);
      for (const name of names) {
        const { scale, zeroPoint } = steps.get(tensors.get(name)!)!;
        const values = made[name] ?? feeds[name];
        addMeans(sums, name, values, (v) => {
          const q = roundHalfEven(v / scale) + zeroPoint;
          return (Math.min(range.qmax, Math.max(range.qmin, q)) - zeroPoint) * scale - v;
        });
      }
    }
    this.moved = new Map([...sums].map(([name, { sum, count }]) => [name, sum.map((s) => s / count)]));
  }

  private get target(): (typeof quantizationTargets)[QuantizationTargetName] {
    return quantizationTargets[this.options.target ?? "portable"];
  }

  weightsFor(
    { weighted, tensors }: QuantizationPlan,
    steps: ReadonlyMap<string, QuantizationStep>,
  ): Map<OnnxNode, IntegerWeight> {
    const { biasCorrection = true, perChannel = true } = this.options;
    return new Map(
      weighted.map((entry) => {
        const { inputs } = entry.node;
        const means = biasCorrection ? this.data.means.get(inputs[0]) : undefined;
        const moved = this.moved.get(inputs[0]);
        const bias = this.constants.get(inputs[2] ?? "")?.readSync();
        const { scale } = steps.get(tensors.get(inputs[0])!)!;
        const weight = this.constants.get(inputs[1])!.readSync();
        const scales = perChannel ? undefined : oneScale(weight, entry.axis, this.target.weights);
        const rounded = means && moved && means.map((mean, c) => mean + moved[c]);
        const made = integerWeight(entry, weight, bias, this.target.weights, scale, means, scales, rounded);
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
  const within = async (layers: readonly string[]): Promise<boolean> =>
    1 - (await work.compared(work.quantized(planWithout(layers), steps))).agreement <= budget;
  if (keepFloat === "auto" && (await within([]))) return { layers: [], sensitivity: [], notes: [] };
  const sensitivity: LayerSensitivity[] = [];
  for (const [i, { node }] of weighted.entries()) {
    signal?.throwIfAborted();
    const { share } = await work.compared(work.quantized(planWithout(all.filter((_, k) => k !== i)), steps));
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
 */
async function chooseCalibrators(
  model: OnnxModel,
  plan: QuantizationPlan,
  weights: ReadonlyMap<OnnxNode, IntegerWeight>,
  { chosen, stepOf, data, target, options }: Choice,
): Promise<void> {
  const names = Object.keys(calibrators) as CalibratorName[];
  const roots = [...chosen.keys()];
  const { simulated, feedOf } = simulation(model, plan, weights, target.activationType);
  await using program: Program = await compileModel(simulated, options.compile);
  const steps = new Map(roots.map((r) => [r, new Map(names.map((n) => [n, stepOf(r, n)]))]));
  const errorOf = async (choice: ReadonlyMap<string, CalibratorName>): Promise<number> => {
    options.signal?.throwIfAborted();
    const own = Object.assign({}, ...roots.map((r) => feedOf(r, steps.get(r)!.get(choice.get(r)!)!))) as Feeds;
    return squaredShare(await pairsOf(data, (feeds) => program.run({ ...feeds, ...own })));
  };
  let least = Number.POSITIVE_INFINITY;
  const consider = async (choice: ReadonlyMap<string, CalibratorName>): Promise<void> => {
    const error = await errorOf(choice);
    if (error >= least) return;
    least = error;
    for (const [root, by] of choice) chosen.set(root, by);
  };
  for (const one of names) await consider(new Map(roots.map((r) => [r, one])));
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
}

/** The model with rounded weights in float, and activations whose scales and zero points are inputs. */
function simulation(
  model: OnnxModel,
  plan: QuantizationPlan,
  weights: ReadonlyMap<OnnxNode, IntegerWeight>,
  type: "uint8" | "int8",
): { simulated: OnnxModel; feedOf: (root: string, step: QuantizationStep) => Feeds } {
  const unique = namer(model);
  const names = new Map(
    [...new Set(plan.tensors.values())].map((root) => [
      root,
      { scale: unique(`${root}.scale`), zeroPoint: unique(`${root}.zero_point`) },
    ]),
  );
  const constants = new Map<string, TensorSource>();
  const store = (base: string, tensor: Tensor): string => {
    const name = unique(base);
    constants.set(name, tensor);
    return name;
  };
  const nodes = model.nodes.map((node) => {
    const made = weights.get(node);
    if (!made) return node;
    const rounded = [store(`${node.inputs[1]}.rounded`, made.rounded)];
    if (made.bias) rounded.push(store(`${node.inputs[1]}.bias`, made.bias));
    return { ...node, inputs: [node.inputs[0], ...rounded] };
  });
  const all = withQuantizedTensors(
    nodes,
    model.inputs.map((v) => v.name),
    plan,
    (root) => names.get(root)!,
    unique,
  );
  const inputs = [...names.values()].flatMap(({ scale, zeroPoint }) => [
    { name: scale, dtype: "float32" as const, shape: [] },
    { name: zeroPoint, dtype: type, shape: [] },
  ]);
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
