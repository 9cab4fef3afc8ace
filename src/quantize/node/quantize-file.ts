import { existsSync } from "node:fs";
import { mkdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import {
  formatOfName,
  openCheckpointFile,
  saveCheckpointFile,
  writeFileAtomically,
} from "../../checkpoint/node/index.ts";
import { mustBeWritable, mustDiffer } from "../../convert/node/checkpoint-file.ts";
import { type Preprocessing, preprocess } from "../../data/index.ts";
import { pictureEndings } from "../../data/node/class-folders.ts";
import { readPicture } from "../../data/node/index.ts";
import { type PicturesBelow, picturesBelow } from "../../data/node/pictures-below.ts";
import { fmt, must, RepmlpError } from "../../errors.ts";
import { exportOnnx } from "../../export/index.ts";
import { mustHaveFiniteWeights, readMetadata, remarksOnBatches } from "../../inference/index.ts";
import { fileSha256, type OpenModelOptions, openModelFile, openOnnx, saveOnnx } from "../../inference/node/index.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import type { Feeds } from "../../runtime/index.ts";
import { rng, sizeOf, Tensor } from "../../tensor/index.ts";
import { quantizationTargets } from "../qdq.ts";
import { type QuantizedOnnx, type QuantizeOnnxOptions, quantizeOnnx } from "../quantize-onnx.ts";
import { quantizationReport, reportPage } from "../report.ts";
import { CalibrationStatistics } from "../statistics.ts";
import { type QuantizedWeights, type QuantizeWeightsOptions, quantizeWeights } from "../weight-only.ts";
import { type Accuracies, accuraciesOf, liesInClasses } from "./accuracy.ts";

export interface QuantizeFileOptions extends Omit<QuantizeOnnxOptions, "name">, OpenModelOptions {
  /** Folder of pictures like those that the model will see; folders in it are looked through. Needed without `stats`. */
  readonly calib?: string | undefined;
  /** Calibration statistics that an earlier call wrote, instead of `calib`. */
  readonly stats?: string | undefined;
  /** Where to write the calibration statistics: a `.safetensors` file. */
  readonly saveStats?: string | undefined;
  /** Where to write a page with the noise, the range and a histogram of every activation. */
  readonly report?: string | undefined;
  /**
   * Folder with a folder of pictures per class: `report` says how many of them both models get right. Default `calib`, where
   * its folders are named as the classes that the file states.
   */
  readonly eval?: string | undefined;
  /** Pictures to take, evenly over the folder in the order of their paths. Default 256. */
  readonly pictures?: number;
  /** Pictures per run; their activations are in memory together. Default 8. */
  readonly batchSize?: number;
  /** Normalization of each channel, for ONNX files that do not state theirs. */
  readonly mean?: readonly number[] | undefined;
  readonly std?: readonly number[] | undefined;
  /** Is told of each picture that cannot be read and is left out. */
  readonly onUnreadable?: (error: RepmlpError) => void;
}

export interface QuantizedFile extends Omit<QuantizedOnnx, "model" | "float" | "statistics"> {
  readonly paths: readonly string[];
  /** Sizes of both files. */
  readonly bytes: readonly [before: number, after: number];
  readonly preprocessing: Preprocessing;
  /** Pictures that could not be read. */
  readonly unreadable: readonly string[];
  /** What of the file was taken, or left out, in words. */
  readonly remarks: readonly string[];
  /** With `report`, where there are labelled pictures. */
  readonly accuracy?: Accuracies;
}

/** So few pictures that ranges are a matter of luck. */
const FEW = 16;

/** File names of a model folder as transformers.js knows them, by how weights are stored. */
export const hubQuantizedFile = {
  quantized: "onnx/model_quantized.onnx",
  int8: "onnx/model_int8.onnx",
  int4: "onnx/model_q4.onnx",
  float16: "onnx/model_fp16.onnx",
} as const;

/**
 * Where a model goes: the file itself or, where `save` is a model folder, its file of that kind.
 *
 * @throws RepmlpError `quantize/folder` for a folder that is no model folder
 */
async function placeOf(save: string, kind: keyof typeof hubQuantizedFile): Promise<string> {
  const isFolder = await stat(save).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) return save;
  must(
    existsSync(join(save, "config.json")),
    "quantize/folder",
    () =>
      `${save}: is a folder without config.json, and so no model folder. Name an ONNX file, or make one with repmlp export --layout hub.`,
    "usage",
  );
  await mkdir(join(save, "onnx"), { recursive: true });
  return join(save, hubQuantizedFile[kind]);
}

