import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { saveCheckpointFile, writeFileAtomically } from "../../checkpoint/node/index.ts";
import { DataLoader, type PictureBatch, type PictureSet, type Preprocessing } from "../../data/index.ts";
import { packageFile } from "../../data/node/index.ts";
import { alone, type Communicator } from "../../distributed/index.ts";
import { listed, must, nearest, RepmlpError } from "../../errors.ts";
import { checkpointMetadata, coefficientMetadata } from "../../inference/index.ts";
import { saveOnnx } from "../../inference/node/index.ts";
import type { ModelOptions } from "../../models/index.ts";
import type { Net, Parameter } from "../../nn/index.ts";
import {
  calibrateQuantizedNet,
  exportQuantized,
  isQuantizationRange,
  type QuantizedExport,
  QuantizedNet,
  startInsertedNorms,
} from "../../quantize/index.ts";
import { chartsSvg, learningCurves } from "../../report/node/curves.ts";
import type { ShownTask } from "../../tasks/index.ts";
import type { Shape, Tensor } from "../../tensor/index.ts";
import { fitsPattern } from "../../text.ts";
import {
  chain,
  noDecayOnNormAndBias,
  type ParameterGroup,
  Trainer,
  type TrainerOptions,
  type TrainingCallback,
  type TrainingSummary,
  type UpdateRule,
} from "../../training/index.ts";
import { folderStore } from "../../training/node/checkpoint-store.ts";
import { eventsFile, fileLogs, loggedLosses, tensorBoardLog } from "../../training/node/logs.ts";
import { claimRunFolder, type RunFolder } from "../../training/node/run-folder.ts";
import { mustFitSome, parseRecipe, type Recipe } from "../recipe.ts";
import type { Start, StartedNet, StartOptions } from "../start.ts";
import { type TaskName, type TaskSettings, taskNames } from "../task-settings.ts";
import { onnxStart } from "./onnx-start.ts";
import { registryStart } from "./registry-start.ts";
import { readScales } from "./scales.ts";
import type { DataKind } from "./training-data.ts";
import { workflows } from "./workflows/index.ts";

/** The recipes of the package, by name: files to read, copy and change. */
export const recipeNames = [
  "cifar10-pure-mlp",
  "cifar10-conv",
  "cifar10-acnet",
  "imagenet-repmlp-res50",
  "fine-tune",
  "cityscapes-pspnet",
  "faces",
  "quantize",
  "prune-l1",
  "prune-resrep",
  "prune-csgd",
  "prune-aofp",
  "prune-gsm",
] as const;

/**
 * A recipe of the package by name, or from a file.
 *
 * @throws `recipe/unknown`, and what {@link parseRecipe} throws
 */
export async function readRecipe(nameOrFile: string): Promise<Recipe> {
  const named = recipeNames.some((name) => name === nameOrFile);
  const path = named ? packageFile("recipes", `${nameOrFile}.json`) : nameOrFile;
  const text = await readFile(path, "utf8").catch((cause) => {
    throw new RepmlpError(
      "recipe/unknown",
      `recipe: "${nameOrFile}" is neither a file nor a recipe of the package. Did you mean ${nearest(nameOrFile, [...recipeNames], 1)}? There are ${listed(recipeNames, 9)}.`,
      "usage",
      { cause },
    );
  });
  return parseRecipe(text, nameOrFile);
}

export interface TrainOptions extends StartOptions {
  /** What the network is to be trained for. Default what the architecture is for. */
  readonly task?: TaskName;
  /** Folder of the data set; see {@link openTrainingData}, and docs/guides/tasks.md for other tasks. */
  readonly data: string;
  readonly kind?: DataKind;
  /** Folder of everything that is written. */
  readonly folder: string;
  /** Goes on from the folder's last checkpoint, which must be there. */
  readonly resume?: boolean;
  /** Takes the place of an earlier run in the folder; without it or `resume`, its results are not touched. */
  readonly overwrite?: boolean;
  readonly threads?: number;
  /** Threads that decode picture files. */
  readonly workers?: number;
  /**
   * Processes that train together, each called with the same options: they all read recipe, data and `init`; the folder
   * is process 0's alone, which tells and writes everything. Default: this one alone.
   */
  readonly communicator?: Communicator;
  /** What batch norms do about the other processes' shares of a batch. Default `local`. */
  readonly batchNormStatistics?: TrainerOptions["batchNormStatistics"];
  /** What gradients travel as between processes. Default `float32`. */
  readonly gradientExchange?: TrainerOptions["gradientExchange"];
  readonly signal?: AbortSignal;
  readonly onEvent?: TrainingCallback;
  /** Is told once of each picture that cannot be read. In training another one of its batch takes its place. */
  readonly onUnreadable?: (error: RepmlpError) => void;
  /** Told before the first step what is trained, and on which pictures. */
  readonly onStart?: (plan: TrainingPlan) => void;
  /** Changes what is trained, and how; `init` is then read before a resumed run, too. */
  readonly prepare?: (net: Net, context: PrepareContext) => Prepared;
}

