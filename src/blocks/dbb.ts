import { fmt, must } from "../errors.ts";
import {
  add,
  avgPool2d,
  type ConvOptions,
  constant,
  conv2d,
  mul,
  type Pair,
  pad,
  pair,
  pendingUpdate,
  reshape,
  stopGradient,
  type Value,
} from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, constantInit, convWidths, Module, Parameter } from "../nn/index.ts";
import {
  type BiasedMap,
  graphAlgebra,
  inSequence,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  normAfter,
  parallel,
  type Reparameterizable,
} from "../reparam/index.ts";
import { Tensor } from "../tensor/index.ts";
import { ConvBn, type GammaInit, gammas } from "./conv-bn.ts";
import type { ConvPlace } from "./conv-place.ts";

export interface DBBOptions extends ConvOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd; of depthwise blocks also even. Default 3. */
  readonly kernelSize?: number | Pair;
  /** Default, and the only value with which all branches see the same pixels: dilation · floor(kernelSize / 2). */
  readonly padding?: number | Pair;
  /** Channels between the 1×1 and the k×k convolution. Default C, of depthwise blocks 2 · C. */
  readonly internalChannels?: number;
  /** Initial weights of the batch norms that end the branches. Default 1, as in the paper. */
  readonly gammaInit?: GammaInit;
}

/**
 * Batch norm, and then padding by what it makes of a zero, so that a convolution before it may be thought of as padded
 * by zeros. In training mode that value follows from the running statistics after the step, and passes no gradient on.
 * Keys `bn.*`.
 */
class BatchNormAndPad extends Module {
  readonly bn: BatchNorm2d;

  constructor(
    channels: number,
    readonly padding: Pair,
  ) {
    super();
    this.bn = new BatchNorm2d(channels);
  }

  /** Of the convolution's output; the batch norm is told of both, since it may train faster in one with it. */
  afterConv(conv: Conv2d | IdentityConv, x: Value): Value {
    const y = conv instanceof Conv2d ? this.bn.afterConv(conv, x) : this.bn.forward(conv.forward(x));
    const [, channels, h, w] = y.shape;
    const [rows, columns] = this.padding;
    if (rows + columns === 0) return y;
    const statistics = graphAlgebra({ of: (p) => pendingUpdate(p) ?? p.value });
    const zero = reshape(stopGradient(statistics.normAffine(this.bn).shift), [1, channels, 1, 1]);
    const frame = new Float64Array((h + 2 * rows) * (w + 2 * columns)).fill(1);
    for (let i = rows; i < rows + h; i++)
      frame.fill(0, i * (w + 2 * columns) + columns, i * (w + 2 * columns) + columns + w);
    const around = constant(Tensor.of(x.dtype, [1, 1, h + 2 * rows, w + 2 * columns], frame));
    const margin = [0, 0, rows, columns];
    return add(pad(y, margin, margin), mul(zero, around));
  }
}

/** A 1×1 convolution from C to C channels that learns the difference from passing them on, at first 0. Key `weight`. */
class IdentityConv extends Module {
  readonly weight: Parameter;

  constructor(
    channels: number,
    readonly groups: number,
  ) {
    super();
    this.weight = new Parameter([channels, channels / groups, 1, 1], { init: constantInit(0) });
  }

  kernel<T>(k: KernelAlgebra<T>): T {
    return k.add(k.of(this.weight), k.identityKernel(1, this.weight.shape[0], this.groups));
  }

  forward(x: Value): Value {
    return conv2d(x, this.kernel(graphAlgebra({ dtype: x.dtype })), { groups: this.groups });
  }
}

/** The average branch: keys `conv.weight` and `bn.bn.*`, both unless depthwise, and `avgbn.*`. */
class Average extends Module {
  readonly conv: Conv2d | undefined;
  readonly bn: BatchNormAndPad | undefined;
  readonly avgbn: BatchNorm2d;

  constructor(
    readonly settings: ConvPlace,
    gamma: number,
  ) {
    super();
    const { inChannels, outChannels, padding, groups } = settings;
    if (groups < outChannels) {
      this.conv = new Conv2d(inChannels, outChannels, { kernelSize: 1, groups, bias: false });
      this.bn = new BatchNormAndPad(outChannels, padding);
    }
    this.avgbn = new BatchNorm2d(outChannels, { initialWeight: gamma });
  }

