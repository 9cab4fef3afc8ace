import { must } from "../../errors.ts";
import type { Picture } from "./picture.ts";

interface BmpHeader {
  readonly width: number;
  readonly height: number;
  readonly topDown: boolean;
  readonly bits: number;
  readonly compression: number;
  /** Where the pixels begin, in bytes. */
  readonly start: number;
  /** RGB triples, for pictures of up to 8 bits per pixel. */
  readonly palette: Uint8Array;
  /** How a pixel of 16 bits and more is read. */
  readonly layout: PixelLayout | undefined;
}

/** Red, green, blue of a pixel: at which bytes they are, or at which bits of a 16-bit word and of how many bits. */
type PixelLayout =
  | { readonly bytes: readonly [number, number, number] }
  | { readonly shifts: readonly [number, number, number]; readonly most: readonly [number, number, number] };

const rgb555: PixelLayout = { shifts: [10, 5, 0], most: [31, 31, 31] };
const rgb565: PixelLayout = { shifts: [11, 5, 0], most: [31, 63, 31] };

/** Masks that Pillow knows, by bits per pixel: red, green, blue and, for 32 bits, alpha; hexadecimal. */
const masked: Readonly<Record<number, Readonly<Record<string, PixelLayout>>>> = {
  16: { "f800 7e0 1f": rgb565, "7c00 3e0 1f": rgb555 },
  24: { "ff0000 ff00 ff": { bytes: [2, 1, 0] } },
  32: {
    "ff0000 ff00 ff 0": { bytes: [2, 1, 0] },
    "ff0000 ff00 ff ff000000": { bytes: [2, 1, 0] },
    "0 0 0 0": { bytes: [2, 1, 0] },
    "ff000000 ff0000 ff00 0": { bytes: [3, 2, 1] },
    "ff000000 ff0000 ff00 ff": { bytes: [3, 2, 1] },
    "ff ff00 ff0000 ff000000": { bytes: [0, 1, 2] },
  },
};

const plain: Readonly<Record<number, PixelLayout | undefined>> = {
  1: undefined,
  4: undefined,
  8: undefined,
  16: rgb555,
  24: { bytes: [2, 1, 0] },
  32: { bytes: [2, 1, 0] },
};

const compressions = { none: 0, runs8: 1, runs4: 2, masks: 3 } as const;

/** Whether the bytes begin like a bitmap of Windows or OS/2. */
export const isBmp = (bytes: Uint8Array): boolean => bytes[0] === 0x42 && bytes[1] === 0x4d;

/**
 * Decodes a bitmap of Windows or OS/2 to RGB as Pillow does: 1, 4 or 8 bits per pixel with a palette, also run-length
 * coded, 16, 24 or 32 bits with the usual masks. Alpha is dropped.
 *
 * @throws `bmp/header`, `bmp/format`, `bmp/truncated`, `bmp/palette`
 */
export function decodeBmp(bytes: Uint8Array, name: string): Picture {
  const header = parseHeader(bytes, name);
  const { width, height, bits, compression, palette, layout } = header;
  if (layout) return { width, height, data: decodePixels(bytes, header, layout, name) };
  const isPacked = compression === compressions.runs8 || compression === compressions.runs4;
  const indices = isPacked ? unpackRuns(bytes, header, name) : readIndices(bytes, header, name);
  const data = new Uint8Array(width * height * 3);
  for (let i = 0, o = 0; i < width * height; i++, o += 3) {
    const entry = 3 * indices[i];
    must(
      entry < palette.length,
      "bmp/palette",
      () =>
        `${name}: pixel (${i % width}, ${Math.floor(i / width)}) has a colour past the palette of ${palette.length / 3}, with ${bits} bits per pixel`,
      "file",
    );
    for (let c = 0; c < 3; c++) data[o + c] = palette[entry + c];
  }
  return { width, height, data };
}

