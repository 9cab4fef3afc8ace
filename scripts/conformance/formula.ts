import type { Net } from "../../src/nn/index.ts";
import { fnv1a, type Shape, sizeOf, Tensor, type TensorSource } from "../../src/tensor/index.ts";

/** The formula of the goldens: a value in [0, 1) for element i of a key. */
export function formulaUniform(key: string, size: number): Float64Array {
  const seed = fnv1a(key);
  const out = new Float64Array(size);
  for (let i = 0; i < size; i++) {
    let x = (Math.imul(i, 0x9e3779b1) + seed) | 0;
    x ^= x >>> 16;
    x = Math.imul(x, 0x85ebca6b);
    x ^= x >>> 13;
    x = Math.imul(x, 0xc2b2ae35);
    x ^= x >>> 16;
    out[i] = (x >>> 0) / 2 ** 32;
  }
  return out;
}

/** Values of a state-dict entry by the formula. */
export function formulaTensor(key: string, shape: Shape): Tensor {
  if (key.endsWith("num_batches_tracked")) return Tensor.of("int64", shape, [100]);
  const u = formulaUniform(key, sizeOf(shape));
  const bound = Math.sqrt(3 / sizeOf(shape.slice(1)));
  const value: (u: number) => number = key.endsWith("running_var")
    ? (v) => 0.5 + v
    : key.endsWith("running_mean")
      ? (v) => 0.2 * (v - 0.5)
      : shape.length === 1 && key.endsWith("weight")
        ? (v) => 0.75 + 0.5 * v
        : shape.length === 1
          ? (v) => 0.2 * (v - 0.5)
          : (v) => (2 * v - 1) * bound;
  return Tensor.float32(shape, u.map(value));
}

/** State-dict entries by the formula. Values are made when they are read and not kept. */
export const formulaEntries = (model: Net): Map<string, TensorSource> =>
  new Map(
    [...model.state()].map(([key, { dtype, shape }]): [string, TensorSource] => {
      const readSync = (): Tensor => formulaTensor(key, shape);
      return [key, { dtype, shape, readSync, read: async () => readSync() }];
    }),
  );

/** Fills a model by the formula. */
export function fillByFormula(model: Net): Net {
  model.loadStateDict(new Map([...formulaEntries(model)].map(([key, source]) => [key, source.readSync()])));
  return model;
}

export const formulaInput = (shape: Shape): Tensor =>
  Tensor.float32(
    shape,
    formulaUniform("input", sizeOf(shape)).map((u) => 4 * u - 2),
  );
