import { must } from "../errors.ts";
import {
  add,
  asChannelShape,
  conv2d,
  gelu,
  matmul,
  mul,
  type Pair,
  pair,
  reshape,
  slice,
  softmax,
  sub,
  swapLast,
  type Value,
} from "../graph/index.ts";
import {
  BatchNorm2d,
  Conv2d,
  cloneWith,
  constantInit,
  DropPath,
  Linear,
  Module,
  normal,
  Parameter,
  Sequential,
} from "../nn/index.ts";
import {
  type BiasedMap,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  type Reparameterizable,
} from "../reparam/index.ts";
import { UnfusedConvBn } from "./conv-bn.ts";
import { MobileOneBlock } from "./mobileone.ts";
import { ReparamLargeKernelConv } from "./replknet.ts";

/** A factor per channel, with which a residual branch begins as almost nothing: `[C, 1, 1]`. */
const layerScale = (channels: number): Parameter => new Parameter([channels, 1, 1], { init: constantInit(1e-5) });

const scaled = (x: Value, scale: Parameter | undefined): Value => (scale ? mul(x, scale.value) : x);

export interface RepMixerOptions {
  readonly channels: number;
  /** Odd size of the depthwise kernel. Default 3. */
  readonly kernelSize?: number;
  /** A factor per channel for what is added to the input. Default true. */
  readonly useLayerScale?: boolean;
}

/**
 * FastViT's token mixer (arXiv 2303.14189, section 3.1.1): x + scale · (mixer(x) − norm(x)), the mixer a depthwise
 * {@link MobileOneBlock} without activation, the norm one of which only the batch norm of the input is there.
 * `[N, C, H, W]` → the same shape.
 *
 * Merged, one depthwise convolution with bias is left: I + scale · (W_mixer − W_norm). Keys `layer_scale`, `norm.*`,
 * `mixer.*`; merged `reparam_conv.weight`, `reparam_conv.bias`.
 */
export class RepMixer extends Module implements Reparameterizable {
  readonly options: Required<RepMixerOptions>;
  readonly layerScale: Parameter | undefined;
  readonly norm: MobileOneBlock | undefined;
  readonly mixer: MobileOneBlock | undefined;
  readonly reparamConv: Conv2d | undefined = undefined;

  constructor({ channels, kernelSize = 3, useLayerScale = true }: RepMixerOptions) {
    super();
    this.options = { channels, kernelSize, useLayerScale };
    const depthwise = { inChannels: channels, outChannels: channels, groups: channels, kernelSize };
    this.layerScale = useLayerScale ? layerScale(channels) : undefined;
    this.norm = new MobileOneBlock({ ...depthwise, activation: "none", numConvBranches: 0, useScaleBranch: false });
    this.mixer = new MobileOneBlock({ ...depthwise, activation: "none" });
  }

  forward(x: Value): Value {
    const { mixer, norm, reparamConv } = this;
    if (reparamConv) return reparamConv.forward(x);
    const [mixed, normed] = [mixer!.forward(x), norm!.forward(x)];
    // Without a scale in the original's order, which rounds another way.
    return this.layerScale ? add(x, scaled(sub(mixed, normed), this.layerScale)) : sub(add(x, mixed), normed);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { mixer, norm, reparamConv } = this;
    if (reparamConv) return namedMap("reparam_conv", mapOf(k, reparamConv) as BiasedMap<T>);
    const { channels, kernelSize } = this.options;
    const [plus, minus] = [mixer!.fused(k), norm!.fused(k)];
    const scale = this.layerScale && k.of(this.layerScale);
    const difference = (a: T, b: T): T => {
      const d = k.add(a, k.times(b, -1));
      return scale === undefined ? d : k.scaleOutputs(d, scale);
    };
    const identity = k.identityKernel(kernelSize, channels, channels);
    return namedMap("reparam_conv", {
      weight: k.add(identity, difference(plus.weight, minus.weight)),
      bias: difference(plus.bias, minus.bias),
    });
  }

  merge(): Merge {
    if (this.reparamConv) return { kept: "already merged" };
    const { channels, kernelSize } = this.options;
    const around = { kernelSize, padding: (kernelSize - 1) / 2, groups: channels };
    const shell = cloneWith(this as RepMixer, {
      ...{ layerScale: undefined, norm: undefined, mixer: undefined },
      reparamConv: new Conv2d(channels, channels, around),
    });
    const scale = this.layerScale ? "the layer scale, " : "";
    return {
      merged: mergedForm(shell, this),
      note: `mixer, norm, ${scale}and the input into one ${kernelSize}x${kernelSize} convolution`,
    };
  }
}

export interface RepCPEOptions {
  readonly channels: number;
  /** Odd size of the depthwise kernel. Default 7. */
  readonly kernelSize?: number | Pair;
}

/**
 * FastViT's conditional position encoding (arXiv 2303.14189, section 3.1.3): a large depthwise convolution with bias,
 * added to its input. `[N, C, H, W]` → the same shape. Keys `pe.weight`, `pe.bias`; merged `reparam_conv.*`.
 */
