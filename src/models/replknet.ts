import { ConvFFN, convBnOf, RepLKBlock } from "../blocks/index.ts";
import { imagenetNormalization, inceptionNormalization, type Normalization } from "../data/index.ts";
import { must } from "../errors.ts";
import { globalAvgPool, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Linear, Module } from "../nn/index.ts";
import { defineFamily, type PreprocessingConfig, picturesOf } from "./family.ts";
import { kernelSizes, oneOf, perStage, positive, probability, whole, yesOrNo } from "./options.ts";

export interface RepLKNetOptions {
  /** Pairs of a large-kernel and a feed-forward block per stage. Default 2, 2, 18, 2. */
  readonly layers?: readonly number[];
  /** Channels of each stage. Default 128, 256, 512, 1024. */
  readonly channels?: readonly number[];
  /** Odd size of each stage's large kernels. Default 31, 29, 27, 13. */
  readonly largeKernelSizes?: readonly number[];
  /** Odd sizes of the kernels beside each large one: one or none. Default 5. */
  readonly smallKernels?: readonly number[];
  /** Channels of the large kernels as a multiple of the stage's. Default 1. */
  readonly dwRatio?: number;
  /** Channels within the feed-forward blocks as a multiple of the stage's. Default 4. */
  readonly ffnRatio?: number;
  /** Whether the merge takes in all batch norms behind convolutions, or only makes one large kernel of two. Default true. */
  readonly deepFuseBn?: boolean;
  /** Stochastic depth in training: from 0 in the first pair of blocks to this in the last. Default 0. */
  readonly dropPathRate?: number;
  /** Mean and deviation of the pictures' channels, in timm's words. Default `imagenet`. */
  readonly normalization?: "imagenet" | "inception";
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number;
}

/** A convolution with batch norm and ReLU; `groups` per channel where it is depthwise. */
type Step = Module & { forward(x: Value): Value };

class Stage extends Module {
  constructor(readonly blocks: readonly (RepLKBlock | ConvFFN)[]) {
    super();
  }

  forward(x: Value): Value {
    return this.blocks.reduce((y, block) => block.forward(y), x);
  }
}

const reluAfter = (x: Value, steps: readonly Step[]): Value => steps.reduce((y, step) => relu(step.forward(y)), x);

/**
 * Probability of leaving out each of several blocks, rising evenly from 0 (stochastic depth, arXiv 1603.09382).
 */
export const risingDropPath = (blocks: number, last: number): number[] =>
  Array.from({ length: blocks }, (_, i) => (blocks > 1 ? (last * i) / (blocks - 1) : 0));

/**
 * RepLKNet (arXiv 2203.06717, section 4.1): a stem of four convolutions that makes the picture four times smaller, stages of
 * {@link RepLKBlock}s and {@link ConvFFN}s in turn, with a transition that halves the size between stages, batch norm,
 * global average pooling and a linear head. Keys `stem.{0..3}.*`, `stages.{s}.blocks.{i}.*`, `transitions.{s}.{0,1}.*`,
 * `norm.*`, `head.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class RepLKNet extends Module {
  readonly stem: readonly Step[];
  readonly stages: readonly Stage[];
  readonly transitions: readonly (readonly Step[])[];
  readonly norm: BatchNorm2d;
  readonly head: Linear;

  /** @throws `replknet/stages` where the lists are not equally long */
  constructor({
    layers = [2, 2, 18, 2],
    channels = [128, 256, 512, 1024],
    largeKernelSizes = [31, 29, 27, 13],
    smallKernels = [5],
    dwRatio = 1,
    ffnRatio = 4,
    deepFuseBn = true,
    dropPathRate = 0,
    numClasses = 1000,
  }: RepLKNetOptions = {}) {
    super();
    mustBePerStage("replknet", { layers, channels, largeKernelSizes });
    must(
      smallKernels.length <= 1,
      "replknet/small-kernels",
      () => `replknet: there is at most one small kernel beside a large one, got ${smallKernels.join(", ")}`,
      "usage",
    );
    const ConvNorm = convBnOf(deepFuseBn);
    const pointwise = (c: number, o: number): Step => new ConvNorm(c, o, { kernelSize: 1 });
    const depthwise = (c: number, stride: number): Step =>
      new ConvNorm(c, c, { kernelSize: 3, stride, padding: 1, groups: c });
    const [width] = channels;
    this.stem = [
      new ConvNorm(3, width, { kernelSize: 3, stride: 2, padding: 1 }),
      depthwise(width, 1),
      pointwise(width, width),
      depthwise(width, 2),
    ];
    const [smallKernel] = smallKernels;
    const drops = risingDropPath(
      layers.reduce((a, b) => a + b, 0),
      dropPathRate,
    );
    this.stages = layers.map((count, s) => {
      const inChannels = channels[s];
      const pairs = drops.splice(0, count).map((dropPath) => {
        const residual = { inChannels, deepFuseBn, dropPath };
        const dwChannels = Math.floor(inChannels * dwRatio);
        return [
          new RepLKBlock({ ...residual, dwChannels, kernelSize: largeKernelSizes[s], smallKernel }),
          new ConvFFN({ ...residual, internalChannels: Math.floor(inChannels * ffnRatio) }),
        ];
      });
      return new Stage(pairs.flat());
    });
    this.transitions = channels.slice(1).map((c, s) => [pointwise(channels[s], c), depthwise(c, 2)]);
    const last = channels[channels.length - 1];
    this.norm = new BatchNorm2d(last);
    this.head = new Linear(last, numClasses);
  }

  /** Outputs of the stages, the first at a quarter of the input's size, each next at half of it. */
  features(x: Value): Value[] {
    const outputs: Value[] = [];
    let y = reluAfter(x, this.stem);
    for (const [s, stage] of this.stages.entries()) {
      if (s > 0) y = reluAfter(y, this.transitions[s - 1]);
      y = stage.forward(y);
      outputs.push(y);
    }
    return outputs;
  }

  forward(x: Value): Value {
    const features = this.features(x);
    return this.head.forward(globalAvgPool(this.norm.forward(features[features.length - 1])));
  }
}

