/** An ONNX file that is to be merged. */
export interface MergeJob {
  readonly name: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Runs both models and compares their outputs. */
  readonly verify: boolean;
}

/** What came of it. */
export interface MergeResult {
  /** Name and content of the merged file. */
  readonly name: string;
  readonly file: Uint8Array<ArrayBuffer>;
  readonly sentence: string;
  /** What became of what, as HTML. */
  readonly report: string;
}

/** What the worker answers. */
export type MergeEvent =
  | { readonly type: "done"; readonly result: MergeResult }
  | { readonly type: "failed"; readonly message: string };
