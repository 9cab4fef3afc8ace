import { Worker } from "node:worker_threads";
import { RepmlpError } from "../errors.ts";
import type { DecodeReply, DecodeRequest, DecodeSettings, DecodeTask } from "./decode-task.ts";

interface Waiting {
  readonly into: Float32Array;
  resolve(): void;
  reject(error: Error): void;
}

interface Member {
  readonly worker: Worker;
  /** Tasks sent and not yet answered, by id. */
  readonly waiting: Map<number, Waiting>;
}

/** Memory for answers that is kept for the next tasks: fresh memory costs a thread as much as a part of its work. */
const mostSpareBytes = 1 << 26;

/**
 * Worker threads that prepare pictures. They start with the first task and do not keep the process alive while idle.
 *
 * Tasks are handed out at once, to the thread with the fewest: a training step blocks the main thread, which could not
 * feed the others meanwhile.
 */
export class DecodePool {
  readonly #settings: DecodeSettings;
  readonly #size: number;
  readonly #members: Member[] = [];
  readonly #spares: Float32Array<ArrayBuffer>[] = [];
  #nextId = 0;

  constructor(settings: DecodeSettings, size: number) {
    this.#settings = settings;
    this.#size = size;
  }

  /**
   * Writes the values of one picture into `into`, `[C, H, W]`. Rejects with the error of the file, or `data/worker` when
   * a thread died.
   */
  run(task: DecodeTask, into: Float32Array): Promise<void> {
    const member = this.#leastBusy();
    const spare = this.#spares.pop();
    const request: DecodeRequest = { ...task, id: this.#nextId++, spare };
    return new Promise((resolve, reject) => {
      if (member.waiting.size === 0) member.worker.ref();
      member.waiting.set(request.id, { into, resolve, reject });
      member.worker.postMessage(request, spare ? [spare.buffer] : []);
    });
  }

  #keep(values: Float32Array<ArrayBuffer>): void {
    if ((this.#spares.length + 1) * values.byteLength <= mostSpareBytes) this.#spares.push(values);
  }

  /** Ends the threads; tasks under way are rejected. A later task starts new ones. */
  async close(): Promise<void> {
    this.#spares.length = 0;
    const members = this.#members.splice(0);
    await Promise.all(members.map(({ worker }) => worker.terminate()));
  }

  #leastBusy(): Member {
    if (this.#members.length < this.#size) this.#members.push(this.#start());
    return this.#members.reduce((best, member) => (member.waiting.size < best.waiting.size ? member : best));
  }

  #start(): Member {
    const worker = startWorker(this.#settings);
    const member: Member = { worker, waiting: new Map() };
    worker.unref();
    worker.on("message", (reply: DecodeReply) => {
      const task = member.waiting.get(reply.id);
      member.waiting.delete(reply.id);
      if (member.waiting.size === 0) worker.unref();
      if ("values" in reply) {
        task?.into.set(reply.values);
        this.#keep(reply.values);
        task?.resolve();
      } else task?.reject(new RepmlpError(reply.error.code, reply.error.message, reply.error.kind));
    });
    const fail = (message: string, cause?: unknown): void => {
      const place = this.#members.indexOf(member);
      if (place >= 0) this.#members.splice(place, 1);
      const error = new RepmlpError("data/worker", `image folder: a decoding thread ${message}`, "runtime", { cause });
      for (const { reject } of member.waiting.values()) reject(error);
      member.waiting.clear();
    };
    worker.on("error", (cause: unknown) => fail(`failed (${cause instanceof Error ? cause.message : cause})`, cause));
    worker.on("exit", (code) => fail(`ended (code ${code}) before its pictures were ready`));
    return member;
  }
}

/** This file is TypeScript only where the sources run without a build, as in this repository's tests. */
const body = import.meta.url.endsWith(".ts") ? "./decode-worker-dev.mjs" : "./decode-worker-node.js";

const startWorker = (workerData: DecodeSettings): Worker => new Worker(new URL(body, import.meta.url), { workerData });
