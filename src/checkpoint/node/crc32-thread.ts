import { Worker } from "node:worker_threads";
import { RepmlpError } from "../../errors.ts";
import type { FilePlace, TensorSource } from "../../tensor/index.ts";

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
function crc32InThread(
  path: string,
  ranges: readonly { readonly offset: number; readonly length: number }[],
): Promise<readonly number[]> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(body, { eval: true, workerData: { path, ranges, piece: PIECE } });
    worker.once("message", resolve);
    worker.once("error", (cause: Error) =>
      reject(new RepmlpError("checkpoint/read", `${path}: cannot be read: ${cause.message}.`, "file", { cause })),
    );
  });
}

type Checksum = NonNullable<FilePlace["checksum"]>;

/**
 * Compares the checksums of what these tensors are read from, in a thread of its own while the caller goes on; reading
 * them does not compare any more. Whatever is made of the tensors is to be trusted only when the promise has resolved.
 *
 * @throws RepmlpError `checkpoint/crc` naming a tensor, `checkpoint/read`
 */
export async function checksumsInThread(sources: Iterable<TensorSource>): Promise<{ readonly done: Promise<void> }> {
  const files = new Map<string, Map<number, Checksum>>();
  for (const source of sources) {
    const place = await source.place?.();
    if (!place?.checksum) continue;
    place.checksum.defer();
    const checks = files.get(place.path) ?? new Map();
    files.set(place.path, checks.set(place.checksum.offset, place.checksum));
  }
  const compare = async ([path, checks]: [string, Map<number, Checksum>]): Promise<void> => {
    const own = [...checks.values()];
    const ranges = own.map(({ offset, length }) => ({ offset, length }));
    const found = await crc32InThread(path, ranges);
    for (const [i, { confirm }] of own.entries()) confirm(found[i]);
  };
  const done = Promise.all([...files].map(compare)).then(() => {});
  done.catch(() => {}); // told to whoever waits for it
  return { done };
}
