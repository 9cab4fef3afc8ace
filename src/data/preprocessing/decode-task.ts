import type { ErrorKind } from "../../errors.ts";
import type { Augmentation } from "../augment/augmentation.ts";
import type { Draw } from "../sets/dataset.ts";
import type { Preprocessing } from "./preprocess.ts";

/** What every task of a worker has in common; plain data. */
export interface DecodeSettings {
  readonly preprocessing: Preprocessing;
  readonly augment: readonly Augmentation[];
}

/** One picture to prepare. */
export interface DecodeTask {
  readonly path: string;
  /** Position in the data set, which selects the random numbers. */
  readonly index: number;
  readonly draw: Draw;
}

/** Pictures to prepare, sent to every worker: each takes the next one that none has taken yet. */
export interface DecodeJob {
  readonly id: number;
  readonly tasks: readonly DecodeTask[];
  /** One number: how many of the tasks are taken. */
  readonly taken: Int32Array<SharedArrayBuffer>;
  /** Where the values go, `[tasks, C, H, W]`. */
  readonly values: Float32Array<SharedArrayBuffer>;
}

/** A worker's answer when nothing of a job is left for it to do. */
export interface DecodeReply {
  readonly id: number;
  readonly failures: readonly DecodeFailure[];
}

/** A task that could not be done, with the parts of its error: classes do not survive the way between threads. */
export interface DecodeFailure {
  /** Place among the tasks. */
  readonly task: number;
  readonly error: { readonly code: string; readonly message: string; readonly kind: ErrorKind };
}