/** What is known of a run when its network is there. */
export interface PrepareContext {
  /** `[1, C, H, W]`. */
  readonly inputShape: Shape;
  readonly stepsPerEpoch: number;
}

/** A network with what a run puts into it. */
export interface Prepared {
  readonly net: Net;
  /** Before the recipe's optimizer. */
  readonly rule?: UpdateRule | undefined;
  /** Goes before what the recipe says of a parameter. */
  readonly group?: ((key: string, parameter: Parameter) => ParameterGroup | undefined) | undefined;
  /** What a checkpoint must state for the network to be made again, beside its own options. */
  readonly options?: ModelOptions;
  /** Further numbers of the events, at each step and epoch. */
  readonly measures?: TrainerOptions["measures"];
}

/** What a run will do, as far as it is not said by its recipe. */
export interface TrainingPlan {
  /** What of `init` was not taken over. */
  readonly loaded?: NonNullable<StartedNet["loaded"]>;
  /** Keys that get a new head's initial values. */
  readonly newHead: readonly string[];
  /** What one should know of the data and of the network, as sentences. */
  readonly notes: readonly string[];
  readonly preprocessing: Preprocessing;
  /** Where the preprocessing is from, where that is a question. */
  readonly from?: string;
  /** Keys of the parameters that are trained, and of those that are not. */
  readonly trained: readonly string[];
  readonly frozen: readonly string[];
}

export interface TrainResult {
  /** Architecture, or the name of the ONNX file that was trained. */
  readonly name: string;
  /** Architecture in the registry, if it is one. */
  readonly arch?: string;
  readonly task: ShownTask;
  readonly summary: TrainingSummary;
  /** Final weights, training form; absent when the run was stopped, and of other processes than the first. */
  readonly weights?: string;
  /** The ONNX model with the final weights, where the run started from one. */
  readonly onnx?: string;
  /** Their average, under the key `model_ema` as timm writes it; with `ema`, when the run was not stopped. */
  readonly averaged?: string;
  /** Log for TensorBoard. */
  readonly events?: string;
  /** The network in integers; with `quantize`, when the run was not stopped. */
  readonly quantized?: { readonly path: string } & Omit<QuantizedExport, "model">;
  /** Learning curves. */
  readonly curves?: string;
  readonly folder: string;
  /** Pictures that could not be read, by their paths. */
  readonly unreadable: readonly string[];
  /** In evaluation mode. */
  readonly model: Net;
  /** The pictures that it was validated on. */
  readonly test: PictureSet;
}

