import { RepMLPMixer, RepMLPResNet } from "../../src/models/index.ts";
import type { Module, Net } from "../../src/nn/index.ts";
import { rng, sizeOf, Tensor } from "../../src/tensor/index.ts";

/** Gives every parameter random values, batch-norm statistics far from their defaults among them. */
export function randomized<M extends Module>(net: M, seed = 1): M {
  for (const [key, p] of net.initialize(seed).state()) {
    const random = rng(seed, key);
    const draw = (low: number, high: number): void =>
      p.set(
        Tensor.of(
          p.dtype,
          p.shape,
          Float64Array.from({ length: sizeOf(p.shape) }, () => low + (high - low) * random.next()),
        ),
      );
    if (key.endsWith("running_var")) draw(0.5, 1.5);
    else if (key.endsWith("running_mean")) draw(-0.3, 0.3);
    else if (key.includes("bn") && key.endsWith("weight")) draw(0.7, 1.3);
    else if (key.includes("bn") && key.endsWith("bias")) draw(-0.3, 0.3);
  }
  return net.eval();
}

/** A RepMLP-ResNet of every kind of block, small enough for tests; takes 3 x 32 x 32. */
export const smallResnet = (blockType: "light" | "bottleneck" | "base", numClasses = 11): Net =>
  randomized(
    new RepMLPResNet({
      blockType,
      imageSize: 32,
      numClasses,
      partition: 2,
      reparamConvKernels: [1, 3],
      groups: 2,
      numBlocks: [1, 2, 2, 1],
      channels: [16, 32, 64, 64],
      stemChannels: 8,
    }),
  );

/** The pure-MLP network of the demo with fewer channels; takes 1 x 28 x 28. */
export const smallMixer = (): Net => randomized(new RepMLPMixer({ channels: [4, 8, 8], groups: [2, 4, 4] }));
