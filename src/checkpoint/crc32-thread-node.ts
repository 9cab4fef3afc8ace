import { Worker } from "node:worker_threads";
import { RepmlpError } from "../errors.ts";

/** Bytes of a file. */
export interface FileRange {
  readonly offset: number;
  readonly length: number;
}

/** A piece small enough to stay in a core's cache. */
const PIECE = 2 ** 18;

// As text, so that the thread needs no file of its own beside a bundle, nor a loader where the sources run unbuilt.
const body = `
const { parentPort, workerData: { path, ranges, piece } } = require("node:worker_threads");
const { closeSync, openSync, readSync } = require("node:fs");
const { crc32 } = require("node:zlib");
const file = openSync(path, "r");
const bytes = new Uint8Array(piece);
parentPort.postMessage(ranges.map(({ offset, length }) => {
  let crc = 0;
  for (let done = 0; done < length; ) {
    const read = readSync(file, bytes, 0, Math.min(piece, length - done), offset + done);
    if (read === 0) throw new Error("it ends too early");
    crc = crc32(bytes.subarray(0, read), crc);
    done += read;
  }
  return crc;
}));
closeSync(file);
`;

/**
 * CRC-32 of each of some ranges of a file, in a thread of their own, while the caller's goes on.
 *
 * @throws RepmlpError `checkpoint/read` when the file cannot be read
 */
export function crc32InThread(path: string, ranges: readonly FileRange[]): Promise<readonly number[]> {
  const found = new Promise<readonly number[]>((resolve, reject) => {
    const worker = new Worker(body, { eval: true, workerData: { path, ranges, piece: PIECE } });
    worker.once("message", resolve);
    worker.once("error", (cause: Error) =>
      reject(new RepmlpError("checkpoint/read", `${path}: cannot be read: ${cause.message}.`, "file", { cause })),
    );
  });
  found.catch(() => {}); // told to whoever waits for it
  return found;
}
