import type { Worker } from "node:worker_threads";
import { RepmlpError } from "../../errors.ts";
import type {
  DecodeFailure,
  DecodeJob,
  DecodeReply,
  DecodeSettings,
  DecodeTask,
} from "../preprocessing/decode-task.ts";
import type { Decoded } from "./prepare.ts";

/** A job under way. */
interface Pending {
  /** Workers that have not answered yet. */
  readonly workers: Set<Worker>;
  readonly failures: DecodeFailure[];
  done(error?: RepmlpError): void;
}

/**
 * Worker threads that prepare pictures. They start with the first job and do not keep the process alive while idle.
 *
 * Every job goes to all of them at once, and they share it out among themselves: a training step blocks the main thread,
 * which could not feed them meanwhile.
 */
export class DecodePool {
  readonly #settings: DecodeSettings;
  readonly #size: number;
  readonly #workers = new Set<Worker>();
  readonly #pending = new Map<number, Pending>();
  /** Memory of earlier jobs, as much as was in use at once. */
  readonly #spares: SharedArrayBuffer[] = [];
  #nextId = 0;

  constructor(settings: DecodeSettings, size: number) {
    this.#settings = settings;
    this.#size = size;
  }

  /**
   * Prepares pictures of `size` values each and hands them to `use`, whose memory they are only until it returns. Rejects
   * with `data/worker` when a thread died.
   */
  async run<T>(tasks: readonly DecodeTask[], size: number, use: (decoded: Decoded) => T): Promise<T> {
    while (this.#workers.size < Math.min(this.#size, tasks.length)) this.#workers.add(this.#start());
    const id = this.#nextId++;
    const buffer = this.#memory(tasks.length * size * Float32Array.BYTES_PER_ELEMENT);
    const values = new Float32Array(buffer, 0, tasks.length * size);
    const taken = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    const failures: DecodeFailure[] = [];
    await new Promise<void>((resolve, reject) => {
      const done = (error?: RepmlpError): void => {
        this.#pending.delete(id);
        if (this.#pending.size === 0) for (const worker of this.#workers) worker.unref();
        if (error) reject(error);
        else resolve();
      };
      this.#pending.set(id, { workers: new Set(this.#workers), failures, done });
      for (const worker of this.#workers) {
        worker.ref();
        worker.postMessage({ id, tasks, taken, values } satisfies DecodeJob);
      }
    });
    const errors = new Map(failures.map(({ task, error: e }) => [task, new RepmlpError(e.code, e.message, e.kind)]));
    try {
      return use({ values, errors });
    } finally {
      this.#spares.push(buffer);
    }
  }

  /** Ends the threads; jobs under way are rejected. A later job starts new ones. */
  async close(): Promise<void> {
    this.#spares.length = 0;
    const workers = [...this.#workers];
    this.#workers.clear();
    await Promise.all(workers.map((worker) => worker.terminate()));
  }

  #memory(bytes: number): SharedArrayBuffer {
    const spare = this.#spares.pop();
    return spare && spare.byteLength >= bytes ? spare : new SharedArrayBuffer(bytes);
  }

  #start(): Worker {
    const worker = startWorker(this.#settings);
    worker.unref();
    worker.on("message", ({ id, failures }: DecodeReply) => {
      const job = this.#pending.get(id);
      job?.failures.push(...failures);
      job?.workers.delete(worker);
      if (job?.workers.size === 0) job.done();
    });
    const fail = (message: string, cause?: unknown): void => {
      this.#workers.delete(worker);
      const error = new RepmlpError("data/worker", `image folder: a decoding thread ${message}`, "runtime", { cause });
      // Nobody else does what it had taken.
      for (const { workers, done } of [...this.#pending.values()]) if (workers.has(worker)) done(error);
    };
    worker.on("error", (cause: unknown) => fail(`failed (${cause instanceof Error ? cause.message : cause})`, cause));
    worker.on("exit", (code) => fail(`ended (code ${code}) before its pictures were ready`));
    return worker;
  }
}

/** This file is TypeScript only where the sources run without a build, as in this repository's tests. */
const body = import.meta.url.endsWith(".ts") ? "./decode-worker-dev.mjs" : "./decode-worker.js";

/** Threads are looked up when the first one starts, since few programs that import the package start any. */
const startWorker = (workerData: DecodeSettings): Worker =>
  new (process.getBuiltinModule("node:worker_threads").Worker)(new URL(body, import.meta.url), { workerData });