/**
 * Quantizes a checkpoint (merged first) or an ONNX file by {@link quantizeOnnx} with the pictures of a folder, and writes an
 * ONNX file that `repmlp test` and `predict` take; into a model folder as `onnx/model_quantized.onnx`.
 *
 * @throws RepmlpError `quantize/calib` for a folder without pictures, `quantize/unreadable` where none can be read,
 *   `quantize/input` for a model that does not take pictures, `quantize/preprocessing` for one that does not say how, and
 *   what {@link quantizeOnnx} and opening the file throw
 */
export async function quantizeFile(load: string, save: string, options: QuantizeFileOptions): Promise<QuantizedFile> {
  const place = await placeOf(save, "quantized");
  mustDiffer(load, place, "model");
  mustBeWritable(place);
  const { calib, stats, saveStats, pictures = 256, onUnreadable, onProgress } = options;
  must(
    (calib === undefined) !== (stats === undefined),
    "quantize/calib",
    () =>
      `${load}: calibrate with a folder of pictures like those that the model will see (\`calib\`), or with statistics of an earlier run (\`stats\`): one of the two.`,
    "usage",
  );
  if (saveStats !== undefined) {
    formatOfName(saveStats);
    mustBeWritable(saveStats);
  }
  if (options.report !== undefined) mustBeWritable(options.report);
  must(
    options.eval === undefined || options.report !== undefined,
    "quantize/eval",
    () => `${load}: --eval ${options.eval} is for a report. Say where to write it with --report.`,
    "usage",
  );
  const found = calib === undefined ? nothing : await calibrationPictures(calib);
  const { model: opened, remarks } = await openFloat(load, options);
  const { model, preprocessing } = withPreprocessing(opened, load, options);
  const mixing = await remarksOnBatches(model, preprocessing.inputSize, load);
  const unreadable: string[] = [];
  const told: string[] = [];
  const leaveOut = (path: string, error: RepmlpError): void => {
    unreadable.push(path);
    onUnreadable?.(error);
  };
  const chosen = mixed(evenly(found.pictures, pictures));
  const calibration =
    calib === undefined
      ? await readStatistics(stats!)
      : batches(chosen, calib, model, preprocessing, options.batchSize ?? 8, leaveOut, (note) => told.push(note));
  const made = await quantizeOnnx(model, calibration, {
    ...options,
    name: load,
    onProgress: (progress) => onProgress?.({ total: chosen.length, ...progress }),
  });
  const { model: quantized, float: _, statistics, ...result } = made;
  if (saveStats !== undefined) {
    const { entries, metadata } = statistics.entries();
    await saveCheckpointFile(saveStats, entries, { metadata });
  }
  const { calibrator = "auto", target = "portable" } = options;
  const { paths, bytes } = await saveOnnx(place, {
    ...quantized,
    metadata: {
      ...quantized.metadata,
      dtype: "int8",
      preprocessing: JSON.stringify(preprocessing),
      quantization: JSON.stringify({ target, calibrator, pictures: result.samples }),
    },
  });
  const { size } = await stat(load);
  const accuracy = await accuracyOf(made, found, preprocessing, readMetadata(model, load).labels, options);
  if (options.report !== undefined) {
    const facts = [
      ["model", load],
      ["target", `${target}: exact on ${quantizationTargets[target].exactOn}`],
    ] as const;
    const page = reportPage(await quantizationReport(made, options.compile), made, {
      ...{ title: `${basename(place)}: integers beside floats`, facts, bytes: [size, bytes], accuracy },
    });
    await writeFileAtomically(options.report, async (sink) => sink.write(new TextEncoder().encode(page)));
  }
  const few =
    result.samples < FEW ? [`${result.samples} pictures say little about ranges; some hundred are better`] : [];
  const notes = [...found.notes, ...told, ...few, ...result.notes];
  return {
    ...{ ...result, notes, paths, bytes: [size, bytes], preprocessing, unreadable, remarks: [...remarks, ...mixing] },
    ...(accuracy && { accuracy }),
  };
}

