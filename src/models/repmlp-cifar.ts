import { ConvBn, ConvBnRelu, RepMLP, RepMLPConv } from "../blocks/index.ts";
import { cifar10Normalization } from "../data/index.ts";
import { must } from "../errors.ts";
import { globalAvgPool, maxPool2d, relu, type Value } from "../graph/index.ts";
import { Linear, Module } from "../nn/index.ts";
import { defineFamily, picturesOf } from "./family.ts";
import { fc3BatchNorm } from "./fc3-batch-norm.ts";
import { kernelSizes, oneOf, three, whole, yesOrNo } from "./options.ts";

/**
 * What mixes positions: a RepMLP, a RepMLP with a 9×9 convolution in place of FC3, or in place of all of it a 9×9
 * (grouped) or a plain 3×3 convolution with batch norm.
 */
export type RepMLPCifarMixer = "repmlp" | "fc3Conv9" | "conv9" | "conv3";

export interface RepMLPCifarOptions {
  /** Default `repmlp`. */
  readonly mixer?: RepMLPCifarMixer;
  /** Default 10. */
  readonly numClasses?: number;
  /** Height and width of the input in pixels, divisible by 4. Default 32. */
  readonly imageSize?: number;
  /** Channels of the three stages. Default 16, 32, 64. */
  readonly channels?: readonly [number, number, number];
  /** Partition in pixels. Default 8. */
  readonly partition?: number;
  /** Kernels of the Local Perceptron; none leaves it out. Default 1, 3, 5, 7. */
  readonly reparamConvKernels?: readonly number[];
  /** Groups of FC3, of the local and of the 9×9 convolutions. Default 2. */
  readonly groups?: number;
  /** Default true. */
  readonly globalPerceptron?: boolean;
}

/** Two mixers, each followed by a 1×1 convolution ("FC"); keys `rep1`, `fc1`, `rep2`, `fc2`. */
class CifarStage extends Module {
  readonly rep1: Module & { forward(x: Value): Value };
  readonly fc1: ConvBnRelu;
  readonly rep2: Module & { forward(x: Value): Value };
  readonly fc2: ConvBnRelu;

  constructor(
    mixer: () => Module & { forward(x: Value): Value },
    { inChannels, outChannels }: { readonly inChannels: number; readonly outChannels: number },
  ) {
    super();
    this.rep1 = mixer();
    this.fc1 = new ConvBnRelu(inChannels, inChannels, { kernelSize: 1 });
    this.rep2 = mixer();
    this.fc2 = new ConvBnRelu(inChannels, outChannels, { kernelSize: 1 });
  }

  forward(x: Value): Value {
    const y = this.fc1.forward(relu(this.rep1.forward(x)));
    return this.fc2.forward(relu(this.rep2.forward(y)));
  }
}

/**
 * The paper's CIFAR-10 networks (arXiv 2105.01883, section 4.1): a 1×1 convolution, three stages of RepMLPs and 1×1
 * convolutions in turn with max pooling between them, global average pooling, a linear head. The last convolution of a
 * stage widens to the next one's channels; a batch norm follows every convolution, a ReLU every RepMLP and convolution.
 * Merged, the pure MLP has no kernel larger than 1×1.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class RepMLPCifar extends Module {
  readonly fc0: ConvBnRelu;
  readonly stage1: CifarStage;
  readonly stage2: CifarStage;
  readonly stage3: CifarStage;
  readonly linear: Linear;

  constructor({
    mixer = "repmlp",
    numClasses = 10,
    imageSize = 32,
    channels = [16, 32, 64],
    partition = 8,
    reparamConvKernels = [1, 3, 5, 7],
    groups = 2,
    globalPerceptron = true,
  }: RepMLPCifarOptions = {}) {
    super();
    must(
      imageSize % 4 === 0,
      "repmlp-cifar/size",
      () => `repmlp-cifar: \`imageSize\` is halved twice, so 4 must divide it; got ${imageSize}`,
      "usage",
    );
    const stage = (index: 0 | 1 | 2): CifarStage => {
      const c = channels[index];
      const size = imageSize / 2 ** index;
      const repmlp = {
        ...{ inChannels: c, height: size, width: size, partition },
        ...{ reparamConvKernels, groups, globalPerceptron },
      };
      const mixers = {
        repmlp: () => new RepMLP(repmlp),
        fc3Conv9: () => new RepMLPConv(repmlp),
        conv9: () => new ConvBn(c, c, { kernelSize: 9, padding: 4, groups }),
        conv3: () => new ConvBn(c, c, { kernelSize: 3, padding: 1 }),
      };
      return new CifarStage(mixers[mixer], { inChannels: c, outChannels: channels[Math.min(index + 1, 2)] });
    };
    this.fc0 = new ConvBnRelu(3, channels[0], { kernelSize: 1 });
    this.stage1 = stage(0);
    this.stage2 = stage(1);
    this.stage3 = stage(2);
    this.linear = new Linear(channels[2], numClasses);
  }

  forward(x: Value): Value {
    const pool = (y: Value): Value => maxPool2d(y, { kernelSize: 2 });
    const a = pool(this.stage1.forward(this.fc0.forward(x)));
    const b = pool(this.stage2.forward(a));
    return this.linear.forward(globalAvgPool(this.stage3.forward(b)));
  }
}

export const repmlpCifar = defineFamily<RepMLPCifarOptions>({
  name: "RepMLP-CIFAR10",
  variants: {
    "RepMLP-CIFAR10-pure-MLP": {
      description: "the paper's CIFAR-10 network: no kernel larger than 1 x 1 once merged",
    },
    "RepMLP-CIFAR10-wide-convnet": {
      description: "its counterpart: 3 x 3 convolutions for RepMLPs, twice as wide",
      options: { mixer: "conv3", channels: [32, 64, 128] },
    },
    "RepMLP-CIFAR10-no-local": {
      description: "ablation: the pure MLP without Local Perceptron",
      options: { reparamConvKernels: [] },
    },
    "RepMLP-CIFAR10-no-global": {
      description: "ablation: the pure MLP without Global Perceptron",
      options: { globalPerceptron: false },
    },
    "RepMLP-CIFAR10-fc3-conv9": {
      description: "ablation: a 9 x 9 convolution in place of each FC3",
      options: { mixer: "fc3Conv9" },
    },
    "RepMLP-CIFAR10-conv9": {
      description: "ablation: a 9 x 9 convolution in place of each RepMLP",
      options: { mixer: "conv9" },
    },
  },
  options: {
    mixer: oneOf("repmlp", "fc3Conv9", "conv9", "conv3"),
    numClasses: whole,
    imageSize: whole,
    channels: three(whole),
    partition: whole,
    reparamConvKernels: kernelSizes,
    groups: whole,
    globalPerceptron: yesOrNo,
  },
  create: (options) => new RepMLPCifar(options),
  preprocessing: ({ imageSize = 32 }) => picturesOf(imageSize, cifar10Normalization),
  namings: [{ name: "repmlp", signature: [["fc0.conv.weight", "stage1.fc1.conv.weight", "stage3.fc2.conv.weight"]] }],
  trainingForms: { fc3BatchNorm },
});