/**
 * Trains a network on a folder of pictures by a recipe. Writes into `folder`: `last.safetensors` (to resume from),
 * `best.safetensors`, `log.csv`, `log.jsonl`, `events.out.tfevents.repmlp`, and at the end `train.pth`, `curves.svg`,
 * with `ema` `ema.pth`, with `quantize` `model.int8.onnx` and, from an ONNX model, `model.onnx`.
 *
 * A picture that cannot be read is left out and told of.
 *
 * @throws `train/resume` when there is nothing to resume, `train/arch` when nothing names an architecture, `train/task` for
 *   a network of another task, `train/entry` for an entry of the recipe that says nothing to it, `train/classes`
 *   when a new head is asked for with another number of classes than the data has; `run-folder/taken`,
 *   `run-folder/results` where another run writes there or an earlier one has left its results; what reading data, weights
 *   and training throw
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const {
    recipe,
    communicator = alone,
    gradientExchange,
    folder,
    init,
    numClasses,
    resume = false,
    overwrite = false,
    seed = 0,
    threads,
    signal,
    workers,
  } = options;
  must(
    recipe.prune === undefined,
    "train/prune",
    () => 'train: the recipe says how to prune. Use repmlp prune, or take its entry "prune" out.',
    "usage",
  );
  const start = await (init !== undefined && /\.onnx$/i.test(init) ? onnxStart(init, options) : registryStart(options));
  const scales = options.scales === undefined ? undefined : await readScales(options.scales, options);
  const last = join(folder, "last.safetensors");
  must(
    !resume || communicator.rank > 0 || existsSync(last),
    "train/resume",
    () =>
      `train: there is no checkpoint to resume from: ${last} does not exist. Check the folder of the run (--out), or begin one without --resume.`,
    "usage",
  );
  const unreadable = new Set<string>();
  const onUnreadable = (path: string, error: RepmlpError): void => {
    if (unreadable.has(path)) return;
    unreadable.add(path);
    options.onUnreadable?.(error);
  };
  const settings = taskOf(start, options);
  const workflow = workflows[settings.kind];
  const data = await workflow.open(options.data, settings, {
    ...{ onUnreadable, recipe, preprocessing: start.preprocessing, normalization: start.normalization, workers },
    ...(options.kind && { kind: options.kind }),
  });
  let claim: RunFolder | undefined;
  try {
    const { classes } = data;
    const { imageShape } = data.train;
    mustBeSize(imageShape, start.preprocessing.inputSize, start.name, options.data);
    mustBeClasses(classes.length, numClasses, options.data);
    const { prepare } = options;
    const built = await start.build(classes, !resume || prepare !== undefined);
    const { head, loaded, remarks = [], check, save } = built;
    if (init === undefined && !resume) scales?.initialize(built.net, seed);
    const stepsPerEpoch = Math.max(1, Math.floor(data.train.length / recipe.batchSize));
    const { quantize } = recipe;
    // Integers are trained with running statistics in the kernels, which are to be the same in all processes.
    const { batchNormStatistics = "local" } = options;
    const norms = quantize && batchNormStatistics === "local" ? "averaged" : batchNormStatistics;
    must(
      !(prepare && quantize),
      "train/quantize",
      () =>
        'train: a network is not pruned and trained for integers in one run. Prune it with a recipe without "quantize".',
      "usage",
    );
    const prepared = prepare?.(built.net, { inputShape: [1, ...imageShape], stepsPerEpoch });
    const { net: whole = built.net } = prepared ?? {};
    const net = quantize ? new QuantizedNet(whole, { ...quantize, inputShape: imageShape }) : whole;
    const own = trainerOptions(recipe, net, head);
    const scaled = scales ? { ...own, optimizer: scales.optimizer(recipe.optimizer, net) } : own;
    const trainer = withPrepared(scaled, prepared);
    const task = workflow.task(settings, data, recipe);
    const [trained, frozen] = split([...net.parameters()], ([key, p]) => !trainer.group?.(key, p)?.frozen);
    const leads = communicator.rank === 0;
    if (leads)
      options.onStart?.({
        ...(loaded && { loaded }),
        newHead: numClasses === undefined || resume ? [] : head,
        notes: [...data.notes, ...remarks.map((remark) => `${init}: ${remark}`)],
        preprocessing: data.preprocessing,
        ...(start.from !== undefined && {
          from: data.isReady && !start.normalization ? "as usual for this data set" : start.from,
        }),
        ...{ trained: trained.map(([key]) => key), frozen: frozen.map(([key]) => key) },
      });
    const keys = new Set(trained.map(([key]) => key));
    check?.([2, ...imageShape], (key) => keys.has(key));
    if (leads) claim = claimRunFolder(folder, { resume, overwrite, results: runFiles });
    const { arch, options: model, name } = start;
    const metadata = checkpointMetadata({
      arch,
      ...((model ?? prepared?.options) && { options: { ...model, ...prepared?.options } }),
      classes,
      preprocessing: data.preprocessing,
      task: workflow.stated(settings),
    });
    const store = folderStore(folder);
    if (leads) await store.prepare();
    claim?.clear();
    const batches = (): AsyncIterable<Tensor> => firstBatches(data.train, recipe, seed);
    if (!resume) {
      whole.initialize(seed);
      const compile = threads === undefined ? {} : { threads };
      await startInsertedNorms(whole, batches(), compile);
      if (net instanceof QuantizedNet) await calibrateQuantizedNet(net, batches(), compile);
    }
    const summary = await new Trainer<PictureBatch, Net>(net, {
      ...trainer,
      ...{ data, task, seed, threads, store, resume, signal, communicator, gradientExchange },
      batchNormStatistics: norms,
      settings: pictureSettings(recipe, data.preprocessing, options),
      metadata,
      callbacks: leads ? [fileLogs(folder), tensorBoardLog(folder)] : [],
      ...(options.onEvent && { onEvent: options.onEvent }),
    }).run();
    const done = {
      name,
      ...(arch && { arch }),
      task,
      summary,
      folder,
      unreadable: [...unreadable],
      model: net,
      test: data.validation,
    };
    if (!summary.finished || !leads) return done;
    const files = {
      weights: join(folder, "train.pth"),
      curves: join(folder, "curves.svg"),
      events: join(folder, eventsFile),
      ...(summary.averaged && { averaged: join(folder, "ema.pth") }),
    };
    await saveCheckpointFile(files.weights, unquantized(net).stateDict(), {
      metadata: { ...metadata, ...coefficientMetadata(net) },
    });
    if (summary.averaged && files.averaged)
      await saveCheckpointFile(files.averaged, unquantized(summary.averaged).stateDict(), {
        ...{ wrapper: "model_ema", metadata },
      });
    const trainedNet = summary.averaged ?? net;
    const quantized =
      trainedNet instanceof QuantizedNet ? await saveQuantized(trainedNet, folder, data, { arch, classes }) : undefined;
    const svg = await chartsSvg(name, learningCurves({ losses: loggedLosses(folder), history: summary.history }, task));
    await writeFileAtomically(files.curves, async (sink) => {
      await sink.write(new TextEncoder().encode(svg));
    });
    // What is wrapped for its pruning is not that network yet.
    const onnx = whole === built.net ? await save?.(folder, data.preprocessing, classes) : undefined;
    return { ...done, ...files, ...(onnx !== undefined && { onnx }), ...(quantized && { quantized }) };
  } finally {
    claim?.release();
    await data.close();
  }
}

/** What a run leaves in its folder, logs aside. */
const runFiles = [
  ...["last.safetensors", "best.safetensors", "train.pth", "ema.pth", "model.onnx", "model.int8.onnx", "curves.svg"],
] as const;

