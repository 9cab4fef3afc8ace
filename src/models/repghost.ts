import { RepGhostBottleneck, roundChannels } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { reduceMean, relu, reshape, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, Dropout, Linear, Module, Sequential } from "../nn/index.ts";
import { defineFamily, picturesOf, type Variant } from "./family.ts";
import { positive, probability, whole, yesOrNo } from "./options.ts";

export interface RepGhostNetOptions {
  /** Factor of all numbers of channels. Default 1. */
  readonly width?: number;
  /** Squeeze-and-excitation in some of the blocks. Default true. */
  readonly useSe?: boolean;
  /** A branch of a batch norm alone in every module. Default true. */
  readonly reparamBn?: boolean;
  /** A branch that passes its input on in every module. Default false. */
  readonly reparamIdentity?: boolean;
  /** Before the head, in training. Default 0.2. */
  readonly dropRate?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number;
}

/** Of every block: depthwise kernel, channels within and after it at width 1, whether it has an SE, stride. */
type Row = readonly [kernel: number, middle: number, out: number, se: 0 | 1, stride: 1 | 2];

const stages: readonly (readonly Row[])[] = [
  [[3, 8, 16, 0, 1]],
  [[3, 24, 24, 0, 2]],
  [[3, 36, 24, 0, 1]],
  [[5, 36, 40, 1, 2]],
  [[5, 60, 40, 1, 1]],
  [[3, 120, 80, 0, 2]],
  [
    [3, 100, 80, 0, 1],
    [3, 120, 80, 0, 1],
    [3, 120, 80, 0, 1],
    [3, 240, 112, 1, 1],
    [3, 336, 112, 1, 1],
  ],
  [[5, 336, 160, 1, 2]],
  [
    [5, 480, 160, 0, 1],
    [5, 480, 160, 1, 1],
    [5, 480, 160, 0, 1],
    [5, 480, 160, 1, 1],
  ],
];

/** Channels at width 1 of the convolution before the pooling; of the hidden layer of the head at any. */
const LAST = 960;
const HIDDEN = 1280;

/** A 1×1 convolution with batch norm and ReLU; keys `conv.*`, `bn1.*`. */
class ConvBnAct extends Module {
  readonly conv: Conv2d;
  readonly bn1: BatchNorm2d;

  constructor(inChannels: number, outChannels: number) {
    super();
    this.conv = new Conv2d(inChannels, outChannels, { kernelSize: 1, bias: false });
    this.bn1 = new BatchNorm2d(outChannels);
  }

  forward(x: Value): Value {
    return relu(this.bn1.afterConv(this.conv, x));
  }
}

/**
 * RepGhostNet (arXiv 2211.06088, table 3): a 3×3 convolution with stride 2, {@link RepGhostBottleneck}s, a 1×1 convolution,
 * global average pooling, a hidden layer and a linear head. Keys `conv_stem.*`, `bn1.*`, `blocks.{s}.{i}.*`, `conv_head.*`,
 * `classifier.*`, which are timm's, too.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class RepGhostNet extends Module {
  readonly convStem: Conv2d;
  readonly bn1: BatchNorm2d;
  readonly blocks: readonly Sequential[];
  readonly convHead: Conv2d;
  readonly dropout: Dropout;
  readonly classifier: Linear;

  constructor({
    width = 1,
    useSe = true,
    reparamBn = true,
    reparamIdentity = false,
    dropRate = 0.2,
    numClasses = 1000,
  }: RepGhostNetOptions = {}) {
    super();
    const scaled = (channels: number): number => roundChannels(channels * width, 4);
    let inChannels = scaled(16);
    this.convStem = new Conv2d(3, inChannels, { kernelSize: 3, stride: 2, padding: 1, bias: false });
    this.bn1 = new BatchNorm2d(inChannels);
    const block = ([dwKernelSize, middle, out, se, stride]: Row): RepGhostBottleneck => {
      const [midChannels, outChannels, seRatio] = [scaled(middle), scaled(out), se && useSe ? 0.25 : 0];
      const made = new RepGhostBottleneck({
        ...{ inChannels, midChannels, outChannels, dwKernelSize, stride, seRatio, reparamBn, reparamIdentity },
      });
      inChannels = outChannels;
      return made;
    };
    this.blocks = [
      ...stages.map((rows) => new Sequential(...rows.map(block))),
      new Sequential(new ConvBnAct(inChannels, scaled(LAST))),
    ];
    this.convHead = new Conv2d(scaled(LAST), HIDDEN, { kernelSize: 1 });
    this.dropout = new Dropout(dropRate);
    this.classifier = new Linear(HIDDEN, numClasses);
  }

  forward(x: Value): Value {
    const stem = relu(this.bn1.afterConv(this.convStem, x));
    const features = this.blocks.reduce((y, stage) => stage.forward(y), stem);
    const pooled = reduceMean(features, [2, 3], { keepDims: true });
    const hidden = relu(this.convHead.forward(pooled));
    return this.classifier.forward(this.dropout.forward(reshape(hidden, hidden.shape.slice(0, 2))));
  }
}

const variant = (
  width: number,
  top1: number,
  [parameters, macs]: readonly [string, string],
): Variant<RepGhostNetOptions> => ({
  description: `ghost modules that add up and merge, ${width} times as wide as the first`,
  options: { width },
  figures: [{ top1, imageSize: 224, source: "timm, results-imagenet" }],
  sizes: [{ form: "deploy", parameters, macs, source: "RepGhost's README" }],
});

export const repghost = defineFamily<RepGhostNetOptions>({
  name: "RepGhost",
  variants: {
    "RepGhostNet-050": variant(0.5, 66.978, ["2.3 M", "43 M"]),
    "RepGhostNet-058": variant(0.58, 68.938, ["2.5 M", "60 M"]),
    "RepGhostNet-080": variant(0.8, 72.24, ["3.3 M", "96 M"]),
    "RepGhostNet-100": variant(1, 74.208, ["4.1 M", "142 M"]),
    "RepGhostNet-111": variant(1.11, 75.06, ["4.5 M", "170 M"]),
    "RepGhostNet-130": variant(1.3, 76.378, ["5.5 M", "231 M"]),
    "RepGhostNet-150": variant(1.5, 77.474, ["6.6 M", "301 M"]),
    "RepGhostNet-200": variant(2, 78.802, ["9.8 M", "516 M"]),
  },
  options: {
    width: positive,
    useSe: yesOrNo,
    reparamBn: yesOrNo,
    reparamIdentity: yesOrNo,
    dropRate: probability,
    numClasses: whole,
    imageSize: whole,
  },
  create: (options) => new RepGhostNet(options),
  // timm's.
  preprocessing: ({ imageSize = 224 }) => ({
    ...picturesOf(imageSize, imagenetNormalization, (size) => Math.floor(size / 0.875)),
    interpolation: "bicubic",
  }),
  // The authors' names and timm's are the same.
  namings: [
    {
      name: "repghost",
      signature: [
        ["conv_stem.weight", "blocks.0.0.ghost1.cheap_operation.0.weight"],
        ["conv_stem.weight", "blocks.0.0.ghost1.cheap_operation.weight"],
      ],
    },
  ],
});
