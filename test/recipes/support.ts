import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { rng } from "../../src/tensor/index.ts";

/** Writes CIFAR-10's binary files with pictures that a network can tell apart: each class is a shade with noise. */
export function writeCifar(folder: string, { train = 96, test = 30 } = {}): string {
  mkdirSync(folder, { recursive: true });
  for (const [name, count] of [
    ["data_batch_1.bin", train],
    ["test_batch.bin", test],
  ] as const) {
    const random = rng(1, name);
    const bytes = new Uint8Array(count * 3073);
    for (let i = 0; i < count; i++) {
      const label = i % 10;
      bytes[i * 3073] = label;
      for (let p = 1; p < 3073; p++) bytes[i * 3073 + p] = label * 20 + random.below(40);
    }
    writeFileSync(join(folder, name), bytes);
  }
  return folder;
}

/** A recipe for a tiny pure MLP. */
export const tinyRecipe = {
  arch: "RepMLP-CIFAR10-pure-MLP",
  model: { channels: [4, 4, 6], reparamConvKernels: [1, 3] },
  epochs: 2,
  batchSize: 32,
  lr: 0.05,
  optimizer: { name: "sgd", momentum: 0.9 },
  augment: [{ kind: "randomCrop", padding: 2 }, { kind: "horizontalFlip" }],
};
