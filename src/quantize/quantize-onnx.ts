import { mergeOnnx } from "../convert/onnx/index.ts";
import { must } from "../errors.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { type CompileOptions, compileModel, type Feeds, type Program } from "../runtime/index.ts";
import { sizeOf, Tensor, type TensorSource } from "../tensor/index.ts";
import type { QuantizationStep } from "./affine.ts";
import { type CalibratorName, calibrated, calibrators } from "./calibrators.ts";
import { StreamingHistogram } from "./histogram.ts";
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
import { equalizeLayers } from "./repair.ts";

export interface QuantizeOnnxOptions {
  /** How ranges of activations are chosen. Default `auto`: for each tensor the one with the least error of the outputs. */
  readonly calibrator?: CalibratorName | "auto";
  /** Which machines it is for. Default `portable`: 7-bit weights, exact everywhere. */
  readonly target?: QuantizationTargetName;
  /** Names of nodes, of their outputs or of their weights that stay in float. */
  readonly keepFloat?: readonly string[];
  /** Takes what rounding a weight adds to the mean of its outputs from the bias. Default true. */
  readonly biasCorrection?: boolean;
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
  /** Inputs that the ranges come from, counted by their first axis. */
  readonly samples: number;
}

/** Inputs that are kept to compare outputs on. */
const SAMPLED = 32;

/**
 * Quantizes an ONNX model after training: batch norms and branches are merged first, then convolutions and matrix products
 * get symmetric 8-bit weights with a scale per output channel, and their activations 8 bits with a range each, taken from
 * `calibration` in one pass, so that memory does not grow with the data. The result is plain ONNX in QDQ form.
 *
 * @param calibration  inputs like those that the model will see, prepared alike; a batch at a time
 * @throws RepmlpError `quantize/already`, `quantize/control-flow`, `quantize/training`, `quantize/opset`, `quantize/nothing`,
 *   `quantize/keep-float`, `quantize/no-data` without any input, `quantize/finite` where a weight or an activation is NaN or
 *   infinite, and what running the model throws
 * @example
 * const { model } = await quantizeOnnx(await openOnnx("net.onnx"), batches, { target: "vnni" });
 * await saveOnnx("net.int8.onnx", model);
 */
export async function quantizeOnnx(
  source: OnnxModel,
  calibration: Iterable<Feeds> | AsyncIterable<Feeds>,
  options: QuantizeOnnxOptions = {},
): Promise<QuantizedOnnx> {
  const { calibrator = "auto", keepFloat = [], biasCorrection = true, name = "model" } = options;
  const target = quantizationTargets[options.target ?? "portable"];
  mustBeQuantizable(source, name);
  // What was kept of a file as it stands names outputs and types that do not hold any more.
  const { kept: _, ...bare } = source;
  const merged = mergeOnnx(bare).model;
  const model = options.equalize ? equalized(merged) : merged;
  const plan = planQuantization(model, keepFloat, name);
  const data = await observe(model, plan, calibration, options);
  const stepOf = (root: string, by: CalibratorName): QuantizationStep =>
    calibrated(data.histograms.get(root)!, by, target.activations);
  const roots = [...data.histograms.keys()];
  const constants = constantsOf(model);
  const weightsFor = (steps: ReadonlyMap<string, QuantizationStep>): Map<OnnxNode, IntegerWeight> =>
    new Map(
      plan.weighted.map((entry) => {
        const { inputs } = entry.node;
        const means = biasCorrection ? data.means.get(inputs[0]) : undefined;
        const bias = constants.get(inputs[2] ?? "")?.readSync();
        const { scale } = steps.get(plan.tensors.get(inputs[0])!)!;
        const weight = constants.get(inputs[1])!.readSync();
        return [entry.node, integerWeight(entry, weight, bias, target.weights, scale, means)];
      }),
    );
  const by = (one: CalibratorName): Map<string, QuantizationStep> => new Map(roots.map((r) => [r, stepOf(r, one)]));
  const chosen = new Map<string, CalibratorName>(roots.map((r) => [r, calibrator === "auto" ? "mse" : calibrator]));
  if (calibrator === "auto")
    await chooseCalibrators(model, plan, weightsFor(by("mse")), { chosen, stepOf, data, target, options });
  const steps = new Map(roots.map((r) => [r, stepOf(r, chosen.get(r)!)]));
  const result = quantizedModel(model, plan, steps, weightsFor(steps), target);
  await using program = await compileModel(result, options.compile);
  return {
    model: result,
    layers: plan.weighted.map(({ node }) => nameOf(node)),
    kept: plan.kept,
    tensors: roots.map((root) => {
      const { min, max } = data.histograms.get(root)!;
      return { name: root, min, max, calibrator: chosen.get(root)!, ...steps.get(root)! };
    }),
    notes: notesOn(model, data),
    sqnr: decibels(await noise(data, (feeds) => program.run(feeds))),
    samples: data.samples,
  };
}