/** The network whose weights are trained. */
const unquantized = (net: Net): Net => (net instanceof QuantizedNet ? net.net : net);

/** Pictures of the first batches of a run. */
async function* firstBatches(data: PictureSet, { batchSize, quantize }: Recipe, seed: number): AsyncGenerator<Tensor> {
  let left = quantize?.batches ?? STARTING_BATCHES;
  const size = Math.min(batchSize, data.length);
  const dropLast = data.length > size;
  for await (const { images } of new DataLoader(data, { batchSize: size, shuffle: true, seed, dropLast, fill: true })) {
    yield images;
    if (--left === 0) return;
  }
}

/** Batches that inserted batch norms get their statistics from, where the recipe does not say it. */
const STARTING_BATCHES = 16;

/** Pictures that the file in integers is compared with the network on. */
const COMPARED = 32;

async function saveQuantized(
  net: QuantizedNet,
  folder: string,
  { validation, preprocessing }: { readonly validation: PictureSet; readonly preprocessing: Preprocessing },
  { arch, classes: labels }: { readonly arch: string | undefined; readonly classes: readonly string[] },
): Promise<NonNullable<TrainResult["quantized"]>> {
  const { images } = await validation.batch(Array.from({ length: Math.min(COMPARED, validation.length) }, (_, i) => i));
  const { model, ...result } = await exportQuantized(net, {
    compareOn: images,
    metadata: { ...(arch && { arch }), preprocessing, labels },
  });
  const path = join(folder, "model.int8.onnx");
  await saveOnnx(path, model);
  return { path, ...result };
}