export class RepCPE extends Module implements Reparameterizable {
  readonly options: Required<RepCPEOptions>;
  readonly pe: Conv2d | undefined;
  readonly reparamConv: Conv2d | undefined = undefined;

  /** @throws `fastvit/kernel-size` for an even kernel */
  constructor({ channels, kernelSize = 7 }: RepCPEOptions) {
    super();
    must(
      pair(kernelSize).every((size) => Number.isInteger(size) && size % 2 === 1),
      "fastvit/kernel-size",
      () => `repCPE: kernelSize must be odd, so that the input has a middle to stand in, got ${kernelSize}`,
      "usage",
    );
    this.options = { channels, kernelSize };
    this.pe = this.conv();
  }

  private conv(): Conv2d {
    const { channels, kernelSize } = this.options;
    const [h, w] = pair(kernelSize);
    return new Conv2d(channels, channels, { kernelSize, padding: [(h - 1) / 2, (w - 1) / 2], groups: channels });
  }

  forward(x: Value): Value {
    return this.reparamConv ? this.reparamConv.forward(x) : add(this.pe!.forward(x), x);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { channels, kernelSize } = this.options;
    const own = mapOf(k, (this.reparamConv ?? this.pe)!) as BiasedMap<T>;
    if (this.reparamConv) return namedMap("reparam_conv", own);
    const weight = k.add(own.weight, k.identityKernel(kernelSize, channels, channels));
    return namedMap("reparam_conv", { weight, bias: k.add(own.bias) });
  }

  merge(): Merge {
    if (this.reparamConv) return { kept: "already merged" };
    const shell = cloneWith(this as RepCPE, { pe: undefined, reparamConv: this.conv() });
    return { merged: mergedForm(shell, this), note: "the convolution and its input into one convolution" };
  }
}

/**
 * FastViT's stem (arXiv 2303.14189, section 3.1): three {@link MobileOneBlock}s with GELU, 3×3 with stride 2, depthwise 3×3
 * with stride 2, and 1×1. `[N, C, H, W]` → `[N, O, ⌈H/4⌉, ⌈W/4⌉]`. Keys `0.*`, `1.*`, `2.*`.
 */
export function convolutionalStem(inChannels: number, outChannels: number): Sequential {
  const own = { inChannels: outChannels, outChannels, activation: "gelu" } as const;
  return new Sequential(
    new MobileOneBlock({ ...own, inChannels, stride: 2 }),
    new MobileOneBlock({ ...own, stride: 2, groups: outChannels }),
    new MobileOneBlock({ ...own, kernelSize: 1 }),
  );
}

export interface PatchEmbedOptions {
  readonly inChannels: number;
  /** A multiple of `inChannels`. */
  readonly outChannels: number;
  /** Odd size of the large kernel. Default 7. */
  readonly patchSize?: number;
  /** Default 2. */
  readonly stride?: number;
}

/**
 * What comes between FastViT's stages: a large kernel in a group per input channel with a 3×3 beside it, without
 * activation, then a 1×1 {@link MobileOneBlock} with GELU. `[N, C, H, W]` → `[N, O, ⌈H/stride⌉, ⌈W/stride⌉]`. Keys
 * `proj.0.*`, `proj.1.*`.
 */
export class PatchEmbed extends Module {
  readonly proj: Sequential;

  constructor({ inChannels, outChannels, patchSize = 7, stride = 2 }: PatchEmbedOptions) {
    super();
    const large = { inChannels, outChannels, kernelSize: patchSize, smallKernel: 3, stride, groups: inChannels };
    const pointwise = { inChannels: outChannels, outChannels, kernelSize: 1, activation: "gelu" } as const;
    this.proj = new Sequential(new ReparamLargeKernelConv(large), new MobileOneBlock(pointwise));
  }

  forward(x: Value): Value {
    return this.proj.forward(x);
  }
}

/**
 * FastViT's feed-forward part (arXiv 2303.14189, section 3.1.3): a depthwise 7×7 convolution with batch norm, which stay
 * two in the merged form, as in the authors'; 1×1, GELU, 1×1. `[N, C, H, W]` → the same shape. Keys `conv.*`, `fc1.*`,
 * `fc2.*`.
 */
class DepthwiseFFN extends Module {
  readonly conv: UnfusedConvBn;
  readonly fc1: Conv2d;
  readonly fc2: Conv2d;

  constructor(channels: number, hidden: number) {
    super();
    this.conv = new UnfusedConvBn(channels, channels, { kernelSize: 7, padding: 3, groups: channels });
    const options = { kernelSize: 1, init: normal(0.02), biasInit: constantInit(0) };
    this.fc1 = new Conv2d(channels, hidden, options);
    this.fc2 = new Conv2d(hidden, channels, options);
  }

  forward(x: Value): Value {
    return this.fc2.forward(gelu(this.fc1.forward(this.conv.forward(x))));
  }
}

/**
 * Multi-head self-attention of the pixels of a map, in heads of 32 channels: `[N, C, H, W]` → the same shape. Keys
 * `qkv.weight` (no bias), `proj.weight`, `proj.bias`.
 */
