import type { Shape } from "../tensor/index.ts";

/** Whether a view is dense and row-major; dimensions of size 1 may have any stride. */
export function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  for (let i = shape.length - 1, expected = 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false;
    expected *= shape[i];
  }
  return true;
}

/**
 * Copies a strided view into a dense row-major array.
 *
 * @param bytes    the view's elements from its first to its last, `width` bytes each
 * @param shape    without zeros
 * @param strides  in elements, not negative, so that no element lies past `bytes`
 */
export function gather(
  bytes: Uint8Array<ArrayBuffer>,
  width: number,
  shape: Shape,
  strides: readonly number[],
): Uint8Array<ArrayBuffer> {
  // Eight-byte elements go as pairs of four-byte ones: as float64 a NaN could lose its payload.
  if (width === 8) return gather(bytes, 4, [...shape, 2], [...strides.map((s) => s * 2), 1]);
  const Words = width === 4 ? Uint32Array : width === 2 ? Uint16Array : Uint8Array;
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const from = new Words(aligned.buffer, aligned.byteOffset, aligned.byteLength / width);
  const to = new Words(shape.reduce((n, d) => n * d, 1));
  let at = 0;
  const walk = (dim: number, start: number): void => {
    const [count, stride] = [shape[dim], strides[dim]];
    if (dim < shape.length - 1) for (let i = 0; i < count; i++) walk(dim + 1, start + i * stride);
    else for (let i = 0; i < count; i++) to[at++] = from[start + i * stride];
  };
  if (shape.length === 0) to[0] = from[0];
  else walk(0, 0);
  return new Uint8Array(to.buffer);
}
