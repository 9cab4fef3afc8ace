import { inflateSync } from "node:zlib";
import { must, RepmlpError } from "../../errors.ts";
import { isPng } from "../preprocessing/headers.ts";

/** Class numbers of a picture's pixels, row-major. */
export interface Mask {
  readonly width: number;
  readonly height: number;
  readonly labels: Uint8Array;
}

const GREY = 0;
const PALETTE = 3;

/**
 * Reads the numbers that a PNG file stores for its pixels: places in the palette, or grey values, of 1 to 8 bits. Unlike
 * in decoding a picture, a palette is not looked up, so that files which show classes in colours give the classes.
 *
 * @param name  what to call the file in errors
 * @throws `mask/decode` when the file is damaged, or holds colours
 */
export function decodeMask(bytes: Uint8Array, name: string): Mask {
  const check = (condition: boolean, why: () => string): void =>
    must(condition, "mask/decode", () => `${name}: ${why()}`, "file");
  check(isPng(bytes), () => "a mask must be a PNG file whose pixels are class numbers");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const data: Uint8Array[] = [];
  let [width, height, depth, kind, interlaced] = [0, 0, 0, -1, 0];
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    check(at + 12 + length <= bytes.length, () => `the PNG file ends within its ${type} part`);
    if (type === "IHDR" && length === 13) {
      [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      [depth, kind, interlaced] = [bytes[at + 16], bytes[at + 17], bytes[at + 20]];
    }
    if (type === "IDAT") data.push(bytes.subarray(at + 8, at + 8 + length));
    if (type === "IEND") break;
    at += 12 + length;
  }
  check(kind === GREY || kind === PALETTE, () =>
    kind < 0
      ? "the PNG file has no header"
      : "a mask must hold a class number per pixel (a grey or palette PNG), this file holds colours. Store the class numbers.",
  );
  check([1, 2, 4, 8].includes(depth), () => `a mask has at most 8 bits per pixel, this file ${depth}`);
  check(interlaced === 0, () => "interlaced masks cannot be read. Save the file without interlacing");
  check(width > 0 && height > 0 && width * height < 2 ** 28, () => `${width} x ${height} pixels are no picture`);
  const rowBytes = Math.ceil((width * depth) / 8);
  const rows = inflated(data, height * (rowBytes + 1), name);
  check(rows.length === height * (rowBytes + 1), () => `the PNG file holds fewer than its ${height} rows`);
  const labels = new Uint8Array(width * height);
  let above = new Uint8Array(rowBytes);
  for (let y = 0; y < height; y++) {
    const start = y * (rowBytes + 1);
    const row = rows.subarray(start + 1, start + 1 + rowBytes);
    check(rows[start] <= 4, () => `row ${y} has the unknown PNG filter ${rows[start]}`);
    unfilter(row, above, rows[start]);
    for (let x = 0; x < width; x++) {
      const bit = x * depth;
      labels[y * width + x] = (row[bit >> 3] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
    }
    above = row;
  }
  return { width, height, labels };
}

function inflated(parts: readonly Uint8Array[], size: number, name: string): Uint8Array<ArrayBuffer> {
  try {
    // A byte more than there may be: what says that it is larger is then refused as well.
    const whole = inflateSync(Buffer.concat(parts), { maxOutputLength: size + 1 });
    return new Uint8Array(whole.buffer as ArrayBuffer, whole.byteOffset, whole.length);
  } catch (error) {
    throw new RepmlpError("mask/decode", `${name}: the PNG file is damaged (${(error as Error).message})`, "file");
  }
}

/** Undoes a PNG filter; the pixels are of one byte or less, so that the left neighbour is the byte before. */
function unfilter(row: Uint8Array, above: Uint8Array, filter: number): void {
  for (let i = 0; i < row.length; i++) {
    const [left, up, corner] = [i ? row[i - 1] : 0, above[i], i ? above[i - 1] : 0];
    row[i] += [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
  }
}

function paeth(a: number, b: number, c: number): number {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  if (pa <= pb && pa <= pc) return a;
  return pb <= pc ? b : c;
}
