import { existsSync } from "node:fs";
import { join } from "node:path";
import { saveCheckpointFile, writeFileAtomically } from "../../checkpoint/node/index.ts";
import { DataLoader, type PictureBatch, type PictureSet, type Preprocessing } from "../../data/index.ts";
import { alone, type Communicator } from "../../distributed/index.ts";
import { must, type RepmlpError } from "../../errors.ts";
import { checkpointMetadata, coefficientMetadata } from "../../inference/index.ts";
import type { Net, Parameter } from "../../nn/index.ts";
import { startInsertedNorms } from "../../quantize/index.ts";
import { chartsSvg, learningCurves } from "../../report/node/curves.ts";
import type { ShownTask, Task } from "../../tasks/index.ts";
import type { Tensor } from "../../tensor/index.ts";
import { Trainer, type TrainerOptions, type TrainingCallback, type TrainingSummary } from "../../training/index.ts";
import { folderStore } from "../../training/node/checkpoint-store.ts";
import { eventsFile, fileLogs, loggedLosses, tensorBoardLog } from "../../training/node/logs.ts";
import { claimRunFolder, type RunFolder } from "../../training/node/run-folder.ts";
import type { Recipe } from "../recipe.ts";
import type { Start, StartedNet, StartOptions } from "../start.ts";
import { type TaskName, type TaskSettings, taskNames } from "../task-settings.ts";
import { onnxStart } from "./onnx-start.ts";
import { type PrepareContext, type Prepared, type SavedIntegers, trainerOptions, withPrepared } from "./prepared.ts";
import { integersFile, quantizedTraining } from "./quantized-training.ts";
import { registryStart } from "./registry-start.ts";
import { readScales, type ScaledTraining } from "./scales.ts";
import type { DataKind } from "./training-data.ts";
import { type TaskData, workflows } from "./workflows/index.ts";

export { trainerOptions };

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
  readonly quantized?: SavedIntegers;
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
  const { recipe, init, resume = false, overwrite = false, folder, communicator = alone } = options;
  must(
    recipe.prune === undefined,
    "train/prune",
    () => 'train: the recipe says how to prune. Use repmlp prune, or take its entry "prune" out.',
    "usage",
  );
  const start = await (init !== undefined && /\.onnx$/i.test(init) ? onnxStart(init, options) : registryStart(options));
  const scales = options.scales === undefined ? undefined : await readScales(options.scales, options);
  mustHaveBegun(options);
  const settings = taskOf(start, options);
  const workflow = workflows[settings.kind];
  const left = leftOut(options.onUnreadable);
  const data = await workflow.open(options.data, settings, {
    ...{ recipe, preprocessing: start.preprocessing, normalization: start.normalization, workers: options.workers },
    ...{ onUnreadable: left.add, ...(options.kind && { kind: options.kind }) },
  });
  const leads = communicator.rank === 0;
  let claim: RunFolder | undefined;
  try {
    const run = await runOf({ options, start, scales, settings, data });
    if (leads) options.onStart?.(planOf(run));
    const trained = new Set(trainedKeys(run));
    run.built.check?.([2, ...data.train.imageShape], (key) => trained.has(key));
    if (leads) claim = claimRunFolder(folder, { resume, overwrite, results: runFiles });
    if (leads) await folderStore(folder).prepare();
    claim?.clear();
    if (!resume) await begin(run);
    const summary = await trainerOf(run).run();
    const done = {
      ...{ name: start.name, ...(start.arch && { arch: start.arch }), task: run.task, summary, folder },
      ...{ unreadable: [...left.paths], model: run.prepared.net, test: data.validation },
    };
    return summary.finished && leads ? { ...done, ...(await saveResults(run, summary)) } : done;
  } finally {
    claim?.release();
    await data.close();
  }
}

/** What a run is made of before its network is there. */
interface Parts {
  readonly options: TrainOptions;
  readonly start: Start;
  readonly scales: ScaledTraining | undefined;
  readonly settings: TaskSettings;
  readonly data: TaskData;
}

