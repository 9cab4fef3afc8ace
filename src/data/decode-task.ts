import type { ErrorKind } from "../errors.ts";
import type { Augmentation } from "./augment/augmentation.ts";
import type { Draw } from "./dataset.ts";
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

/** A task sent to a worker. */
export interface DecodeRequest extends DecodeTask {
  readonly id: number;
  /** Where the values may go: the memory of an earlier answer. */
  readonly spare: Float32Array<ArrayBuffer> | undefined;
}

/** The answer: values `[C, H, W]`, or the parts of an error (classes do not survive the way between threads). */
export type DecodeReply =
  | { readonly id: number; readonly values: Float32Array<ArrayBuffer> }
  | {
      readonly id: number;
      readonly error: { readonly code: string; readonly message: string; readonly kind: ErrorKind };
    };
