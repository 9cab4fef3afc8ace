import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openCheckpointFile, saveCheckpointFile, writeFileAtomically } from "../checkpoint/node.ts";
import type { Dataset } from "../data/index.ts";
import { listed, must, nearest, RepmlpError } from "../errors.ts";
import { createModel, modelInfo } from "../models/index.ts";
import type { LoadReport, Net, Parameter } from "../nn/index.ts";
import { chartsSvg, learningCurves } from "../report/curves-node.ts";
import { folderStore } from "../training/checkpoint-store-node.ts";
import {
  noDecayOnNormAndBias,
  type ParameterGroup,
  Trainer,
  type TrainerOptions,
  type TrainingCallback,
  type TrainingSummary,
} from "../training/index.ts";
import { eventsFile, fileLogs, loggedLosses, tensorBoardLog } from "../training/logs-node.ts";
import { fitsPattern, mustFitSome, parseRecipe, type Recipe } from "./recipe.ts";
import { type DataKind, openTrainingData } from "./training-data-node.ts";

/** The recipes of the package, by name: files to read, copy and change. */
export const recipeNames = ["cifar10-pure-mlp", "cifar10-conv", "imagenet-repmlp-res50", "fine-tune"] as const;

/**
 * A recipe of the package by name, or from a file.
 *
 * @throws `recipe/unknown`, and what {@link parseRecipe} throws
 */
