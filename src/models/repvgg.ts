import { RepVGGBlock, type RepVGGBlockOptions } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { globalAvgPool, type Pair, type Value } from "../graph/index.ts";
import { Linear, Module, type Net } from "../nn/index.ts";
import { type BackboneOptions, stageSteps } from "./backbone.ts";
import { defineFamily, keyParts, type PreprocessingConfig, picturesOf, type Variant } from "./family.ts";
import { byNumber, five, four, oneOrTwo, positive, whole, yesOrNo } from "./options.ts";

export type Four = readonly [number, number, number, number];
type Five = readonly [number, number, number, number, number];

export interface RepVGGOptions {
  /** Blocks of the stages 1 to 4. Default those of A0: 2, 4, 14, 1. */
  readonly numBlocks?: Four;
  /** Width of each stage as a multiple of 64, 128, 256 and 512 channels. Default those of A0: 0.75, 0.75, 0.75, 2.5. */
  readonly widthMultiplier?: Four;
  /** Groups of every second layer: 2, 4, …, 26, where stage 0 is layer 0. Default 1. */
  readonly groups?: number;
  /** Groups of single layers, by their numbers, in place of `groups`. */
  readonly groupsByLayer?: Readonly<Record<string, number>>;
  /** Squeeze-and-excitation in every block. Default false. */
  readonly useSe?: boolean;
  /** Of stage 0 and of the first block of each other stage; `[1, 2, 2, 2, 2]` is for pictures of 32 pixels. Default 2 each. */
  readonly strides?: Five;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number | Pair;
}

/** Blocks one after the other; keys start with their positions. */
class Stage extends Module {
  static override readonly stateNames = { blocks: (index: string) => index };

  constructor(readonly blocks: readonly Net[]) {
    super();
  }

  forward(x: Value): Value {
    return this.blocks.reduce((y, block) => block.forward(y), x);
  }
}

/** What a layer of the network is built from. */
export interface RepVGGLayer
  extends Pick<RepVGGBlockOptions, "inChannels" | "outChannels" | "stride" | "dilation" | "groups" | "useSe"> {
  /** Its position in its stage, from 0. */
  readonly position: number;
}

/** Layers that have groups in the variants with g2 and g4. */
const isGrouped = (layer: number): boolean => layer % 2 === 0 && layer >= 2 && layer <= 26;

