import { fmt, listed, must } from "../errors.ts";
import { add, channelScale, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, constantInit, Module, Parameter } from "../nn/index.ts";
import {
  HostAlgebra,
  type HostTensor,
  hostTensor,
  type KernelAlgebra,
  type Merge,
  mergedForm,
  type NamedTensors,
  namedMap,
  normAfter,
  type Reparameterizable,
} from "../reparam/index.ts";
import { type Shape, sameShape, Tensor, type TensorSource } from "../tensor/index.ts";
import { centredPadding } from "./centred.ts";

/** A learnable factor per channel. `[N, C, …]` → the same shape. Key `weight` `[C]`. */
class ChannelScale extends Module {
  readonly weight: Parameter;

  constructor(channels: number, initial: number) {
    super();
    this.weight = new Parameter([channels], { init: constantInit(initial) });
  }

  forward(x: Value): Value {
    return channelScale(x, this.weight.value);
  }
}

/** Kernels, and the factors of their outputs `[O]`; that of the identity where there is one. */
interface ScaledBranches<T> {
  readonly conv: { readonly weight: T; readonly scale: T };
  readonly pointwise: { readonly weight: T; readonly scale: T };
  readonly identity?: T | undefined;
}

/** All branches as one kernel: s · W, the 1×1 times its own at the centre, that of the identity on the centre's diagonal. */
function scaledSum<T>(k: KernelAlgebra<T>, { conv, pointwise, identity }: ScaledBranches<T>, groups = 1): T {
  const [channels, , ...size] = k.shapeOf(conv.weight);
  const kernel = [size[0], size[1]] as const;
  const branches = [
    k.scaleOutputs(conv.weight, conv.scale),
    k.padKernel(k.scaleOutputs(pointwise.weight, pointwise.scale), kernel),
  ];
  if (identity !== undefined) branches.push(k.scaleOutputs(k.identityKernel(kernel, channels, groups), identity));
  return k.add(branches[0], ...branches.slice(1));
}

export interface RepOptSearchBlockOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd. Default 3. */
  readonly kernelSize?: number;
  /** Default 1. */
  readonly stride?: number;
  /** Default 1. */
  readonly dilation?: number;
  /** Default 1. */
  readonly groups?: number;
  /** What the scales of both convolutions begin with; that of the identity begins with 1. Default √2. */
  readonly scale?: number;
}

/**
 * The block in which RepOptimizer's scales are found (arXiv 2205.15242, section 3.3; the original's `LinearAddBlock`): the
 * ReLU of a batch norm of the sum of a 3×3 convolution, a 1×1 convolution and (where the shape stays the same) the input,
 * each times a learnable factor per channel. `[N, C, H, W]` → `[N, O, ⌈H/stride⌉, ⌈W/stride⌉]`.
 *
 * Keys `conv.weight`, `scale_conv.weight`, `conv_1x1.weight`, `scale_1x1.weight`, `scale_identity.weight`, `bn.*`; merged
 * `conv.weight`, `conv.bias`.
 */
export class RepOptSearchBlock extends Module implements Reparameterizable {
  static override readonly stateNames = { conv1x1: "conv_1x1", scale1x1: "scale_1x1" };

  readonly conv: Conv2d;
  readonly scaleConv: ChannelScale | undefined;
  readonly conv1x1: Conv2d | undefined;
  readonly scale1x1: ChannelScale | undefined;
  readonly scaleIdentity: ChannelScale | undefined;
  readonly bn: BatchNorm2d | undefined;

  constructor(options: RepOptSearchBlockOptions) {
    super();
    const { inChannels, outChannels, kernelSize = 3, stride = 1, dilation = 1, groups = 1 } = options;
    const { scale = Math.SQRT2 } = options;
    const padding = centredPadding("repopt", { kernelSize, dilation, padding: undefined });
    this.conv = new Conv2d(inChannels, outChannels, { kernelSize, stride, padding, dilation, groups, bias: false });
    this.scaleConv = new ChannelScale(outChannels, scale);
    this.conv1x1 = new Conv2d(inChannels, outChannels, { kernelSize: 1, stride, groups, bias: false });
    this.scale1x1 = new ChannelScale(outChannels, scale);
    this.scaleIdentity = inChannels === outChannels && stride === 1 ? new ChannelScale(outChannels, 1) : undefined;
    this.bn = new BatchNorm2d(outChannels);
  }

