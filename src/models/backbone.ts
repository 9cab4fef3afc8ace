import type { Pair, Value } from "../graph/index.ts";
import type { Linear, Net } from "../nn/index.ts";

/** How a classifier's network is built as a backbone of dense prediction; its state dict stays that of the classifier. */
export interface BackboneOptions {
  /**
   * Dilations of the 3×3 convolutions of stages 3 and 4, both with stride 1 then, so that their maps are 1/8 of the input.
   * Default none: strides 2, maps of 1/16 and 1/32.
   */
  readonly dilation?: Pair;
}

/** Stride of a stage's first block and dilation of its 3×3 convolutions; `stage` counts from 1. */
export function stageSteps(
  { dilation }: BackboneOptions,
  stage: number,
  strides: readonly [number, number, number, number] = [1, 2, 2, 2],
): { stride: number; dilation: number } {
  if (!dilation || stage < 3) return { stride: strides[stage - 1], dilation: 1 };
  return { stride: 1, dilation: dilation[stage - 3] };
}

/** A network of classes of which all maps can be had; see RepVGG, ResNet and RepMLPResNet. */
export type Backbone = Net & {
  /** Outputs of the four stages, fine to coarse. */
  features(x: Value): readonly [Value, Value, Value, Value];
  /** Their channels. */
  readonly channels: readonly number[];
  /** The classifier, which a backbone does without. */
  readonly linear: Linear;
};