/** A run before its first step. */
interface Run extends Parts {
  readonly built: StartedNet;
  readonly prepared: Prepared;
  readonly trainer: Omit<TrainerOptions, "data">;
  readonly task: Task;
  readonly metadata: Readonly<Record<string, string>>;
}

async function runOf(parts: Parts): Promise<Run> {
  const { options, start, scales, settings, data } = parts;
  const { recipe, init, resume = false, seed = 0 } = options;
  const { classes } = data;
  mustBeSize(data.train.imageShape, start.preprocessing.inputSize, start.name, options.data);
  mustBeClasses(classes.length, options.numClasses, options.data);
  const built = await start.build(classes, !resume || options.prepare !== undefined);
  if (init === undefined && !resume) scales?.initialize(built.net, seed);
  const prepared = preparedNet(built.net, parts);
  const { net } = prepared;
  const own = trainerOptions(recipe, net, built.head);
  const scaled = scales ? { ...own, optimizer: scales.optimizer(recipe.optimizer, net) } : own;
  const workflow = workflows[settings.kind];
  const stated = { ...start.options, ...prepared.options };
  return {
    ...{ ...parts, built, prepared, trainer: withPrepared(scaled, prepared) },
    task: workflow.task(settings, data, recipe),
    metadata: checkpointMetadata({
      ...{ arch: start.arch, classes, preprocessing: data.preprocessing, task: workflow.stated(settings) },
      ...((start.options ?? prepared.options) && { options: stated }),
    }),
  };
}

/** The network in the form in which it is trained: as it is, as the caller prepares it, or for integers. */
function preparedNet(net: Net, { options: { prepare, recipe }, data: { train: pictures } }: Parts): Prepared {
  const { quantize, batchSize } = recipe;
  must(
    !(prepare && quantize),
    "train/quantize",
    () =>
      'train: a network is not pruned and trained for integers in one run. Prune it with a recipe without "quantize".',
    "usage",
  );
  if (quantize) return quantizedTraining(net, quantize, pictures.imageShape);
  const stepsPerEpoch = Math.max(1, Math.floor(pictures.length / batchSize));
  return prepare?.(net, { inputShape: [1, ...pictures.imageShape], stepsPerEpoch }) ?? { net };
}

const isTrained =
  ({ trainer }: Run) =>
  ([key, parameter]: readonly [string, Parameter]): boolean =>
    !trainer.group?.(key, parameter)?.frozen;

const trainedKeys = (run: Run): string[] =>
  [...run.prepared.net.parameters()].filter(isTrained(run)).map(([key]) => key);

/** What is told before the first step. */
function planOf(run: Run): TrainingPlan {
  const { options, start, data, built, prepared } = run;
  const { head, loaded, remarks = [] } = built;
  const { init, numClasses, resume = false } = options;
  const trained = trainedKeys(run);
  return {
    ...(loaded && { loaded }),
    newHead: numClasses === undefined || resume ? [] : head,
    notes: [...data.notes, ...remarks.map((remark) => `${init}: ${remark}`)],
    preprocessing: data.preprocessing,
    ...(start.from !== undefined && {
      from: data.isReady && !start.normalization ? "as usual for this data set" : start.from,
    }),
    ...{ trained, frozen: [...prepared.net.parameters()].map(([key]) => key).filter((key) => !trained.includes(key)) },
  };
}

/** Gives the network its initial values, and what else it has to see before the first step. */
async function begin({ options, data, prepared }: Run): Promise<void> {
  const { recipe, seed = 0, threads } = options;
  const batches = (): AsyncIterable<Tensor> => firstBatches(data.train, recipe, seed);
  const compile = threads === undefined ? {} : { threads };
  const whole = keptOf(prepared, prepared.net);
  whole.initialize(seed);
  await startInsertedNorms(whole, batches(), compile);
  await prepared.start?.(batches(), compile);
}

const keptOf = ({ kept = (net) => net }: Prepared, trained: Net): Net => kept(trained);

