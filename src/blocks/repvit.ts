import { must } from "../errors.ts";
import { add, mul, pair, type Value } from "../graph/index.ts";
import {
  BatchNorm1d,
  BatchNorm2d,
  Conv2d,
  constantInit,
  GELU,
  Identity,
  Linear,
  Module,
  type MultiOutputNet,
  type Net,
  normal,
  type Outputs,
  Sequential,
} from "../nn/index.ts";
import {
  type BiasedMap,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  normAfter,
  normBefore,
  parallel,
  type Reparameterizable,
} from "../reparam/index.ts";
import { ConvBn } from "./conv-bn.ts";
import { SqueezeExcite } from "./squeeze-excite.ts";

/** Weight and bias of a block that becomes one layer. */
const layer = <T>({ weight, bias }: BiasedMap<T>): NamedTensors<T> => ({ weight, bias });

/**
 * RepViT's convolution with batch norm (`Conv2d_BN` there). Keys `c.weight`, `bn.*`; merged it is a plain convolution,
 * `weight` and `bias`.
 */
export class Conv2dBn extends ConvBn {
  static override readonly stateNames = { conv: "c" };

  override equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return layer(this.fused(k));
  }

  override merge(): Merge {
    return { merged: mergedForm(this.emptyConv(), this), note: "batch norm into the convolution" };
  }
}

/** x + m(x). Keys `m.*`. */
export class Residual extends Module {
  constructor(readonly m: Net) {
    super();
  }

  forward(x: Value): Value {
    return add(x, this.m.forward(x));
  }
}

/**
 * x + m(x) of a convolution with batch norm that keeps the shape; any groups. Keys `m.c.weight`, `m.bn.*`; merged it is
 * one convolution: 1 more at the kernel's centre, from each channel to itself.
 */
export class ResidualConv2dBn extends Module implements Reparameterizable {
  constructor(readonly m: Conv2dBn) {
    super();
    const { weight, options } = m.conv;
    const [outChannels, perGroup, ...kernel] = weight.shape;
    const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
    const [strides, paddings, rates] = [stride, padding, dilation].map(pair);
    const same = kernel.every((size, i) => strides[i] === 1 && 2 * paddings[i] === rates[i] * (size - 1));
    must(
      same && kernel.every((size) => size % 2 === 1) && outChannels === perGroup * groups,
      "residual/shape",
      () =>
        "residual: the convolution must keep the shape of its input: stride 1, an odd kernel, padding dilation · (kernelSize − 1) / 2 and as many output as input channels",
      "usage",
    );
  }

  forward(x: Value): Value {
    return add(x, this.m.forward(x));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { weight, bias } = this.m.fused(k);
    const [channels, perGroup, ...size] = k.shapeOf(weight);
    const identity = k.identityKernel(size as unknown as readonly [number, number], channels, channels / perGroup);
    return { weight: k.add(weight, identity), bias };
  }

  merge(): Merge {
    return {
      merged: mergedForm(this.m.emptyConv(), this),
      note: "batch norm and the input itself into the convolution",
    };
  }
}

/**
 * RepViT's token mixer (arXiv 2307.09283, section 3.2): a depthwise 3×3 convolution with batch norm, a depthwise 1×1
 * convolution with bias and the input itself are added up, and normalised together. Keys `conv.c.weight`, `conv.bn.*`,
 * `conv1.weight`, `conv1.bias`, `bn.*`; merged it is one depthwise 3×3 convolution, `weight` and `bias`.
 *
 * `[N, C, H, W]` → the same shape. YOLO's block of this name is {@link YoloRepVGGDW}.
 */
export class RepVGGDW extends Module implements Reparameterizable {
  readonly conv: Conv2dBn;
  readonly conv1: Conv2d;
  readonly bn: BatchNorm2d;

  constructor(readonly channels: number) {
    super();
    this.conv = new Conv2dBn(channels, channels, { kernelSize: 3, padding: 1, groups: channels });
    this.conv1 = new Conv2d(channels, channels, { kernelSize: 1, groups: channels });
    this.bn = new BatchNorm2d(channels);
  }

  forward(x: Value): Value {
    return this.bn.forward(add(add(this.conv.forward(x), this.conv1.forward(x)), x));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { weight, bias } = parallel(k, [this.conv.fused(k), mapOf(k, this.conv1) as BiasedMap<T>]);
    const sum = k.add(weight, k.identityKernel(3, this.channels, this.channels));
    return layer(normAfter(k, { weight: sum, bias }, this.bn));
  }

  merge(): Merge {
    return {
      merged: mergedForm(this.conv.emptyConv(), this),
      note: "the 3x3, the 1x1 and the identity branch and their batch norm into one convolution",
    };
  }
}

/** timm's rule for the hidden channels of RepViT's squeeze-and-excitation: a quarter, rounded to a multiple of 8. */
const squeezed = (channels: number): number => Math.max(8, Math.floor((channels * 0.25 + 4) / 8) * 8);

/** Squeeze-and-excitation under timm's names: `fc1.*`, `fc2.*`. */
class TimmSqueezeExcite extends SqueezeExcite {
  static override readonly stateNames = { down: "fc1", up: "fc2" };
}