/** Where row `y` from the top begins; rows are padded to whole 32-bit words. */
function rowsOf(bytes: Uint8Array, { width, height, topDown, bits, start }: BmpHeader, name: string) {
  const stride = 4 * Math.ceil((width * bits) / 32);
  must(
    bytes.length >= start + stride * height,
    "bmp/truncated",
    () => `${name}: ${width} x ${height} pixels need ${stride * height} bytes, the file has ${bytes.length - start}`,
    "file",
  );
  return (y: number): number => start + stride * (topDown ? y : height - 1 - y);
}

function decodePixels(bytes: Uint8Array, header: BmpHeader, layout: PixelLayout, name: string): Uint8Array {
  const { width, height, bits } = header;
  const rowAt = rowsOf(bytes, header, name);
  const data = new Uint8Array(width * height * 3);
  const step = bits / 8;
  if ("bytes" in layout) {
    const [red, green, blue] = layout.bytes;
    for (let y = 0, o = 0; y < height; y++)
      for (let x = 0, p = rowAt(y); x < width; x++, o += 3, p += step) {
        data[o] = bytes[p + red];
        data[o + 1] = bytes[p + green];
        data[o + 2] = bytes[p + blue];
      }
    return data;
  }
  const { shifts, most } = layout;
  for (let y = 0, o = 0; y < height; y++)
    for (let x = 0, p = rowAt(y); x < width; x++, p += step) {
      const word = bytes[p] | (bytes[p + 1] << 8);
      for (let c = 0; c < 3; c++, o++) data[o] = Math.floor((((word >> shifts[c]) & most[c]) * 255) / most[c]);
    }
  return data;
}

function readIndices(bytes: Uint8Array, header: BmpHeader, name: string): Uint8Array {
  const { width, height, bits } = header;
  const rowAt = rowsOf(bytes, header, name);
  const indices = new Uint8Array(width * height);
  for (let y = 0, o = 0; y < height; y++)
    for (let x = 0, row = rowAt(y); x < width; x++, o++) {
      const bit = x * bits;
      indices[o] = (bytes[row + (bit >> 3)] >> (8 - bits - (bit & 7))) & ((1 << bits) - 1);
    }
  return indices;
}

/**
 * Run-length coded indices, from the top. Where files break the rules, and in two places where they keep them (jumps, and
 * odd numbers of unpacked 4-bit pixels), this does what Pillow does: the same file gives the same picture there.
 */
function unpackRuns(bytes: Uint8Array, header: BmpHeader, name: string): Uint8Array {
  const { width, height, topDown, compression, start } = header;
  const total = width * height;
  const isHalf = compression === compressions.runs4;
  const short = (): never => {
    must(false, "bmp/truncated", () => `${name}: the runs end after ${n} of ${total} pixels`, "file");
  };
  // A run is two bytes for up to 255 pixels, a jump up to 255 rows: a file that is too small need not be tried.
  if (total > (bytes.length - start) * 128 * Math.max(1, width))
    must(
      false,
      "bmp/truncated",
      () => `${name}: ${width} x ${height} pixels cannot be in ${bytes.length} bytes`,
      "file",
    );
  const out = new Uint8Array(total);
  let n = 0;
  let x = 0;
  let p = start;
  const put = (index: number): void => {
    if (n < total) out[n] = index;
    n++;
  };
  while (n < total) {
    if (p + 2 > bytes.length) return short();
    const [count, value] = [bytes[p], bytes[p + 1]];
    p += 2;
    if (count > 0) {
      const run = Math.max(0, Math.min(count, width - x));
      for (let i = 0; i < run; i++) put(isHalf ? (i % 2 ? value & 15 : value >> 4) : value);
      x += run;
    } else if (value === 0) {
      while (n % width !== 0) put(0);
      x = 0;
    } else if (value === 1) {
      return short();
    } else if (value === 2) {
      // Pillow takes the second pair of bytes after the code, not the first.
      if (p + 4 > bytes.length) return short();
      n += bytes[p + 2] + bytes[p + 3] * width;
      p += 4;
      x = n % width;
    } else {
      const length = isHalf ? value >> 1 : value;
      if (p + length > bytes.length) return short();
      for (let i = 0; i < length; i++, p++)
        if (isHalf) {
          put(bytes[p] >> 4);
          put(bytes[p] & 15);
        } else put(bytes[p]);
      x += value;
      p += p % 2;
    }
  }
  if (topDown) return out;
  const indices = new Uint8Array(total);
  for (let y = 0; y < height; y++) indices.set(out.subarray((height - 1 - y) * width, (height - y) * width), y * width);
  return indices;
}