/** What a report says of labelled pictures, where there are some: those of `eval`, or those that calibrated. */
async function accuracyOf(
  { float, model: integers }: QuantizedOnnx,
  { pictures }: PicturesBelow,
  preprocessing: Preprocessing,
  labels: readonly string[] | undefined,
  { report, eval: folder, calib, batchSize = 8, onUnreadable, ...options }: QuantizeFileOptions,
): Promise<Accuracies | undefined> {
  if (report === undefined) return undefined;
  const calibrated = calib !== undefined && liesInClasses(pictures, labels) ? calib : undefined;
  const labelled = folder ?? calibrated;
  if (labelled === undefined) return undefined;
  return accuraciesOf({ float, integers }, labelled, {
    ...{ ...options, preprocessing, labels, batchSize },
    // Of the calibration pictures it was told already.
    ...(folder !== undefined && { onUnreadable }),
  });
}

/** Statistics that {@link quantizeFile} wrote. */
async function readStatistics(path: string): Promise<CalibrationStatistics> {
  must(
    !/\.onnx$/i.test(path),
    "quantize/statistics",
    () => `${path}: is a model and holds no calibration statistics. Give what \`saveStats\` wrote.`,
    "usage",
  );
  using file = await openCheckpointFile(path);
  return await CalibrationStatistics.read(file.entries, file.metadata, path);
}

export interface QuantizeWeightsFileOptions extends Omit<QuantizeWeightsOptions, "name">, OpenModelOptions {}

export interface WeightsFile extends Omit<QuantizedWeights, "model"> {
  readonly paths: readonly string[];
  /** Sizes of both files. */
  readonly bytes: readonly [before: number, after: number];
  readonly remarks: readonly string[];
}

/**
 * Stores the weights of a checkpoint (merged first) or an ONNX file in fewer bits by {@link quantizeWeights}; into a model
 * folder under the name that transformers.js has for it.
 *
 * @throws RepmlpError what {@link quantizeWeights} and opening the file throw
 */
export async function quantizeWeightsFile(
  load: string,
  save: string,
  options: QuantizeWeightsFileOptions,
): Promise<WeightsFile> {
  const place = await placeOf(save, options.type);
  mustDiffer(load, place, "model");
  mustBeWritable(place);
  const { model, remarks } = await openFloat(load, options);
  const { model: made, ...result } = quantizeWeights(model, { ...options, name: load });
  const metadata = { ...made.metadata, dtype: options.type };
  const { paths, bytes } = await saveOnnx(place, { ...made, metadata });
  const { size } = await stat(load);
  return { ...result, paths, bytes: [size, bytes], remarks };
}

/** The float model: of a checkpoint its merged form. */
async function openFloat(
  path: string,
  options: OpenModelOptions,
): Promise<{ readonly model: OnnxModel; readonly remarks: readonly string[] }> {
  if (/\.onnx$/i.test(path)) {
    const model = await openOnnx(path);
    await mustHaveFiniteWeights(model, path);
    return { model, remarks: [] };
  }
  const { net, arch, task, preprocessing, classes: labels, remarks, close } = await openModelFile(path, options);
  try {
    const source = { name: basename(path), sha256: await fileSha256(path) };
    const metadata = { arch, preprocessing, source, task, ...(labels && { labels }) };
    const { model } = await exportOnnx(net, { inputShape: preprocessing.inputSize, metadata, task: task.kind });
    return { model: await inMemory(model), remarks };
  } finally {
    close();
  }
}

/** The model with its weights read, so that their file can be closed. */
async function inMemory(model: OnnxModel): Promise<OnnxModel> {
  const read = [...model.initializers].map(async ([name, source]) => [name, await source.read()] as const);
  return { ...model, initializers: new Map(await Promise.all(read)) };
}

