import { UniRepLKNetBlock } from "../blocks/index.ts";
import { must } from "../errors.ts";
import { gelu, globalAvgPool, type Value } from "../graph/index.ts";
import { Conv2d, constantInit, LayerNorm, Linear, Module, normal } from "../nn/index.ts";
import { defineFamily, type Variant } from "./family.ts";
import { fromZero, kernelSizes, perStage, probability, whole } from "./options.ts";
import { largeKernelPictures, mustBePerStage, risingDropPath } from "./replknet.ts";

export interface UniRepLKNetOptions {
  /** Blocks of each stage. Default 3, 3, 27, 3, those of S. */
  readonly depths?: readonly number[];
  /** Channels of each stage. Default 96, 192, 384, 768. */
  readonly dims?: readonly number[];
  /** Kernel size of each block: 3, 5, or odd from 7 to 17. Default those of S. */
  readonly kernelSizes?: readonly (readonly number[])[];
  /** Initial value of the layer scale; 0: there is none. Default 1e-6. */
  readonly layerScaleInitValue?: number;
  /** Stochastic depth in training: from 0 in the first block to this in the last. Default 0. */
  readonly dropPathRate?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number;
}

type Layer = Module & { forward(x: Value): Value };

const EPS = 1e-6;
const halving = (inChannels: number, outChannels: number): Conv2d =>
  new Conv2d(inChannels, outChannels, {
    ...{ kernelSize: 3, stride: 2, padding: 1 },
    ...{ init: normal(0.02), biasInit: constantInit(0) },
  });

/** The kernels of a stage that alternate: 13, then `small` of 3, and again. */
const alternating = (blocks: number, small: number): number[] =>
  Array.from({ length: blocks }, (_, i) => (i % (small + 1) === 0 ? 13 : 3));

/** Kernels of all blocks: 3 in the first stage, 13 elsewhere; in the third with `small` of 3 after each 13. */
const kernelsOf = (depths: readonly number[], small: number): number[][] =>
  depths.map((blocks, s) => (s === 0 ? new Array<number>(blocks).fill(3) : alternating(blocks, s === 2 ? small : 0)));

/**
 * UniRepLKNet (arXiv 2311.15599, section 3.1): a stem of two convolutions that makes the picture four times smaller, stages
 * of {@link UniRepLKNetBlock}s, between them a convolution with stride 2 and a layer norm, global average pooling, layer
 * norm, linear head. Keys `downsample_layers.{0..3}.*`, `stages.{s}.{i}.*`, `norm.*`, `head.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class UniRepLKNet extends Module {
  // Positions in the original's sequences; GELU, which has no parameters, is the third of the stem.
  readonly downsampleLayers: readonly Readonly<Record<string, Layer>>[];
  readonly stages: readonly (readonly UniRepLKNetBlock[])[];
  readonly norm: LayerNorm;
  readonly head: Linear;

  /** @throws `unireplknet/stages`, `unireplknet/kernel-sizes` where lists do not have an entry per stage or block */
  constructor({
    depths = [3, 3, 27, 3],
    dims = [96, 192, 384, 768],
    kernelSizes = kernelsOf(depths, 2),
    layerScaleInitValue = 1e-6,
    dropPathRate = 0,
    numClasses = 1000,
  }: UniRepLKNetOptions = {}) {
    super();
    mustBePerStage("unireplknet", { depths, dims, kernelSizes });
    for (const [s, depth] of depths.entries())
      must(
        kernelSizes[s].length === depth,
        "unireplknet/kernel-sizes",
        () => `unireplknet: stage ${s} has ${depth} blocks, and kernelSizes for ${kernelSizes[s].length}`,
        "usage",
      );
    const [first] = dims;
    const half = Math.floor(first / 2);
    const stem = {
      ...{ 0: halving(3, half), 1: new LayerNorm(half, { eps: EPS }) },
      ...{ 3: halving(half, first), 4: new LayerNorm(first, { eps: EPS }) },
    };
    const between = dims.slice(1).map((c, s) => ({ 0: halving(dims[s], c), 1: new LayerNorm(c, { eps: EPS }) }));
    this.downsampleLayers = [stem, ...between];
    const drops = risingDropPath(
      depths.reduce((a, b) => a + b, 0),
      dropPathRate,
    );
    this.stages = kernelSizes.map((sizes, s) =>
      sizes.map((kernelSize) => {
        const dropPath = drops.shift() as number;
        return new UniRepLKNetBlock({ dim: dims[s], kernelSize, layerScaleInitValue, dropPath });
      }),
    );
    const last = dims[dims.length - 1];
    this.norm = new LayerNorm(last, { eps: EPS });
    this.head = new Linear(last, numClasses);
  }

  /** Outputs of the stages, the first at a quarter of the input's size, each next at half of it. */
  features(x: Value): Value[] {
    const outputs: Value[] = [];
    let y = x;
    for (const [s, blocks] of this.stages.entries()) {
      const layers = Object.entries(this.downsampleLayers[s]);
      for (const [position, layer] of layers) y = layer.forward(position === "3" ? gelu(y) : y);
      y = blocks.reduce((z, block) => block.forward(z), y);
      outputs.push(y);
    }
    return outputs;
  }

  forward(x: Value): Value {
    const features = this.features(x);
    return this.head.forward(this.norm.forward(globalAvgPool(features[features.length - 1])));
  }
}

const SOURCE = "UniRepLKNet's README";

function variant(
  width: number,
  depths: readonly number[],
  small: number,
  top1: number,
  [parameters, macs]: readonly [string, string],
): Variant<UniRepLKNetOptions> {
  const dims = [1, 2, 4, 8].map((factor) => factor * width);
  return {
    description: `kernels of 13 x 13 with dilated ones beside them until merged, ${depths.join("-")} blocks, ${dims.join("-")} channels`,
    options: { depths, dims, kernelSizes: kernelsOf(depths, small) },
    figures: [{ top1, imageSize: 224, source: SOURCE }],
    sizes: [{ form: "deploy", parameters, macs, source: SOURCE }],
  };
}

export const unireplknet = defineFamily<UniRepLKNetOptions>({
  name: "UniRepLKNet",
  variants: {
    "UniRepLKNet-A": variant(40, [2, 2, 6, 2], 0, 77.0, ["4.4 M", "0.6 G"]),
    "UniRepLKNet-F": variant(48, [2, 2, 6, 2], 0, 78.6, ["6.2 M", "0.9 G"]),
    "UniRepLKNet-P": variant(64, [2, 2, 6, 2], 0, 80.2, ["10.7 M", "1.6 G"]),
    "UniRepLKNet-N": variant(80, [2, 2, 8, 2], 0, 81.6, ["18.3 M", "2.8 G"]),
    "UniRepLKNet-T": variant(80, [3, 3, 18, 3], 1, 83.2, ["31 M", "4.9 G"]),
    "UniRepLKNet-S": variant(96, [3, 3, 27, 3], 2, 83.9, ["56 M", "9.1 G"]),
  },
  options: {
    depths: perStage(whole),
    dims: perStage(whole),
    kernelSizes: perStage(kernelSizes),
    layerScaleInitValue: fromZero,
    dropPathRate: probability,
    numClasses: whole,
    imageSize: whole,
  },
  create: (options) => new UniRepLKNet(options),
  preprocessing: ({ imageSize = 224 }) => largeKernelPictures(imageSize),
  namings: [
    {
      name: "unireplknet",
      signature: [["downsample_layers.0.0.weight", "stages.0.0.pwconv1.1.weight", "stages.0.0.act.1.gamma"]],
    },
  ],
});
