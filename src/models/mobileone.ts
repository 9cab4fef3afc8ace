import { MobileOneBlock } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { globalAvgPool, type Value } from "../graph/index.ts";
import { Linear, Module, Sequential } from "../nn/index.ts";
import { defineFamily, keyParts, picturesOf, type Variant } from "./family.ts";
import { four, positive, share, whole, yesOrNo } from "./options.ts";
import { outsideOfBlocks } from "./repvgg.ts";

type Four = readonly [number, number, number, number];

export interface MobileOneOptions {
  /** Pairs of a depthwise and a pointwise block in the stages 1 to 4. Default 2, 8, 10, 1. */
  readonly numBlocks?: Four;
  /** Width of each stage as a multiple of 64, 128, 256 and 512 channels. Default those of s0: 0.75, 1, 1, 2. */
  readonly widthMultiplier?: Four;
  /** Convolutions beside each other in each block after the first. Default that of s0: 4. */
  readonly numConvBranches?: number;
  /** Squeeze-and-excitation in the last half of stage 3 and in all of stage 4. Default false. */
  readonly useSe?: boolean;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number;
  /** Share of the resized picture's short edge that the preprocessing keeps. Default that of s0: 0.875. */
  readonly cropPct?: number;
}

/**
 * MobileOne (arXiv 2206.04040, table 2): pairs of a depthwise 3×3 and a pointwise {@link MobileOneBlock}, of which the
 * first depthwise one of each stage has stride 2, then global average pooling and a linear head. Keys `stage0.*`,
 * `stage{1..4}.{2i}.*` (depthwise), `stage{1..4}.{2i + 1}.*` (pointwise), `linear.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class MobileOne extends Module {
  readonly stage0: MobileOneBlock;
  readonly stage1: Sequential;
  readonly stage2: Sequential;
  readonly stage3: Sequential;
  readonly stage4: Sequential;
  readonly linear: Linear;

  constructor({
    numBlocks = [2, 8, 10, 1],
    widthMultiplier = [0.75, 1, 1, 2],
    numConvBranches = 4,
    useSe = false,
    numClasses = 1000,
  }: MobileOneOptions = {}) {
    super();
    const widths = [64, 128, 256, 512].map((c, i) => Math.floor(c * widthMultiplier[i]));
    let inChannels = Math.min(64, widths[0]);
    this.stage0 = new MobileOneBlock({ inChannels: 3, outChannels: inChannels, stride: 2 });
    const pair = (outChannels: number, stride: number, withSe: boolean): MobileOneBlock[] => {
      const common = { inChannels, numConvBranches, useSe: withSe };
      const depthwise = new MobileOneBlock({ ...common, outChannels: inChannels, stride, groups: inChannels });
      const pointwise = new MobileOneBlock({ ...common, outChannels, kernelSize: 1 });
      inChannels = outChannels;
      return [depthwise, pointwise];
    };
    // Pairs of each stage that come before those with squeeze-and-excitation.
    const plain = useSe ? [...numBlocks.slice(0, 2), Math.ceil(numBlocks[2] / 2), 0] : numBlocks;
    const stages = widths.map((width, i) => {
      const pairs = Array.from({ length: numBlocks[i] }, (_, j) => pair(width, j === 0 ? 2 : 1, j >= plain[i]));
      return new Sequential(...pairs.flat());
    });
    [this.stage1, this.stage2, this.stage3, this.stage4] = stages as [Sequential, Sequential, Sequential, Sequential];
    this.linear = new Linear(widths[3], numClasses);
  }

  /** Outputs of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the input's size: the network as a backbone. */
  features(x: Value): [Value, Value, Value, Value] {
    const c2 = this.stage1.forward(this.stage0.forward(x));
    const c3 = this.stage2.forward(c2);
    const c4 = this.stage3.forward(c3);
    return [c2, c3, c4, this.stage4.forward(c4)];
  }

  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(this.features(x)[3]));
  }
}

