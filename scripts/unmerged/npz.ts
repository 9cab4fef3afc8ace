import { readFileSync } from "node:fs";
import { inflateRawSync } from "node:zlib";
import { sizeOf, Tensor } from "../../src/tensor/index.ts";

/** The arrays of a `.npz` of numpy (a zip of `.npy` files), float32 and float64 in C order. */
export function readNpz(path: string): Map<string, Tensor> {
  const file = readFileSync(path);
  const arrays = new Map<string, Tensor>();
  const end = file.lastIndexOf(Buffer.from("PK\x05\x06"));
  let at = file.readUInt32LE(end + 16);
  for (let left = file.readUInt16LE(end + 10); left > 0; left--) {
    const [method, compressed, name, extra, comment, local] = [
      file.readUInt16LE(at + 10),
      file.readUInt32LE(at + 20),
      file.readUInt16LE(at + 28),
      file.readUInt16LE(at + 30),
      file.readUInt16LE(at + 32),
      file.readUInt32LE(at + 42),
    ];
    const start = local + 30 + file.readUInt16LE(local + 26) + file.readUInt16LE(local + 28);
    const bytes = file.subarray(start, start + compressed);
    const key = file.toString("utf8", at + 46, at + 46 + name).replace(/\.npy$/, "");
    arrays.set(key, arrayOf(method === 0 ? bytes : inflateRawSync(bytes)));
    at += 46 + name + extra + comment;
  }
  return arrays;
}

function arrayOf(npy: Buffer): Tensor {
  const start = npy[6] === 1 ? 10 : 12;
  const end = start + (npy[6] === 1 ? npy.readUInt16LE(8) : npy.readUInt32LE(8));
  const header = npy.toString("latin1", start, end);
  const shape = (/'shape': \(([^)]*)\)/.exec(header)?.[1] ?? "")
    .split(",")
    .filter((d) => d.trim())
    .map(Number);
  const dtype = header.includes("<f8") ? "float64" : "float32";
  const width = dtype === "float64" ? 8 : 4;
  const read = (i: number): number => (width === 8 ? npy.readDoubleLE(end + 8 * i) : npy.readFloatLE(end + 4 * i));
  return Tensor.of(
    dtype,
    shape,
    Array.from({ length: sizeOf(shape) }, (_, i) => read(i)),
  );
}