export async function readRecipe(nameOrFile: string): Promise<Recipe> {
  const named = recipeNames.some((name) => name === nameOrFile);
  const path = named ? fileURLToPath(new URL(`../../recipes/${nameOrFile}.json`, import.meta.url)) : nameOrFile;
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

export interface TrainOptions {
  /** Folder of the data set; see {@link openTrainingData}. */
  readonly data: string;
  readonly kind?: DataKind;
  readonly recipe: Recipe;
  /** Folder of everything that is written. */
  readonly folder: string;
  /** Default: the recipe's. */
  readonly arch?: string;
  /** Weights to start from: a checkpoint of the training form. */
  readonly init?: string;
  /** Keys of `init` that may be missing, unexpected or of another shape, as patterns (a new head: `linear.*`). */
  readonly allowMismatch?: readonly string[];
  /** Goes on from the folder's last checkpoint. */
  readonly resume?: boolean;
  readonly seed?: number;
  readonly threads?: number;
  /** Threads that decode picture files. */
  readonly workers?: number;
  readonly signal?: AbortSignal;
  readonly onEvent?: TrainingCallback;
  /** Told what of `init` was not taken over. */
  readonly onLoaded?: (report: LoadReport) => void;
}

export interface TrainResult {
  readonly arch: string;
  readonly summary: TrainingSummary;
  /** Final weights, training form; absent when the run was stopped. */
  readonly weights?: string;
  /** Their average, under the key `model_ema` as timm writes it; with `ema`, when the run was not stopped. */
  readonly averaged?: string;
  /** Log for TensorBoard. */
  readonly events?: string;
  /** Learning curves. */
  readonly curves?: string;
  readonly folder: string;
  /** In evaluation mode. */
  readonly model: Net;
  /** The pictures that it was validated on. */
  readonly test: Dataset;
}

/**
 * Trains a network on a folder of pictures by a recipe. Writes into `folder`: `last.safetensors` (to resume from),
 * `best.safetensors`, `log.csv`, `log.jsonl`, `events.out.tfevents.repmlp`, and at the end `train.pth`, `curves.svg`, and
 * with `ema` `ema.pth`.
 *
 * @throws `train/arch` when neither options nor recipe name an architecture; what reading data, weights and training throw
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { recipe, folder, resume = false, seed = 0, threads, signal, workers } = options;
  const arch = options.arch ?? recipe.arch;
  must(
    arch !== undefined,
    "train/arch",
    () => "train: the recipe names no architecture. Say which with -a; `repmlp models` lists them.",
    "usage",
  );
  const info = modelInfo(arch);
  const preprocessing = info.preprocessing(recipe.model);
  const data = await openTrainingData(options.data, {
    ...{ augment: recipe.augment, preprocessing, workers },
    ...(options.kind && { kind: options.kind }),
  });
  try {
    const classes = data.train.classes;
    mustBeSize(data.train.imageShape, preprocessing.inputSize, info.name, options.data);
    const model = createModel(arch, { ...recipe.model, numClasses: classes.length });
    if (options.init !== undefined && !resume) options.onLoaded?.(await loadInitial(model, options.init, options));
    const store = folderStore(folder);
    await store.prepare();
    const trainer = new Trainer(model, {
      ...trainerOptions(recipe, model),
      data,
      ...{ seed, threads, store, resume, signal },
      metadata: { arch: info.name, classes: JSON.stringify(classes) },
      callbacks: [fileLogs(folder), tensorBoardLog(folder)],
      ...(options.onEvent && { onEvent: options.onEvent }),
    });
    const summary = await trainer.run();
    const done = { arch: info.name, summary, folder, model, test: data.validation };
    if (!summary.finished) return done;
    const files = {
      weights: join(folder, "train.pth"),
      curves: join(folder, "curves.svg"),
      events: join(folder, eventsFile),
      ...(summary.averaged && { averaged: join(folder, "ema.pth") }),
    };
    await saveCheckpointFile(files.weights, model.stateDict());
    if (summary.averaged && files.averaged)
      await saveCheckpointFile(files.averaged, summary.averaged.stateDict(), { wrapper: "model_ema" });
    const svg = chartsSvg(info.name, learningCurves({ losses: loggedLosses(folder), history: summary.history }));
    await writeFileAtomically(files.curves, async (sink) => {
      await sink.write(new TextEncoder().encode(svg));
    });
    return { ...done, ...files };
  } finally {
    await data.close();
  }
}

/** What a recipe says, as the trainer takes it. */
export function trainerOptions(recipe: Recipe, model: Net): Omit<TrainerOptions, "data"> {
  const { epochs, batchSize, lr, warmupEpochs, schedule, optimizer, labelSmoothing, mix } = recipe;
  const { accumulate, clipNorm, clipValue, ema, patience, preciseBatchNorm } = recipe;
  const keys = [...model.parameters()].map(([key]) => key);
  mustFitSome(recipe.freeze, keys, "recipe: freeze");
  mustFitSome(Object.keys(recipe.lrScale), keys, "recipe: lrScale");
  return {
    ...{ epochs, batchSize, lr, warmupEpochs, schedule, optimizer, labelSmoothing, mix, group: groupOf(recipe) },
    ...{ accumulate, clipNorm, clipValue, ema, patience, preciseBatchNorm },
  };
}

const groupOf =
  ({ freeze, lrScale, decayNormAndBias }: Recipe) =>
  (key: string, parameter: Parameter): ParameterGroup => ({
    ...(decayNormAndBias ? undefined : noDecayOnNormAndBias(key, parameter)),
    frozen: freeze.some((pattern) => fitsPattern(key, pattern)),
    lrScale: Object.entries(lrScale).find(([pattern]) => fitsPattern(key, pattern))?.[1] ?? 1,
  });

function mustBeSize(found: readonly number[], wanted: readonly number[], arch: string, data: string): void {
  must(
    `${found}` === `${wanted}`,
    "train/size",
    () =>
      `${data}: its pictures are ${found.join(" x ")}, ${arch} takes ${wanted.join(" x ")}. Choose another architecture, or say "model": { "imageSize": … } in the recipe.`,
    "file",
  );
}

async function loadInitial(
  model: Net,
  path: string,
  { allowMismatch = [], seed = 0 }: TrainOptions,
): Promise<LoadReport> {
  using checkpoint = await openCheckpointFile(path);
  const entries = new Map(
    await Promise.all(
      [...checkpoint.entries]
        .filter(([key]) => !key.startsWith("optimizer."))
        .map(async ([key, source]) => [key, await source.read()] as const),
    ),
  );
  // What the file does not have keeps its initial values.
  model.initialize(seed);
  try {
    return model.loadStateDict(entries, {
      allow: (key) => allowMismatch.some((pattern) => fitsPattern(key, pattern)),
    });
  } catch (error) {
    if (!(error instanceof RepmlpError) || !error.code.startsWith("state-dict/")) throw error;
    throw new RepmlpError(
      "train/init",
      `${path}: ${error.message} Where a difference is wanted, as with a new head, allow it: --allow-mismatch "linear.*".`,
      "file",
      { cause: error },
    );
  }
}
