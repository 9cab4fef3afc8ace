import { Worker } from "node:worker_threads";
import { RepmlpError } from "../../errors.ts";
import type { DType, TensorSource } from "../../tensor/index.ts";

/** A piece small enough to stay in a core's cache. */
const PIECE = 2 ** 18;

// As text, so that the thread needs no file of its own beside a bundle, nor a loader where the sources run unbuilt.
// Values: the exponent of NaN and infinity is all ones, and adding one carries over; see `allFinite`.
const body = `
const { parentPort, workerData: { path, ranges, piece } } = require("node:worker_threads");
const { closeSync, openSync, readSync } = require("node:fs");
const { crc32 } = require("node:zlib");
const file = openSync(path, "r");
const bytes = new Uint8Array(piece);
const words = new Int32Array(bytes.buffer);
const halves = new Uint16Array(bytes.buffer);
const carry = {
  float32: (n) => { let c = 0; for (let i = 0; i < n / 4; i++) c |= ((words[i] & 0x7f800000) + 0x00800000) | 0; return c < 0; },
  float64: (n) => { let c = 0; for (let i = 1; i < n / 4; i += 2) c |= ((words[i] & 0x7ff00000) + 0x00100000) | 0; return c < 0; },
  float16: (n) => { let c = 0; for (let i = 0; i < n / 2; i++) c |= (halves[i] & 0x7c00) + 0x0400; return (c & 0x8000) !== 0; },
  bfloat16: (n) => { let c = 0; for (let i = 0; i < n / 2; i++) c |= (halves[i] & 0x7f80) + 0x0080; return (c & 0x8000) !== 0; },
};
parentPort.postMessage(ranges.map(({ offset, length, dtype }) => {
  let result = 0;
  for (let done = 0; done < length; ) {
    const want = Math.min(piece, length - done);
    // Whole pieces, so that values are not cut in two.
    for (let got = 0; got < want; ) {
      const read = readSync(file, bytes, got, want - got, offset + done + got);
      if (read === 0) throw new Error("it ends too early");
      got += read;
    }
    if (dtype === undefined) result = crc32(bytes.subarray(0, want), result);
    else if (carry[dtype](want)) return 1;
    done += want;
  }
  return result;
}));
closeSync(file);
`;

interface Range {
  readonly offset: number;
  readonly length: number;
  /** Of values to look at; without it the checksum is wanted. */
  readonly dtype?: DType;
}

/**
 * CRC-32 of each of some ranges of a file, or whether it holds values that are not finite (1 or 0), in a thread of their
 * own, while the caller's goes on.
 *
 * @throws RepmlpError `checkpoint/read` when the file cannot be read
 */
function inThread(path: string, ranges: readonly Range[]): Promise<readonly number[]> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(body, { eval: true, workerData: { path, ranges, piece: PIECE } });
    worker.once("message", resolve);
    worker.once("error", (cause: Error) =>
      reject(new RepmlpError("checkpoint/read", `${path}: cannot be read: ${cause.message}.`, "file", { cause })),
    );
  });
}

/** A range with what is done with the answer; throws where that is not as it should be. */
interface Inspection extends Range {
  readonly told: (answer: number) => void;
}

/**
 * Compares the checksums of what these tensors are read from, and sees to it that weights are finite, in a thread of its
 * own while the caller goes on; reading them does not compare checksums any more. Whatever is made of the tensors is to
 * be trusted only when the promise has resolved.
 *
 * @throws RepmlpError `checkpoint/crc` or `checkpoint/not-finite` naming a tensor, `checkpoint/read`
 */
export async function checksumsInThread(sources: Iterable<TensorSource>): Promise<{ readonly done: Promise<void> }> {
  const files = new Map<string, Map<string, Inspection>>();
  for (const source of sources) {
    const place = await source.place?.();
    if (!place) continue;
    const { checksum, values, path, offset: start } = place;
    const wanted = files.get(path) ?? new Map<string, Inspection>();
    if (checksum) {
      checksum.defer();
      wanted.set(`crc ${checksum.offset}`, { ...checksum, told: checksum.confirm });
    }
    if (values) {
      const { dtype, length, refuse } = values;
      wanted.set(`values ${start} ${length}`, { offset: start, length, dtype, told: (bad) => bad && refuse() });
    }
    if (wanted.size) files.set(path, wanted);
  }
  const inspect = async ([path, wanted]: [string, Map<string, Inspection>]): Promise<void> => {
    const all = [...wanted.values()];
    const ranges = all.map(({ offset, length, dtype }) => ({ offset, length, ...(dtype && { dtype }) }));
    for (const [i, answer] of (await inThread(path, ranges)).entries()) all[i].told(answer);
  };
  const done = Promise.all([...files].map(inspect)).then(() => {});
  done.catch(() => {}); // told to whoever waits for it
  return { done };
}
