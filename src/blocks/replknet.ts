import { must } from "../errors.ts";
import { add, type ConvOptions, gelu, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, DropPath, Module } from "../nn/index.ts";
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

export interface ReparamLargeKernelConvOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd size of the large kernel. */
  readonly kernelSize: number;
  /** Odd size of the kernel beside it, at most `kernelSize`. Default: there is none. */
  readonly smallKernel?: number | undefined;
  /** Default 1. */
  readonly stride?: number;
  /** Default 1; RepLKNet's convolutions are depthwise. */
  readonly groups?: number;
}

/**
 * A large kernel with a small one beside it (RepLKNet, arXiv 2203.06717, section 3, guideline 3; FastViT's downsampling):
 * convolution and batch norm each, padded so that their middles meet, added up. Without activation.
 * `[N, C, H, W]` → `[N, O, ⌈H/stride⌉, ⌈W/stride⌉]`.
 *
 * Keys `lkb_origin.conv.weight`, `lkb_origin.bn.*`, `small_conv.*`; merged `lkb_reparam.weight`, `lkb_reparam.bias`.
 */
export class ReparamLargeKernelConv extends Module implements Reparameterizable {
  readonly options: ReparamLargeKernelConvOptions;
  readonly lkbOrigin: ConvBn | undefined;
  readonly smallConv: ConvBn | undefined;
  readonly lkbReparam: Conv2d | undefined = undefined;

  /** @throws `large-kernel/size` where a size is not odd, or the small kernel is the larger one */
  constructor(options: ReparamLargeKernelConvOptions) {
    super();
    this.options = options;
    const { inChannels, outChannels, kernelSize, smallKernel } = options;
    for (const [name, size] of Object.entries({ kernelSize, smallKernel }))
      must(
        size === undefined || (Number.isInteger(size) && size % 2 === 1 && size <= kernelSize),
        "large-kernel/size",
        () => `largeKernel: ${name} must be odd and no larger than kernelSize, got ${size} of ${kernelSize}`,
        "usage",
      );
    const branch = (size: number): ConvBn => new ConvBn(inChannels, outChannels, this.convOptions(size));
    this.lkbOrigin = branch(kernelSize);
    this.smallConv = smallKernel === undefined ? undefined : branch(smallKernel);
  }

  private convOptions(kernelSize: number): ConvOptions & { readonly kernelSize: number } {
    const { stride = 1, groups = 1 } = this.options;
    return { kernelSize, stride, groups, padding: (kernelSize - 1) / 2 };
  }

  forward(x: Value): Value {
    const branches = [this.lkbReparam, this.lkbOrigin, this.smallConv].filter((b) => b !== undefined);
    return branches.map((b) => b.forward(x)).reduce((sum, branch) => add(sum, branch));
  }

  /** Both branches as one convolution with bias. */
  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    if (this.lkbReparam) return mapOf(k, this.lkbReparam) as BiasedMap<T>;
    const branches = [this.lkbOrigin, this.smallConv].filter((b) => b !== undefined);
    return parallel(
      k,
      branches.map((b) => b.fused(k)),
    );
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return namedMap("lkb_reparam", this.fused(k));
  }

  merge(): Merge {
    if (this.lkbReparam) return { kept: "already merged" };
    const { inChannels, outChannels, kernelSize, smallKernel } = this.options;
    const shell = cloneWith(this as ReparamLargeKernelConv, {
      ...{ lkbOrigin: undefined, smallConv: undefined },
      lkbReparam: new Conv2d(inChannels, outChannels, this.convOptions(kernelSize)),
    });
    const small = smallKernel === undefined ? "" : ` and the ${smallKernel}x${smallKernel}`;
    return {
      merged: mergedForm(shell, this),
      note: `the ${kernelSize}x${kernelSize}${small} branch into one convolution`,
    };
  }
}

interface ResidualOptions {
  /**
   * Whether the merge takes in the batch norms of 1×1 convolutions, too (the authors' `deep_fuse_BN`), or only makes one
   * large kernel of two. Default true.
   */
  readonly deepFuseBn?: boolean;
  /** Probability with which training leaves the residual branch out, per sample. Default 0. */
  readonly dropPath?: number;
}