/** How pictures become the model's input: as the file states, or as is asked for. */
function withPreprocessing(
  model: OnnxModel,
  path: string,
  { mean, std, imageSize }: QuantizeFileOptions,
): { readonly model: OnnxModel; readonly preprocessing: Preprocessing } {
  const [input, ...others] = model.inputs;
  must(
    input?.shape?.length === 4 && others.length === 0 && input.dtype === "float32",
    "quantize/input",
    () =>
      `${path}: must take one float32 input of pictures [batch, channels, height, width], but takes ${model.inputs.map((v) => `${v.name} ${v.dtype} ${fmt(v.shape ?? ["?"])}`).join(", ")}. For other inputs use quantizeOnnx of the library.`,
    "model",
  );
  const { preprocessing: stated } = readMetadata(model, path);
  if (stated && !mean && !std) return { model, preprocessing: stated };
  const [, channels, ...size] = input.shape.map((d) => (typeof d === "number" ? d : undefined));
  const [height, width] = size.map((d) => d ?? imageSize);
  must(
    stated || (channels && height && width),
    "quantize/preprocessing",
    () => `${path}: leaves the size of its input open (${fmt(input.shape!)}). Say it with \`imageSize\`.`,
    "usage",
  );
  must(
    mean && std && [mean, std].every((list) => list.length === (stated ? stated.inputSize[0] : channels)),
    "quantize/preprocessing",
    () =>
      `${path}: does not say how pictures are prepared for it. Say the mean and deviation of each of its ${channels ?? "?"} channels with \`mean\` and \`std\`, such as 0.485,0.456,0.406 and 0.229,0.224,0.225.`,
    "usage",
  );
  const sized: Pick<Preprocessing, "inputSize" | "resize"> = stated ?? {
    inputSize: [channels!, height!, width!],
    resize: height === width ? height! : [height!, width!],
  };
  return { model, preprocessing: { ...sized, mean, std } };
}

const nothing: PicturesBelow = { pictures: [], notes: [] };

async function calibrationPictures(folder: string): Promise<PicturesBelow> {
  const found = await picturesBelow(folder);
  must(
    found.pictures.length > 0,
    "quantize/calib",
    () =>
      `${folder}: holds no pictures to calibrate with (${[...pictureEndings].join(", ")}). Give a folder with some hundred like those that the model will see.`,
    "file",
  );
  return found;
}

/** In an order of chance, always the same, so that the first pictures are not all of one folder. */
function mixed<T>(list: readonly T[]): readonly T[] {
  const made = [...list];
  const random = rng(0, "calibration pictures");
  for (let i = made.length - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [made[i], made[other]] = [made[other], made[i]];
  }
  return made;
}

const evenly = <T>(list: readonly T[], count: number): readonly T[] =>
  list.length <= count ? list : Array.from({ length: count }, (_, i) => list[Math.floor((i * list.length) / count)]);

/** Batches of pictures as feeds; what does not fill a fixed batch is left out. */
async function* batches(
  paths: readonly string[],
  folder: string,
  { inputs: [{ name, shape }] }: OnnxModel,
  preprocessing: Preprocessing,
  batchSize: number,
  leaveOut: (path: string, error: RepmlpError) => void,
  note: (text: string) => void,
): AsyncGenerator<Feeds> {
  const fixed = typeof shape?.[0] === "number" ? shape[0] : undefined;
  const size = fixed ?? batchSize;
  let read = 0;
  let first: Float32Array | undefined;
  let areAlike = true;
  let waiting: Float32Array[] = [];
  const batch = (): Feeds => {
    const each = sizeOf(preprocessing.inputSize);
    const values = new Float32Array(waiting.length * each);
    for (const [i, v] of waiting.entries()) values.set(v, i * each);
    const made = new Tensor("float32", [waiting.length, ...preprocessing.inputSize], values);
    waiting = [];
    return { [name]: made };
  };
  for (const path of paths) {
    try {
      const picture = preprocess(await readPicture(join(folder, path)), preprocessing);
      waiting.push(picture);
      first ??= picture;
      areAlike &&= picture === first || picture.every((v, i) => v === first?.[i]);
      read++;
    } catch (error) {
      if (!(error instanceof RepmlpError) || error.kind !== "file") throw error;
      leaveOut(path, error);
    }
    if (waiting.length === size) yield batch();
  }
  must(
    read > 0,
    "quantize/unreadable",
    () => `${folder}: none of ${paths.length} pictures can be read. Look at ${paths[0]}.`,
    "file",
  );
  must(
    fixed === undefined || read >= fixed,
    "quantize/batch",
    () => `${folder}: the model takes ${fixed} pictures at a time, and only ${read} can be read. Give more.`,
    "file",
  );
  if (read > 1 && areAlike) note(`${folder}: all ${read} pictures are the same, which says nothing of others`);
  if (waiting.length && fixed === undefined) yield batch();
}