/** Throws unless lists with an entry for each stage are equally long. */
export function mustBePerStage(family: string, lists: Readonly<Record<string, readonly unknown[]>>): void {
  const lengths = Object.entries(lists).map(([name, list]) => `${name} ${list.length}`);
  must(
    new Set(Object.values(lists).map((list) => list.length)).size === 1,
    `${family}/stages`,
    () => `${family}: each list must have an entry for every stage, got ${lengths.join(", ")}`,
    "usage",
  );
}

const normalizations: Readonly<Record<"imagenet" | "inception", Normalization>> = {
  imagenet: imagenetNormalization,
  inception: inceptionNormalization,
};

/**
 * The authors' preprocessing, which UniRepLKNet shares: bicubic; below 384 pixels the middle of a picture that is larger by
 * 1 / 0.875, from there the whole picture warped into the square.
 */
export function largeKernelPictures(
  imageSize: number,
  normalization: keyof typeof normalizations = "imagenet",
): PreprocessingConfig {
  const pictures = picturesOf(imageSize, normalizations[normalization], (size) => Math.floor(size / 0.875));
  const warped = { resize: [imageSize, imageSize], cropMode: "squash" } as const;
  return { ...pictures, interpolation: "bicubic", ...(imageSize >= 384 && warped) };
}

const SOURCE = "RepLKNet's README";

export const replknet = defineFamily<RepLKNetOptions>({
  name: "RepLKNet",
  variants: {
    "RepLKNet-31B": {
      description: "depthwise kernels of 31 x 31 to 13 x 13, each with a 5 x 5 beside it until merged",
      figures: [
        { top1: 83.5, imageSize: 224, source: SOURCE },
        { top1: 84.8, imageSize: 384, source: SOURCE },
      ],
      sizes: [
        {
          ...{ form: "deploy", parameters: "79 M", macs: "15.3 G", source: SOURCE },
          difference: "The README cuts 15.35 G off behind the first digit.",
        },
        { form: "deploy", macs: "45.1 G", imageSize: 384, source: SOURCE },
      ],
    },
    "RepLKNet-31L": {
      description: "RepLKNet-31B, half as wide again; pretrained on ImageNet-22K",
      options: { channels: [192, 384, 768, 1536], imageSize: 384 },
      figures: [{ top1: 86.6, imageSize: 384, source: SOURCE }],
      sizes: [{ form: "deploy", parameters: "172 M", macs: "96.0 G", source: SOURCE }],
    },
    "RepLKNet-XL": {
      description: "twice as wide as RepLKNet-31B, kernels of 27 x 27 without a small one; pretrained on MegData73M",
      options: {
        ...{ channels: [256, 512, 1024, 2048], largeKernelSizes: [27, 27, 27, 13], smallKernels: [], dwRatio: 1.5 },
        ...{ normalization: "inception", imageSize: 320 },
      },
      figures: [{ top1: 87.8, imageSize: 320, source: SOURCE }],
      sizes: [{ form: "deploy", parameters: "335 M", macs: "128.7 G", source: SOURCE }],
    },
  },
  options: {
    layers: perStage(whole),
    channels: perStage(whole),
    largeKernelSizes: perStage(whole),
    smallKernels: kernelSizes,
    dwRatio: positive,
    ffnRatio: positive,
    deepFuseBn: yesOrNo,
    dropPathRate: probability,
    normalization: oneOf("imagenet", "inception"),
    numClasses: whole,
    imageSize: whole,
  },
  create: (options) => new RepLKNet(options),
  preprocessing: ({ imageSize = 224, normalization }) => largeKernelPictures(imageSize, normalization),
  namings: [
    {
      name: "replknet",
      signature: [
        ["stem.0.conv.weight", "stages.0.blocks.0.large_kernel.lkb_origin.conv.weight"],
        ["stem.0.conv.weight", "stages.0.blocks.0.large_kernel.lkb_reparam.weight"],
      ],
    },
  ],
});
