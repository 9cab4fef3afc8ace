import { ConvBn } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { add, globalAvgPool, pad, relu, slice, type Value } from "../graph/index.ts";
import { Linear, Module, Sequential } from "../nn/index.ts";
import { defineFamily, keyParts, picturesOf, type Variant } from "./family.ts";
import { whole } from "./options.ts";

export interface CifarResNetOptions {
  /** Blocks of each of the three stages: 3 of ResNet-20, 9 of ResNet-56. Default 3. */
  readonly numBlocks?: number;
  /** Default 10. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 32. */
  readonly imageSize?: number;
}

/** Every second pixel, with as many channels of zeros before and after as are missing (arXiv 1512.03385, option A). */
function shortcut(x: Value, channels: number): Value {
  const [, own, height, width] = x.shape;
  if (own === channels) return x;
  const half = slice(x, [
    { axis: 2, start: 0, end: height, step: 2 },
    { axis: 3, start: 0, end: width, step: 2 },
  ]);
  const before = Math.floor((channels - own) / 2);
  return pad(half, [0, before, 0, 0], [0, channels - own - before, 0, 0]);
}

class Block extends Module {
  readonly conv1: ConvBn;
  readonly conv2: ConvBn;

  constructor(inChannels: number, channels: number) {
    super();
    this.conv1 = new ConvBn(inChannels, channels, {
      kernelSize: 3,
      stride: inChannels === channels ? 1 : 2,
      padding: 1,
    });
    this.conv2 = new ConvBn(channels, channels, { kernelSize: 3, padding: 1 });
  }

  forward(x: Value): Value {
    const y = this.conv2.forward(relu(this.conv1.forward(x)));
    return relu(add(y, shortcut(x, y.shape[1])));
  }
}

/**
 * The residual networks of CIFAR-10 (arXiv 1512.03385, section 4.2) whose shortcuts have no weights. Keys
 * `conv1.*`, `layer{1,2,3}.{i}.conv{1,2}.*`, `linear.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class CifarResNet extends Module {
  readonly conv1: ConvBn;
  readonly layer1: Sequential;
  readonly layer2: Sequential;
  readonly layer3: Sequential;
  readonly linear: Linear;

  constructor({ numBlocks = 3, numClasses = 10 }: CifarResNetOptions = {}) {
    super();
    this.conv1 = new ConvBn(3, 16, { kernelSize: 3, padding: 1 });
    const stage = (before: number, channels: number): Sequential =>
      new Sequential(...Array.from({ length: numBlocks }, (_, i) => new Block(i ? channels : before, channels)));
    this.layer1 = stage(16, 16);
    this.layer2 = stage(16, 32);
    this.layer3 = stage(32, 64);
    this.linear = new Linear(64, numClasses);
  }

  forward(x: Value): Value {
    const stages = [this.layer1, this.layer2, this.layer3];
    return this.linear.forward(
      globalAvgPool(stages.reduce((y, stage) => stage.forward(y), relu(this.conv1.forward(x)))),
    );
  }
}

const table6 = "arXiv 1512.03385, table 6";

const variant = (
  depth: number,
  numBlocks: number,
  parameters: string,
  figures?: Variant["figures"],
): Variant<CifarResNetOptions> => ({
  description: `ResNet-${depth} for CIFAR-10, shortcuts without weights`,
  options: { numBlocks },
  sizes: [{ form: "deploy", parameters, source: table6 }],
  ...(figures && { figures }),
});

const convs = [1, 2];

/** Names of the released weights: convolutions and batch norms side by side. */
const inAkamaster = keyParts([
  ...["weight", "bias"].flatMap((name) => convs.map((i) => [`conv${i}.${name}`, `conv${i}.conv.${name}`] as const)),
  ...convs.map((i) => [`bn${i}`, `conv${i}.bn`] as const),
]);

export const cifarResnet = defineFamily<CifarResNetOptions>({
  name: "CIFAR-ResNet",
  variants: {
    "CIFAR-ResNet-20": variant(20, 3, "0.27 M", [
      { top1: 91.73, imageSize: 32, source: "released weights resnet20-12fca82f (CIFAR-10)" },
    ]),
    "CIFAR-ResNet-56": variant(56, 9, "0.85 M"),
  },
  options: { numBlocks: whole, numClasses: whole, imageSize: whole },
  create: (options) => new CifarResNet(options),
  preprocessing: ({ imageSize = 32 }) => picturesOf(imageSize, imagenetNormalization),
  namings: [
    { name: "repmlp", signature: [["conv1.conv.weight", "layer3.0.conv1.conv.weight", "linear.weight"]] },
    {
      name: "akamaster",
      signature: [["conv1.weight", "bn1.weight", "layer3.0.conv1.weight", "linear.weight"]],
      names: inAkamaster,
    },
  ],
});