/** The task that a run is for, and what is said of it. */
function taskOf({ name, task: own }: Start, { task: asked, recipe }: TrainOptions): TaskSettings {
  const kind = taskNames.find((task) => task === own);
  must(kind, "train/task", () => `train: nothing is known of the task ${own}, which ${name} is for.`);
  for (const wanted of [asked, recipe.task?.kind])
    must(
      wanted === undefined || wanted === kind,
      "train/task",
      () =>
        `train: ${name} is a network for the task ${kind}, not for ${wanted}. Choose another architecture; \`repmlp models\` lists them with their tasks.`,
      "usage",
    );
  const { settings, without } = workflows[kind];
  const idle = without.find((entry) => {
    const value = recipe[entry];
    return Array.isArray(value) ? value.length > 0 : Boolean(value);
  });
  must(
    idle === undefined,
    "train/entry",
    () => `recipe: the entry "${idle}" says nothing to the task ${kind}. Take it out; see docs/guides/tasks.md.`,
    "usage",
  );
  return recipe.task ?? settings;
}

function split<T>(all: readonly T[], first: (item: T) => boolean): readonly [T[], T[]] {
  return [all.filter(first), all.filter((item) => !first(item))];
}

/** What the recipe says, and what a run has prepared. */
function withPrepared(
  settings: Omit<TrainerOptions, "data">,
  { rule, group, measures }: Partial<Prepared> = {},
): Omit<TrainerOptions, "data"> {
  const { optimizer, group: own } = settings;
  return {
    ...settings,
    ...(rule && optimizer && { optimizer: chain(rule, optimizer) }),
    ...(group && { group: (key, parameter) => ({ ...own?.(key, parameter), ...group(key, parameter) }) }),
    ...(measures && { measures }),
  };
}

/** What is done to the pictures, for a resumed run to be compared with. */
function pictureSettings(
  { augment, quantize }: Recipe,
  { mean, std, ...rest }: Preprocessing,
  { batchNorm }: StartOptions,
): NonNullable<TrainerOptions["settings"]> {
  return {
    augment: JSON.stringify(augment),
    ...{ mean: mean.join(","), std: std.join(","), preprocessing: JSON.stringify(rest) },
    ...(batchNorm && { batchNorm }),
    ...(quantize && { quantize: JSON.stringify(quantize) }),
  };
}

/** What a recipe says, as the trainer takes it. */
export function trainerOptions(
  recipe: Recipe,
  model: Net,
  head: readonly string[] = [],
): Omit<TrainerOptions, "data" | "task"> {
  const { epochs, batchSize, lr, warmupEpochs, schedule, optimizer, mix } = recipe;
  const { accumulate, gradCheckpointing, clipNorm, clipValue, ema, patience, preciseBatchNorm, coefficients } = recipe;
  const keys = [...model.parameters()].map(([key]) => key);
  mustFitSome(recipe.train, keys, "recipe: train");
  mustFitSome(recipe.freeze, keys, "recipe: freeze");
  mustFitSome(Object.keys(recipe.lrScale), keys, "recipe: lrScale");
  return {
    ...{ epochs, batchSize, lr, warmupEpochs, schedule, optimizer, mix, group: groupOf(recipe, head) },
    ...{ accumulate, gradCheckpointing, clipNorm, clipValue, ema, patience, preciseBatchNorm, coefficients },
  };
}

const groupOf =
  ({ train, freeze, lrScale, headLrScale, decayNormAndBias }: Recipe, head: readonly string[]) =>
  (key: string, parameter: Parameter): ParameterGroup => {
    // A scale is no weight: decay would only change what it means.
    if (isQuantizationRange(key)) return { weightDecay: 0 };
    const fits = (pattern: string): boolean => fitsPattern(key, pattern);
    return {
      ...(decayNormAndBias ? undefined : noDecayOnNormAndBias(key, parameter)),
      frozen: !train.some(fits) || freeze.some(fits),
      lrScale:
        Object.entries(lrScale).find(([pattern]) => fits(pattern))?.[1] ?? (head.includes(key) ? headLrScale : 1),
    };
  };

function mustBeSize(found: readonly number[], wanted: readonly number[], arch: string, data: string): void {
  must(
    `${found}` === `${wanted}`,
    "train/size",
    () =>
      `${data}: its pictures are ${found.join(" x ")}, ${arch} takes ${wanted.join(" x ")}. Choose another architecture, or say "model": { "imageSize": … } in the recipe.`,
    "file",
  );
}

function mustBeClasses(found: number, wanted: number | undefined, data: string): void {
  must(
    wanted === undefined || wanted === found,
    "train/classes",
    () =>
      `${data}: has ${found} classes, not ${wanted}. The head is for as many as there are: \`numClasses\` ${found}.`,
    "usage",
  );
}
