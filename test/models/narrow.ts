import type { ModelOptions, TrainerOptions } from "../../src/node.ts";

/** A network that trains in seconds on pictures of 28 or 32 pixels. */
export interface Narrow {
  readonly arch: string;
  readonly options: ModelOptions;
  readonly lr?: number;
  /** Default 1. */
  readonly epochs?: number;
  readonly coefficients?: TrainerOptions["coefficients"];
}

// Partitions that divide the maps of pictures of 28 and of 32 pixels.
const shallow = { numBlocks: [1, 1], partitions: [2, 1] };

/** One of each family, or more. */
export const narrow: readonly Narrow[] = [
  { arch: "RepVGG-A0", options: { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.125, 0.125] } },
  { arch: "RepVGGplus-L2pse", options: { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.125, 0.125] } },
  { arch: "QARepVGG-A0", options: { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.125, 0.125] } },
  { arch: "RepOpt-VGG-B1", options: { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.125, 0.125] } },
  { arch: "RepOpt-VGG-B1-search", options: { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.125, 0.125] } },
  { arch: "MobileOne-s0", options: { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.25, 0.125] } },
  { arch: "RepViT-M0.9", options: { widths: [16, 24, 32, 48], depths: [1, 1, 1, 1] } },
  { arch: "FastViT-T8", options: { layers: [1, 1, 1, 1], embedDims: [16, 32, 64, 128] } },
  { arch: "RepGhostNet-050", options: { width: 0.25 } },
  { arch: "RepLKNet-31B", options: { layers: [1, 1], channels: [16, 32], largeKernelSizes: [13, 7] } },
  { arch: "UniRepLKNet-A", options: { depths: [1, 1], dims: [16, 32], kernelSizes: [[7], [13]] } },
  { arch: "RepMLPNet-T224", options: { ...shallow, channels: [16, 32], shareSets: [4, 8], patchSize: 2 } },
  // The ReLUs between its convolutions are gone in the second epoch, without which there is no merging them.
  {
    ...{ arch: "VanillaNet-5", options: { dims: [32, 48, 64], strides: [1, 2] } },
    ...{ epochs: 2, coefficients: { slope: { epochs: 1 } } },
  },
  { arch: "ResNet-18-ACB", options: { widthMultiplier: 1 / 8, numBlocks: [1, 1, 1, 1] } },
  { arch: "MobileNet-DBB", options: { widthMultiplier: 1 / 8 } },
  { arch: "Cifar-quick-ACB", options: { widthMultiplier: 1 / 4 } },
  { arch: "Cifar-quick-DBB", options: { widthMultiplier: 1 / 4 } },
  { arch: "ResNet-56-RepVGG", options: { widthMultiplier: 1 / 2, numBlocks: 1 } },
];
