import { readFileSync } from "node:fs";
import { expect } from "vitest";

/** Bit by bit, from the definition: polynomial 0x1EDC6F41, reflected. */
export function checksum(bytes: Uint8Array): number {
  let crc = 0xffffffffn;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let i = 0; i < 8; i++) crc = crc & 1n ? (crc >> 1n) ^ 0x82f63b78n : crc >> 1n;
  }
  return Number(crc ^ 0xffffffffn);
}

const maskedChecksum = (bytes: Uint8Array): number => {
  const crc = BigInt(checksum(bytes));
  return Number((((crc >> 15n) | ((crc << 17n) & 0xffffffffn)) + 0xa282ead8n) & 0xffffffffn);
};

type Field = readonly [field: number, value: bigint | Buffer];

/** The fields of a protobuf message, undecoded. */
function fields(bytes: Buffer): Field[] {
  const found: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (n: number): Buffer => {
    at += n;
    return bytes.subarray(at - n, at);
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const type = tag & 7;
    const value = type === 0 ? varint() : take(type === 1 ? 8 : type === 5 ? 4 : Number(varint()));
    found.push([tag >> 3, value]);
  }
  return found;
}

export interface Entry {
  readonly step: number;
  readonly version?: string;
  readonly scalars: Readonly<Record<string, number>>;
}

/** Reads an event file; fails on a wrong checksum, half a record, or a time that is not about `now`, in seconds. */
export function eventsIn(path: string, { now }: { readonly now?: number } = {}): Entry[] {
  const bytes = readFileSync(path);
  const entries: Entry[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedChecksum(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedChecksum(data));
    at += 16 + length;
    const event = new Map(fields(data));
    const time = (event.get(1) as Buffer).readDoubleLE();
    if (now !== undefined) expect(Math.abs(time - now)).toBeLessThan(3600);
    const summary = event.get(5) as Buffer | undefined;
    const scalars = (summary ? fields(summary) : []).map(([field, value]) => {
      expect(field).toBe(1);
      const entry = new Map(fields(value as Buffer));
      return [String(entry.get(1)), (entry.get(2) as Buffer).readFloatLE()] as const;
    });
    const version = event.get(3);
    entries.push({
      step: Number(event.get(2) ?? 0n),
      scalars: Object.fromEntries(scalars),
      ...(version !== undefined && { version: String(version) }),
    });
  }
  return entries;
}
