import {
  AttentionBlock,
  convolutionalStem,
  MobileOneBlock,
  PatchEmbed,
  RepCPE,
  RepMixerBlock,
} from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { must } from "../errors.ts";
import { globalAvgPool, type Value } from "../graph/index.ts";
import { constantInit, Linear, Module, type Net, normal, Sequential } from "../nn/index.ts";
import { defineFamily, type KeyNames, keyParts, picturesOf, type Variant } from "./family.ts";
import { kernelSizeOrNone, oneOf, perStage, positive, probability, share, whole, yesOrNo } from "./options.ts";

/** What mixes the pixels of a block. */
export type FastViTTokenMixer = "repmixer" | "attention";

export interface FastViTOptions {
  /** Blocks of each stage. Default those of T8: 2, 2, 4, 2. */
  readonly layers?: readonly number[];
  /** Of the blocks of each stage. Default `repmixer` in all. */
  readonly tokenMixers?: readonly FastViTTokenMixer[];
  /** Channels of each stage, each a multiple of the one before. Default those of T8: 48, 96, 192, 384. */
  readonly embedDims?: readonly number[];
  /** Width of the feed-forward parts of each stage, as a multiple of its channels. Default 3 in all. */
  readonly mlpRatios?: readonly number[];
  /** Odd size of the position encoding in front of each stage, 0 where there is none. Default 0 in all. */
  readonly positionKernels?: readonly number[];
  /** Whether a stage's output is reduced for the next one even where both have as many channels. Default true in all. */
  readonly downsamples?: readonly boolean[];
  /** Probability with which training leaves the last block's branches out, rising from 0 at the first. Default 0. */
  readonly dropPathRate?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 256. */
  readonly imageSize?: number;
  /** Share of the resized picture's short edge that the preprocessing keeps. Default 0.9. */
  readonly cropPct?: number;
}

/**
 * FastViT (arXiv 2303.14189, table 2): a convolutional stem, stages of {@link RepMixerBlock}s or {@link AttentionBlock}s
 * with {@link PatchEmbed} between them and {@link RepCPE} in front of some, a depthwise {@link MobileOneBlock} to twice the
 * channels with squeeze-and-excitation, global average pooling and a linear head. Keys `patch_embed.{0..2}.*`,
 * `network.{i}.*` (parts in their order), `conv_exp.*`, `head.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class FastViT extends Module {
  readonly patchEmbed: Sequential;
  readonly network: readonly Net[];
  readonly convExp: MobileOneBlock;
  readonly head: Linear;

  /** @throws `fastvit/stages` where lists have other lengths than `layers` */
  constructor({
    layers = [2, 2, 4, 2],
    tokenMixers = layers.map(() => "repmixer"),
    embedDims = [48, 96, 192, 384],
    mlpRatios = layers.map(() => 3),
    positionKernels = layers.map(() => 0),
    downsamples = layers.map(() => true),
    dropPathRate = 0,
    numClasses = 1000,
  }: FastViTOptions = {}) {
    super();
    for (const [name, { length }] of Object.entries({
      tokenMixers,
      embedDims,
      mlpRatios,
      positionKernels,
      downsamples,
    }))
      must(
        length === layers.length,
        "fastvit/stages",
        () => `fastvit: ${name} must have an entry for each of the ${layers.length} stages in layers, got ${length}`,
        "usage",
      );
    const total = layers.reduce((a, b) => a + b, 0);
    let built = 0;
    this.patchEmbed = convolutionalStem(3, embedDims[0]);
    this.network = layers.flatMap((depth, stage): Net[] => {
      const channels = embedDims[stage];
      const kernel = positionKernels[stage];
      const before = embedDims[stage - 1];
      const isReduced = stage > 0 && (downsamples[stage - 1] || before !== channels);
      const blocks = Array.from({ length: depth }, () => {
        const dropPath = total > 1 ? (dropPathRate * built++) / (total - 1) : 0;
        const Block = tokenMixers[stage] === "attention" ? AttentionBlock : RepMixerBlock;
        return new Block({ channels, mlpRatio: mlpRatios[stage], dropPath });
      });
      return [
        ...(isReduced ? [new PatchEmbed({ inChannels: before, outChannels: channels })] : []),
        ...(kernel ? [new RepCPE({ channels, kernelSize: kernel })] : []),
        new Sequential(...blocks),
      ];
    });
    const last = embedDims[embedDims.length - 1];
    const expanded = { inChannels: last, outChannels: 2 * last, groups: last };
    this.convExp = new MobileOneBlock({ ...expanded, useSe: true, activation: "gelu" });
    this.head = new Linear(2 * last, numClasses, { init: normal(0.02), biasInit: constantInit(0) });
  }

  forward(x: Value): Value {
    const features = this.network.reduce((y, part) => part.forward(y), this.patchEmbed.forward(x));
    return this.head.forward(globalAvgPool(this.convExp.forward(features)));
  }
}

