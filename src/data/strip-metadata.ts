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

const isJpeg = (bytes: Uint8Array): boolean => bytes[0] === 0xff && bytes[1] === 0xd8;
const isPng = (bytes: Uint8Array): boolean => [0x89, 0x50, 0x4e, 0x47].every((v, i) => bytes[i] === v);

const text = (bytes: Uint8Array, from: number, length: number): string =>
  String.fromCharCode(...bytes.subarray(from, from + length));

/** Segments before the first scan: 0xff, kind, 16-bit length that counts itself. */
function jpegParts(bytes: Uint8Array): Uint8Array[] {
  const parts = [bytes.subarray(0, 2)];
  let at = 2;
  while (bytes[at] === 0xff && bytes[at + 1] >= 0xc0 && bytes[at + 1] !== 0xda) {
    const end = at + 2 + (bytes[at + 2] << 8) + bytes[at + 3];
    if (!(end <= bytes.length)) break;
    const isExif = bytes[at + 1] === 0xe1 && text(bytes, at + 4, 4) === "Exif";
    const isProfile = bytes[at + 1] === 0xe2 && text(bytes, at + 4, 11) === "ICC_PROFILE";
    if (!isExif && !isProfile) parts.push(bytes.subarray(at, end));
    at = end;
  }
  parts.push(bytes.subarray(at));
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