/** What one pass over the calibration data showed. */
interface Observed {
  readonly histograms: ReadonlyMap<string, StreamingHistogram>;
  /** Means of the channels of tensors that layers read. */
  readonly means: ReadonlyMap<string, Float64Array>;
  /** A few inputs with the outputs of the float model. */
  readonly compared: readonly { readonly feeds: Feeds; readonly outputs: Readonly<Record<string, Tensor>> }[];
  readonly samples: number;
}

async function observe(
  model: OnnxModel,
  plan: QuantizationPlan,
  calibration: Iterable<Feeds> | AsyncIterable<Feeds>,
  { compile, signal, onProgress, name = "model" }: QuantizeOnnxOptions,
): Promise<Observed> {
  const inputs = new Set(model.inputs.map((v) => v.name));
  const read = new Set(plan.weighted.map(({ node }) => node.inputs[0]));
  const watched = new Set([...plan.tensors.values(), ...read]);
  const asOutputs = [...watched].filter((v) => !inputs.has(v) && !model.outputs.some((o) => o.name === v));
  const shown = [...model.outputs, ...asOutputs.map((v) => ({ name: v, dtype: "float32" as const }))];
  await using program = await compileModel({ ...model, outputs: shown }, compile);
  const histograms = new Map([...plan.tensors.values()].map((root) => [root, new StreamingHistogram()]));
  const sums = new Map<string, { sum: Float64Array; count: number }>();
  const groupsOf = new Map(plan.weighted.map(({ node, groups }) => [node.inputs[0], groups] as const));
  const compared: Observed["compared"][number][] = [];
  let samples = 0;
  let kept = 0;
  for await (const feeds of calibration) {
    signal?.throwIfAborted();
    const made = await program.run(feeds);
    const size = Object.values(feeds)[0]?.shape[0] ?? 1;
    for (const value of watched) {
      const tensor = made[value] ?? feeds[value];
      histograms.get(value)?.add(tensor.data as Float32Array, `${name}: the value "${value}"`);
      if (groupsOf.get(value) !== undefined) addMeans(sums, value, tensor);
    }
    if (kept < SAMPLED) {
      const outputs = Object.fromEntries(model.outputs.map((o) => [o.name, made[o.name]]));
      compared.push({ feeds, outputs });
      kept += size;
    }
    samples += size;
    onProgress?.({ label: "calibrate", done: samples });
  }
  must(samples > 0, "quantize/no-data", () => `${name}: there is no calibration data. Give some inputs.`, "usage");
  const means = new Map([...sums].map(([value, { sum, count }]) => [value, sum.map((s) => s / count)]));
  return { histograms, means, compared, samples };
}

/** Adds up the channels (axis 1) of a tensor. */
function addMeans(sums: Map<string, { sum: Float64Array; count: number }>, value: string, tensor: Tensor): void {
  const [batch, channels] = tensor.shape;
  const inner = sizeOf(tensor.shape.slice(2));
  const entry = sums.get(value) ?? { sum: new Float64Array(channels), count: 0 };
  sums.set(value, entry);
  const values = tensor.data as Float32Array;
  for (let n = 0, i = 0; n < batch; n++)
    for (let c = 0; c < channels; c++) for (let k = 0; k < inner; k++, i++) entry.sum[c] += values[i];
  entry.count += batch * inner;
}

/** Squared error of a model's outputs by their squares. */
async function noise(
  { compared }: Observed,
  run: (feeds: Feeds) => Promise<Readonly<Record<string, Tensor>>>,
): Promise<number> {
  let [error, signal] = [0, 0];
  for (const { feeds, outputs } of compared) {
    const made = await run(feeds);
    for (const [name, exact] of Object.entries(outputs)) {
      const [a, b] = [exact.toFloat64(), made[name].toFloat64()];
      for (let i = 0; i < a.length; i++) {
        error += (a[i] - b[i]) ** 2;
        signal += a[i] ** 2;
      }
    }
  }
  return signal > 0 ? error / signal : error;
}

const decibels = (share: number): number => (share > 0 ? -10 * Math.log10(share) : Number.POSITIVE_INFINITY);

interface Choice {
  /** Is filled in. */
  readonly chosen: Map<string, CalibratorName>;
  readonly stepOf: (root: string, by: CalibratorName) => QuantizationStep;
  readonly data: Observed;
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
  const errorOf = (choice: ReadonlyMap<string, CalibratorName>): Promise<number> => {
    options.signal?.throwIfAborted();
    const own = Object.assign({}, ...roots.map((r) => feedOf(r, steps.get(r)!.get(choice.get(r)!)!))) as Feeds;
    return noise(data, (feeds) => program.run({ ...feeds, ...own }));
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

function notesOn({ nodes }: OnnxModel, { histograms }: Observed): string[] {
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
