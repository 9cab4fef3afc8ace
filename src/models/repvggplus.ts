import { ConvBnRelu, RepVGGplusBlock } from "../blocks/index.ts";
import { must } from "../errors.ts";
import { globalAvgPool, type Value } from "../graph/index.ts";
import { Flatten, GlobalAvgPool, Linear, Module, type MultiOutputNet, type Outputs, Sequential } from "../nn/index.ts";
import type { TrainingOnly } from "../reparam/index.ts";
import { defineFamily } from "./family.ts";
import { four, positive, whole, yesOrNo } from "./options.ts";
import { type Four, repvggPictures } from "./repvgg.ts";

export interface RepVGGplusOptions {
  /** Blocks of the stages 1 to 4; those of stage 3 are even, as it comes in halves. Default those of L2: 8, 14, 24, 1. */
  readonly numBlocks?: Four;
  /** Width of each stage as a multiple of 64, 128, 256 and 512 channels. Default those of L2: 2.5, 2.5, 2.5, 5. */
  readonly widthMultiplier?: Four;
  /** Squeeze-and-excitation behind the ReLU of every block. Default true. */
  readonly usePostSe?: boolean;
  /** What the loss of each auxiliary classifier counts beside the main one's. Default 0.1. */
  readonly auxiliaryWeight?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 320, that of the published accuracy. */
  readonly imageSize?: number;
}

/** Blocks one after the other. Keys `blocks.{i}.*`. */
class Stage extends Module {
  constructor(readonly blocks: readonly RepVGGplusBlock[]) {
    super();
  }

  forward(x: Value): Value {
    return this.blocks.reduce((y, block) => block.forward(y), x);
  }
}

/** A classifier on a stage's output, for training. Keys `0.conv.weight`, `0.bn.*`, `3.*`. */
class AuxiliaryClassifier extends Sequential implements TrainingOnly {
  readonly trainingOnly = "an auxiliary classifier";

  constructor(channels: number, numClasses: number) {
    super(
      new ConvBnRelu(channels, channels, { kernelSize: 3, stride: 2, padding: 1 }),
      new GlobalAvgPool(),
      new Flatten(),
      new Linear(channels, numClasses),
    );
  }
}

/**
 * RepVGGplus, the authors' successor of RepVGG (in its repository; there is no paper): {@link RepVGGplusBlock}s, and in
 * training a classifier each after the stages 1 and 2 and the first half of stage 3. Merged, only the main one is left.
 * `[N, 3, H, W]` → `[N, numClasses]`; in training also `stage1_aux`, `stage2_aux`, `stage3_first_aux`.
 *
 * Keys `stage0.*`, `stage{1,2,4}.blocks.{i}.*`, `stage3_first.*`, `stage3_second.*`, `linear.*`; in training
 * `stage1_aux.{0,3}.*`, `stage2_aux.*`, `stage3_first_aux.*`.
 */
export class RepVGGplus extends Module implements MultiOutputNet {
  readonly stage0: RepVGGplusBlock;
  readonly stage1: Stage;
  readonly stage2: Stage;
  readonly stage3First: Stage;
  readonly stage3Second: Stage;
  readonly stage4: Stage;
  readonly linear: Linear;
  readonly stage1Aux: AuxiliaryClassifier | undefined;
  readonly stage2Aux: AuxiliaryClassifier | undefined;
  readonly stage3FirstAux: AuxiliaryClassifier | undefined;
  readonly outputWeights: Readonly<Record<string, number>>;