  forward(x: Value): Value {
    const { conv, scaleConv, conv1x1, scale1x1, scaleIdentity, bn } = this;
    if (!(scaleConv && conv1x1 && scale1x1 && bn)) return relu(conv.forward(x));
    const sum = add(scaleConv.forward(conv.forward(x)), scale1x1.forward(conv1x1.forward(x)));
    return relu(bn.forward(scaleIdentity ? add(sum, scaleIdentity.forward(x)) : sum));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { conv, scaleConv, conv1x1, scale1x1, scaleIdentity, bn } = this;
    const own = k.of(conv.weight);
    if (!(scaleConv && conv1x1 && scale1x1 && bn)) return namedMap("conv", { weight: own, bias: k.of(conv.bias!) });
    const weight = scaledSum(
      k,
      {
        conv: { weight: own, scale: k.of(scaleConv.weight) },
        pointwise: { weight: k.of(conv1x1.weight), scale: k.of(scale1x1.weight) },
        identity: scaleIdentity && k.of(scaleIdentity.weight),
      },
      conv.options.groups,
    );
    return namedMap("conv", normAfter(k, { weight }, bn));
  }

  merge(): Merge {
    if (!this.bn) return { kept: "already merged" };
    const taken = { scaleConv: undefined, conv1x1: undefined, scale1x1: undefined, scaleIdentity: undefined };
    const shell = cloneWith(this as RepOptSearchBlock, { ...taken, bn: undefined });
    const others = this.scaleIdentity ? "the 1x1 and the identity, times their scales," : "the 1x1, times its scale,";
    return { merged: mergedForm(shell, this), note: `${others} and batch norm into the convolution` };
  }
}

/** Scales of one block, `[O]` each: see {@link RepOptSearchBlock}. */
export interface RepOptScales {
  readonly conv: Tensor;
  readonly pointwise: Tensor;
  /** Where the block has the branch. */
  readonly identity?: Tensor | undefined;
}

const SCALE = ".scale_conv.weight";

/**
 * Scales of all blocks by their paths, from the state dict of a trained search network or one that holds nothing but its
 * scales: keys `<path>.scale_conv.weight`, `<path>.scale_1x1.weight`, `<path>.scale_identity.weight`.
 *
 * @param where  what to call the state dict in errors
 * @throws `repopt/scales` where there are none, or a block has only some
 */
export async function repOptScales(
  entries: ReadonlyMap<string, TensorSource>,
  where = "checkpoint",
): Promise<ReadonlyMap<string, RepOptScales>> {
  const paths = [...entries.keys()].filter((key) => key.endsWith(SCALE)).map((key) => key.slice(0, -SCALE.length));
  must(
    paths.length,
    "repopt/scales",
    () =>
      `${where}: holds no scales: no key ends with "${SCALE}"; there are ${listed([...entries.keys()], 3)}. Give the checkpoint of a search network, such as one of RepOpt-VGG-B1-search.`,
    "file",
  );
  const found = new Map<string, RepOptScales>();
  for (const path of paths) {
    const pointwise = entries.get(`${path}.scale_1x1.weight`);
    must(
      pointwise,
      "repopt/scales",
      () => `${where}: ${path} has ${path}${SCALE} but not ${path}.scale_1x1.weight. The file is damaged.`,
      "file",
    );
    const conv = entries.get(`${path}${SCALE}`) as TensorSource;
    const identity = entries.get(`${path}.scale_identity.weight`);
    const [c, p, i] = await Promise.all([conv, pointwise, identity].map((s) => s?.read()));
    found.set(path, { conv: c as Tensor, pointwise: p as Tensor, identity: i });
  }
  return found;
}

/** The convolution of each block that has scales, by its path. Throws `repopt/fit`. */
function convsOf(net: Module, scales: ReadonlyMap<string, RepOptScales>): ReadonlyMap<string, Conv2d> {
  const modules = new Map<string, Module>(net.modules());
  return new Map(
    [...scales].map(([path, { conv: scale }]) => {
      const conv = modules.get(`${path}.conv`);
      must(
        conv instanceof Conv2d && sameShape(scale.shape, [conv.weight.shape[0]]),
        "repopt/fit",
        () =>
          `repopt: the scales of ${path} are ${fmt(scale.shape)}, the network has ${conv instanceof Conv2d ? `a convolution ${fmt(conv.weight.shape)}` : `no convolution ${path}.conv`} there. Take the scales from a search network of the same widths and depths.`,
        "usage",
      );
      return [path, conv];
    }),
  );
}