  override afterResize(_before: this): object {
    const [outChannels] = this.avgbn.weight.shape;
    const depthwise = { inChannels: outChannels, outChannels, groups: outChannels };
    return { settings: { ...this.settings, ...(this.conv ? convWidths(this.conv) : depthwise) } };
  }

  forward(x: Value): Value {
    const { kernelSize, stride, padding, dilation, outChannels } = this.settings;
    const padded = this.bn ? this.bn.afterConv(this.conv!, x) : x;
    const window = { stride, padding: this.bn ? 0 : padding };
    if (dilation.every((d) => d === 1)) return this.avgbn.forward(avgPool2d(padded, { kernelSize, ...window }));
    // There is no dilated pooling; its kernel is a constant.
    const [h, w] = kernelSize;
    const mean = constant(Tensor.full(x.dtype, [outChannels, 1, h, w], 1 / (h * w)));
    return this.avgbn.forward(conv2d(padded, mean, { ...window, dilation, groups: outChannels }));
  }

  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const { kernelSize, outChannels } = this.settings;
    // Each channel is averaged on its own; without a convolution before it the block itself is depthwise.
    const average = normAfter(k, { weight: k.poolKernel(kernelSize, outChannels, outChannels) }, this.avgbn);
    return this.conv && this.bn
      ? inSequence(k, normAfter(k, mapOf(k, this.conv), this.bn.bn), average, outChannels)
      : average;
  }
}

/** The sequence of a 1×1 and a k×k convolution: keys `idconv1.weight` or `conv1.weight`, `bn1.bn.*`, `conv2.weight`, `bn2.*`. */
class PointwiseThenSquare extends Module {
  readonly idconv1: IdentityConv | undefined;
  readonly conv1: Conv2d | undefined;
  readonly bn1: BatchNormAndPad;
  readonly conv2: Conv2d;
  readonly bn2: BatchNorm2d;

  constructor(
    { inChannels, outChannels, kernelSize, stride, padding, dilation, groups }: ConvPlace,
    internal: number,
    gamma: number,
  ) {
    super();
    if (internal === inChannels) this.idconv1 = new IdentityConv(inChannels, groups);
    else this.conv1 = new Conv2d(inChannels, internal, { kernelSize: 1, groups, bias: false });
    this.bn1 = new BatchNormAndPad(internal, padding);
    this.conv2 = new Conv2d(internal, outChannels, { kernelSize, stride, dilation, groups, bias: false });
    this.bn2 = new BatchNorm2d(outChannels, { initialWeight: gamma });
  }

  forward(x: Value): Value {
    return this.bn2.afterConv(this.conv2, this.bn1.afterConv(this.idconv1 ?? this.conv1!, x));
  }

  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const first = this.idconv1 ? this.idconv1.kernel(k) : k.of(this.conv1!.weight);
    const second = normAfter(k, mapOf(k, this.conv2), this.bn2);
    return inSequence(k, normAfter(k, { weight: first }, this.bn1.bn), second, this.conv2.options.groups ?? 1);
  }
}

/**
 * Diverse Branch Block (arXiv 2103.13425, section 3): a k×k convolution, a 1×1 one, an average pool (after a 1×1
 * convolution), and a 1×1 and k×k convolution in sequence, each with its batch norms, added up. `[N, C, H, W]` →
 * `[N, O, H', W']`; an activation follows where the network has one. A depthwise block (as many groups as channels) has no
 * 1×1 convolution, also not before the average pool.
 *
 * Merged, one k×k convolution with bias is left. Keys are those of the original: `dbb_origin.conv.weight`,
 * `dbb_origin.bn.*`, `dbb_avg.*`, `dbb_1x1.*`, `dbb_1x1_kxk.*`; merged `dbb_reparam.weight`, `dbb_reparam.bias`. Where C = I,
 * `dbb_1x1_kxk.idconv1.weight` is the difference from the identity. Unlike in the original, a dilation holds for all branches.
 *
 * @throws `dbb/kernel-size` for an even kernel that has no middle for the 1×1 to stand in, `dbb/padding` for any other than
 *   the default, `dbb/depthwise` for one group per output channel with another number of input channels,
 *   `dbb/internal-channels` where the groups do not divide them
 */
export class DBB extends Module implements Reparameterizable {
  static override readonly stateNames = { dbb1x1: "dbb_1x1", dbb1x1Kxk: "dbb_1x1_kxk" };

