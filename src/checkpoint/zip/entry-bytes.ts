import type { ByteSource } from "../byte-source.ts";
import { demand } from "../file-error.ts";
import { type Reading, readRange } from "../reading.ts";
import type { Place, StoredBytes } from "../stored-bytes.ts";
import { latin1 } from "../text.ts";
import { crc32 } from "./crc32.ts";
import { LOCAL_SIZE, type ZipEntry } from "./directory.ts";

/** Whether the CRC-32 of zip entries is compared. */
export type CrcCheck = "check" | "ignore";

/** How much is read at a time to compare a checksum. */
const PIECE = 2 ** 17;

/**
 * The bytes of one zip entry. The first read of any part compares the CRC-32 of the whole entry (in chunks, so a small
 * view of a large storage takes little memory); after that parts are read by range.
 */
export class ZipEntryBytes implements StoredBytes {
  private knownStart: number | undefined;
  private checked: boolean;

  constructor(
    private readonly source: ByteSource,
    private readonly entry: ZipEntry,
    private readonly check: CrcCheck,
  ) {
    this.checked = check === "ignore";
  }

  get byteLength(): number {
    return this.entry.size;
  }

  *range(where: string, offset: number, length: number): Reading<Uint8Array<ArrayBuffer>> {
    const { entry } = this;
    if (entry.method === "deflated") return (yield* this.inflated(where)).subarray(offset, offset + length);
    if (length === entry.size) return this.compare(where, yield* this.stored(where, 0, length));
    if (!this.checked) yield* this.verify(where);
    return yield* this.stored(where, offset, length);
  }

  /** Compares the CRC-32 of the whole entry, unless that was done. */
  *verify(where: string): Reading<void> {
    const { size, method } = this.entry;
    if (this.checked) return;
    if (method === "deflated") {
      yield* this.inflated(where);
      return;
    }
    const scratch = new Uint8Array(Math.min(PIECE, size));
    let crc = 0;
    for (let at = 0; at < size; at += PIECE)
      crc = crc32(yield* this.stored(where, at, Math.min(PIECE, size - at), scratch), crc);
    this.settle(where, crc);
  }

  *place(where: string): Reading<Place | undefined> {
    if (this.entry.method === "deflated") return undefined;
    const start = yield* this.dataStart(where);
    if (this.checked) return { start, ...(this.check === "check" && { crc: this.entry.crc }) };
    const defer = () => {
      this.checked = true;
    };
    return { start, confirm: (crc) => this.settle(where, crc), defer };
  }

  private *stored(
    where: string,
    offset: number,
    length: number,
    scratch?: Uint8Array<ArrayBuffer>,
  ): Reading<Uint8Array<ArrayBuffer>> {
    const start = yield* this.dataStart(where);
    return yield* readRange(this.source, start + offset, length, `zip entry ${this.entry.name}`, scratch);
  }

  private *dataStart(where: string): Reading<number> {
    this.knownStart ??= yield* localHeader(this.source, this.entry, where);
    return this.knownStart;
  }

  private *inflated(where: string): Reading<Uint8Array<ArrayBuffer>> {
    const { compressedSize, size, name } = this.entry;
    const inflate = yield* this.stored(where, 0, compressedSize);
    return this.compare(where, yield { inflate, size, where: `${where}: zip entry ${name}` });
  }

  private compare(where: string, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    if (!this.checked) this.settle(where, crc32(bytes));
    return bytes;
  }

  private settle(where: string, found: number): void {
    const { name, crc } = this.entry;
    this.checked = found === crc;
    demand(
      this.checked,
      "crc",
      () =>
        `${where}: zip entry ${name} has CRC-32 ${hex(found)}, the zip directory says ${hex(crc)}. The file is damaged; get it again.`,
    );
  }
}

const hex = (crc: number): string => crc.toString(16).padStart(8, "0");

/** Sizes and CRC follow the data (in a descriptor) instead of standing in the local header. */
const DESCRIPTOR_FLAG = 8;

/** Checks an entry's local header against the directory and returns where its data starts. */
function* localHeader(source: ByteSource, entry: ZipEntry, where: string): Reading<number> {
  const { name, start, end, method } = entry;
  const bytes = yield* readRange(source, start, LOCAL_SIZE + name.length, `zip entry ${name}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const dataStart = start + LOCAL_SIZE + name.length + view.getUint16(28, true);
  demand(
    view.getUint32(0, true) === 0x04034b50 &&
      view.getUint16(8, true) === (method === "stored" ? 0 : 8) &&
      view.getUint16(26, true) === name.length &&
      latin1(bytes.subarray(LOCAL_SIZE)) === name &&
      agrees(view, entry) &&
      dataStart + entry.compressedSize <= end,
    "zip",
    () =>
      `${where}: the local header of zip entry ${name} disagrees with the zip directory. The file is damaged; get it again.`,
  );
  return dataStart;
}

function agrees(view: DataView, { crc, compressedSize, size }: ZipEntry): boolean {
  if (view.getUint16(6, true) & DESCRIPTOR_FLAG) return true;
  const is = (found: number, expected: number) => found === expected || found === 0xffffffff;
  return (
    view.getUint32(14, true) === crc &&
    is(view.getUint32(18, true), compressedSize) &&
    is(view.getUint32(22, true), size)
  );
}
