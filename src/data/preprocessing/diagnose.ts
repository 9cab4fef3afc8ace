import { isJpeg, isPng } from "./headers.ts";

const ascii =
  (text: string) =>
  (bytes: Uint8Array, at: number): boolean =>
    Array.from(text).every((c, i) => bytes[at + i] === c.charCodeAt(0));

/** How files of other kinds begin, that are found among pictures. */
const others: readonly (readonly [kind: string, at: number, begins: string])[] = [
  ["a GIF", 0, "GIF8"],
  ["an AVIF or HEIC picture", 4, "ftypavif"],
  ["an AVIF or HEIC picture", 4, "ftyphei"],
  ["an AVIF or HEIC picture", 4, "ftypmif1"],
  ["a video", 4, "ftyp"],
  ["a JPEG 2000 picture", 4, "jP  "],
  ["a JPEG XL picture", 4, "JXL "],
  ["a Photoshop picture", 0, "8BPS"],
  ["an SVG drawing", 0, "<svg"],
  ["a web page", 0, "<!DOCTYPE html"],
  ["a web page", 0, "<!doctype html"],
  ["a web page", 0, "<html"],
  ["XML", 0, "<?xml"],
  ["a PDF", 0, "%PDF"],
  ["a ZIP archive", 0, "PK\u0003\u0004"],
  ["a gzip file", 0, "\u001f\u008b"],
  ["a pointer of Git LFS, not the file itself", 0, "version https://git-lfs"],
];

/**
 * Why a file cannot be decoded, from its bytes alone. (The decoder's own words go into one buffer for all threads, so
 * that they may be of another picture that is decoded at the same time.)
 */
export function diagnose(bytes: Uint8Array): string {
  if (isJpeg(bytes))
    return endsWith(bytes, [0xff, 0xd9]) ? "its JPEG data is damaged" : "the JPEG file ends in the middle";
  if (isPng(bytes))
    return endsWith(bytes, [0x49, 0x45, 0x4e, 0x44]) ? "its PNG data is damaged" : "the PNG file ends in the middle";
  if (ascii("RIFF")(bytes, 0) && ascii("WEBP")(bytes, 8)) {
    const stated = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(4, true) + 8;
    return stated > bytes.length ? "the WebP file ends in the middle" : "its WebP data is damaged";
  }
  if (ascii("II*\0")(bytes, 0) || ascii("MM\0*")(bytes, 0) || ascii("II+\0")(bytes, 0) || ascii("MM\0+")(bytes, 0))
    return "its TIFF data is damaged, ends in the middle, or is of a kind that cannot be read";
  const other = others.find(([, at, begins]) => ascii(begins)(bytes, at));
  const readable = "JPEG, PNG, WebP, TIFF, BMP, PGM and PPM can be read";
  if (other) return `it is ${other[0]}; ${readable}`;
  const first = Array.from(bytes.subarray(0, 8), (v) => v.toString(16).padStart(2, "0")).join(" ");
  return `it begins with the bytes ${first}, as no picture of a known kind does; ${readable}`;
}

/** Whether the mark is near the end: a little may follow. */
function endsWith(bytes: Uint8Array, mark: readonly number[]): boolean {
  for (let at = bytes.length - mark.length; at >= Math.max(0, bytes.length - 1024); at--)
    if (mark.every((v, i) => bytes[at + i] === v)) return true;
  return false;
}
