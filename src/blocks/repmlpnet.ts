import { fmt, must } from "../errors.ts";
import {
  add,
  gelu,
  mul,
  type Pair,
  pair,
  partitionImage,
  reduceMean,
  relu,
  reshape,
  sigmoid,
  transpose,
  unpartition,
  type Value,
} from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  parallel,
  type Reparameterizable,
} from "../reparam/index.ts";
import { ConvBn, convBnOf, type UnfusedConvBn } from "./conv-bn.ts";

export interface RepMLPBlockOptions {
  /** C, of input and output; must be divisible by `shareSets`. */
  readonly channels: number;
  /** Height and width of a partition in pixels, which must divide those of the map. */
  readonly partition: number | Pair;
  /** Odd sizes of the Local Perceptron's kernels, in any order. Default none: no Local Perceptron. */
  readonly reparamConvKernels?: readonly number[];
  /** Divides the hidden width of the Global Perceptron. Default 4. */
  readonly globalReduction?: number;
  /** S: channel c shares the fully connected layer of set c mod S. Default 1: one for all. */
  readonly shareSets?: number;
  /**
   * Puts partitions back as the original code does, for weights that were trained with it on maps of several partitions:
   * where channels share sets, partitions then end up in places and channels that are not theirs. Default false. It makes
   * no difference where there is one partition, as in the named networks at their own size, or one set per channel.
   */
  readonly scramblePartitions?: boolean;
}

type FullOptions = Required<RepMLPBlockOptions> & { readonly partition: Pair };

function checkOptions({ channels, partition, reparamConvKernels: kernels, globalReduction, shareSets }: FullOptions) {
  const [partitionHeight, partitionWidth] = partition;
  for (const [name, value] of Object.entries({ channels, partitionHeight, partitionWidth, globalReduction, shareSets }))
    must(
      Number.isInteger(value) && value > 0,
      "repmlpnet/option",
      () => `repmlpnet: ${name} must be a positive integer, got ${value}`,
      "usage",
    );
  must(
    channels % shareSets === 0,
    "repmlpnet/sets",
    () => `repmlpnet: shareSets must divide channels; ${shareSets} does not divide ${channels}`,
    "usage",
  );
  must(
    channels >= globalReduction,
    "repmlpnet/reduction",
    () => `repmlpnet: globalReduction ${globalReduction} leaves nothing of ${channels} channels`,
    "usage",
  );
  const wrong = kernels.find((k, i) => !Number.isInteger(k) || k < 1 || k % 2 === 0 || kernels.indexOf(k) !== i);
  must(
    wrong === undefined,
    "repmlpnet/kernels",
    () => `repmlpnet: reparamConvKernels must be different odd positive integers, got ${wrong} in ${fmt(kernels)}`,
    "usage",
  );
}

/** A factor in 0…1 per channel, from the averages of all channels: keys `gp.fc1.*`, `gp.fc2.*`. */
class GlobalPerceptron extends Module {
  readonly fc1: Conv2d;
  readonly fc2: Conv2d;

  constructor(channels: number, hidden: number) {
    super();
    this.fc1 = new Conv2d(channels, hidden, { kernelSize: 1 });
    this.fc2 = new Conv2d(hidden, channels, { kernelSize: 1 });
  }

  /** `[N, C, H, W]` → `[N, C, 1, 1]`. */
  forward(x: Value): Value {
    return sigmoid(this.fc2.forward(relu(this.fc1.forward(reduceMean(x, [2, 3], { keepDims: true })))));
  }
}

/**
 * RepMLP in its second version, RepMLPNet's (arXiv 2112.11081, section 3): Global, Channel and Local Perceptron.
 * `[N, C, H, W]` → the same shape; H and W are multiples of the partition's h and w.
 *
 * Within each partition a fully connected layer (FC3, a grouped 1×1 convolution) joins the pixels of a channel; channels
 * c with the same c mod S share one. Its batch norm has S channels, and so have the depthwise convolutions of the Local
 * Perceptron beside it. The Global Perceptron multiplies each channel by what follows from the averages of the input.
 *
 * Merged ("locality injection"), FC3 has taken in its batch norm and the convolutions. Keys as in the original: `gp.*`,
 * `fc3.weight`, `fc3_bn.*`, `repconv{k}.*`; merged `gp.*`, `fc3.weight`, `fc3.bias`.
 */
