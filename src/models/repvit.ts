import { Conv2dBn, DistilledClassifier, RepViTBlock } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { must } from "../errors.ts";
import { globalAvgPool, type Value } from "../graph/index.ts";
import {
  GELU,
  hasTrainingOutputs,
  Module,
  type MultiOutputNet,
  type Net,
  type Outputs,
  Sequential,
} from "../nn/index.ts";
import { defineFamily, type KeyNames, keyParts, picturesOf, type Variant } from "./family.ts";
import { four, whole, yesOrNo } from "./options.ts";

type Four = readonly [number, number, number, number];

/** One of RepViT's blocks, as a row of the authors' `cfgs`. */
export interface RepViTLayer {
  readonly outChannels: number;
  /** Default 1. */
  readonly stride?: 1 | 2;
  /** Default false. */
  readonly useSe?: boolean;
  /** Of the convolution with stride 2. Default 3. */
  readonly kernelSize?: number;
}

/** Options by which the published networks differ. */
interface RepViTVariantOptions {
  /** Channels of the four stages. Default those of m0.9: 48, 96, 192, 384. */
  readonly widths?: Four;
  /** Blocks of the four stages, without those that reduce the map between them. Default those of m0.9: 2, 2, 14, 2. */
  readonly depths?: Four;
  /** A second head that learns from a teacher; see {@link DistilledClassifier}. Default true. */
  readonly distillation?: boolean;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number;
}

export interface RepViTOptions extends RepViTVariantOptions {
  /** All blocks, in place of `widths` and `depths`. */
  readonly layers?: readonly RepViTLayer[];
}

/**
 * Blocks of four stages: every second one of a stage has squeeze-and-excitation, from the first on. Before the map is
 * reduced comes one more block without.
 */
function layersOf(widths: Four, depths: Four): RepViTLayer[] {
  return widths.flatMap((outChannels, stage) => [
    ...(stage ? [{ outChannels: widths[stage - 1] }, { outChannels, stride: 2 as const }] : []),
    ...Array.from({ length: depths[stage] }, (_, i) => ({ outChannels, useSe: i % 2 === 0 })),
  ]);
}

/**
 * RepViT (arXiv 2307.09283, section 3.3): two 3×3 convolutions with stride 2, {@link RepViTBlock}s, global average pooling
 * and a head, with distillation two. Keys `features.0.{0,2}.*`, `features.{i}.*`, `classifier.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`; in training also `dist`, the second head's.
 */
export class RepViT extends Module implements MultiOutputNet {
  readonly features: readonly Net[];
  readonly classifier: Net;
  readonly outputWeights: Readonly<Record<string, number>>;

  constructor({
    widths = [48, 96, 192, 384],
    depths = [2, 2, 14, 2],
    layers = layersOf(widths, depths),
    distillation = true,
    numClasses = 1000,
  }: RepViTOptions = {}) {
    super();
    must(layers.length, "repvit/layers", () => "repvit: layers must name at least one block, got none", "usage");
    let inChannels = layers[0].outChannels;
    const half = { kernelSize: 3, stride: 2, padding: 1 };
    this.features = [
      new Sequential(
        new Conv2dBn(3, Math.floor(inChannels / 2), half),
        new GELU(),
        new Conv2dBn(Math.floor(inChannels / 2), inChannels, half),
      ),
      ...layers.map((layer) => {
        const block = new RepViTBlock({ inChannels, ...layer });
        inChannels = layer.outChannels;
        return block;
      }),
    ];
    const classifier = new DistilledClassifier({ inFeatures: inChannels, numClasses, distillation });
    this.classifier = classifier;
    this.outputWeights = classifier.outputWeights;
  }

  private pooled(x: Value): Value {
    return globalAvgPool(this.features.reduce((y, layer) => layer.forward(y), x));
  }

  trainingOutputs(x: Value): Outputs {
    const { classifier } = this;
    const y = this.pooled(x);
    return hasTrainingOutputs(classifier) ? classifier.trainingOutputs(y) : { output: classifier.forward(y) };
  }

  forward(x: Value): Value {
    return this.classifier.forward(this.pooled(x));
  }
}

/** Keys within a block, within one that reduces the map, and around the blocks. */
const inBlock = keyParts([
  ["^token_mixer", "^token_mixer.0"],
  ["^se", "^token_mixer.1"],
  ["^channel_mixer.conv1", "^channel_mixer.m.0"],
  ["^channel_mixer.conv2", "^channel_mixer.m.2"],
]);
const inReduction = keyParts([
  ["^spatial_downsample", "^token_mixer.0"],
  ["^channel_downsample", "^token_mixer.2"],
  ["^ffn.conv1", "^channel_mixer.m.0"],
  ["^ffn.conv2", "^channel_mixer.m.2"],
]);
const aroundBlocks = keyParts([
  ["^stem.conv1", "^features.0.0"],
  ["^stem.conv2", "^features.0.2"],
  ["^head", "^classifier"],
  ["^classifier.head", "^classifier.classifier"],
  ["^classifier.head_dist", "^classifier.classifier_dist"],
]);