const [AUTHORS, TIMM] = ["apple/ml-mobileone", "timm, results-imagenet"];

function variant(
  options: Pick<MobileOneOptions, "widthMultiplier" | "numConvBranches" | "useSe">,
  top1: { readonly authors: number; readonly timm: number },
  sizes: { readonly train: string; readonly deploy: string; readonly macs: string },
  cropPct = 0.9,
): Variant<MobileOneOptions> {
  const { widthMultiplier, numConvBranches, useSe } = options;
  return {
    description: `depthwise 3 x 3 and pointwise convolutions once merged, widths ${widthMultiplier?.join(", ")}, ${numConvBranches} branch${numConvBranches === 1 ? "" : "es"}${useSe ? ", squeeze-and-excitation" : ""}`,
    options: { ...options, cropPct },
    figures: [
      { top1: top1.authors, imageSize: 224, source: AUTHORS },
      { top1: top1.timm, imageSize: 224, source: TIMM },
    ],
    sizes: [
      { form: "train", parameters: sizes.train, source: TIMM },
      { form: "deploy", parameters: sizes.deploy, macs: sizes.macs, source: TIMM },
    ],
  };
}

const inTimm = keyParts([
  ...outsideOfBlocks,
  ["conv_kxk", "rbr_conv"],
  ["conv_scale", "rbr_scale"],
  ["identity", "rbr_skip"],
  ["attn.fc1", "se.reduce"],
  ["attn.fc2", "se.expand"],
]);

export const mobileone = defineFamily<MobileOneOptions>({
  name: "MobileOne",
  variants: {
    "MobileOne-s0": variant(
      { widthMultiplier: [0.75, 1, 1, 2], numConvBranches: 4 },
      { authors: 71.4, timm: 71.398 },
      { train: "5.29 M", deploy: "2.08 M", macs: "0.28 G" },
      0.875,
    ),
    "MobileOne-s1": variant(
      { widthMultiplier: [1.5, 1.5, 2, 2.5], numConvBranches: 1 },
      { authors: 75.9, timm: 75.76 },
      { train: "4.83 M", deploy: "4.76 M", macs: "0.83 G" },
    ),
    "MobileOne-s2": variant(
      { widthMultiplier: [1.5, 2, 2.5, 4], numConvBranches: 1 },
      { authors: 77.4, timm: 77.504 },
      { train: "7.88 M", deploy: "7.81 M", macs: "1.30 G" },
    ),
    "MobileOne-s3": variant(
      { widthMultiplier: [2, 2.5, 3, 4], numConvBranches: 1 },
      { authors: 78.1, timm: 78.002 },
      { train: "10.17 M", deploy: "10.08 M", macs: "1.90 G" },
    ),
    "MobileOne-s4": variant(
      { widthMultiplier: [3, 3.5, 3.5, 4], numConvBranches: 1, useSe: true },
      { authors: 79.4, timm: 79.446 },
      { train: "14.95 M", deploy: "14.84 M", macs: "2.98 G" },
    ),
  },
  options: {
    numBlocks: four(whole),
    widthMultiplier: four(positive),
    numConvBranches: whole,
    useSe: yesOrNo,
    numClasses: whole,
    imageSize: whole,
    cropPct: share,
  },
  create: (options) => new MobileOne(options),
  // timm's.
  preprocessing: ({ imageSize = 224, cropPct = 0.875 }) =>
    picturesOf(imageSize, imagenetNormalization, (size) => Math.floor(size / cropPct)),
  namings: [
    { name: "mobileone", signature: [["stage0.rbr_conv.0.conv.weight"], ["stage0.reparam_conv.weight"]] },
    {
      name: "timm",
      signature: [
        ["stem.conv_kxk.0.conv.weight", "stages.0.0.conv_kxk.0.conv.weight"],
        ["stem.reparam_conv.weight", "stages.0.0.reparam_conv.weight"],
      ],
      names: inTimm,
    },
  ],
});