/**
 * RepVGG (arXiv 2101.03697, section 3.4): nothing but {@link RepVGGBlock}s, of which the first of each stage has a stride,
 * then global average pooling and a linear head. Merged it is a stack of 3×3 convolutions and ReLUs. Keys `stage0.*`,
 * `stage{1..4}.{i}.*`, `linear.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class RepVGG extends Module {
  readonly stage0: Net;
  readonly stage1: Stage;
  readonly stage2: Stage;
  readonly stage3: Stage;
  readonly stage4: Stage;
  readonly linear: Linear;
  /** Of the four stages' outputs. */
  readonly channels: readonly number[];

  constructor({
    numBlocks = [2, 4, 14, 1],
    widthMultiplier = [0.75, 0.75, 0.75, 2.5],
    groups = 1,
    groupsByLayer,
    useSe = false,
    strides: [first, ...strides] = [2, 2, 2, 2, 2],
    numClasses = 1000,
    dilation,
  }: RepVGGOptions & BackboneOptions = {}) {
    super();
    const widths = [64, 128, 256, 512].map((c, i) => Math.floor(c * widthMultiplier[i]));
    let [layer, inChannels] = [0, 3];
    const block = (outChannels: number, position: number, stride: number, dilation = 1): Net => {
      const own = groupsByLayer ? (groupsByLayer[layer] ?? 1) : isGrouped(layer) ? groups : 1;
      const made = this.block({ inChannels, outChannels, stride, dilation, groups: own, useSe, position });
      layer++;
      inChannels = outChannels;
      return made;
    };
    this.stage0 = block(Math.min(64, widths[0]), 0, first);
    const stages = widths.map((width, i) => {
      const own = stageSteps({ dilation }, i + 1, strides);
      return new Stage(
        Array.from({ length: numBlocks[i] }, (_, j) => block(width, j, j === 0 ? own.stride : 1, own.dilation)),
      );
    });
    [this.stage1, this.stage2, this.stage3, this.stage4] = stages as [Stage, Stage, Stage, Stage];
    this.linear = new Linear(widths[3], numClasses);
    this.channels = widths;
  }

  /** One layer; those of relatives have other branches. */
  protected block(layer: RepVGGLayer): Net {
    return new RepVGGBlock(layer);
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

const blocksOf = { A: [2, 4, 14, 1], B: [4, 6, 16, 1], D: [8, 14, 24, 1] } as const;

/** ImageNet top-1. */
const SOURCE = "timm, results-imagenet";

/** Of the training and the deploy form. */
type Sizes = readonly [train: string, deploy: string];

function variant(
  letter: keyof typeof blocksOf,
  [a, last]: readonly [number, number],
  {
    top1,
    imageSize = 224,
    ...options
  }: Pick<RepVGGOptions, "groups" | "useSe"> & { readonly imageSize?: number; readonly top1?: number },
  [parameters, macs]: readonly [Sizes, Sizes],
): Variant<RepVGGOptions> {
  const { groups, useSe } = options;
  return {
    description: `plain 3 x 3 convolutions once merged, widths ${a} and ${last}${groups ? `, ${groups} groups in every second layer` : ""}${useSe ? ", squeeze-and-excitation" : ""}`,
    options: {
      numBlocks: blocksOf[letter],
      widthMultiplier: [a, a, a, last],
      ...options,
      ...(imageSize !== 224 && { imageSize }),
    },
    ...(top1 !== undefined && { figures: [{ top1, imageSize, source: SOURCE }] }),
    sizes: (["train", "deploy"] as const).map((form, i) => ({
      ...{ form, parameters: parameters[i], macs: macs[i], imageSize: 224, source: "the authors' code, counted" },
    })),
  };
}

/** timm's preprocessing: the crop is 0.875 of the picture's edge, at 320 all of it. */
export const repvggPictures = (imageSize: number | Pair): PreprocessingConfig =>
  picturesOf(imageSize, imagenetNormalization, (size) => (size >= 320 ? size : Math.floor(size / 0.875)));

/** What the options may be. */
export const repvggSchema = {
  numBlocks: four(whole),
  widthMultiplier: four(positive),
  groups: whole,
  groupsByLayer: byNumber,
  useSe: yesOrNo,
  strides: five(whole),
  numClasses: whole,
  imageSize: oneOrTwo,
};

/** What timm's networks of this kind call the parts around their blocks, as RepVGG's and MobileOne's authors do. */
export const outsideOfBlocks = [
  ["^stem", "^stage0"],
  ...[1, 2, 3, 4].map((stage) => [`^stages.${stage - 1}`, `^stage${stage}`] as const),
  ["^head.fc", "^linear"],
] as const;

const inTimm = keyParts([
  ...outsideOfBlocks,
  ["conv_kxk", "rbr_dense"],
  ["conv_1x1", "rbr_1x1"],
  ["identity", "rbr_identity"],
  ["reparam_conv", "rbr_reparam"],
  ["attn.fc1", "se.down"],
  ["attn.fc2", "se.up"],
]);

export const repvgg = defineFamily<RepVGGOptions>({
  name: "RepVGG",
  variants: {
    "RepVGG-A0": variant("A", [0.75, 2.5], { top1: 72.426 }, [
      ["9,108,968", "8,309,384"],
      ["1.513 G", "1.361 G"],
    ]),
    "RepVGG-A1": variant("A", [1, 2.5], { top1: 74.474 }, [
      ["14,092,264", "12,789,864"],
      ["2.626 G", "2.364 G"],
    ]),
    "RepVGG-A2": variant("A", [1.5, 2.75], { top1: 76.488 }, [
      ["28,210,600", "25,499,944"],
      ["5.685 G", "5.117 G"],
    ]),
    "RepVGG-B0": variant("B", [1, 2.5], { top1: 75.158 }, [
      ["15,817,960", "14,339,048"],
      ["3.397 G", "3.058 G"],
    ]),
    "RepVGG-B1": variant("B", [2, 4], { top1: 78.37 }, [
      ["57,415,016", "51,829,480"],
      ["13.128 G", "11.815 G"],
    ]),
    "RepVGG-B1g2": variant("B", [2, 4], { groups: 2 }, [
      ["45,782,376", "41,360,104"],
      ["9.788 G", "8.810 G"],
    ]),
    "RepVGG-B1g4": variant("B", [2, 4], { groups: 4, top1: 77.608 }, [
      ["39,966,056", "36,125,416"],
      ["8.119 G", "7.307 G"],
    ]),
    "RepVGG-B2": variant("B", [2.5, 5], { top1: 78.788 }, [
      ["89,022,376", "80,315,112"],
      ["20.418 G", "18.377 G"],
    ]),
    "RepVGG-B2g2": variant("B", [2.5, 5], { groups: 2 }, [
      ["70,846,376", "63,956,712"],
      ["15.200 G", "13.680 G"],
    ]),
    "RepVGG-B2g4": variant("B", [2.5, 5], { groups: 4, top1: 79.396 }, [
      ["61,758,376", "55,777,512"],
      ["12.591 G", "11.332 G"],
    ]),
    "RepVGG-B3": variant("B", [3, 5], { top1: 80.528 }, [
      ["123,085,288", "110,960,872"],
      ["29.121 G", "26.209 G"],
    ]),
    "RepVGG-B3g2": variant("B", [3, 5], { groups: 2 }, [
      ["96,911,848", "87,404,776"],
      ["21.606 G", "19.446 G"],
    ]),
    "RepVGG-B3g4": variant("B", [3, 5], { groups: 4, top1: 80.224 }, [
      ["83,825,128", "75,626,728"],
      ["17.849 G", "16.064 G"],
    ]),
    "RepVGG-D2se": variant("D", [2.5, 5], { useSe: true, imageSize: 320, top1: 83.55 }, [
      ["133,334,836", "120,387,572"],
      ["36.477 G", "32.830 G"],
    ]),
  },
  options: repvggSchema,
  create: (options) => new RepVGG(options),
  preprocessing: ({ imageSize = 224 }) => repvggPictures(imageSize),
  namings: [
    { name: "repvgg", signature: [["stage0.rbr_dense.conv.weight"], ["stage0.rbr_reparam.weight"]] },
    {
      name: "timm",
      signature: [
        ["stem.conv_kxk.conv.weight", "stages.0.0.conv_kxk.conv.weight"],
        ["stem.reparam_conv.weight", "stages.0.0.reparam_conv.weight"],
      ],
      names: inTimm,
    },
  ],
});
