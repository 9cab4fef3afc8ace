import { must } from "../../errors.ts";
import type { Picture } from "./picture.ts";

const perPixel: Readonly<Record<string, 1 | 3>> = { P5: 1, P6: 3 };

/** Whether the bytes begin like a binary PGM or PPM file. */
export const isNetpbm = (bytes: Uint8Array): boolean =>
  bytes[0] === 0x50 && (bytes[1] === 0x35 || bytes[1] === 0x36) && /\s|#/.test(String.fromCharCode(bytes[2]));

/**
 * Decodes a binary PGM (`P5`, grey) or PPM (`P6`, RGB) file with one byte per sample.
 *
 * @throws `netpbm/header`, `netpbm/depth`, `netpbm/truncated`
 */
export function decodeNetpbm(bytes: Uint8Array, name: string): Picture {
  const { fields, end } = header(bytes, name);
  const [width, height, max] = fields;
  must(
    max === 255,
    "netpbm/depth",
    () => `${name}: brightest value ${max}; only one byte per sample (255) can be read. Save the picture as PNG`,
    "file",
  );
  const size = width * height * perPixel[String.fromCharCode(bytes[0], bytes[1])];
  must(
    size > 0 && bytes.length >= end + size,
    "netpbm/truncated",
    () => `${name}: ${width} x ${height} pixels need ${size} bytes, the file has ${bytes.length - end}`,
    "file",
  );
  return { width, height, data: bytes.subarray(end, end + size) };
}

/** Width, height and brightest value: numbers between white space, where `#` begins a comment to the end of the line. */
function header(bytes: Uint8Array, name: string): { fields: number[]; end: number } {
  // A header is a few dozen bytes; the rest allows for comments.
  const text = String.fromCharCode(...bytes.subarray(0, 4096));
  const match =
    /^P[56](?:(?:\s|#[^\n\r]*[\n\r])+(\d{1,9}))(?:(?:\s|#[^\n\r]*[\n\r])+(\d{1,9}))(?:(?:\s|#[^\n\r]*[\n\r])+(\d{1,9}))\s/.exec(
      text,
    );
  must(
    match,
    "netpbm/header",
    () => `${name}: not a PGM or PPM file: the header has no width, height and maximum`,
    "file",
  );
  return { fields: match.slice(1, 4).map(Number), end: match[0].length };
}