class SelfAttention extends Module {
  readonly qkv: Linear;
  readonly proj: Linear;

  constructor(
    readonly channels: number,
    readonly headWidth = 32,
  ) {
    super();
    must(
      channels % headWidth === 0,
      "fastvit/heads",
      () => `attention: channels must be a multiple of the heads' ${headWidth}, got ${channels}`,
      "usage",
    );
    const options = { init: normal(0.02), biasInit: constantInit(0) };
    this.qkv = new Linear(channels, 3 * channels, { ...options, bias: false });
    this.proj = new Linear(channels, channels, options);
  }

  forward(x: Value): Value {
    const { channels, headWidth } = this;
    const [n, , ...size] = x.shape;
    const pixels = size[0] * size[1];
    // The layers of every pixel as 1×1 convolutions: no axis has to move.
    const pointwise = (y: Value, { weight }: Linear): Value =>
      conv2d(y, reshape(weight.value, [...weight.shape, 1, 1]));
    const projected = pointwise(x, this.qkv);
    const [q, k, v] = [0, 1, 2].map((i) => {
      const part = slice(projected, [{ axis: 1, start: i * channels, end: (i + 1) * channels }]);
      return reshape(part, [n, channels / headWidth, headWidth, pixels]);
    });
    const attention = softmax(matmul(swapLast(mul(q, 1 / Math.sqrt(headWidth))), k), 3);
    const attended = reshape(matmul(v, swapLast(attention)), [n, channels, ...size]);
    return add(pointwise(attended, this.proj), asChannelShape(this.proj.bias!.value, 4));
  }
}

interface BlockOptions {
  readonly channels: number;
  /** Width of the hidden layer of the feed-forward part, as a multiple of the channels. Default 4. */
  readonly mlpRatio?: number;
  /** A factor per channel for each residual branch. Default true. */
  readonly useLayerScale?: boolean;
  /** Probability with which training leaves a residual branch out, per sample. Default 0. */
  readonly dropPath?: number;
}

export interface RepMixerBlockOptions extends BlockOptions {
  /** Odd size of the mixer's kernel. Default 3. */
  readonly kernelSize?: number;
}

/**
 * FastViT's block (arXiv 2303.14189, figure 2): a {@link RepMixer}, then a feed-forward part that is added to its input.
 * `[N, C, H, W]` → the same shape. Keys `layer_scale`, `token_mixer.*`, `convffn.{conv.conv, conv.bn, fc1, fc2}.*`.
 */
export class RepMixerBlock extends Module {
  readonly layerScale: Parameter | undefined;
  readonly tokenMixer: RepMixer;
  readonly convffn: DepthwiseFFN;
  readonly dropPath: DropPath;

  constructor({ channels, kernelSize = 3, mlpRatio = 4, useLayerScale = true, dropPath = 0 }: RepMixerBlockOptions) {
    super();
    this.layerScale = useLayerScale ? layerScale(channels) : undefined;
    this.tokenMixer = new RepMixer({ channels, kernelSize, useLayerScale });
    this.convffn = new DepthwiseFFN(channels, Math.floor(channels * mlpRatio));
    this.dropPath = new DropPath(dropPath);
  }

  forward(x: Value): Value {
    const y = this.tokenMixer.forward(x);
    return add(y, this.dropPath.forward(scaled(this.convffn.forward(y), this.layerScale)));
  }
}

export interface AttentionBlockOptions extends BlockOptions {}

/**
 * FastViT's block with self-attention in heads of 32 channels (arXiv 2303.14189, section 3.1.3); nothing in it is merged.
 * `[N, C, H, W]` → the same shape, C a multiple of 32. Keys `layer_scale_1`, `layer_scale_2`, `norm.*`,
 * `token_mixer.{qkv, proj}.*`, `convffn.*`.
 */
export class AttentionBlock extends Module {
  static override readonly stateNames = { layerScale1: "layer_scale_1", layerScale2: "layer_scale_2" };
  readonly layerScale1: Parameter | undefined;
  readonly layerScale2: Parameter | undefined;
  readonly norm: BatchNorm2d;
  readonly tokenMixer: SelfAttention;
  readonly convffn: DepthwiseFFN;
  readonly dropPath: DropPath;

  /** @throws `fastvit/heads` where the heads do not divide the channels */
  constructor({ channels, mlpRatio = 4, useLayerScale = true, dropPath = 0 }: AttentionBlockOptions) {
    super();
    this.layerScale1 = useLayerScale ? layerScale(channels) : undefined;
    this.layerScale2 = useLayerScale ? layerScale(channels) : undefined;
    this.norm = new BatchNorm2d(channels);
    this.tokenMixer = new SelfAttention(channels);
    this.convffn = new DepthwiseFFN(channels, Math.floor(channels * mlpRatio));
    this.dropPath = new DropPath(dropPath);
  }

  forward(x: Value): Value {
    const attended = this.tokenMixer.forward(this.norm.forward(x));
    const y = add(x, this.dropPath.forward(scaled(attended, this.layerScale1)));
    return add(y, this.dropPath.forward(scaled(this.convffn.forward(y), this.layerScale2)));
  }
}