function parseHeader(bytes: Uint8Array, name: string): BmpHeader {
  const senseless = (message: () => string, condition: boolean): void =>
    must(condition, "bmp/header", () => `${name}: ${message()}`, "file");
  senseless(() => `${bytes.length} bytes are too short for a bitmap`, bytes.length >= 26);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const infoSize = view.getUint32(14, true);
  const isOs2 = infoSize === 12;
  must(
    isOs2 || [40, 52, 56, 64, 108, 124].includes(infoSize),
    "bmp/format",
    () => `${name}: a bitmap header of ${infoSize} bytes is not known. Save the picture as PNG`,
    "file",
  );
  senseless(() => `${bytes.length} bytes are too short for a bitmap`, bytes.length >= 14 + infoSize);
  const width = isOs2 ? view.getUint16(18, true) : view.getInt32(18, true);
  const signedHeight = isOs2 ? view.getUint16(20, true) : view.getInt32(22, true);
  const bits = view.getUint16(isOs2 ? 24 : 28, true);
  const compression = isOs2 ? compressions.none : view.getUint32(30, true);
  const stated = view.getUint32(10, true);
  const ownMasks = compression === compressions.masks && infoSize === 40;
  const afterHeader = 14 + infoSize + (ownMasks ? 12 : 0);
  senseless(
    () => `the bitmap header makes no sense (${width} x ${signedHeight} pixels from byte ${stated})`,
    width > 0 &&
      signedHeight !== 0 &&
      (stated === 0 || (stated >= 14 + infoSize && stated <= bytes.length)) &&
      afterHeader <= bytes.length,
  );
  const masks = compression === compressions.masks ? masksOf(view, infoSize, bits) : "";
  const layout = compression === compressions.masks ? masked[bits]?.[masks] : plain[bits];
  const isRuns = compression === compressions.runs8 || compression === compressions.runs4;
  must(
    bits in plain &&
      (compression === compressions.none || (compression === compressions.masks && layout) || (isRuns && bits <= 8)),
    "bmp/format",
    () =>
      `${name}: bitmap with ${bits} bits per pixel and compression ${compression}${masks && ` (masks ${masks})`}; this kind cannot be read. Save the picture as PNG`,
    "file",
  );
  const entry = isOs2 ? 3 : 4;
  const colours = bits > 8 ? 0 : (isOs2 ? 0 : view.getUint32(46, true)) || 1 << bits;
  // Some files say that the pixels begin right after the header, where the palette is.
  const start = stated === 14 + infoSize && bits <= 8 ? stated + 4 * colours : stated || afterHeader + entry * colours;
  const palette = paletteOf(bytes.subarray(afterHeader, afterHeader + entry * colours), entry);
  return {
    width,
    height: Math.abs(signedHeight),
    topDown: signedHeight < 0,
    bits,
    compression,
    start,
    palette,
    layout,
  };
}

/** Masks of red, green, blue and, for 32 bits, alpha, which is 0 where the header has none. */
function masksOf(view: DataView, infoSize: number, bits: number): string {
  if (view.byteLength < 66) return "none";
  const alpha = infoSize >= 56 && bits === 32 ? view.getUint32(66, true) : 0;
  const masks = [54, 58, 62].map((at) => view.getUint32(at, true));
  return [...masks, ...(bits === 32 ? [alpha] : [])].map((mask) => mask.toString(16)).join(" ");
}

/** RGB triples from entries of blue, green, red and perhaps a byte without meaning. */
const paletteOf = (bytes: Uint8Array, entry: number): Uint8Array =>
  Uint8Array.from(
    { length: 3 * Math.min(256, Math.floor(bytes.length / entry)) },
    (_, i) => bytes[entry * Math.floor(i / 3) + 2 - (i % 3)],
  );
