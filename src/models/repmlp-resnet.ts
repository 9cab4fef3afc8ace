import { BaseBlock, BottleneckBlock, ConvBnRelu, type InnerRepMLPOptions, LightBlock } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { fmt, must } from "../errors.ts";
import { globalAvgPool, maxPool2d, type Pair, pair, type Value } from "../graph/index.ts";
import { Linear, Module } from "../nn/index.ts";
import { type BackboneOptions, stageSteps } from "./backbone.ts";
import { defineFamily, picturesOf } from "./family.ts";
import { fc3BatchNorm } from "./fc3-batch-norm.ts";
import { four, kernelSizes, oneOf, oneOrTwo, two, whole } from "./options.ts";

export type RepMLPResNetBlock = "light" | "bottleneck" | "base";

export interface RepMLPResNetOptions {
  /** Block of the stride-1 positions in stages 2 and 3. */
  readonly blockType: RepMLPResNetBlock;
  /** Height and width of the input in pixels. Default 224. */
  readonly imageSize?: number | Pair;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Partition in pixels. Default 7. */
  readonly partition?: number | Pair;
  /** Odd kernel sizes of the Local Perceptron. Default 1, 3, 5. */
  readonly reparamConvKernels?: readonly number[];
  /** Groups of FC3 in stage 2 and stage 3 (one number for both). Default 4 for light, 8 for bottleneck. */
  readonly groups?: number | Pair;
  /** Reduction of FC1 and FC2 in stage 2 and stage 3. Default 1. */
  readonly fc1Fc2Reduction?: number | Pair;
  /** Blocks per stage. Default 3, 4, 6, 3. */
  readonly numBlocks?: readonly number[];
  /** Output channels of the stages. Default 256, 512, 1024, 2048. */
  readonly channels?: readonly number[];
  /** Channels of the stem. Default 64. */
  readonly stemChannels?: number;
  /** Reduction r of the Bottleneck blocks in stage 2 and stage 3. Default 2 and 4. */
  readonly bottleneckReduction?: Pair;
}

type Block = BaseBlock | LightBlock | BottleneckBlock;

/** ResNet's stem: 7×7 convolution, batch norm and ReLU, then a 3×3 max pool, each with stride 2. */
export class Stem extends Module {
  static override readonly stateNames = { conv: "0" };
  readonly conv: ConvBnRelu;

  constructor(channels: number) {
    super();
    this.conv = new ConvBnRelu(3, channels, { kernelSize: 7, stride: 2, padding: 3 });
  }

  forward(x: Value): Value {
    return maxPool2d(this.conv.forward(x), { kernelSize: 3, stride: 2, padding: 1 });
  }
}

/** Residual blocks one after the other; keys start with their positions. */
export class Stage extends Module {
  static override readonly stateNames = { blocks: (index: string) => index };

  constructor(readonly blocks: readonly Block[]) {
    super();
  }

  forward(x: Value): Value {
    return this.blocks.reduce((y, block) => block.forward(y), x);
  }
}

/**
 * ResNet-50 with RepMLP blocks (paper section 4): stages 2 and 3 use Light or Bottleneck blocks wherever the stride is
 * 1, everything else is ResNet's own block. Keys `stage0.0.*`, `stage{1..4}.{i}.*`, `linear.*`.
 */
export class RepMLPResNet extends Module {
  readonly stage0: Stem;
  readonly stage1: Stage;
  readonly stage2: Stage;
  readonly stage3: Stage;
  readonly stage4: Stage;
  readonly linear: Linear;
  /** Of the four stages' outputs. */
  readonly channels: readonly number[];
  /** Height and width that the input must have; undefined where any size will do. */
  readonly imageSize: Pair | undefined;

  constructor(options: RepMLPResNetOptions & BackboneOptions) {
    super();
    const { blockType, numClasses = 1000, numBlocks = [3, 4, 6, 3], channels = [256, 512, 1024, 2048] } = options;
    const { stemChannels = 64 } = options;
    must(
      numBlocks.length === 4 && channels.length === 4,
      "repmlp-resnet/stages",
      () => `repmlp-resnet: numBlocks and channels need 4 entries, got ${fmt(numBlocks)} and ${fmt(channels)}`,
      "usage",
    );
    must(
      ["light", "bottleneck", "base"].includes(blockType),
      "repmlp-resnet/block",
      () => `repmlp-resnet: blockType must be light, bottleneck or base, got ${blockType}`,
      "usage",
    );
    must(
      blockType === "base" || !options.dilation || options.dilation[0] === 1,
      "repmlp-resnet/dilation",
      () =>
        `repmlp-resnet: RepMLP's blocks cannot be dilated, got ${fmt(options.dilation ?? [])}. Use dilation [1, ${options.dilation?.[1]}], which leaves stage 3 as it is, or blockType: base.`,
      "usage",
    );
    this.imageSize = blockType === "base" ? undefined : pair(options.imageSize ?? 224);
    this.stage0 = new Stem(stemChannels);
    const stages = channels.map((out, i) => {
      const first = i === 0 ? stemChannels : channels[i - 1];
      const blocks = Array.from({ length: numBlocks[i] }, (_, position) =>
        makeBlock(options, i, position === 0 ? first : out, out, position === 0),
      );
      return new Stage(blocks);
    });
    [this.stage1, this.stage2, this.stage3, this.stage4] = stages as [Stage, Stage, Stage, Stage];
    this.linear = new Linear(channels[3], numClasses);
    this.channels = channels;
  }