const [AUTHORS, DISTILLED, TIMM] = ["apple/ml-fastvit", "apple/ml-fastvit, distilled", "timm, results-imagenet"];

function variant(
  { layers, width, mlp = 4, attends = false, cropPct = 0.9 }: VariantShape,
  { top1: [plain, distilled], train, deploy, macs, difference }: Published,
): Variant<FastViTOptions> {
  return {
    description: `token mixers that become one convolution, ${layers.join(", ")} blocks, ${width} to ${8 * width} channels${attends ? ", attention in the last stage" : ""}`,
    options: {
      layers,
      embedDims: [1, 2, 4, 8].map((factor) => factor * width),
      mlpRatios: layers.map(() => mlp),
      ...(attends && {
        tokenMixers: ["repmixer", "repmixer", "repmixer", "attention"],
        positionKernels: [0, 0, 0, 7],
      }),
      cropPct,
    },
    figures: [
      { top1: plain, imageSize: 256, source: AUTHORS },
      { top1: distilled, imageSize: 256, source: DISTILLED },
    ],
    sizes: [
      { form: "train", parameters: train, source: TIMM },
      { form: "deploy", parameters: deploy, macs, source: TIMM, ...(difference && { difference }) },
    ],
  };
}

/** By which some of the published counts come out 0.01 G higher; with it all are equal. */
const NORMS = "counted there with two operations for every value of the batch norms that stay in the deploy form";

interface VariantShape {
  readonly layers: readonly number[];
  readonly width: number;
  readonly mlp?: number;
  readonly attends?: boolean;
  readonly cropPct?: number;
}

interface Published {
  readonly top1: readonly [plain: number, distilled: number];
  /** Parameters. */
  readonly train: string;
  readonly deploy: string;
  readonly macs: string;
  readonly difference?: string;
}

/** timm's name of a key as the authors have it; where a part of a stage stands among all follows from what there is. */
function placeHere(key: string, all: ReadonlySet<string>): string {
  const has = (part: string, names: readonly string[]): number =>
    Number(names.some((name) => all.has(`${part}.${name}`)));
  const downsamples = (stage: string | number): number =>
    has(`stages.${stage}.downsample.proj.1`, ["conv_kxk.0.conv.weight", "reparam_conv.weight"]);
  const encodes = (stage: string | number): number =>
    has(`stages.${stage}.pos_emb`, ["pos_enc.weight", "reparam_conv.weight"]);
  const place = (stage: string, before: number): number =>
    Array.from({ length: Number(stage) }, (_, t) => downsamples(t) + encodes(t) + 1).reduce((a, b) => a + b, before);
  return key
    .replace(/^stages\.(\d+)\.downsample\./, (_, s: string) => `network.${place(s, 0)}.`)
    .replace(/^stages\.(\d+)\.pos_emb\./, (_, s: string) => `network.${place(s, downsamples(s))}.`)
    .replace(/^stages\.(\d+)\.blocks\./, (_, s: string) => `network.${place(s, downsamples(s) + encodes(s))}.`);
}

/** The other way: `key` begins as in `all`, the authors' keys. */
function placeInTimm(key: string, all: ReadonlySet<string>): string {
  const kind = (place: number): "downsample" | "pos_emb" | "blocks" => {
    const has = (name: string): boolean => all.has(`network.${place}.${name}.weight`);
    if (has("proj.0.lkb_origin.conv") || has("proj.0.lkb_reparam")) return "downsample";
    return has("pe") || has("reparam_conv") ? "pos_emb" : "blocks";
  };
  return key.replace(/^network\.(\d+)\./, (_, i: string) => {
    const before = Array.from({ length: Number(i) }, (_, place) => kind(place));
    return `stages.${before.filter((k) => k === "blocks").length}.${kind(Number(i))}.`;
  });
}

