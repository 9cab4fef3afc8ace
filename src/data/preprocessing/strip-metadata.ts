import { isJpeg, isPng, jpegSegments } from "./headers.ts";

/**
 * A JPEG or PNG file without what makes browsers change pixels: EXIF orientation, colour profile, gamma. Other bytes,
 * and files that are neither or are damaged, come back as they are.
 */
export function stripMetadata(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const parts = isPng(bytes) ? pngParts(bytes) : isJpeg(bytes) ? jpegParts(bytes) : [bytes];
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const text = (bytes: Uint8Array, from: number, length: number): string =>
  String.fromCharCode(...bytes.subarray(from, from + length));

function jpegParts(bytes: Uint8Array): Uint8Array[] {
  const parts = [bytes.subarray(0, 2)];
  let last = 2;
  for (const { kind, at, end } of jpegSegments(bytes)) {
    const isExif = kind === 0xe1 && text(bytes, at + 4, 4) === "Exif";
    const isProfile = kind === 0xe2 && text(bytes, at + 4, 11) === "ICC_PROFILE";
    if (!isExif && !isProfile) parts.push(bytes.subarray(at, end));
    last = end;
  }
  parts.push(bytes.subarray(last));
  return parts;
}

const dropped: ReadonlySet<string> = new Set(["iCCP", "gAMA", "cHRM", "sRGB", "cICP", "eXIf"]);

/** Chunks after the signature: 32-bit length, kind, data, checksum. */
function pngParts(bytes: Uint8Array): Uint8Array[] {
  const parts = [bytes.subarray(0, 8)];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 8;
  while (at + 12 <= bytes.length) {
    const end = at + 12 + view.getUint32(at);
    if (end > bytes.length) break;
    if (!dropped.has(text(bytes, at + 4, 4))) parts.push(bytes.subarray(at, end));
    at = end;
  }
  parts.push(bytes.subarray(at));
  return parts;
}