  // In the order of the original's state dicts.
  readonly dbbOrigin: ConvBn | undefined;
  readonly dbbAvg: Average | undefined;
  readonly dbb1x1: ConvBn | undefined;
  readonly dbb1x1Kxk: PointwiseThenSquare | undefined;
  readonly dbbReparam: Conv2d | undefined = undefined;
  private readonly settings: ConvPlace;

  constructor(options: DBBOptions) {
    super();
    const { inChannels, outChannels, groups = 1, gammaInit = 1 } = options;
    const [kernelSize, stride, dilation] = [options.kernelSize ?? 3, options.stride ?? 1, options.dilation ?? 1].map(
      pair,
    );
    const depthwise = groups === outChannels;
    must(
      depthwise || kernelSize.every((k) => k % 2 === 1),
      "dbb/kernel-size",
      () => `dbb: kernelSize must be odd, so that the 1x1 branch has a middle to stand in, got ${fmt(kernelSize)}`,
      "usage",
    );
    must(
      !depthwise || inChannels === outChannels,
      "dbb/depthwise",
      () =>
        `dbb: with one group per output channel the average pool takes the channels as they are, so inChannels must be outChannels, got ${inChannels} and ${outChannels}`,
      "usage",
    );
    const padding: Pair = [0, 1].map((i) => dilation[i] * Math.floor(kernelSize[i] / 2)) as unknown as Pair;
    const given = pair(options.padding ?? padding);
    must(
      padding.every((p, i) => p === given[i]),
      "dbb/padding",
      () =>
        `dbb: padding must be dilation · floor(kernelSize / 2) = ${fmt(padding)}, so that all branches see the same pixels, got ${fmt(given)}`,
      "usage",
    );
    const { internalChannels = depthwise ? 2 * inChannels : inChannels } = options;
    must(
      Number.isInteger(internalChannels) && internalChannels > 0 && internalChannels % groups === 0,
      "dbb/internal-channels",
      () => `dbb: internalChannels must be a positive multiple of groups (${groups}), got ${internalChannels}`,
      "usage",
    );
    const settings = { inChannels, outChannels, kernelSize, stride, padding, dilation, groups };
    this.settings = settings;
    const [main, others] = gammas(gammaInit);
    this.dbbOrigin = new ConvBn(inChannels, outChannels, {
      kernelSize,
      stride,
      padding,
      dilation,
      groups,
      norm: { initialWeight: main },
    });
    this.dbbAvg = new Average(settings, others);
    if (!depthwise)
      this.dbb1x1 = new ConvBn(inChannels, outChannels, {
        kernelSize: 1,
        stride,
        groups,
        norm: { initialWeight: others },
      });
    this.dbb1x1Kxk = new PointwiseThenSquare(settings, internalChannels, others);
  }

  override afterResize(_before: this): object {
    return { settings: { ...this.settings, ...convWidths((this.dbbReparam ?? this.dbbOrigin?.conv)!) } };
  }

  private get branches() {
    return [this.dbbOrigin, this.dbb1x1, this.dbb1x1Kxk, this.dbbAvg].filter((b) => b !== undefined);
  }

  forward(x: Value): Value {
    if (this.dbbReparam) return this.dbbReparam.forward(x);
    return this.branches.map((branch) => branch.forward(x)).reduce((sum, y) => add(sum, y));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    if (this.dbbReparam) return namedMap("dbb_reparam", mapOf(k, this.dbbReparam) as BiasedMap<T>);
    return namedMap(
      "dbb_reparam",
      parallel(
        k,
        this.branches.map((branch) => branch.fused(k)),
      ),
    );
  }

  merge(): Merge {
    if (this.dbbReparam) return { kept: "already merged" };
    const { inChannels, outChannels, ...conv } = this.settings;
    const shell = cloneWith(this as DBB, {
      ...{ dbbOrigin: undefined, dbbAvg: undefined, dbb1x1: undefined, dbb1x1Kxk: undefined },
      dbbReparam: new Conv2d(inChannels, outChannels, conv),
    });
    const size = conv.kernelSize.join("x");
    const pointwise = this.dbb1x1 ? "the 1x1, " : "";
    return {
      merged: mergedForm(shell, this),
      note: `the ${size}, ${pointwise}the average and the 1x1-${size} branch into one convolution`,
    };
  }
}
