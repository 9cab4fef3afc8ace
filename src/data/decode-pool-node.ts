import type { Worker } from "node:worker_threads";
import { RepmlpError } from "../errors.ts";
import type { DecodeReply, DecodeRequest, DecodeSettings, DecodeTask } from "./decode-task.ts";

interface Waiting {
  resolve(values: Float32Array<ArrayBuffer>): void;
  reject(error: Error): void;
}

interface Member {
  readonly worker: Worker;
  /** Tasks sent and not yet answered, by id. */
  readonly waiting: Map<number, Waiting>;
}

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
  #nextId = 0;

  constructor(settings: DecodeSettings, size: number) {
    this.#settings = settings;
    this.#size = size;
  }

  /** Values `[C, H, W]` of one picture. Rejects with the error of the file, or `data/worker` when a thread died. */
  run(task: DecodeTask): Promise<Float32Array<ArrayBuffer>> {
    const member = this.#leastBusy();
    const request: DecodeRequest = { ...task, id: this.#nextId++ };
    return new Promise((resolve, reject) => {
      if (member.waiting.size === 0) member.worker.ref();
      member.waiting.set(request.id, { resolve, reject });
      member.worker.postMessage(request);
    });
  }

  /** Ends the threads; tasks under way are rejected. A later task starts new ones. */
  async close(): Promise<void> {
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
      if ("values" in reply) task?.resolve(reply.values);
      else task?.reject(new RepmlpError(reply.error.code, reply.error.message, reply.error.kind));
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

/** Threads are looked up when the first one starts, since few programs that import the package start any. */
const startWorker = (workerData: DecodeSettings): Worker =>
  new (process.getBuiltinModule("node:worker_threads").Worker)(new URL(body, import.meta.url), { workerData });