const parts = keyParts([
  ["^stem", "^patch_embed"],
  ["^final_conv", "^conv_exp"],
  ["^head.fc", "^head"],
  ["conv_kxk", "rbr_conv"],
  ["conv_scale", "rbr_scale"],
  ["identity", "rbr_skip"],
  ["large_conv", "lkb_origin"],
  ["proj.0.reparam_conv", "proj.0.lkb_reparam"],
  ["pos_enc", "pe"],
  ["mlp", "convffn"],
  ["se.fc1", "se.reduce"],
  ["se.fc2", "se.expand"],
  ...["layer_scale", "layer_scale_1", "layer_scale_2"].map((name) => [`${name}.gamma`, name] as const),
]);

const inTimm: KeyNames = {
  toOwn: (key, all) => parts.toOwn(placeHere(key, all), all),
  fromOwn: (key, all) => parts.fromOwn(placeInTimm(key, all), all),
};

export const fastvit = defineFamily<FastViTOptions>({
  name: "FastViT",
  variants: {
    "FastViT-T8": variant(
      { layers: [2, 2, 4, 2], width: 48, mlp: 3 },
      { top1: [76.2, 77.2], train: "4.03 M", deploy: "4.00 M", macs: "0.69 G" },
    ),
    "FastViT-T12": variant(
      { layers: [2, 2, 6, 2], width: 64, mlp: 3 },
      { top1: [79.3, 80.3], train: "7.55 M", deploy: "7.51 M", macs: "1.39 G" },
    ),
    "FastViT-S12": variant(
      { layers: [2, 2, 6, 2], width: 64 },
      { top1: [79.9, 81.1], train: "9.47 M", deploy: "9.43 M", macs: "1.80 G", difference: NORMS },
    ),
    "FastViT-SA12": variant(
      { layers: [2, 2, 6, 2], width: 64, attends: true },
      { top1: [80.9, 81.9], train: "11.58 M", deploy: "11.55 M", macs: "1.94 G" },
    ),
    "FastViT-SA24": variant(
      { layers: [4, 4, 12, 4], width: 64, attends: true },
      { top1: [82.7, 83.4], train: "21.55 M", deploy: "21.50 M", macs: "3.77 G", difference: NORMS },
    ),
    "FastViT-SA36": variant(
      { layers: [6, 6, 18, 6], width: 64, attends: true },
      { top1: [83.6, 84.2], train: "31.53 M", deploy: "31.46 M", macs: "5.59 G" },
    ),
    "FastViT-MA36": variant(
      { layers: [6, 6, 18, 6], width: 76, attends: true, cropPct: 0.95 },
      { top1: [83.9, 84.6], train: "44.07 M", deploy: "43.98 M", macs: "7.82 G", difference: NORMS },
    ),
  },
  options: {
    layers: perStage(whole),
    tokenMixers: perStage(oneOf("repmixer", "attention")),
    embedDims: perStage(whole),
    mlpRatios: perStage(positive),
    positionKernels: perStage(kernelSizeOrNone),
    downsamples: perStage(yesOrNo),
    dropPathRate: probability,
    numClasses: whole,
    imageSize: whole,
    cropPct: share,
  },
  create: (options) => new FastViT(options),
  preprocessing: ({ imageSize = 256, cropPct = 0.9 }) => ({
    ...picturesOf(imageSize, imagenetNormalization, (size) => Math.floor(size / cropPct)),
    interpolation: "bicubic",
  }),
  namings: [
    {
      name: "fastvit",
      signature: [["patch_embed.0.rbr_conv.0.conv.weight"], ["patch_embed.0.reparam_conv.weight"]],
    },
    {
      name: "timm",
      signature: [
        ["stem.0.conv_kxk.0.conv.weight", "stages.0.blocks.0.token_mixer.mixer.conv_kxk.0.conv.weight"],
        ["stem.0.reparam_conv.weight", "stages.0.blocks.0.token_mixer.reparam_conv.weight"],
      ],
      names: inTimm,
    },
  ],
});
