import { ConvBnRelu, RepMLP } from "../blocks/index.ts";
import { imagenetNormalization, type Normalization } from "../data/index.ts";
import { globalAvgPool, maxPool2d, relu, type Value } from "../graph/index.ts";
import { Linear, Module } from "../nn/index.ts";
import { defineFamily, picturesOf } from "./family.ts";
import { fc3BatchNorm } from "./fc3-batch-norm.ts";
import { kernelSizes, three, whole } from "./options.ts";

export interface RepMLPMixerOptions {
  /** Default 10. */
  readonly numClasses?: number;
  /** Channels of the input pictures. Default 1. */
  readonly inChannels?: number;
  /** Height and width of the input in pixels; halved twice. Default 28. */
  readonly imageSize?: number;
  /** Channels of the three stages. Default 16, 32, 64. */
  readonly channels?: readonly [number, number, number];
  /** Partition in pixels. Default 7. */
  readonly partition?: number;
  /** Default 1, 3. */
  readonly reparamConvKernels?: readonly number[];
  /** Groups of the three RepMLPs. Default 4, 8, 8. */
  readonly groups?: readonly [number, number, number];
}

/**
 * A small network without any kernel larger than 1×1 after merging, in the manner of the paper's CIFAR-10 network:
 * three times a 1×1 convolution and a RepMLP, with pooling between, then a linear head.
 */
export class RepMLPMixer extends Module {
  readonly fc0: ConvBnRelu;
  readonly rep0: RepMLP;
  readonly fc1: ConvBnRelu;
  readonly rep1: RepMLP;
  readonly fc2: ConvBnRelu;
  readonly rep2: RepMLP;
  readonly linear: Linear;

  constructor({
    numClasses = 10,
    inChannels = 1,
    imageSize = 28,
    channels = [16, 32, 64],
    partition = 7,
    reparamConvKernels = [1, 3],
    groups = [4, 8, 8],
  }: RepMLPMixerOptions = {}) {
    super();
    const repmlp = (stage: 0 | 1 | 2): RepMLP =>
      new RepMLP({
        inChannels: channels[stage],
        height: Math.floor(imageSize / 2 ** stage),
        width: Math.floor(imageSize / 2 ** stage),
        partition,
        reparamConvKernels,
        groups: groups[stage],
      });
    this.fc0 = new ConvBnRelu(inChannels, channels[0], { kernelSize: 1 });
    this.rep0 = repmlp(0);
    this.fc1 = new ConvBnRelu(channels[0], channels[1], { kernelSize: 1 });
    this.rep1 = repmlp(1);
    this.fc2 = new ConvBnRelu(channels[1], channels[2], { kernelSize: 1 });
    this.rep2 = repmlp(2);
    this.linear = new Linear(channels[2], numClasses);
  }

  /** `[N, inChannels, H, W]` → `[N, numClasses]`. */
  forward(x: Value): Value {
    const pool = (y: Value): Value => maxPool2d(y, { kernelSize: 2 });
    const a = pool(relu(this.rep0.forward(this.fc0.forward(x))));
    const b = pool(relu(this.rep1.forward(this.fc1.forward(a))));
    return this.linear.forward(globalAvgPool(relu(this.rep2.forward(this.fc2.forward(b)))));
  }
}

/** Of Fashion-MNIST for grey pictures, of ImageNet for colour; what is no picture stays as it is. */
const normalizationOf = (channels: number): Normalization => {
  if (channels === 1) return { mean: [0.28604], std: [0.35302] };
  if (channels === 3) return imagenetNormalization;
  return { mean: Array(channels).fill(0), std: Array(channels).fill(1) };
};

export const repmlpMixer = defineFamily<RepMLPMixerOptions>({
  name: "RepMLP-Mixer",
  variants: {
    "RepMLP-Mixer-28": { description: "small pure-MLP network for 28 x 28 grey pictures (the demo)" },
  },
  options: {
    numClasses: whole,
    inChannels: whole,
    imageSize: whole,
    channels: three(whole),
    partition: whole,
    reparamConvKernels: kernelSizes,
    groups: three(whole),
  },
  create: (options) => new RepMLPMixer(options),
  preprocessing: ({ imageSize = 28, inChannels = 1 }) => picturesOf(imageSize, normalizationOf(inChannels)),
  namings: [{ name: "repmlp", signature: [["fc0.conv.weight", "rep0.fc3.weight"]] }],
  trainingForms: { fc3BatchNorm },
});
