import { RepmlpError } from "../errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { demand, refuse } from "./file-error.ts";
import { type Deflated, inflate, inflateSync } from "./zip/inflate.ts";

interface FileBytes {
  readonly offset: number;
  readonly length: number;
  /** Memory that may be used for them, at least `length` bytes. */
  readonly scratch?: Uint8Array<ArrayBuffer>;
}

/**
 * A read procedure, written once and run either way: it yields the bytes it wants (a range of the file, or deflated
 * bytes to inflate), is handed them, and returns its result. `runAsync` and `runSync` drive it.
 */
export type Reading<T> = Generator<FileBytes | Deflated, T, Uint8Array<ArrayBuffer>>;

/** Runs a reading with asynchronous reads. */
export async function runAsync<T>(source: ByteSource, reading: Reading<T>): Promise<T> {
  let step = reading.next();
  while (!step.done) {
    const want = step.value;
    if ("inflate" in want) step = reading.next(await inflate(want));
    else step = reading.next(intoScratch(source, want) ?? (await source.read(want.offset, want.length)));
  }
  return step.value;
}

/** Runs a reading at once; throws `tensor/async-only` where the source cannot. */
export function runSync<T>(source: ByteSource, reading: Reading<T>): T {
  if (source.readSync === undefined)
    throw new RepmlpError(
      "tensor/async-only",
      `${source.name}: this file can only be read asynchronously. Use read() instead of readSync().`,
      "file",
    );
  let step = reading.next();
  while (!step.done) {
    const want = step.value;
    if ("inflate" in want) step = reading.next(inflateSync(want));
    else step = reading.next(intoScratch(source, want) ?? source.readSync(want.offset, want.length));
  }
  return step.value;
}

function intoScratch(source: ByteSource, { offset, length, scratch }: FileBytes): Uint8Array<ArrayBuffer> | undefined {
  if (scratch === undefined || source.readInto === undefined) return undefined;
  const target = scratch.subarray(0, length);
  source.readInto(target, offset);
  return target;
}

/** The bytes of a range that must lie within the file; `what` names it in messages. */
export function* readRange(
  source: ByteSource,
  offset: number,
  length: number,
  what: string,
  scratch?: Uint8Array<ArrayBuffer>,
): Reading<Uint8Array<ArrayBuffer>> {
  demand(
    offset >= 0 && length >= 0 && offset + length <= source.size,
    "truncated",
    () =>
      `${source.name}: ${what} needs bytes ${offset} to ${offset + length}, the file has ${source.size}. ` +
      "It is truncated or damaged; get it again.",
  );
  if (length === 0) return new Uint8Array(0);
  return yield { offset, length, scratch };
}

/** A piece small enough to stay in a core's cache; sources without `readInto` are asked for more at a time. */
const PIECE = { cached: 2 ** 17, fresh: 2 ** 22 };

/** Passes over a range of the file by pieces of whole `unit`s; each piece is only valid until the next. */
export async function* piecesOf(
  source: ByteSource,
  start: number,
  length: number,
  what: string,
  unit = 1,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  const wanted = source.readInto ? PIECE.cached : PIECE.fresh;
  const size = Math.max(1, Math.floor(wanted / unit)) * unit;
  const scratch = source.readInto && new Uint8Array(Math.min(size, length));
  for (let at = 0; at < length; at += size)
    yield await runAsync(source, readRange(source, start + at, Math.min(size, length - at), what, scratch));
}

/** Runs `allocate`; a host that cannot give so much memory at once becomes a file error. */
export function allocating<T>(where: string, bytes: number, allocate: () => T): T {
  try {
    return allocate();
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    return refuse("memory", `${where}: ${bytes} bytes are more than this host can hold in one piece.`, cause);
  }
}