const knownDepths = new WeakMap<ReadonlySet<string>, number[]>();

/** Blocks of each stage in timm's keys, those at a reduction left out. */
function depthsOf(keys: ReadonlySet<string>): readonly number[] {
  const known = knownDepths.get(keys);
  if (known) return known;
  const depths: number[] = [];
  for (const key of keys) {
    const [, stage, block] = /^stages\.(\d+)\.blocks\.(\d+)\./.exec(key) ?? [];
    if (stage) depths[Number(stage)] = Math.max(depths[Number(stage)] ?? 0, Number(block) + 1);
  }
  knownDepths.set(keys, depths);
  return depths;
}

/** In timm, blocks have their stage and their place in it; the authors count them through. */
const inTimm: KeyNames = {
  toOwn(key, keys) {
    const parts = /^stages\.(\d+)\.(?:blocks\.(\d+)|downsample)\.(pre_block\.)?(.*)$/.exec(key);
    if (!parts) return aroundBlocks.toOwn(key, keys);
    const [, stage, block, pre, rest] = parts;
    // The block before the map is reduced, and the one that reduces it.
    const between = (s: number): number => (s > 0 ? 2 : 0);
    const depths = depthsOf(keys);
    let at = 1;
    for (let s = 0; s < Number(stage); s++) at += between(s) + depths[s];
    if (block !== undefined) at += between(Number(stage)) + Number(block);
    else if (!pre) at++;
    const within = block === undefined && !pre ? inReduction : inBlock;
    return `features.${at}.${within.toOwn(rest, keys)}`;
  },
  fromOwn(key, keys) {
    const [, index, rest] = /^features\.(\d+)\.(.*)$/.exec(key) ?? [];
    if (index === undefined || index === "0") return aroundBlocks.fromOwn(key, keys);
    const reduces = (at: number): boolean =>
      ["c.weight", "weight"].some((name) => keys.has(`features.${at}.token_mixer.2.${name}`));
    const at = Number(index);
    const before = Array.from({ length: at }, (_, i) => i).filter(reduces);
    if (reduces(at)) return `stages.${before.length + 1}.downsample.${inReduction.fromOwn(rest, keys)}`;
    const within = inBlock.fromOwn(rest, keys);
    if (reduces(at + 1)) return `stages.${before.length + 1}.downsample.pre_block.${within}`;
    return `stages.${before.length}.blocks.${at - 1 - (before.at(-1) ?? 0)}.${within}`;
  },
};

const README = "RepViT's README";

const variant = (
  width: number,
  depths: Four,
  top1: number,
  [parameters, macs]: readonly [string, string],
): Variant<RepViTVariantOptions> => ({
  description: `depthwise 3 x 3 and 1 x 1 convolutions apart, ${width} to ${8 * width} channels, ${depths.join(", ")} blocks, a second head for distillation`,
  options: { widths: [width, 2 * width, 4 * width, 8 * width], depths },
  figures: [{ top1, imageSize: 224, source: `${README}, 300 epochs with distillation` }],
  sizes: [{ form: "deploy", parameters, macs, source: README }],
});

export const repvit = defineFamily<RepViTVariantOptions>({
  name: "RepViT",
  variants: {
    "RepViT-M0.9": variant(48, [2, 2, 14, 2], 78.7, ["5.1 M", "0.8 G"]),
    "RepViT-M1.0": variant(56, [2, 2, 14, 2], 80.0, ["6.8 M", "1.1 G"]),
    "RepViT-M1.1": variant(64, [2, 2, 12, 2], 80.7, ["8.2 M", "1.3 G"]),
    "RepViT-M1.5": variant(64, [4, 4, 24, 4], 82.3, ["14.0 M", "2.3 G"]),
    "RepViT-M2.3": variant(80, [6, 6, 34, 2], 83.3, ["22.9 M", "4.5 G"]),
  },
  options: { widths: four(whole), depths: four(whole), distillation: yesOrNo, numClasses: whole, imageSize: whole },
  create: (options) => new RepViT(options),
  preprocessing: ({ imageSize = 224 }) => ({
    ...picturesOf(imageSize, imagenetNormalization, (size) => Math.floor(size / 0.875)),
    interpolation: "bicubic",
  }),
  namings: [
    {
      name: "repvit",
      signature: [
        ["features.0.0.c.weight", "features.1.token_mixer.0.conv.c.weight"],
        ["features.0.0.weight", "features.1.token_mixer.0.weight", "features.1.channel_mixer.m.0.weight"],
      ],
    },
    {
      name: "timm",
      signature: [
        [
          "stem.conv1.c.weight",
          "stages.0.blocks.0.token_mixer.conv1.weight",
          "stages.1.downsample.pre_block.token_mixer.conv1.weight",
        ],
        ["stem.conv1.weight", "stages.0.blocks.0.token_mixer.weight", "stages.1.downsample.spatial_downsample.weight"],
      ],
      names: inTimm,
      // timm crops 0.95 of the picture's edge.
      preprocessing: (own) => ({ ...own, resize: Math.floor(own.inputSize[1] / 0.95) }),
    },
  ],
});
