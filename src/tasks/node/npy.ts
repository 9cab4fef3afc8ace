/** A matrix of float32 as NumPy's `.npy` file, version 1.0, row-major. */
export function encodeNpy(rows: readonly ArrayLike<number>[], width: number): Uint8Array {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows.length}, ${width}), }`;
  // The values begin at a multiple of 64 bytes.
  const padded = `${header.padEnd(64 * Math.ceil((10 + header.length + 1) / 64) - 11)}\n`;
  const start = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, padded.length & 255, padded.length >> 8]);
  const values = Buffer.alloc(4 * rows.length * width);
  rows.forEach((row, i) => {
    for (let j = 0; j < width; j++) values.writeFloatLE(row[j], 4 * (i * width + j));
  });
  return Buffer.concat([start, Buffer.from(padded, "latin1"), values]);
}