  /** @throws `repvggplus/halves` when stage 3 cannot be halved */
  constructor({
    numBlocks = [8, 14, 24, 1],
    widthMultiplier = [2.5, 2.5, 2.5, 5],
    usePostSe = true,
    auxiliaryWeight = 0.1,
    numClasses = 1000,
  }: RepVGGplusOptions = {}) {
    super();
    must(
      numBlocks[2] % 2 === 0,
      "repvggplus/halves",
      () => `repvggplus: stage 3 comes in halves, so numBlocks[2] must be even, got ${numBlocks[2]}`,
      "usage",
    );
    const widths = [64, 128, 256, 512].map((c, i) => Math.floor(c * widthMultiplier[i]));
    let inChannels = 3;
    const block = (outChannels: number, stride: number): RepVGGplusBlock => {
      const made = new RepVGGplusBlock({ inChannels, outChannels, stride, usePostSe });
      inChannels = outChannels;
      return made;
    };
    const stage = (width: number, count: number, stride = 2): Stage =>
      new Stage(Array.from({ length: count }, (_, i) => block(width, i === 0 ? stride : 1)));
    this.stage0 = block(Math.min(64, widths[0]), 2);
    this.stage1 = stage(widths[0], numBlocks[0]);
    this.stage2 = stage(widths[1], numBlocks[1]);
    this.stage3First = stage(widths[2], numBlocks[2] / 2);
    this.stage3Second = stage(widths[2], numBlocks[2] / 2, 1);
    this.stage4 = stage(widths[3], numBlocks[3]);
    this.linear = new Linear(widths[3], numClasses);
    this.stage1Aux = new AuxiliaryClassifier(widths[0], numClasses);
    this.stage2Aux = new AuxiliaryClassifier(widths[1], numClasses);
    this.stage3FirstAux = new AuxiliaryClassifier(widths[2], numClasses);
    this.outputWeights = Object.fromEntries(
      ["stage1_aux", "stage2_aux", "stage3_first_aux"].map((name) => [name, auxiliaryWeight]),
    );
  }

  private stages(x: Value): { readonly [stage in "c2" | "c3" | "middle" | "c4" | "c5"]: Value } {
    const c2 = this.stage1.forward(this.stage0.forward(x));
    const c3 = this.stage2.forward(c2);
    const middle = this.stage3First.forward(c3);
    const c4 = this.stage3Second.forward(middle);
    return { c2, c3, middle, c4, c5: this.stage4.forward(c4) };
  }

  /** Outputs of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the input's size: the network as a backbone. */
  features(x: Value): [Value, Value, Value, Value] {
    const { c2, c3, c4, c5 } = this.stages(x);
    return [c2, c3, c4, c5];
  }

  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(this.stages(x).c5));
  }

  trainingOutputs(x: Value): Outputs {
    const { c2, c3, middle, c5 } = this.stages(x);
    const heads = {
      stage1_aux: this.stage1Aux?.forward(c2),
      stage2_aux: this.stage2Aux?.forward(c3),
      stage3_first_aux: this.stage3FirstAux?.forward(middle),
    };
    const present = Object.entries(heads).filter((head): head is [string, Value] => head[1] !== undefined);
    return { output: this.linear.forward(globalAvgPool(c5)), ...Object.fromEntries(present) };
  }
}

export const repvggplus = defineFamily<RepVGGplusOptions>({
  name: "RepVGGplus",
  variants: {
    "RepVGGplus-L2pse": {
      description:
        "RepVGG with squeeze-and-excitation behind the ReLU, widths 2.5 and 5, auxiliary classifiers in training",
      figures: [{ top1: 84.06, imageSize: 320, source: "RepVGG's README, trained at 256" }],
    },
  },
  options: {
    numBlocks: four(whole),
    widthMultiplier: four(positive),
    usePostSe: yesOrNo,
    auxiliaryWeight: positive,
    numClasses: whole,
    imageSize: whole,
  },
  create: (options) => new RepVGGplus(options),
  preprocessing: ({ imageSize = 320 }) => repvggPictures(imageSize),
  namings: [
    {
      name: "repvgg",
      signature: [
        ["stage3_first.blocks.0.rbr_dense.conv.weight", "stage0.rbr_dense.conv.weight"],
        ["stage3_first.blocks.0.rbr_reparam.weight", "stage0.rbr_reparam.weight"],
      ],
    },
  ],
});
