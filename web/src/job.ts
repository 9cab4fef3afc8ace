import type { Device } from "../../src/runtime/index.ts";

/** What the page asks its worker to do. */
export interface Job {
  readonly device: Device;
  readonly steps: number;
  /** Threads of WebAssembly, at most. Default: as many as there are. */
  readonly threads?: number;
  /** Refuses to fall back to the CPU for any node of the training step (WebGPU). */
  readonly deviceOnly?: boolean;
}

export interface JobResult {
  readonly device: Device;
  readonly threads: number;
  readonly losses: readonly number[];
  /** Milliseconds per step, the first (with compilation) left out. */
  readonly stepMs: number;
  /** Comparison of both forms. */
  readonly maxAbs: number;
  readonly maxRel: number;
  readonly agree: number;
  readonly total: number;
  readonly parameters: { readonly train: number; readonly deploy: number };
}

/** What the worker reports. */
export type JobEvent =
  | { readonly type: "step"; readonly step: number; readonly loss: number }
  | { readonly type: "done"; readonly result: JobResult }
  | { readonly type: "failed"; readonly message: string };
