import * as v from "valibot";
import { RepmlpError } from "../errors.ts";
import type { TrainingCheckpoint } from "./checkpoint-store.ts";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));

const epochRecord = v.object({
  epoch: count,
  step: count,
  trainLoss: v.number(),
  trainTop1: v.number(),
  validationLoss: v.optional(v.number()),
  validationTop1: v.optional(v.number()),
  validationTop5: v.optional(v.number()),
  lr: v.number(),
  seconds: amount,
  imagesPerSecond: amount,
  dataWait: amount,
});

const runState = v.object({
  version: v.literal(1),
  step: count,
  /** Place in the data. */
  loader: v.object({ epoch: count, batch: count, seed: v.number(), batchSize: count, length: count }),
  /** Best validation accuracy so far. */
  bestTop1: v.optional(v.number()),
  history: v.array(epochRecord),
  /** Sums over the epoch in progress. */
  sums: v.object({ loss: v.number(), correct: count, images: count, seconds: amount, waited: amount }),
  /** What the run was started with, for comparison. */
  settings: v.record(v.string(), v.union([v.string(), v.number(), v.boolean()])),
});

/** Position and results of a run, saved with its checkpoints. */
export type RunState = v.InferOutput<typeof runState>;

export type Settings = RunState["settings"];

/** Key of the state in a checkpoint's metadata. */
const STATE_KEY = "repmlp.training";

export const stateMetadata = (state: RunState): Record<string, string> => ({ [STATE_KEY]: JSON.stringify(state) });

/** The state in a checkpoint. Throws `trainer/checkpoint` when there is none, or not one that this version reads. */
export function readState({ metadata, where }: TrainingCheckpoint): RunState {
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
  const result = v.safeParse(runState, json);
  if (result.success) return result.output;
  const [{ message, path }] = result.issues;
  const at = path?.map(({ key }) => String(key)).join(".");
  return refuse(`the state of the training run cannot be read (${at ?? "all of it"}: ${message}).`);
}
