import type { ByteSource } from "../byte-source.ts";
import { demand } from "../file-error.ts";
import { type Reading, readRange } from "../reading.ts";
import { latin1, shortened } from "../text.ts";

/*
 * A small strict reader of zip directories, instead of a zip library: we want the byte range of one stored entry, at
 * once and asynchronously, and a refusal of what libraries tolerate (sizes that disagree, entries that overlap,
 * duplicate names, bytes before, between or after the parts). What PyTorch writes is a small part of the format.
 */

/** One file of the archive, as the central directory describes it. */
export interface ZipEntry {
  /** Path in the archive; one character per byte. */
  readonly name: string;
  readonly method: "stored" | "deflated";
  /** CRC-32 of the uncompressed bytes. */
  readonly crc: number;
  readonly compressedSize: number;
  readonly size: number;
  /** Where its local header starts, and where the next thing in the file does. */
  readonly start: number;
  readonly end: number;
}

const SIGNATURE = { end: 0x06054b50, end64: 0x06064b50, locator64: 0x07064b50, central: 0x02014b50 };
const END_SIZE = 22;
const LOCATOR_SIZE = 20;
const END64_SIZE = 56;
const CENTRAL_SIZE = 46;
export const LOCAL_SIZE = 30;

/** Where the central directory lies. */
interface Directory {
  readonly offset: number;
  readonly size: number;
  readonly count: number;
}

/**
 * Reads and checks the central directory (zip64 as well).
 *
 * @throws RepmlpError `checkpoint/truncated` without a directory at the file's end, `checkpoint/zip` when it is not
 *   what a strict reader accepts, `checkpoint/limit` for entries that inflate out of all proportion
 */
export function* readZipDirectory(source: ByteSource): Reading<Map<string, ZipEntry>> {
  const { offset, size, count } = yield* findDirectory(source);
  const bytes = yield* readRange(source, offset, size, "the zip directory");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found: Omit<ZipEntry, "end">[] = [];
  let at = 0;
  while (at < size) {
    const { entry, length } = centralEntry(source.name, bytes, view, at);
    found.push(entry);
    at += length;
  }
  demand(
    found.length === count,
    "zip",
    () => `${source.name}: the zip directory lists ${found.length} entries and announces ${count}. ${DAMAGED}`,
  );
  return withEnds(source.name, found, offset);
}

const DAMAGED = "The file is damaged; get it again.";

function* findDirectory(source: ByteSource): Reading<Directory> {
  const length = Math.min(source.size, END_SIZE + 0xffff + LOCATOR_SIZE);
  const tail = yield* readRange(source, source.size - length, length, "the end of the zip file");
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength);
  let at = length - END_SIZE;
  const isEnd = (i: number) =>
    view.getUint32(i, true) === SIGNATURE.end && i + END_SIZE + view.getUint16(i + 20, true) === length;
  while (at >= 0 && !isEnd(at)) at--;
  demand(
    at >= 0,
    "truncated",
    () => `${source.name}: starts like a zip file but has no zip directory at its end. It is truncated; get it again.`,
  );
  const endOffset = source.size - length + at;
  const fields = {
    disks: view.getUint32(at + 4, true),
    count: view.getUint16(at + 10, true),
    size: view.getUint32(at + 12, true),
    offset: view.getUint32(at + 16, true),
  };
  const locator = at - LOCATOR_SIZE;
  const has64 = locator >= 0 && view.getUint32(locator, true) === SIGNATURE.locator64;
  const directory = has64 ? yield* directory64(source, wide(view, locator + 8), fields) : fields;
  const expectedEnd = has64 ? wide(view, locator + 8) : endOffset;
  demand(
    (fields.disks === 0 || has64) && directory.offset + directory.size === expectedEnd,
    "zip",
    () =>
      `${source.name}: the zip directory is said to be ${directory.size} bytes at ${directory.offset}, it ends at ` +
      `${expectedEnd}. ${DAMAGED}`,
  );
  return directory;
}

/** The zip64 end record, which must agree with the old one wherever that one can hold the value. */
function* directory64(source: ByteSource, at: number, old: Directory): Reading<Directory> {
  const bytes = yield* readRange(source, at, END64_SIZE, "the zip64 end record");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = { count: wide(view, 32), size: wide(view, 40), offset: wide(view, 48) };
  const agrees = (is: number, was: number, limit: number) => was === limit || was === is;
  demand(
    view.getUint32(0, true) === SIGNATURE.end64 &&
      agrees(found.count, old.count, 0xffff) &&
      agrees(found.size, old.size, 0xffffffff) &&
      agrees(found.offset, old.offset, 0xffffffff),
    "zip",
    () => `${source.name}: the two end records of the zip directory disagree. ${DAMAGED}`,
  );
  return found;
}