export interface RepLKBlockOptions extends ResidualOptions {
  readonly inChannels: number;
  /** Channels of the large kernel. */
  readonly dwChannels: number;
  /** Odd size of the large kernel. */
  readonly kernelSize: number;
  /** Odd size of the kernel beside it. Default: there is none. */
  readonly smallKernel?: number | undefined;
}

/**
 * RepLKNet's block (arXiv 2203.06717, section 4.1, figure 4): batch norm, 1×1 convolution, large depthwise kernel, 1×1
 * convolution, with ReLUs between them, added to the input. `[N, C, H, W]` → the same shape.
 *
 * Keys `prelkb_bn.*`, `pw1.conv.weight`, `pw1.bn.*`, `large_kernel.*` (see {@link ReparamLargeKernelConv}), `pw2.*`. The
 * batch norm before the first convolution stays in the merged form, as in the authors'.
 */
export class RepLKBlock extends Module {
  readonly pw1: ConvBn | UnfusedConvBn;
  readonly pw2: ConvBn | UnfusedConvBn;
  readonly largeKernel: ReparamLargeKernelConv;
  readonly prelkbBn: BatchNorm2d;
  readonly dropPath: DropPath;

  constructor({ inChannels, dwChannels, kernelSize, smallKernel, deepFuseBn = true, dropPath = 0 }: RepLKBlockOptions) {
    super();
    const Pointwise = convBnOf(deepFuseBn);
    this.pw1 = new Pointwise(inChannels, dwChannels, { kernelSize: 1 });
    this.pw2 = new Pointwise(dwChannels, inChannels, { kernelSize: 1 });
    const around = { inChannels: dwChannels, outChannels: dwChannels, groups: dwChannels };
    this.largeKernel = new ReparamLargeKernelConv({ ...around, kernelSize, smallKernel });
    this.prelkbBn = new BatchNorm2d(inChannels);
    this.dropPath = new DropPath(dropPath);
  }

  forward(x: Value): Value {
    const y = relu(this.pw1.forward(this.prelkbBn.forward(x)));
    return add(x, this.dropPath.forward(this.pw2.forward(relu(this.largeKernel.forward(y)))));
  }
}

export interface ConvFFNOptions extends ResidualOptions {
  readonly inChannels: number;
  readonly internalChannels: number;
  /** Equal to `inChannels`, since the input is added. Default `inChannels`. */
  readonly outChannels?: number;
}

/**
 * RepLKNet's feed-forward block (arXiv 2203.06717, section 4.1): batch norm, 1×1 convolution, GELU, 1×1 convolution, added
 * to the input. `[N, C, H, W]` → the same shape. Keys `preffn_bn.*`, `pw1.*`, `pw2.*`.
 */
export class ConvFFN extends Module {
  readonly preffnBn: BatchNorm2d;
  readonly pw1: ConvBn | UnfusedConvBn;
  readonly pw2: ConvBn | UnfusedConvBn;
  readonly dropPath: DropPath;

  /** @throws `conv-ffn/channels` where the output does not have the input's channels */
  constructor({ inChannels, internalChannels, outChannels = inChannels, ...options }: ConvFFNOptions) {
    super();
    const { deepFuseBn = true, dropPath = 0 } = options;
    must(
      outChannels === inChannels,
      "conv-ffn/channels",
      () => `convFFN: the input is added to the output, so outChannels must be ${inChannels}, got ${outChannels}`,
      "usage",
    );
    const Pointwise = convBnOf(deepFuseBn);
    this.preffnBn = new BatchNorm2d(inChannels);
    this.pw1 = new Pointwise(inChannels, internalChannels, { kernelSize: 1 });
    this.pw2 = new Pointwise(internalChannels, outChannels, { kernelSize: 1 });
    this.dropPath = new DropPath(dropPath);
  }

  forward(x: Value): Value {
    const y = gelu(this.pw1.forward(this.preffnBn.forward(x)));
    return add(x, this.dropPath.forward(this.pw2.forward(y)));
  }
}
