import { type ConvUnitName, convUnit } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { globalAvgPool, relu, type Value } from "../graph/index.ts";
import { Linear, Module, type Net } from "../nn/index.ts";
import { defineFamily, picturesOf } from "./family.ts";
import { oneOf, positive, whole } from "./options.ts";

export interface MobileNetOptions {
  /** What the first and the depthwise convolutions are made of. Default `plain`: a convolution and its batch norm. */
  readonly unit?: ConvUnitName;
  /** Width as a multiple of 32 to 1024 channels. Default 1. */
  readonly widthMultiplier?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number;
}

/** Output channels of the pointwise convolutions; where they double first, the depthwise one has stride 2. */
const channels = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024];
const strided = [1, 3, 5, 11];

/**
 * MobileNet (arXiv 1704.04861, table 1) whose 3×3 convolutions are asymmetric convolution blocks, diverse branch blocks or
 * plain, as in DBB's experiments (arXiv 2103.13425, section 4.1). Merged, all of them are the same network. Keys are
 * those of DBB's authors: `conv1.*`, `stem.{i}.depthwise.*`, `stem.{i}.pointwise.*`, `linear.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class MobileNet extends Module {
  readonly conv1: Net;
  readonly stem: readonly { readonly depthwise: Net; readonly pointwise: Net }[];
  readonly linear: Linear;

  constructor({ unit = "plain", widthMultiplier = 1, numClasses = 1000 }: MobileNetOptions = {}) {
    super();
    const conv = convUnit(unit);
    const [first, ...widths] = [32, ...channels].map((c) => Math.floor(c * widthMultiplier));
    this.conv1 = conv(3, first, { kernelSize: 3, stride: 2, padding: 1 });
    this.stem = widths.map((width, i) => {
      const inChannels = [first, ...widths][i];
      const stride = strided.includes(i) ? 2 : 1;
      return {
        depthwise: conv(inChannels, inChannels, { kernelSize: 3, stride, padding: 1, groups: inChannels }),
        pointwise: conv(inChannels, width, { kernelSize: 1 }),
      };
    });
    this.linear = new Linear(widths[widths.length - 1], numClasses);
  }

  forward(x: Value): Value {
    const convs = [this.conv1, ...this.stem.flatMap(({ depthwise, pointwise }) => [depthwise, pointwise])];
    return this.linear.forward(globalAvgPool(convs.reduce((y, conv) => relu(conv.forward(y)), x)));
  }
}

/** Merged, all are the paper's network. */
const sizes = [{ form: "deploy", parameters: "4.2 M", macs: "569 M", source: "arXiv 1704.04861, table 8" }] as const;

export const mobilenet = defineFamily<MobileNetOptions>({
  name: "MobileNet",
  variants: {
    "MobileNet-base": { description: "MobileNet (the first), plain", sizes },
    "MobileNet-ACB": {
      description: "MobileNet (the first), asymmetric convolution blocks for its 3 x 3 convolutions",
      options: { unit: "acb" },
      sizes,
    },
    "MobileNet-DBB": {
      description: "MobileNet (the first), diverse branch blocks for its 3 x 3 convolutions",
      options: { unit: "dbb" },
      sizes,
      figures: [{ top1: 72.88, imageSize: 224, source: "DBB's authors, README" }],
    },
  },
  options: {
    unit: oneOf("plain", "repvgg", "acb", "dbb"),
    widthMultiplier: positive,
    numClasses: whole,
    imageSize: whole,
  },
  create: (options) => new MobileNet(options),
  preprocessing: ({ imageSize = 224 }) =>
    picturesOf(imageSize, imagenetNormalization, (size) => Math.floor(size / 0.875)),
  namings: [{ name: "dbb", signature: [["stem.0.pointwise.conv.weight", "linear.weight"]] }],
});
