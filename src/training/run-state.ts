import * as v from "valibot";
import type { LoaderState } from "../data/index.ts";
import { RepmlpError } from "../errors.ts";
import { defaultTask, type ShownTask, type Sums } from "../tasks/index.ts";
import { bestKey } from "../tasks/shown.ts";
import type { TrainingCheckpoint } from "./checkpoint-store.ts";
import type { EpochRecord } from "./events.ts";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));

/** What every task has; the rest are its numbers: `trainTop1`, `validationTop1`, … */
const epochRecord = v.objectWithRest(
  {
    epoch: count,
    step: count,
    trainLoss: v.number(),
    validationLoss: v.optional(v.number()),
    lr: v.number(),
    seconds: amount,
    imagesPerSecond: amount,
    dataWait: amount,
  },
  v.number(),
);

/** Sums over the epoch in progress; the rest are the task's. */
const sums = v.objectWithRest(
  { loss: v.number(), images: count, seconds: amount, waited: amount },
  v.union([v.number(), v.array(v.number())]),
);

/** As it is in files; the rest is the best value so far of the task's leading number: `bestTop1`. */
const saved = v.objectWithRest(
  {
    version: v.literal(1),
    step: count,
    loader: v.object({ epoch: count, batch: count, seed: v.number(), batchSize: count, length: count }),
    history: v.array(epochRecord),
    sums,
    settings: v.record(v.string(), v.union([v.string(), v.number(), v.boolean()])),
  },
  v.number(),
);

/** Sums over the epoch in progress that every task has. */
export interface EpochSums {
  readonly loss: number;
  readonly images: number;
  readonly seconds: number;
  readonly waited: number;
}

export type Settings = Readonly<Record<string, string | number | boolean>>;

/** Position and results of a run, saved with its checkpoints. */
export interface RunState {
  readonly step: number;
  /** Place in the data. */
  readonly loader: LoaderState;
  /** Best value of the task's leading number so far. */
  readonly best?: number;
  readonly history: readonly EpochRecord[];
  readonly sums: EpochSums;
  /** What the task has counted in the epoch in progress. */
  readonly counted: Sums;
  /** What the run was started with, for comparison. */
  readonly settings: Settings;
}

/** Key of the state in a checkpoint's metadata. */
const STATE_KEY = "repmlp.training";

export function stateMetadata({ best, sums, counted, ...state }: RunState, task: ShownTask): Record<string, string> {
  const flat = { version: 1, ...state, [bestKey(task)]: best, sums: { ...sums, ...counted } };
  return { [STATE_KEY]: JSON.stringify(flat) };
}

/** The state in a checkpoint. Throws `trainer/checkpoint` when there is none, or not one that this version reads. */
export function readState({ metadata, where }: TrainingCheckpoint, task: ShownTask): RunState {
  const text = metadata[STATE_KEY];
  const refuse = (problem: string, cause?: unknown): never => {
    throw new RepmlpError("trainer/checkpoint", `${where}: ${problem}`, "file", { cause });
  };
  if (text === undefined)
    return refuse("holds weights but no state of a training run. Resume from a checkpoint named last.");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    return refuse("the state of the training run is not valid JSON. The file is damaged.", cause);
  }
  const result = v.safeParse(saved, json);
  if (result.success) {
    const { step, loader, history, sums: all, settings, ...rest } = result.output;
    const { loss, images, seconds, waited, ...counted } = all;
    return {
      ...{ step, loader, best: rest[bestKey(task)], history, sums: { loss, images, seconds, waited }, counted },
      // A run of before there were other tasks says nothing of its own.
      settings: { task: defaultTask.name, ...settings },
    };
  }
  const [{ message, path }] = result.issues;
  const at = path?.map(({ key }) => String(key)).join(".");
  return refuse(`the state of the training run cannot be read (${at ?? "all of it"}: ${message}).`);
}
