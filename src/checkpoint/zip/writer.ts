import type { Payload } from "../payload.ts";
import type { CollectingSink } from "../sink.ts";
import { crc32 } from "./crc32.ts";

interface WrittenEntry {
  readonly name: Uint8Array<ArrayBuffer>;
  readonly crc: number;
  readonly size: number;
  readonly start: number;
}

/** PyTorch aligns every entry's data, so that it can be mapped into memory. */
const ALIGNMENT = 64;
const FOUR_GIB = 2 ** 32 - 1;
/** Where a local header holds the CRC-32. */
const CRC_AT = 14;
/** 1 January 1980, so that the same tensors give the same file. */
const DOS_DATE = 0x0021;

/**
 * Writes a zip file of stored entries front to back, each with its data on a multiple of 64 bytes as PyTorch does;
 * zip64 where sizes or offsets need it. A small writer of our own because zip libraries do not align.
 */
export class ZipWriter {
  private readonly entries: WrittenEntry[] = [];

  constructor(private readonly sink: CollectingSink) {}

  /**
   * Adds one entry; `name` is ASCII. Its header stands before the data and holds the CRC-32: where that is not known and
   * the sink can go back it is filled in afterwards, else the data is passed over twice.
   */
  async add(name: string, data: Payload): Promise<void> {
    const { sink } = this;
    const entry = { name: new TextEncoder().encode(name), size: data.length, start: sink.length };
    let crc = data.crc ?? 0;
    const known = data.crc !== undefined;
    if (!known && !sink.patches) for await (const piece of data.pieces()) crc = crc32(piece, crc);
    await sink.write(localHeader({ ...entry, crc }));
    const later = !known && sink.patches;
    for await (const piece of data.pieces()) {
      if (later) crc = crc32(piece, crc);
      await sink.write(piece);
    }
    if (later) sink.patch(u32(crc), entry.start + CRC_AT);
    data.confirm?.(crc);
    this.entries.push({ ...entry, crc });
  }

  /** Writes the directory; nothing can be added after it. */
  async finish(): Promise<void> {
    const start = this.sink.length;
    for (const entry of this.entries) await this.sink.write(centralHeader(entry));
    await this.sink.write(endRecords(this.entries.length, start, this.sink.length - start));
  }
}

// Fields of zip records; little-endian, as every host is that this library's tensors are laid out for.
const u16 = (...values: number[]) => new Uint8Array(Uint16Array.from(values).buffer);
const u32 = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);
const u64 = (...values: number[]) => new Uint8Array(BigUint64Array.from(values, BigInt).buffer);

function joined(...fields: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(fields.reduce((n, field) => n + field.length, 0));
  let at = 0;
  for (const field of fields) {
    bytes.set(field, at);
    at += field.length;
  }
  return bytes;
}

const capped = (value: number): number => Math.min(value, FOUR_GIB);

/** Version needed: 4.5 knows zip64, 2.0 is the usual. */
const versionFor = (wide: boolean): number => (wide ? 45 : 20);

function localHeader({ name, crc, size, start }: WrittenEntry): Uint8Array<ArrayBuffer> {
  const wide = size >= FOUR_GIB ? joined(u16(1, 16), u64(size, size)) : u16();
  const unpadded = start + 30 + name.length + wide.length + 4;
  const padding = (ALIGNMENT - (unpadded % ALIGNMENT)) % ALIGNMENT;
  return joined(
    u32(0x04034b50),
    u16(versionFor(wide.length > 0), 0, 0, 0, DOS_DATE),
    u32(crc, capped(size), capped(size)),
    u16(name.length, wide.length + 4 + padding),
    name,
    wide,
    // PyTorch's own extra field, "FB": nothing but padding.
    u16(0x4246, padding),
    new Uint8Array(padding).fill(0x5a),
  );
}

function centralHeader({ name, crc, size, start }: WrittenEntry): Uint8Array<ArrayBuffer> {
  const wideFields = [size, size, start].filter((value) => value >= FOUR_GIB);
  const wide = wideFields.length > 0 ? joined(u16(1, 8 * wideFields.length), u64(...wideFields)) : u16();
  const version = versionFor(wide.length > 0);
  return joined(
    u32(0x02014b50),
    u16(version, version, 0, 0, 0, DOS_DATE),
    u32(crc, capped(size), capped(size)),
    u16(name.length, wide.length, 0, 0, 0),
    u32(0, capped(start)),
    name,
    wide,
  );
}

function endRecords(count: number, start: number, size: number): Uint8Array<ArrayBuffer> {
  const end = joined(
    u32(0x06054b50),
    u16(0, 0, Math.min(count, 0xffff), Math.min(count, 0xffff)),
    u32(capped(size), capped(start)),
    u16(0),
  );
  if (count < 0xffff && start < FOUR_GIB && size < FOUR_GIB) return end;
  const end64 = joined(u32(0x06064b50), u64(44), u16(45, 45), u32(0, 0), u64(count, count, size, start));
  const locator = joined(u32(0x07064b50, 0), u64(start + size), u32(1));
  return joined(end64, locator, end);
}
