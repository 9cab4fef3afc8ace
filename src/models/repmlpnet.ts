import { type ConvBn, convBnOf, RepMLPNetUnit, type UnfusedConvBn } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { fmt, must } from "../errors.ts";
import { globalAvgPool, type Pair, pair, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Linear, Module, Sequential } from "../nn/index.ts";
import { defineFamily, type KeyNames, keyParts, type PublishedSize, picturesOf, type Variant } from "./family.ts";
import { kernelSizes, oneOrTwo, perStage, whole, yesOrNo } from "./options.ts";

export interface RepMLPNetOptions {
  /** Units per stage. Default those of T224: 2, 2, 6, 2. */
  readonly numBlocks?: readonly number[];
  /** Channels per stage. Default 64, 128, 256, 512. */
  readonly channels?: readonly number[];
  /** Partition per stage, in pixels of its map. Default 56, 28, 14, 7. */
  readonly partitions?: readonly (number | Pair)[];
  /** Sets of channels that share a fully connected layer, per stage. Default 1, 4, 16, 128. */
  readonly shareSets?: readonly number[];
  /** Odd kernel sizes of the Local Perceptrons. Default 1, 3. */
  readonly reparamConvKernels?: readonly number[];
  /** Divides the hidden width of the Global Perceptrons. Default 4. */
  readonly globalReduction?: number;
  /** Size and stride of the first convolution. Default 4. */
  readonly patchSize?: number | Pair;
  /** Channels of the pictures. Default 3. */
  readonly inChannels?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /**
   * Height and width of the pictures. The network takes every size whose maps the partitions divide. Default: that of one
   * partition in the first stage.
   */
  readonly imageSize?: number | Pair;
  /** For weights that the original code trained on maps of several partitions; see `RepMLPBlockOptions`. Default false. */
  readonly scramblePartitions?: boolean;
  /**
   * Whether conversion also merges the convolutions of embeddings and feed-forward networks with their batch norms. The
   * original's deploy form keeps both. Default false.
   */
  readonly fuseConvBn?: boolean;
}

/** The size of the pictures of which a partition of the first stage holds all. */
const ownSize = ({ partitions = [56], patchSize = 4 }: Pick<RepMLPNetOptions, "partitions" | "patchSize">): Pair => {
  const [[h, w], [ph, pw]] = [pair(partitions[0]), pair(patchSize)];
  return [h * ph, w * pw];
};

/**
 * RepMLPNet (arXiv 2112.11081, section 3.4): a patch embedding (a convolution, batch norm and ReLU), stages of
 * {@link RepMLPNetUnit}s with an embedding that halves the map between them, batch norm, global average pooling and a linear head. `[N, 3, H, W]` → `[N, numClasses]`.
 *
 * Keys as in the original: `conv_embedding.*`, `stages.{i}.{j}.*`, `embeds.{i}.*`, `head_norm.*`, `head.*`.
 */
export class RepMLPNet extends Module {
  readonly convEmbedding: ConvBn | UnfusedConvBn;
  readonly stages: readonly Sequential[];
  readonly embeds: readonly (ConvBn | UnfusedConvBn)[];
  readonly headNorm: BatchNorm2d;
  readonly head: Linear;

  /** @throws `repmlpnet/stages`, `repmlpnet/size`, and what {@link RepMLPNetUnit} throws */
  constructor(options: RepMLPNetOptions = {}) {
    super();
    const { numBlocks = [2, 2, 6, 2], channels = [64, 128, 256, 512], partitions = [56, 28, 14, 7] } = options;
    const { shareSets = [1, 4, 16, 128], reparamConvKernels = [1, 3], globalReduction = 4, patchSize = 4 } = options;
    const { inChannels = 3, numClasses = 1000, scramblePartitions = false, fuseConvBn = false } = options;
    must(
      [channels, partitions, shareSets].every((list) => list.length === numBlocks.length && list.length > 0),
      "repmlpnet/stages",
      () =>
        `repmlpnet: numBlocks, channels, partitions and shareSets need one entry per stage, got ${numBlocks.length}, ${channels.length}, ${partitions.length} and ${shareSets.length}`,
      "usage",
    );
    mustDivide(pair(options.imageSize ?? ownSize({ partitions, patchSize })), pair(patchSize), partitions.map(pair));
    const Embedding = convBnOf(fuseConvBn);
    this.convEmbedding = new Embedding(inChannels, channels[0], { kernelSize: patchSize, stride: patchSize });
    this.stages = channels.map((c, i) => {
      const unit = { channels: c, partition: partitions[i], shareSets: shareSets[i], reparamConvKernels };
      const more = { globalReduction, scramblePartitions, fuseConvBn };
      return new Sequential(...Array.from({ length: numBlocks[i] }, () => new RepMLPNetUnit({ ...unit, ...more })));
    });
    this.embeds = channels.slice(1).map((c, i) => new Embedding(channels[i], c, { kernelSize: 2, stride: 2 }));
    this.headNorm = new BatchNorm2d(channels[channels.length - 1]);
    this.head = new Linear(channels[channels.length - 1], numClasses);
  }

  /** Outputs of the stages, at 1/4, 1/8, 1/16 and 1/32 of the input's size: the network as a backbone. */
  features(x: Value): Value[] {
    let y = x;
    return this.stages.map((stage, i) => {
      const embedding = i === 0 ? this.convEmbedding : this.embeds[i - 1];
      y = stage.forward(relu(embedding.forward(y)));
      return y;
    });
  }

  forward(x: Value): Value {
    const last = this.features(x)[this.stages.length - 1];
    return this.head.forward(globalAvgPool(this.headNorm.forward(last)));
  }
}