  /** Outputs of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the input's size: the network as a backbone. */
  features(x: Value): [Value, Value, Value, Value] {
    const [height, width] = this.imageSize ?? x.shape.slice(2);
    must(
      x.shape.length === 4 && x.shape[1] === 3 && x.shape[2] === height && x.shape[3] === width,
      "repmlp-resnet/input",
      () =>
        `repmlp-resnet: the network was built for pictures [N, 3, ${height ?? "H"}, ${width ?? "W"}], got ${fmt(x.shape)}. Resize them, or build it with another \`imageSize\`.`,
    );
    const c2 = this.stage1.forward(this.stage0.forward(x));
    const c3 = this.stage2.forward(c2);
    const c4 = this.stage3.forward(c3);
    return [c2, c3, c4, this.stage4.forward(c4)];
  }

  /** `[N, 3, H, W]` → `[N, numClasses]`. */
  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(this.features(x)[3]));
  }
}

/** The block of a stage (0-based) by its stride and the network's block type. */
function makeBlock(
  options: RepMLPResNetOptions & BackboneOptions,
  stage: number,
  inChannels: number,
  outChannels: number,
  isFirst: boolean,
): Block {
  const { blockType } = options;
  const inner = stage - 1;
  const steps = stageSteps(options, stage + 1);
  if (blockType === "base" || (inner !== 0 && inner !== 1) || isFirst)
    return new BaseBlock({
      ...{ inChannels, midChannels: outChannels / 4, outChannels },
      ...{ stride: isFirst ? steps.stride : 1, dilation: steps.dilation },
    });
  // The first two halvings are the stem's; stage 3 keeps the map of stage 2 where it is dilated.
  const halvings = stage + 2 - (inner === 1 && options.dilation ? 1 : 0);
  const { partition = 7, reparamConvKernels = [1, 3, 5], bottleneckReduction = [2, 4], fc1Fc2Reduction = 1 } = options;
  const { groups = blockType === "light" ? 4 : 8 } = options;
  // Every halving rounds up, as strided convolutions with same padding do.
  const [height, width] = pair(options.imageSize ?? 224).map((d) => Math.ceil(d / 2 ** halvings));
  const repmlp: InnerRepMLPOptions = {
    height,
    width,
    partition,
    reparamConvKernels,
    groups: pair(groups)[inner],
    fc1Fc2Reduction: pair(fc1Fc2Reduction)[inner],
  };
  if (blockType === "light")
    return new LightBlock({ inChannels, midChannels: outChannels / 8, outChannels, ...repmlp });
  const reduction = bottleneckReduction[inner];
  return new BottleneckBlock({ inChannels, midChannels: outChannels / 4, outChannels, reduction, ...repmlp });
}

const large = { imageSize: 320, partition: 10, reparamConvKernels: [1, 3, 5, 7], blockType: "bottleneck" } as const;

export const repmlpResNet = defineFamily<RepMLPResNetOptions>({
  name: "RepMLP-Res50",
  variants: {
    "RepMLP-Res50-light-224": {
      description: "ResNet-50 with Light blocks in stages 2 and 3, 4 groups",
      aliases: ["repmlp_res50_light_224"],
      options: { blockType: "light" },
    },
    "RepMLP-Res50-bottleneck-224": {
      description: "ResNet-50 with Bottleneck blocks in stages 2 and 3, 8 groups",
      aliases: ["repmlp_res50_bottleneck_224"],
      options: { blockType: "bottleneck" },
    },
    "RepMLP-Res50-bottleneck-320-g8/8": {
      description: "320 pixels, 8 groups in both stages",
      aliases: ["RepMLP-Res50-bottleneck-320"],
      options: { ...large, groups: [8, 8] },
    },
    "RepMLP-Res50-bottleneck-320-g8/16": {
      description: "320 pixels, 8 and 16 groups",
      options: { ...large, groups: [8, 16] },
    },
    "RepMLP-Res50-bottleneck-320-g4/8": {
      description: "320 pixels, 4 and 8 groups",
      options: { ...large, groups: [4, 8] },
    },
    "ResNet-50-base-224": {
      description: "plain ResNet-50, the baseline",
      aliases: ["resnet50", "base"],
      options: { blockType: "base" },
    },
  },
  options: {
    blockType: oneOf("light", "bottleneck", "base"),
    imageSize: oneOrTwo,
    numClasses: whole,
    partition: oneOrTwo,
    reparamConvKernels: kernelSizes,
    groups: oneOrTwo,
    fc1Fc2Reduction: oneOrTwo,
    numBlocks: four(whole),
    channels: four(whole),
    stemChannels: whole,
    bottleneckReduction: two(whole),
  },
  create: (options) => new RepMLPResNet(options),
  // As the original: 256 before the crop at 224, else straight to the size.
  preprocessing: ({ imageSize = 224 }) =>
    picturesOf(imageSize, imagenetNormalization, (size) => (size === 224 ? 256 : size)),
  namings: [
    {
      name: "repmlp",
      signature: [["stage0.0.conv.weight", "stage1.0.conv1.conv.weight", "stage4.0.conv1.conv.weight"]],
    },
  ],
  trainingForms: { fc3BatchNorm },
  // FC1 and FC2 have as many inputs as there are partitions.
  dependsOnSize: (key) => key.includes(".fc1_fc2."),
});
