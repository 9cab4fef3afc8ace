import { listed, must } from "../errors.ts";
import type { OnnxModel } from "../onnx/index.ts";
import { type CompileOptions, compileModel, type Feeds } from "../runtime/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";
import { addColumns, type ColumnSums, columnMeans, waysOf } from "./columns.ts";
import { StreamingHistogram } from "./histogram.ts";
import { constantsOf, type QuantizationPlan } from "./plan.ts";

/** An input that was kept, with the outputs of the float model. */
export interface ComparedInput {
  readonly feeds: Feeds;
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/** Version of the entries that {@link CalibrationStatistics.entries} makes. */
const VERSION = "2";

/** What one pass over calibration data showed of a model's values. Can be written into a checkpoint and read again. */
export class CalibrationStatistics {
  constructor(
    /** By the names of tensors. */
    readonly histograms: ReadonlyMap<string, StreamingHistogram>,
    /** Means of what each weight of a layer is multiplied by, `[inputs, ...kernel]`, by the layer's output. */
    readonly means: ReadonlyMap<string, Float64Array>,
    /** A few inputs with the outputs of the float model. */
    readonly compared: readonly ComparedInput[],
    /** Inputs seen, counted by their first axis. */
    readonly samples: number,
  ) {}

  /** Throws `quantize/statistics` unless these are statistics of the tensors of a plan. */
  mustBeOf({ tensors, weighted }: QuantizationPlan, where: string): this {
    const layers = weighted.filter(({ groups }) => groups !== undefined).map(({ node }) => node.outputs[0]);
    const missing = [
      ...[...new Set(tensors.values())].filter((name) => !this.histograms.has(name)),
      ...layers.filter((name) => !this.means.has(name)),
    ];
    must(
      !missing.length,
      "quantize/statistics",
      () =>
        `${where}: the statistics say nothing of ${listed(missing, 3)}: they are of another model, or of it prepared otherwise (--equalize, --split-outliers). Calibrate anew.`,
      "file",
    );
    return this;
  }

  /** As the entries and the metadata of a checkpoint. */
  entries(): { readonly entries: Map<string, Tensor>; readonly metadata: Readonly<Record<string, string>> } {
    const entries = new Map<string, Tensor>();
    const vector = (values: ArrayLike<number>): Tensor => Tensor.of("float64", [values.length], values);
    for (const [name, { positive, negative, width, zeros, count, min, max }] of this.histograms) {
      entries.set(`histogram:${name}:positive`, vector(positive));
      entries.set(`histogram:${name}:negative`, vector(negative));
      entries.set(`histogram:${name}:numbers`, vector([width, zeros, count, min, max]));
    }
    for (const [name, values] of this.means) entries.set(`means:${name}`, vector(values));
    for (const [i, { feeds, outputs }] of this.compared.entries()) {
      for (const [name, tensor] of Object.entries(feeds)) entries.set(`input:${i}:${name}`, tensor);
      for (const [name, tensor] of Object.entries(outputs)) entries.set(`output:${i}:${name}`, tensor);
    }
    return { entries, metadata: { calibration: VERSION, samples: String(this.samples) } };
  }

  /** Of such entries. Throws `quantize/statistics` where they are none. */
  static async read(
    entries: ReadonlyMap<string, TensorSource>,
    metadata: Readonly<Record<string, string>>,
    where: string,
  ): Promise<CalibrationStatistics> {
    must(
      metadata.calibration === VERSION,
      "quantize/statistics",
      () =>
        `${where}: holds no calibration statistics of this version. Make them with repmlp quantize … --save-stats ${where}.`,
      "file",
    );
    const histograms = new Map<string, StreamingHistogram>();
    const means = new Map<string, Float64Array>();
    const compared: { feeds: Record<string, Tensor>; outputs: Record<string, Tensor> }[] = [];
    for (const [key, source] of entries) {
      const [, kind, rest] = /^(histogram|means|input|output):(.*)$/.exec(key) ?? [];
      if (kind === undefined) continue;
      const tensor = await source.read();
      if (kind === "means") means.set(rest, tensor.toFloat64());
      else if (kind === "histogram") {
        const [, name, part] = /^(.*):(positive|negative|numbers)$/.exec(rest)!;
        const histogram = histograms.get(name) ?? new StreamingHistogram();
        histograms.set(name, histogram);
        const values = tensor.toFloat64();
        if (part !== "numbers") histogram[part as "positive" | "negative"] = values;
        else {
          const [width, zeros, count, min, max] = values;
          Object.assign(histogram, { width, zeros, count, min, max });
        }
      } else {
        const [, index, name] = /^(\d+):(.*)$/.exec(rest)!;
        compared[Number(index)] ??= { feeds: {}, outputs: {} };
        compared[Number(index)][kind === "input" ? "feeds" : "outputs"][name] = tensor;
      }
    }
    return new CalibrationStatistics(histograms, means, compared, Number(metadata.samples));
  }
}

/** Inputs that are kept to compare outputs on. */
const SAMPLED = 32;

export interface ObserveOptions {
  readonly compile?: CompileOptions;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (progress: { readonly label: string; readonly done: number; readonly total?: number }) => void;
  /** What to call the model in messages. */
  readonly name?: string;
}

/** Runs a model on calibration data and counts the values of what becomes integers. */
export async function observe(
  model: OnnxModel,
  plan: QuantizationPlan,
  calibration: Iterable<Feeds> | AsyncIterable<Feeds>,
  { compile, signal, onProgress, name = "model" }: ObserveOptions,
): Promise<CalibrationStatistics> {
  const inputs = new Set(model.inputs.map((v) => v.name));
  const read = new Set(plan.weighted.map(({ node }) => node.inputs[0]));
  const watched = new Set([...plan.tensors.values(), ...read]);
  const asOutputs = [...watched].filter((v) => !inputs.has(v) && !model.outputs.some((o) => o.name === v));
  const shown = [...model.outputs, ...asOutputs.map((v) => ({ name: v, dtype: "float32" as const }))];
  await using program = await compileModel({ ...model, outputs: shown }, compile);
  const histograms = new Map([...plan.tensors.values()].map((root) => [root, new StreamingHistogram()]));
  const columns = new Map<string, ColumnSums>();
  const constants = constantsOf(model);
  const layers = plan.weighted
    .filter(({ groups }) => groups !== undefined)
    .map(({ node }) => ({ node, ways: waysOf(node, constants.get(node.inputs[1])!.shape) }));
  const compared: ComparedInput[] = [];
  let samples = 0;
  let kept = 0;
  for await (const feeds of calibration) {
    signal?.throwIfAborted();
    const made = await program.run(feeds);
    const size = Object.values(feeds)[0]?.shape[0] ?? 1;
    for (const value of watched) {
      const tensor = made[value] ?? feeds[value];
      histograms.get(value)?.add(tensor.data as Float32Array, `${name}: the value "${value}"`);
    }
    for (const { node, ways } of layers)
      addColumns(columns, node.outputs[0], made[node.inputs[0]] ?? feeds[node.inputs[0]], ways);
    if (kept < SAMPLED) {
      const outputs = Object.fromEntries(model.outputs.map((o) => [o.name, made[o.name]]));
      compared.push({ feeds, outputs });
      kept += size;
    }
    samples += size;
    onProgress?.({ label: "calibrate", done: samples });
  }
  must(samples > 0, "quantize/no-data", () => `${name}: there is no calibration data. Give some inputs.`, "usage");
  return new CalibrationStatistics(histograms, columnMeans(columns), compared, samples);
}