function trainerOf({ options, data, task, prepared, trainer, metadata }: Run): Trainer<PictureBatch, Net> {
  const { recipe, folder, resume = false, seed = 0, threads, signal, onEvent } = options;
  const { communicator = alone, batchNormStatistics = "local", gradientExchange } = options;
  const norms = batchNormStatistics === "local" ? prepared.batchNormStatistics : batchNormStatistics;
  return new Trainer<PictureBatch, Net>(prepared.net, {
    ...trainer,
    ...{ data, task, seed, threads, store: folderStore(folder), resume, signal, metadata },
    ...{ communicator, batchNormStatistics: norms ?? "local", gradientExchange },
    settings: { ...pictureSettings(recipe, data.preprocessing, options), ...prepared.settings },
    callbacks: communicator.rank === 0 ? [fileLogs(folder), tensorBoardLog(folder)] : [],
    ...(onEvent && { onEvent }),
  });
}

/** Writes what a finished run leaves beside its checkpoints. */
async function saveResults(
  { options: { folder }, start, settings, data, task, built, prepared, metadata }: Run,
  { averaged, history }: TrainingSummary,
): Promise<Pick<TrainResult, "weights" | "onnx" | "averaged" | "events" | "quantized" | "curves">> {
  const { net } = prepared;
  const { classes, preprocessing, validation } = data;
  const files = {
    weights: join(folder, "train.pth"),
    curves: join(folder, "curves.svg"),
    events: join(folder, eventsFile),
    ...(averaged && { averaged: join(folder, "ema.pth") }),
  };
  await saveCheckpointFile(files.weights, keptOf(prepared, net).stateDict(), {
    metadata: { ...metadata, ...coefficientMetadata(net) },
  });
  if (averaged && files.averaged)
    await saveCheckpointFile(files.averaged, keptOf(prepared, averaged).stateDict(), {
      ...{ wrapper: "model_ema", metadata },
    });
  const stated = workflows[settings.kind].stated(settings);
  const known = { arch: start.arch, task: stated, classes, preprocessing, validation };
  const quantized = await prepared.save?.(averaged ?? net, folder, known);
  const svg = await chartsSvg(start.name, learningCurves({ losses: loggedLosses(folder), history }, task));
  await writeFileAtomically(files.curves, async (sink) => {
    await sink.write(new TextEncoder().encode(svg));
  });
  // What is wrapped for its pruning is not that network yet.
  const isWhole = keptOf(prepared, net) === built.net;
  const onnx = isWhole ? await built.save?.(folder, preprocessing, classes) : undefined;
  return { ...files, ...(onnx !== undefined && { onnx }), ...(quantized && { quantized }) };
}

/** Throws `train/resume` where there is nothing to go on with. */
function mustHaveBegun({ resume = false, folder, communicator = alone }: TrainOptions): void {
  const last = join(folder, "last.safetensors");
  must(
    !resume || communicator.rank > 0 || existsSync(last),
    "train/resume",
    () =>
      `train: there is no checkpoint to resume from: ${last} does not exist. Check the folder of the run (--out), or begin one without --resume.`,
    "usage",
  );
}

/** Pictures that cannot be read, of which each is told of once. */
function leftOut(tell: TrainOptions["onUnreadable"]): {
  readonly paths: ReadonlySet<string>;
  readonly add: (path: string, error: RepmlpError) => void;
} {
  const paths = new Set<string>();
  return {
    paths,
    add(path, error) {
      if (paths.has(path)) return;
      paths.add(path);
      tell?.(error);
    },
  };
}

/** What a run leaves in its folder, logs aside. */
const runFiles = [
  ...["last.safetensors", "best.safetensors", "train.pth", "ema.pth", "model.onnx", integersFile, "curves.svg"],
] as const;

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

/** What is done to the pictures, for a resumed run to be compared with. */
function pictureSettings(
  { augment }: Recipe,
  { mean, std, ...rest }: Preprocessing,
  { batchNorm }: StartOptions,
): NonNullable<TrainerOptions["settings"]> {
  return {
    augment: JSON.stringify(augment),
    ...{ mean: mean.join(","), std: std.join(","), preprocessing: JSON.stringify(rest) },
    ...(batchNorm && { batchNorm }),
  };
}

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
