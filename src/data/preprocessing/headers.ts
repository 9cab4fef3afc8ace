export const isJpeg = (bytes: Uint8Array): boolean => bytes[0] === 0xff && bytes[1] === 0xd8;
export const isPng = (bytes: Uint8Array): boolean => [0x89, 0x50, 0x4e, 0x47].every((v, i) => bytes[i] === v);

/** A segment of a JPEG file: bytes `at` … `end`−1, of which the first are 0xff, its kind and a 16-bit length. */
export interface JpegSegment {
  readonly kind: number;
  readonly at: number;
  readonly end: number;
}

/** The segments of a JPEG file before its first scan, as far as they are whole. The length counts itself. */
export function* jpegSegments(bytes: Uint8Array): Generator<JpegSegment, void, undefined> {
  let at = 2;
  while (bytes[at] === 0xff && bytes[at + 1] >= 0xc0 && bytes[at + 1] !== 0xda) {
    const end = at + 2 + (bytes[at + 2] << 8) + bytes[at + 3];
    if (!(end <= bytes.length)) return;
    yield { kind: bytes[at + 1], at, end };
    at = end;
  }
}

/** Whether a segment of this kind tells size and channels (SOF0 … SOF15). */
export const isFrame = (kind: number): boolean => kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind);