/** {@link scaledSum} of tensors, in float64 and rounded once. */
function summed(
  conv: Conv2d,
  kernels: { conv: Tensor; pointwise: Tensor },
  { conv: s, pointwise: p, identity: i }: RepOptScales,
): Tensor {
  const k = new HostAlgebra();
  const of = (t: Tensor): HostTensor => hostTensor(t);
  const branches = {
    conv: { weight: of(kernels.conv), scale: of(s) },
    pointwise: { weight: of(kernels.pointwise), scale: of(p) },
    identity: i && of(i),
  };
  return scaledSum(k, branches, conv.options.groups).source(conv.weight.dtype).readSync();
}

/**
 * Factors of the gradients of a plain network, with which it trains as one with branches of constant scales would (arXiv
 * 2205.15242, section 3.2): s^p of the 3×3 branch everywhere, s^p of the 1×1 branch more at the centre, and 1 more on the
 * centre's diagonal where a block has an identity.
 *
 * @param power  p: 2 for SGD, 1 for AdamW, where the factors act twice
 * @returns by key, for `multiplyGradients`, `repSgd` or `repAdamW`
 * @throws `repopt/fit` where scales and network do not go together
 */
export function repOptMultipliers(
  net: Module,
  scales: ReadonlyMap<string, RepOptScales>,
  power: 1 | 2,
): ReadonlyMap<string, Tensor> {
  const ones = (shape: Shape): Tensor => Tensor.full("float32", shape, 1);
  const raised = (t: Tensor): Tensor => t.map((v) => v ** power);
  return new Map(
    [...convsOf(net, scales)].map(([path, conv]) => {
      const { conv: s, pointwise, identity } = scales.get(path) as RepOptScales;
      const [o, c] = conv.weight.shape;
      const kernels = { conv: ones(conv.weight.shape), pointwise: ones([o, c, 1, 1]) };
      const own = { conv: raised(s), pointwise: raised(pointwise), identity: identity && ones(identity.shape) };
      return [`${path}.conv.weight`, summed(conv, kernels, own)];
    }),
  );
}

export interface RepOptInitializeOptions {
  /** Of the fresh 1×1 kernels. Default 0. */
  readonly seed?: number;
  /** The fresh 1×1 kernel `[O, C/g, 1, 1]` of a block. Default: PyTorch's initial values by `seed`. */
  readonly pointwise?: (path: string) => Tensor;
  /** Whether the identity is added times its scale, and not once. Default true. */
  readonly identityScales?: boolean;
}

/**
 * Gives the convolutions that have scales the values that a network with those branches would begin with: their own initial
 * ones times s, a fresh 1×1 kernel times its own at the centre, and the identity (arXiv 2205.15242, section 3.2, "rule of
 * initialization").
 *
 * @param net  with initial values; `<path>.conv.weight` are replaced
 * @throws `repopt/fit`
 */
export function repOptInitialize(
  net: Module,
  scales: ReadonlyMap<string, RepOptScales>,
  { seed = 0, pointwise, identityScales = true }: RepOptInitializeOptions = {},
): void {
  for (const [path, conv] of convsOf(net, scales)) {
    const { identity, ...others } = scales.get(path) as RepOptScales;
    const own = { ...others, identity: identityScales ? identity : identity?.map(() => 1) };
    const [o, c] = conv.weight.shape;
    const fresh = pointwise?.(path) ?? freshPointwise(o, c, seed, path);
    conv.weight.set(summed(conv, { conv: conv.weight.data, pointwise: fresh }, own));
  }
}

/** Kaiming's uniform values with a = √5, as PyTorch's convolutions begin with: within ±1/√C. */
function freshPointwise(outChannels: number, perGroup: number, seed: number, path: string): Tensor {
  const { weight } = new Conv2d(perGroup, outChannels, { kernelSize: 1, bias: false });
  weight.initialize(seed, `${path}.conv_1x1.weight`);
  return weight.data;
}
