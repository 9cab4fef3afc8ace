import { crc32, deflateSync } from "node:zlib";

const part = (type: string, body: Uint8Array): Buffer => {
  const named = Buffer.concat([Buffer.from(type, "latin1"), body]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(body.length);
  sum.writeUInt32BE(crc32(named));
  return Buffer.concat([length, named, sum]);
};

/**
 * A PNG file with a palette: pixels hold numbers, which a viewer shows in colours and `decodeMask` reads as they are.
 *
 * @param labels  0 … 255, row-major
 * @param palette  red, green and blue of each number, 0 … 255; up to 256 of them
 */
export function encodePalettePng(
  labels: Uint8Array,
  width: number,
  height: number,
  palette: readonly (readonly [number, number, number])[],
): Uint8Array {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 3], 8);
  const rows = Buffer.alloc(height * (width + 1));
  for (let y = 0; y < height; y++) rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]),
    part("IHDR", header),
    part("PLTE", Uint8Array.from(palette.flat())),
    part("IDAT", deflateSync(rows, { level: 9 })),
    part("IEND", new Uint8Array()),
  ]);
}