export interface RepViTBlockOptions {
  readonly inChannels: number;
  /** Default `inChannels`, which it must be with stride 1. */
  readonly outChannels?: number;
  /** Of the convolution with stride 2; that with stride 1 is always 3×3. Default 3. */
  readonly kernelSize?: number;
  /** Default 1. */
  readonly stride?: 1 | 2;
  /** Squeeze-and-excitation after the depthwise convolution. Default false. */
  readonly useSe?: boolean;
}

/**
 * RepViT's block (arXiv 2307.09283, figure 2): a token mixer, and a channel mixer of two 1×1 convolutions with GELU
 * between and twice the channels, added to its input. With stride 1 the token mixer is a {@link RepVGGDW}, with stride 2 a
 * depthwise convolution and a 1×1 one. Keys `token_mixer.*`, `channel_mixer.m.{0,2}.*`.
 *
 * `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 */
export class RepViTBlock extends Module {
  readonly tokenMixer: Sequential;
  readonly channelMixer: Residual;

  constructor({ inChannels, outChannels = inChannels, kernelSize = 3, stride = 1, useSe = false }: RepViTBlockOptions) {
    super();
    must(
      stride === 2 || inChannels === outChannels,
      "repvit/channels",
      () => `repvit: a block with stride 1 keeps its ${inChannels} channels, got outChannels ${outChannels}`,
      "usage",
    );
    must(
      kernelSize % 2 === 1,
      "repvit/kernel-size",
      () => `repvit: kernelSize must be odd, got ${kernelSize}`,
      "usage",
    );
    const se = useSe ? new TimmSqueezeExcite(inChannels, squeezed(inChannels)) : new Identity();
    const down = { kernelSize, stride, padding: (kernelSize - 1) / 2, groups: inChannels };
    this.tokenMixer =
      stride === 1
        ? new Sequential(new RepVGGDW(inChannels), se)
        : new Sequential(
            new Conv2dBn(inChannels, inChannels, down),
            se,
            new Conv2dBn(inChannels, outChannels, { kernelSize: 1 }),
          );
    const last = { kernelSize: 1, norm: { initialWeight: 0 } };
    this.channelMixer = new Residual(
      new Sequential(
        new Conv2dBn(outChannels, 2 * outChannels, { kernelSize: 1 }),
        new GELU(),
        new Conv2dBn(2 * outChannels, outChannels, last),
      ),
    );
  }

  forward(x: Value): Value {
    return this.channelMixer.forward(this.tokenMixer.forward(x));
  }
}

/**
 * Batch norm and then a linear layer. Keys `bn.*`, `l.*`; merged it is a linear layer, `weight` and `bias`.
 * `[N, inFeatures]` → `[N, outFeatures]`.
 */
export class BnLinear extends Module implements Reparameterizable {
  readonly bn: BatchNorm1d;
  readonly l: Linear;

  constructor(
    readonly inFeatures: number,
    readonly outFeatures: number,
  ) {
    super();
    this.bn = new BatchNorm1d(inFeatures);
    this.l = new Linear(inFeatures, outFeatures, { init: normal(0.02), biasInit: constantInit(0) });
  }

  forward(x: Value): Value {
    return this.l.forward(this.bn.forward(x));
  }

  /** Both as one linear layer. */
  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    return normBefore(k, this.bn, mapOf(k, this.l));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return layer(this.fused(k));
  }

  merge(): Merge {
    return {
      merged: mergedForm(new Linear(this.inFeatures, this.outFeatures), this),
      note: "batch norm into the linear layer",
    };
  }
}

export interface DistilledClassifierOptions {
  readonly inFeatures: number;
  readonly numClasses: number;
  /** A second head, for a teacher's answers. Default false. */
  readonly distillation?: boolean;
}

/**
 * RepViT's head (`Classfier` there): a {@link BnLinear}, and with distillation a second one beside it. In evaluation mode
 * the logits are the mean of both; in training mode they are apart, `output` and `dist`. Keys `classifier.*`,
 * `classifier_dist.*`; merged it is one linear layer. `[N, inFeatures]` → `[N, numClasses]`.
 */
export class DistilledClassifier extends Module implements MultiOutputNet, Reparameterizable {
  readonly classifier: BnLinear;
  readonly classifierDist: BnLinear | undefined;
  readonly outputWeights: Readonly<Record<string, number>> = { dist: 1 };

  constructor({ inFeatures, numClasses, distillation = false }: DistilledClassifierOptions) {
    super();
    this.classifier = new BnLinear(inFeatures, numClasses);
    this.classifierDist = distillation ? new BnLinear(inFeatures, numClasses) : undefined;
  }

  trainingOutputs(x: Value): Outputs {
    const output = this.classifier.forward(x);
    return this.classifierDist ? { output, dist: this.classifierDist.forward(x) } : { output };
  }

  forward(x: Value): Value {
    const { output, dist } = this.trainingOutputs(x);
    return dist && !this.training ? mul(add(output, dist), 0.5) : output;
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const own = this.classifier.fused(k);
    if (!this.classifierDist) return layer(own);
    const dist = this.classifierDist.fused(k);
    return {
      weight: k.times(k.add(own.weight, dist.weight), 0.5),
      bias: k.times(k.add(own.bias, dist.bias), 0.5),
    };
  }

  merge(): Merge {
    const { inFeatures, outFeatures } = this.classifier;
    return {
      merged: mergedForm(new Linear(inFeatures, outFeatures), this),
      note: this.classifierDist
        ? "both heads, each with its batch norm, into one linear layer: their mean"
        : "batch norm into the linear layer",
    };
  }
}
