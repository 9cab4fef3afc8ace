import { nativeZlib } from "./native-zlib.ts";

/** Eight tables, so that eight bytes are taken per step ("slicing by 8", Kounavis and Berry 2005). */
const tables = buildTables();

function buildTables(): readonly Uint32Array[] {
  const first = Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    return crc;
  });
  const all = [first];
  for (let t = 1; t < 8; t++) all.push(all[t - 1].map((crc) => first[crc & 255] ^ (crc >>> 8)));
  return all;
}

/** CRC-32 in plain JavaScript, for hosts without zlib; `value` continues an earlier result. */
export function crc32Portable(bytes: Uint8Array, value = 0): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = tables;
  let crc = ~value;
  let i = 0;
  for (const end = bytes.length - 7; i < end; i += 8) {
    crc ^= bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24);
    crc =
      t7[crc & 255] ^
      t6[(crc >>> 8) & 255] ^
      t5[(crc >>> 16) & 255] ^
      t4[crc >>> 24] ^
      t3[bytes[i + 4]] ^
      t2[bytes[i + 5]] ^
      t1[bytes[i + 6]] ^
      t0[bytes[i + 7]];
  }
  for (; i < bytes.length; i++) crc = t0[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** CRC-32 as zip uses it (polynomial 0xEDB88320); `value` continues an earlier result. */
export const crc32: (bytes: Uint8Array, value?: number) => number = nativeZlib?.crc32 ?? crc32Portable;
