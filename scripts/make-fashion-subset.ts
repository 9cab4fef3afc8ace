/**
 * Draws the balanced part of Fashion-MNIST in data/fashion-mnist-small from the full data set.
 *
 *   npx tsx scripts/make-fashion-subset.ts <folder of the four IDX files> [output folder]
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { fashionMnist, type Split } from "../src/data/node/index.ts";
import { permutation, rng } from "../src/tensor/index.ts";

const [source, target = "data/fashion-mnist-small"] = process.argv.slice(2);
if (source === undefined)
  throw new Error("usage: make-fashion-subset.ts <folder of the four IDX files> [output folder]");

const seed = 2105;
const perClass: Readonly<Record<Split, number>> = { train: 600, test: 100 };

/** Big-endian IDX header for unsigned bytes, then the data. */
function idx(shape: readonly number[], data: Uint8Array): Buffer {
  const header = Buffer.alloc(4 + 4 * shape.length);
  header[2] = 8;
  header[3] = shape.length;
  shape.forEach((size, axis) => {
    header.writeUInt32BE(size, 4 + 4 * axis);
  });
  return gzipSync(Buffer.concat([header, data]), { level: 9 });
}

mkdirSync(target, { recursive: true });
for (const split of ["train", "test"] as const) {
  const { pixels, labels, classes, length } = await fashionMnist(source, split);
  const order = permutation(length, rng(seed, `fashion-mnist-small/${split}`));
  const chosen = classes
    .flatMap((_, label) => [...order].filter((index) => labels[index] === label).slice(0, perClass[split]))
    .sort((a, b) => a - b);
  const size = 28 * 28;
  const pictures = new Uint8Array(chosen.length * size);
  chosen.forEach((index, slot) => {
    pictures.set(pixels.subarray(index * size, (index + 1) * size), slot * size);
  });
  const answers = Uint8Array.from(chosen, (index) => labels[index]);
  writeFileSync(join(target, `${split}-images-idx3-ubyte.gz`), idx([chosen.length, 28, 28], pictures));
  writeFileSync(join(target, `${split}-labels-idx1-ubyte.gz`), idx([chosen.length], answers));
}