/** A 64-bit field; beyond 2^53 it is rounded, which no check survives. */
const wide = (view: DataView, at: number): number => Number(view.getBigUint64(at, true));

function centralEntry(file: string, bytes: Uint8Array, view: DataView, at: number) {
  const whole = at + CENTRAL_SIZE <= bytes.length && view.getUint32(at, true) === SIGNATURE.central;
  demand(whole, "zip", () => `${file}: the zip directory is damaged at its byte ${at}. Get the file again.`);
  const [nameLength, extraLength, commentLength] = [28, 30, 32].map((i) => view.getUint16(at + i, true));
  const length = CENTRAL_SIZE + nameLength + extraLength + commentLength;
  demand(
    at + length <= bytes.length,
    "zip",
    () => `${file}: the zip directory is damaged at its byte ${at}. Get the file again.`,
  );
  const extraStart = at + CENTRAL_SIZE + nameLength;
  const name = latin1(bytes.subarray(at + CENTRAL_SIZE, extraStart));
  const where = `${file}: zip entry ${shortened(name)}`;
  const [size, compressedSize, start] = zip64Fields(view, extraStart, extraLength, [
    view.getUint32(at + 24, true),
    view.getUint32(at + 20, true),
    view.getUint32(at + 42, true),
  ]);
  const flags = view.getUint16(at + 8, true);
  demand((flags & 0x2041) === 0, "zip", () => `${where}: is encrypted, which PyTorch files never are.`);
  const entry = { name, method: methodOf(where, view.getUint16(at + 10, true)), crc: view.getUint32(at + 16, true) };
  return { entry: { ...entry, compressedSize, size, start }, length };
}

function methodOf(where: string, method: number): ZipEntry["method"] {
  demand(
    method === 0 || method === 8,
    "zip",
    () => `${where}: compression method ${method}; only stored and deflated entries are read. Zip it again without it.`,
  );
  return method === 0 ? "stored" : "deflated";
}

/** Size, compressed size and offset; those that are 2^32 - 1 stand in the zip64 extra field, in this order. */
function zip64Fields(view: DataView, start: number, length: number, fields: number[]): number[] {
  if (!fields.includes(0xffffffff)) return fields;
  for (let at = start; at + 4 <= start + length; at += 4 + view.getUint16(at + 2, true)) {
    if (view.getUint16(at, true) !== 1) continue;
    const end = Math.min(at + 4 + view.getUint16(at + 2, true), start + length);
    let next = at + 4;
    const values = fields.map((field) => {
      if (field !== 0xffffffff) return field;
      next += 8;
      return next <= end ? wide(view, next - 8) : Number.NaN;
    });
    if (values.every(Number.isSafeInteger)) return values;
  }
  // Without the extra field the value is meant as it stands; the checks of lengths decide.
  return fields;
}

/** Real weights hardly deflate; what claims to inflate beyond these is made to fill the memory. */
const BOMB = { size: 2 ** 24, ratio: 200, largest: 2 ** 30 };

function withEnds(file: string, found: Omit<ZipEntry, "end">[], directory: number): Map<string, ZipEntry> {
  const entries = new Map<string, ZipEntry>();
  found.sort((a, b) => a.start - b.start);
  found.forEach((entry, i) => {
    const where = `${file}: zip entry ${shortened(entry.name)}`;
    const end = found[i + 1]?.start ?? directory;
    const { size, compressedSize } = entry;
    demand(!entries.has(entry.name), "zip", () => `${where}: is listed twice. ${DAMAGED}`);
    demand(
      entry.start + LOCAL_SIZE + entry.name.length + compressedSize <= end,
      "zip",
      () => `${where}: its ${compressedSize} bytes at ${entry.start} overlap what starts at ${end}. ${DAMAGED}`,
    );
    demand(
      entry.method === "deflated" || size === compressedSize,
      "zip",
      () => `${where}: is stored, but its two sizes are ${size} and ${compressedSize}. ${DAMAGED}`,
    );
    demand(
      entry.method === "stored" || (size <= BOMB.largest && size <= Math.max(BOMB.size, compressedSize * BOMB.ratio)),
      "limit",
      () =>
        `${where}: would inflate from ${compressedSize} to ${size} bytes. Zip the file again without compression if you trust it.`,
    );
    entries.set(entry.name, { ...entry, end });
  });
  return entries;
}
