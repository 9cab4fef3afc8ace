import { isOptimizerState } from "../checkpoint/run-entries.ts";
import type { Tensor, TensorSource } from "../tensor/index.ts";

/** Everything a training run needs to go on. */
export interface TrainingCheckpoint {
  /** State dict of the model, and in `last` the optimizer's state under `optimizer.<slot>:<key>`. */
  readonly entries: ReadonlyMap<string, TensorSource>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Path or description, for messages. */
  readonly where: string;
}

/** A place for checkpoints under short names. */
export interface CheckpointStore {
  /**
   * Throws when checkpoints cannot be written there, before any work is done.
   *
   * @param bytes  size of the largest checkpoint to come, if known
   */
  prepare(bytes?: number): Promise<void>;
  /** Saves atomically, in place of an earlier one of that name, and returns where: a path, or a description. */
  save(name: string, checkpoint: Omit<TrainingCheckpoint, "where">): Promise<string>;
  load(name: string): Promise<TrainingCheckpoint | undefined>;
}

/** The two parts of a training checkpoint's entries. */
export function splitCheckpoint(entries: ReadonlyMap<string, TensorSource>): {
  readonly model: Map<string, TensorSource>;
  readonly optimizer: Map<string, TensorSource>;
} {
  const all = [...entries];
  return {
    model: new Map(all.filter(([key]) => !isOptimizerState(key))),
    optimizer: new Map(all.filter(([key]) => isOptimizerState(key))),
  };
}

/** Keeps checkpoints in memory: for pages and tests. */
export function memoryStore(): CheckpointStore {
  const saved = new Map<string, TrainingCheckpoint>();
  return {
    prepare: async () => {},
    async save(name, { entries, metadata }) {
      const copies = await Promise.all(
        [...entries].map(async ([key, source]): Promise<[string, Tensor]> => [key, (await source.read()).clone()]),
      );
      const where = `checkpoint "${name}" in memory`;
      saved.set(name, { entries: new Map(copies), metadata: { ...metadata }, where });
      return where;
    },
    load: async (name) => saved.get(name),
  };
}
