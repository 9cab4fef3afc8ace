import { must } from "../../errors.ts";
import type { Picture } from "./picture.ts";

interface BmpHeader {
  readonly width: number;
  readonly height: number;
  readonly topDown: boolean;
  readonly bits: number;
  /** Where the rows begin, in bytes. */
  readonly start: number;
  /** RGB triples, for pictures of up to 8 bits per pixel. */
  readonly palette: Uint8Array;
}

/** Whether the bytes begin like a Windows bitmap. */
export const isBmp = (bytes: Uint8Array): boolean => bytes[0] === 0x42 && bytes[1] === 0x4d;

/**
 * Decodes an uncompressed Windows bitmap of 1, 4, 8, 24 or 32 bits per pixel to RGB; a fourth byte is dropped.
 *
 * @throws `bmp/header`, `bmp/format`, `bmp/truncated`, `bmp/palette`
 */
export function decodeBmp(bytes: Uint8Array, name: string): Picture {
  const header = parseHeader(bytes, name);
  const { width, height, topDown, bits, start, palette } = header;
  // Rows are padded to whole 32-bit words.
  const stride = 4 * Math.ceil((width * bits) / 32);
  must(
    bytes.length >= start + stride * height,
    "bmp/truncated",
    () => `${name}: ${width} x ${height} pixels need ${stride * height} bytes, the file has ${bytes.length - start}`,
    "file",
  );
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, o = 0; y < height; y++) {
    const row = start + stride * (topDown ? y : height - 1 - y);
    for (let x = 0; x < width; x++, o += 3) {
      if (bits >= 24) {
        const p = row + (x * bits) / 8;
        data[o] = bytes[p + 2];
        data[o + 1] = bytes[p + 1];
        data[o + 2] = bytes[p];
      } else {
        const bit = x * bits;
        const entry = 3 * ((bytes[row + (bit >> 3)] >> (8 - bits - (bit & 7))) & ((1 << bits) - 1));
        must(
          entry < palette.length,
          "bmp/palette",
          () => `${name}: pixel (${x}, ${y}) has a colour past the palette`,
          "file",
        );
        for (let c = 0; c < 3; c++) data[o + c] = palette[entry + c];
      }
    }
  }
  return { width, height, data };
}

function parseHeader(bytes: Uint8Array, name: string): BmpHeader {
  must(bytes.length >= 54, "bmp/header", () => `${name}: ${bytes.length} bytes are too short for a bitmap`, "file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const infoSize = view.getUint32(14, true);
  const signedHeight = view.getInt32(22, true);
  const width = view.getInt32(18, true);
  const bits = view.getUint16(28, true);
  const compression = view.getUint32(30, true);
  const start = view.getUint32(10, true);
  must(
    infoSize >= 40 && width > 0 && signedHeight !== 0 && start >= 14 + infoSize && start <= bytes.length,
    "bmp/header",
    () => `${name}: the bitmap header makes no sense (${width} x ${signedHeight} pixels from byte ${start})`,
    "file",
  );
  must(
    [1, 4, 8, 24, 32].includes(bits) && compression === 0,
    "bmp/format",
    () =>
      `${name}: bitmap with ${bits} bits per pixel and compression ${compression}; only uncompressed ones of 1, 4, 8, 24 or 32 bits can be read. Save the picture as PNG`,
    "file",
  );
  const palette = paletteOf(
    bytes.subarray(14 + infoSize, start),
    bits <= 8 ? view.getUint32(46, true) || 1 << bits : 0,
  );
  return { width, height: Math.abs(signedHeight), topDown: signedHeight < 0, bits, start, palette };
}

/** RGB triples from entries of blue, green, red and a byte without meaning. */
function paletteOf(bytes: Uint8Array, colours: number): Uint8Array {
  const count = Math.min(colours, bytes.length >> 2);
  return Uint8Array.from({ length: 3 * count }, (_, i) => bytes[4 * Math.floor(i / 3) + 2 - (i % 3)]);
}