export class RepMLPBlock extends Module implements Reparameterizable {
  static override readonly stateNames = { repconv: (k: string) => `repconv${k.slice(1)}` };

  readonly options: FullOptions;
  readonly gp: GlobalPerceptron;
  readonly fc3: Conv2d;
  readonly fc3Bn: BatchNorm2d | undefined;
  /** Local branches by name `k1`, `k3`, …. */
  readonly repconv: Readonly<Record<string, ConvBn>>;

  /** @throws `repmlpnet/option`, `repmlpnet/sets`, `repmlpnet/reduction`, `repmlpnet/kernels` */
  constructor(options: RepMLPBlockOptions) {
    super();
    const { channels, reparamConvKernels = [], globalReduction = 4, shareSets = 1 } = options;
    const partition = pair(options.partition);
    this.options = {
      ...{ channels, partition, reparamConvKernels, globalReduction, shareSets },
      scramblePartitions: options.scramblePartitions ?? false,
    };
    checkOptions(this.options);
    this.gp = new GlobalPerceptron(channels, Math.floor(channels / globalReduction));
    const pixels = shareSets * partition[0] * partition[1];
    this.fc3 = new Conv2d(pixels, pixels, { kernelSize: 1, groups: shareSets, bias: false });
    this.fc3Bn = new BatchNorm2d(shareSets);
    this.repconv = Object.fromEntries(
      reparamConvKernels.map((k) => [
        `k${k}`,
        new ConvBn(shareSets, shareSets, { kernelSize: k, padding: (k - 1) / 2, groups: shareSets }),
      ]),
    );
  }

  /** @throws `repmlpnet/input` for other channels, or a map that partitions do not divide */
  forward(x: Value): Value {
    const { channels, partition } = this.options;
    const [h, w] = partition;
    must(
      x.shape.length === 4 && x.shape[1] === channels && x.shape[2] % h === 0 && x.shape[3] % w === 0,
      "repmlpnet/input",
      () =>
        `repmlpnet: the block takes maps [N, ${channels}, H, W] with H a multiple of ${h} and W of ${w}, its partition, got ${fmt(x.shape)}. Use pictures of another size, or build the network with another partition.`,
    );
    const mixed = this.mix(partitionImage(x, partition));
    return mul(this.putBack(mixed, x), this.gp.forward(x));
  }

  /** Channel and Local Perceptron: partitions `[B, C, h, w]` → `[B·C/S, S, h, w]`. */
  private mix(parts: Value): Value {
    const { channels, partition, shareSets } = this.options;
    const [h, w] = partition;
    const count = (parts.shape[0] * channels) / shareSets;
    const sets = reshape(parts, [count, shareSets, h, w]);
    const connected = reshape(this.fc3.forward(reshape(parts, [count, shareSets * h * w, 1, 1])), sets.shape);
    return Object.values(this.repconv).reduce(
      (sum, branch) => add(sum, branch.forward(sets)),
      this.fc3Bn ? this.fc3Bn.forward(connected) : connected,
    );
  }

  /** Partitions `[B·C/S, S, h, w]` as a map of the shape of `x` again. */
  private putBack(mixed: Value, { shape }: Value): Value {
    const { channels, partition, shareSets, scramblePartitions } = this.options;
    const [n, , height, width] = shape;
    const size: Pair = [height, width];
    const [, , h, w] = mixed.shape;
    const [perImage, area] = [(height / h) * (width / w), h * w];
    if (!scramblePartitions) return unpartition(reshape(mixed, [perImage * n, channels, h, w]), partition, size);
    // The original takes rows in the order (image, partition, channels of a set) for (image, channels of a set, partition).
    const asWritten = transpose(reshape(mixed, [perImage, n, channels * area]), [1, 0, 2]);
    const asRead = reshape(asWritten, [(n * channels) / shareSets, perImage, shareSets * area]);
    const parts = reshape(transpose(asRead, [1, 0, 2]), mixed.shape);
    return reshape(unpartition(parts, partition, size), shape);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const own = mapOf(k, this.fc3);
    // Without a norm there is a bias: the merge has put it there.
    if (!this.fc3Bn) return namedMap("fc3", own as BiasedMap<T>);
    const [h, w] = this.options.partition;
    const { scale, shift } = k.normAffine(this.fc3Bn);
    const weight = k.scaleOutputs(own.weight, k.repeatOutputs(scale, h * w));
    const branches = Object.values(this.repconv).map((b) => b.fused(k));
    if (!branches.length) return namedMap("fc3", { weight, bias: k.repeatOutputs(shift, h * w) });
    const local = parallel(k, branches);
    return namedMap("fc3", {
      weight: k.add(weight, k.convToFc(local.weight, [h, w])),
      bias: k.repeatOutputs(k.add(shift, local.bias), h * w),
    });
  }

