import { type ConvFactory, type ConvUnitName, convUnit } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { add, globalAvgPool, maxPool2d, type Pair, relu, type Value } from "../graph/index.ts";
import { Linear, Module, type Net, Sequential } from "../nn/index.ts";
import { type BackboneOptions, stageSteps } from "./backbone.ts";
import { defineFamily, type Figure, type KeyNames, keyParts, picturesOf, type Variant } from "./family.ts";
import { four, oneOf, oneOrTwo, positive, whole } from "./options.ts";

type Four = readonly [number, number, number, number];

export interface ResNetOptions {
  /** Two 3×3 convolutions, or a 1×1, a 3×3 and a 1×1 to four times the channels. Default `basic`. */
  readonly block?: "basic" | "bottleneck";
  /** Blocks of the stages 1 to 4. Default 2, 2, 2, 2. */
  readonly numBlocks?: Four;
  /** What the 3×3 convolutions are made of. Default `plain`: a convolution and its batch norm. */
  readonly unit?: ConvUnitName;
  /** Width of the stages as a multiple of 64, 128, 256 and 512 channels. Default 1. */
  readonly widthMultiplier?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number | Pair;
}

/** Convolutions with ReLUs between them, the shortcut, and a ReLU. Keys `shortcut`, `conv1`, `conv2` … */
class Residual extends Module {
  static override readonly stateNames = { convs: (name: string) => name };

  constructor(
    // First, as in the original's state dicts.
    readonly shortcut: Net | undefined,
    readonly convs: Readonly<Record<string, Net>>,
  ) {
    super();
  }

  forward(x: Value): Value {
    const y = Object.values(this.convs).reduce((y, conv, i) => conv.forward(i ? relu(y) : y), x);
    return relu(add(y, this.shortcut ? this.shortcut.forward(x) : x));
  }
}

const blocks = {
  basic: {
    expansion: 1,
    convs: (conv: ConvFactory, inChannels: number, channels: number, stride: number, dilation: number) => ({
      conv1: conv(inChannels, channels, { kernelSize: 3, stride, padding: dilation, dilation }),
      conv2: conv(channels, channels, { kernelSize: 3, padding: dilation, dilation }),
    }),
  },
  bottleneck: {
    expansion: 4,
    convs: (conv: ConvFactory, inChannels: number, channels: number, stride: number, dilation: number) => ({
      conv1: conv(inChannels, channels, { kernelSize: 1 }),
      conv2: conv(channels, channels, { kernelSize: 3, stride, padding: dilation, dilation }),
      conv3: conv(channels, 4 * channels, { kernelSize: 1 }),
    }),
  },
} as const;

/**
 * ResNet (arXiv 1512.03385; the stride of a bottleneck in its 3×3 convolution) whose 3×3 convolutions are asymmetric
 * convolution blocks, diverse branch blocks or plain, as in the experiments of ACNet and DBB (arXiv 2103.13425, section 4.1).
 * Merged, all of them are the same network. Keys are those of DBB's authors: `stage0.conv1.*`,
 * `stage{1..4}.{i}.{shortcut,conv1,conv2,conv3}.*`, `linear.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class ResNet extends Module {
  readonly stage0: { readonly conv1: Net };
  readonly stage1: Sequential;
  readonly stage2: Sequential;
  readonly stage3: Sequential;
  readonly stage4: Sequential;
  readonly linear: Linear;
  /** Of the four stages' outputs. */
  readonly channels: readonly number[];

  constructor({
    block = "basic",
    numBlocks = [2, 2, 2, 2],
    unit = "plain",
    widthMultiplier = 1,
    numClasses = 1000,
    dilation,
  }: ResNetOptions & BackboneOptions = {}) {
    super();
    const { expansion, convs } = blocks[block];
    const conv = convUnit(unit);
    const widths = [64, 128, 256, 512].map((c) => Math.floor(c * widthMultiplier));
    let inChannels = widths[0];
    this.stage0 = { conv1: conv(3, inChannels, { kernelSize: 7, stride: 2, padding: 3 }) };
    const residual = (channels: number, stride: number, dilation: number): Residual => {
      const outChannels = expansion * channels;
      const own = stride === 1 && inChannels === outChannels;
      const shortcut = own ? undefined : conv(inChannels, outChannels, { kernelSize: 1, stride });
      const made = new Residual(shortcut, convs(conv, inChannels, channels, stride, dilation));
      inChannels = outChannels;
      return made;
    };
    const stages = widths.map((width, i) => {
      const own = stageSteps({ dilation }, i + 1);
      const blocks = Array.from({ length: numBlocks[i] }, (_, j) => residual(width, j ? 1 : own.stride, own.dilation));
      return new Sequential(...blocks);
    });
    [this.stage1, this.stage2, this.stage3, this.stage4] = stages as [Sequential, Sequential, Sequential, Sequential];
    this.linear = new Linear(inChannels, numClasses);
    this.channels = widths.map((width) => expansion * width);
  }

  /** Outputs of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the input's size: the network as a backbone. */
  features(x: Value): [Value, Value, Value, Value] {
    const stem = relu(this.stage0.conv1.forward(x));
    const c2 = this.stage1.forward(maxPool2d(stem, { kernelSize: 3, stride: 2, padding: 1 }));
    const c3 = this.stage2.forward(c2);
    const c4 = this.stage3.forward(c3);
    return [c2, c3, c4, this.stage4.forward(c4)];
  }

  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(this.features(x)[3]));
  }
}