/** Throws unless the maps of all stages consist of whole partitions. */
function mustDivide(size: Pair, patch: Pair, partitions: readonly Pair[]): void {
  for (const [i, partition] of partitions.entries()) {
    const map = size.map((d, axis) => Math.floor(d / patch[axis] / 2 ** i));
    must(
      map.every((d, axis) => d > 0 && d % partition[axis] === 0),
      "repmlpnet/size",
      () =>
        `repmlpnet: pictures of ${fmt(size)} make maps of ${fmt(map)} in stage ${i}, which partitions of ${fmt(partition)} do not divide. Say which do with partitions, or take another \`imageSize\`: a multiple of ${fmt(partitions[0].map((d, axis) => d * patch[axis]))} for these.`,
      "usage",
    );
  }
}

/** ImageNet top-1 in the authors' README. */
const SOURCE = "RepMLP's README";

/** Of both forms: an fc3 with a bias for every pixel makes the merged one larger. */
const counted = (...[parameters, macs, deployParameters, deployMacs]: readonly [string, string, string, string]) => {
  const source = "the authors' code, counted";
  return [
    { form: "train", parameters, macs, source },
    { form: "deploy", parameters: deployParameters, macs: deployMacs, source },
  ] as const;
};

const wide = [96, 192, 384, 768];

function variant(
  imageSize: 224 | 256,
  top1: number,
  sizes: readonly PublishedSize[],
  options: Pick<RepMLPNetOptions, "channels" | "numBlocks" | "shareSets">,
): Variant<Omit<RepMLPNetOptions, "inChannels">> {
  const { channels, numBlocks } = options;
  const first = imageSize / 4;
  return {
    description: `fully connected layers on ${imageSize} pixels, ${channels?.[0]} to ${channels?.[3]} channels, ${numBlocks?.[2]} units in the third stage`,
    options: { ...options, partitions: [first, first / 2, first / 4, first / 8] },
    figures: [{ top1, imageSize, source: SOURCE }],
    sizes,
  };
}

const tiny = { channels: [64, 128, 256, 512], numBlocks: [2, 2, 6, 2], shareSets: [1, 4, 16, 128] };
const base = { channels: wide, numBlocks: [2, 2, 12, 2], shareSets: [1, 4, 32, 128] };

/** MMPretrain's name of a key as the authors have it. */
const inMMPretrain: KeyNames = {
  toOwn: (key, keys) => withinMMPretrain.toOwn(key.replace(/^backbone\./, ""), keys),
  fromOwn(key, keys) {
    const named = withinMMPretrain.fromOwn(key, keys);
    return named.startsWith("head.") ? named : `backbone.${named}`;
  },
};
const withinMMPretrain = keyParts([
  ["^patch_embed.projection", "^conv_embedding.conv"],
  ["^patch_embed.norm", "^conv_embedding.bn"],
  ["^downsample_layers", "^embeds"],
  ["^final_norm", "^head_norm"],
  ["^head.fc", "^head"],
  ["norm1", "prebn1"],
  ["norm2", "prebn2"],
  ["gp.conv1.conv", "gp.fc1"],
  ["gp.conv2.conv", "gp.fc2"],
]);

export const repmlpnet = defineFamily<Omit<RepMLPNetOptions, "inChannels">>({
  name: "RepMLPNet",
  variants: {
    "RepMLPNet-T224": variant(224, 76.62, counted("38,293,608", "2.808 G", "38,331,720", "2.798 G"), tiny),
    "RepMLPNet-T256": variant(256, 77.44, counted("58,687,848", "4.258 G", "58,739,400", "4.246 G"), tiny),
    "RepMLPNet-B224": variant(224, 80.32, counted("68,242,712", "6.676 G", "68,332,664", "6.657 G"), base),
    "RepMLPNet-B256": variant(256, 81.03, counted("96,447,512", "9.640 G", "96,568,184", "9.616 G"), base),
    "RepMLPNet-D256": variant(256, 80.83, counted("86,887,648", "8.636 G", "86,985,280", "8.611 G"), {
      ...{ channels: [80, 160, 320, 640], numBlocks: [2, 2, 18, 2], shareSets: [1, 4, 16, 128] },
    }),
    "RepMLPNet-L256": variant(256, 81.68, counted("117,641,560", "11.609 G", "117,820,600", "11.579 G"), {
      channels: wide,
      numBlocks: [2, 2, 18, 2],
      shareSets: [1, 4, 32, 256],
    }),
  },
  options: {
    numBlocks: perStage(whole),
    channels: perStage(whole),
    partitions: perStage(oneOrTwo),
    shareSets: perStage(whole),
    reparamConvKernels: kernelSizes,
    globalReduction: whole,
    patchSize: oneOrTwo,
    numClasses: whole,
    imageSize: oneOrTwo,
    scramblePartitions: yesOrNo,
    fuseConvBn: yesOrNo,
  },
  create: (options) => new RepMLPNet(options),
  // As the authors': the short edge straight to the size.
  preprocessing: (options) => {
    const [height, width] = pair(options.imageSize ?? ownSize(options));
    return picturesOf(height === width ? height : [height, width], imagenetNormalization);
  },
  namings: [
    { name: "repmlp", signature: [["conv_embedding.conv.weight", "stages.0.0.repmlp_block.fc3.weight"]] },
    {
      name: "mmpretrain",
      signature: [["backbone.patch_embed.projection.weight", "backbone.stages.0.0.repmlp_block.fc3.weight"]],
      names: inMMPretrain,
    },
  ],
});