  merge(): Merge {
    if (!this.fc3Bn) return { kept: "already merged" };
    const kernels = this.options.reparamConvKernels;
    const local = kernels.length ? ` and the local kernels ${kernels.join(", ")}` : "";
    const shell = cloneWith(this as RepMLPBlock, { fc3Bn: undefined, repconv: {} });
    return { merged: mergedForm(shell, this), note: `the batch norm${local} into FC3` };
  }
}

export interface RepMLPNetFFNOptions {
  readonly inChannels: number;
  readonly hiddenChannels: number;
  /** Whether conversion merges convolutions with their batch norms; the original keeps both. Default false. */
  readonly fuseConvBn?: boolean;
}

/**
 * RepMLPNet's feed-forward network: two 1×1 convolutions with batch norm, and a GELU between them. `[N, C, H, W]` → the
 * same shape. Keys `ffn_fc1.conv.weight`, `ffn_fc1.bn.*`, `ffn_fc2.*`.
 */
export class RepMLPNetFFN extends Module {
  readonly ffnFc1: ConvBn | UnfusedConvBn;
  readonly ffnFc2: ConvBn | UnfusedConvBn;

  constructor({ inChannels, hiddenChannels, fuseConvBn = false }: RepMLPNetFFNOptions) {
    super();
    const Layer = convBnOf(fuseConvBn);
    this.ffnFc1 = new Layer(inChannels, hiddenChannels, { kernelSize: 1 });
    this.ffnFc2 = new Layer(hiddenChannels, inChannels, { kernelSize: 1 });
  }

  forward(x: Value): Value {
    return this.ffnFc2.forward(gelu(this.ffnFc1.forward(x)));
  }
}

export interface RepMLPNetUnitOptions extends RepMLPBlockOptions {
  /** Hidden width of the feed-forward network as a multiple of `channels`. Default 4. */
  readonly ffnExpand?: number;
  /** See {@link RepMLPNetFFNOptions}. Default false. */
  readonly fuseConvBn?: boolean;
}

/**
 * RepMLPNet's unit (arXiv 2112.11081, section 3.4): {@link RepMLPBlock} and then {@link RepMLPNetFFN}, each behind a batch
 * norm and added to its input. `[N, C, H, W]` → the same shape. Keys `repmlp_block.*`, `ffn_block.*`, `prebn1.*`,
 * `prebn2.*`. The batch norms in front stay when merged: zeros are padded behind the first.
 */
export class RepMLPNetUnit extends Module {
  readonly repmlpBlock: RepMLPBlock;
  readonly ffnBlock: RepMLPNetFFN;
  readonly prebn1: BatchNorm2d;
  readonly prebn2: BatchNorm2d;

  constructor({ ffnExpand = 4, fuseConvBn = false, ...block }: RepMLPNetUnitOptions) {
    super();
    const { channels } = block;
    this.repmlpBlock = new RepMLPBlock(block);
    this.ffnBlock = new RepMLPNetFFN({ inChannels: channels, hiddenChannels: channels * ffnExpand, fuseConvBn });
    this.prebn1 = new BatchNorm2d(channels);
    this.prebn2 = new BatchNorm2d(channels);
  }

  forward(x: Value): Value {
    const y = add(x, this.repmlpBlock.forward(this.prebn1.forward(x)));
    return add(y, this.ffnBlock.forward(this.prebn2.forward(y)));
  }
}