const depths = {
  18: { numBlocks: [2, 2, 2, 2], block: "basic" },
  50: { numBlocks: [3, 4, 6, 3], block: "bottleneck" },
} as const;

/** Of the plain networks, from torchvision's table of models. */
const published = {
  18: { parameters: "11,689,512", macs: "1.81 G" },
  50: { parameters: "25,557,032", macs: "4.09 G" },
} as const;

const variant = (depth: keyof typeof depths, unit: ConvUnitName, what: string, figures?: Figure[]) =>
  ({
    description: `ResNet-${depth}, ${what}`,
    options: { ...depths[depth], unit },
    ...(figures && { figures }),
    sizes:
      unit === "plain"
        ? [{ form: "train", ...published[depth], source: "torchvision, table of models" }]
        : [{ form: "deploy", macs: published[depth].macs, source: "torchvision, table of models" }],
  }) satisfies Variant<ResNetOptions>;

const ACNET = "ACNet's authors, README";
const DBB = "DBB's authors, name of the released weights";

/** torchvision's (and timm's) names of the keys. */
const convs = [1, 2, 3];
const inTorchvision = keyParts([
  ["^conv1", "^stage0.conv1"],
  ["^bn1", "^stage0.bn1"],
  ...[1, 2, 3, 4].map((stage) => [`^layer${stage}`, `^stage${stage}`] as const),
  ["downsample.0", "shortcut.conv"],
  ["downsample.1", "shortcut.bn"],
  // Biases are those of a merged network: torchvision's own, fused by PyTorch, calls them so.
  ...["weight", "bias"].flatMap((name) => convs.map((i) => [`conv${i}.${name}`, `conv${i}.conv.${name}`] as const)),
  ...convs.map((i) => [`bn${i}`, `conv${i}.bn`] as const),
  ["^fc", "^linear"],
]);

const aroundUnits = keyParts([
  ["^conv1", "^stage0.conv1"],
  ["projection", "0.shortcut"],
]);

/**
 * As ACNet's authors have it: a unit before a ReLU under a name of its own, and in the network with bottlenecks the
 * blocks by their stage's own names.
 */
const inAcnet: KeyNames = {
  toOwn: (key, keys) =>
    aroundUnits
      .toOwn(key, keys)
      .replace(/\.block(\d+)\./, ".$1.")
      .replace(/\.acb\./, ".")
      .replace(/^fc\./, "linear."),
  fromOwn(key, keys) {
    const bottlenecks = [...keys].some((k) => k.startsWith("stage1.0.conv3."));
    const named = key.replace(bottlenecks ? /(\.conv2)\.(?!conv\.|bn\.)/ : /(\.conv1)\.(?!conv\.|bn\.)/, "$1.acb.");
    if (!bottlenecks) return named.replace(/^stage0\./, "");
    return aroundUnits
      .fromOwn(named, keys)
      .replace(/^(stage\d)\.(\d+)\./, "$1.block$2.")
      .replace(/^linear\./, "fc.");
  },
};

export const resnet = defineFamily<ResNetOptions>({
  name: "ResNet",
  variants: {
    "ResNet-18-base": {
      ...variant(18, "plain", "plain", [{ top1: 70.6, imageSize: 224, source: `${ACNET} ("around")` }]),
      aliases: ["resnet18"],
    },
    "ResNet-18-ACB": variant(18, "acb", "asymmetric convolution blocks for its 3 x 3 convolutions", [
      { top1: 71.2, imageSize: 224, source: `${ACNET} ("around")` },
    ]),
    "ResNet-18-DBB": variant(18, "dbb", "diverse branch blocks for its 3 x 3 convolutions", [
      { top1: 71.01, imageSize: 224, source: DBB },
    ]),
    "ResNet-50-base": variant(50, "plain", "plain"),
    "ResNet-50-ACB": variant(50, "acb", "asymmetric convolution blocks for its 3 x 3 convolutions"),
    "ResNet-50-DBB": variant(50, "dbb", "diverse branch blocks for its 3 x 3 convolutions"),
  },
  options: {
    block: oneOf("basic", "bottleneck"),
    numBlocks: four(whole),
    unit: oneOf("plain", "repvgg", "acb", "dbb"),
    widthMultiplier: positive,
    numClasses: whole,
    imageSize: oneOrTwo,
  },
  create: (options) => new ResNet(options),
  preprocessing: ({ imageSize = 224 }) =>
    picturesOf(imageSize, imagenetNormalization, (size) => Math.floor(size / 0.875)),
  namings: [
    { name: "dbb", signature: [["stage0.conv1.conv.weight", "linear.weight"]] },
    {
      name: "torchvision",
      signature: [["conv1.weight", "layer4.0.conv1.weight", "fc.weight"]],
      names: inTorchvision,
    },
    {
      name: "acnet",
      signature: [
        ["conv1.conv.weight", "stage4.0.conv1.acb.square_conv.weight"],
        ["conv1.conv.weight", "stage4.0.conv1.acb.fused_conv.weight"],
        ["conv1.conv.weight", "stage4.0.conv1.conv.weight"],
        ["conv1.conv.weight", "stage4.projection.conv.weight"],
      ],
      names: inAcnet,
    },
  ],
});
