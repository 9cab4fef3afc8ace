import { listed, must } from "../errors.ts";
import {
  add,
  conv2d,
  div,
  gelu,
  maximum,
  mul,
  reduceMean,
  reduceSum,
  reshape,
  sqrt,
  type Value,
} from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, constantInit, DropPath, Module, normal, Parameter } from "../nn/index.ts";
import {
  type BiasedMap,
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
import { SqueezeExcite } from "./squeeze-excite.ts";

/** Kernel sizes and dilations of the branches beside a large kernel, by its size. */
export const dilatedBranches: Readonly<Record<number, readonly (readonly [kernel: number, dilation: number])[]>> = {
  5: [
    [3, 1],
    [3, 2],
  ],
  7: [
    [5, 1],
    [3, 2],
    [3, 3],
  ],
  9: [
    [5, 1],
    [5, 2],
    [3, 3],
    [3, 4],
  ],
  11: [
    [5, 1],
    [5, 2],
    [3, 3],
    [3, 4],
    [3, 5],
  ],
  13: [
    [5, 1],
    [7, 2],
    [3, 3],
    [3, 4],
    [3, 5],
  ],
  15: [
    [5, 1],
    [7, 2],
    [3, 3],
    [3, 5],
    [3, 7],
  ],
  17: [
    [5, 1],
    [9, 2],
    [3, 4],
    [3, 5],
    [3, 7],
  ],
};

/** What the keys of such a branch have in them. */
export const dilatedBranchName = ([kernel, dilation]: readonly [number, number]): string => `k${kernel}_${dilation}`;

export interface DilatedReparamBlockOptions {
  readonly channels: number;
  /** Of the large kernel: 5, 7, …, 17. */
  readonly kernelSize: number;
}

/**
 * A large depthwise kernel and, beside it, smaller dilated ones, each with its batch norm, added up (UniRepLKNet, arXiv
 * 2311.15599, section 3.1). A dilated kernel equals an ordinary one with zeros between its values, so all become one.
 * `[N, C, H, W]` → the same shape, without activation.
 *
 * Keys `lk_origin.weight`, `origin_bn.*`, `dil_conv_k{k}_{r}.weight`, `dil_bn_k{k}_{r}.*` for kernel k and dilation r;
 * merged `lk_origin.weight`, `lk_origin.bias`.
 */
export class DilatedReparamBlock extends Module implements Reparameterizable {
  static override readonly stateNames = {
    dilConv: (branch: string) => `dil_conv_${branch}`,
    dilBn: (branch: string) => `dil_bn_${branch}`,
  };

  readonly kernelSize: number;
  readonly lkOrigin: Conv2d;
  readonly originBn: BatchNorm2d | undefined;
  readonly dilConv: Readonly<Record<string, Conv2d>>;
  readonly dilBn: Readonly<Record<string, BatchNorm2d>>;

  /** @throws `dilated-reparam/kernel-size` where the original has no branches for a size */
  constructor({ channels, kernelSize }: DilatedReparamBlockOptions) {
    super();
    const branches = dilatedBranches[kernelSize];
    must(
      branches,
      "dilated-reparam/kernel-size",
      () => `dilatedReparam: kernelSize must be one of ${listed(Object.keys(dilatedBranches), 9)}, got ${kernelSize}`,
      "usage",
    );
    this.kernelSize = kernelSize;
    const conv = (k: number, dilation: number): Conv2d =>
      depthwise(channels, { kernelSize: k, dilation, padding: (dilation * (k - 1)) / 2 });
    this.lkOrigin = conv(kernelSize, 1);
    this.originBn = new BatchNorm2d(channels);
    this.dilConv = Object.fromEntries(branches.map((branch) => [dilatedBranchName(branch), conv(...branch)]));
    this.dilBn = Object.fromEntries(branches.map((branch) => [dilatedBranchName(branch), new BatchNorm2d(channels)]));
  }

  forward(x: Value): Value {
    const large = this.lkOrigin.forward(x);
    if (!this.originBn) return large;
    const branches = Object.entries(this.dilConv).map(([name, conv]) => this.dilBn[name].forward(conv.forward(x)));
    return branches.reduce((sum, branch) => add(sum, branch), this.originBn.forward(large));
  }

  /** All branches as one convolution with bias. */
  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const large = mapOf(k, this.lkOrigin);
    if (!this.originBn) return large as BiasedMap<T>;
    const dilated = Object.entries(this.dilConv).map(([name, conv]) => {
      const plain = { weight: k.dilate(k.of(conv.weight), conv.options.dilation ?? 1) };
      return normAfter(k, plain, this.dilBn[name]);
    });
    return parallel(k, [normAfter(k, large, this.originBn), ...dilated]);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return namedMap("lk_origin", this.fused(k));
  }

  /** The block without branches and without values. */
  shell(): DilatedReparamBlock {
    return cloneWith(this as DilatedReparamBlock, { originBn: undefined, dilConv: {}, dilBn: {} });
  }

  merge(): Merge {
    if (!this.originBn) return { kept: "already merged" };
    const count = Object.keys(this.dilConv).length;
    return {
      merged: mergedForm(this.shell(), this),
      note: `the ${this.kernelSize}x${this.kernelSize} and ${count} dilated branches into one convolution`,
    };
  }
}

const depthwise = (
  channels: number,
  options: { readonly kernelSize: number; readonly dilation?: number; readonly padding: number },
): Conv2d => new Conv2d(channels, channels, { ...options, groups: channels, bias: false, init: normal(0.02) });

/** A fully connected layer on every pixel of `[N, C, H, W]`; weight `[O, C]`. */
class PixelLinear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;

  constructor(inChannels: number, outChannels: number, { bias }: { readonly bias: boolean }) {
    super();
    this.weight = new Parameter([outChannels, inChannels], { init: normal(0.02) });
    this.bias = bias ? new Parameter([outChannels], { init: constantInit(0) }) : undefined;
  }

  forward(x: Value): Value {
    const y = conv2d(x, reshape(this.weight.value, [...this.weight.shape, 1, 1]));
    return this.bias ? add(y, reshape(this.bias.value, [...this.bias.shape, 1, 1])) : y;
  }
}

/**
 * Global response normalization (ConvNeXt V2, arXiv 2301.00808, section 3.2): channels times 1 + gamma · G / mean(G), G the
 * root of each channel's sum of squares over the map, plus beta. `[N, C, H, W]` → the same shape. Keys `gamma`, `beta`, both
 * `[1, 1, 1, C]`; without `beta` once a merge has moved it on.
 */
export class GlobalResponseNorm extends Module {
  readonly gamma: Parameter;
  readonly beta: Parameter | undefined;

  constructor(channels: number) {
    super();
    this.gamma = new Parameter([1, 1, 1, channels], { init: constantInit(0) });
    this.beta = new Parameter([1, 1, 1, channels], { init: constantInit(0) });
  }

  forward(x: Value): Value {
    const perChannel = (p: Parameter): Value => reshape(p.value, [1, x.shape[1], 1, 1]);
    // The root has no derivative at 0; what is added there is far below the 1e-6 of the next line.
    const squares = maximum(reduceSum(mul(x, x), [2, 3], { keepDims: true }), 1e-30);
    const response = sqrt(squares);
    const relative = div(response, add(reduceMean(response, [1], { keepDims: true }), 1e-6));
    const y = mul(x, add(mul(perChannel(this.gamma), relative), 1));
    return this.beta ? add(y, perChannel(this.beta)) : y;
  }
}

export interface UniRepLKNetBlockOptions {
  readonly dim: number;
  /** 3 or 5: a plain depthwise convolution; 7, 9, …, 17: a {@link DilatedReparamBlock}. */
  readonly kernelSize: number;
  /** Channels within as a multiple of `dim`. Default 4. */
  readonly ffnFactor?: number;
  /** Initial value of the layer scale; 0: there is none. Default 1e-6. */
  readonly layerScaleInitValue?: number;
  /** Probability with which training leaves the residual branch out, per sample. Default 0. */
  readonly dropPath?: number;
}

/**
 * UniRepLKNet's block (arXiv 2311.15599, section 3.1): depthwise convolution with batch norm, squeeze-and-excitation, two
 * fully connected layers on every pixel with GELU and {@link GlobalResponseNorm} between them, batch norm, layer scale,
 * added to the input. `[N, C, H, W]` → the same shape.
 *
 * Merged, the branches and `norm` are one convolution; beta, the last batch norm and the layer scale are part of the second
 * layer. Keys `dwconv.*`, `norm.*`, `se.*`, `pwconv1.1.*`, `act.1.*`, `pwconv2.0.weight`, `pwconv2.2.*`, `gamma`; merged
 * `dwconv.lk_origin.*` or `dwconv.*`, `se.*`, `pwconv1.1.*`, `act.1.gamma`, `pwconv2.0.weight`, `pwconv2.0.bias`.
 */
export class UniRepLKNetBlock extends Module implements Reparameterizable {
  readonly gamma: Parameter | undefined;
  readonly dwconv: DilatedReparamBlock | Conv2d;
  readonly norm: BatchNorm2d | undefined;
  readonly se: SqueezeExcite;
  // Positions in the original's sequences: between them stand layers without parameters.
  readonly pwconv1: { readonly 1: PixelLinear };
  readonly act: { readonly 1: GlobalResponseNorm };
  readonly pwconv2: { readonly 0: PixelLinear; readonly 2: BatchNorm2d | undefined };
  readonly dropPath: DropPath;

  constructor({ dim, kernelSize, ffnFactor = 4, layerScaleInitValue = 1e-6, dropPath = 0 }: UniRepLKNetBlockOptions) {
    super();
    this.gamma = layerScaleInitValue ? new Parameter([dim], { init: constantInit(layerScaleInitValue) }) : undefined;
    this.dwconv =
      kernelSize === 3 || kernelSize === 5
        ? depthwise(dim, { kernelSize, padding: (kernelSize - 1) / 2 })
        : new DilatedReparamBlock({ channels: dim, kernelSize });
    this.norm = new BatchNorm2d(dim);
    this.se = new SqueezeExcite(dim, Math.floor(dim / 4));
    const inner = Math.floor(ffnFactor * dim);
    this.pwconv1 = { 1: new PixelLinear(dim, inner, { bias: true }) };
    this.act = { 1: new GlobalResponseNorm(inner) };
    this.pwconv2 = { 0: new PixelLinear(inner, dim, { bias: false }), 2: new BatchNorm2d(dim) };
    this.dropPath = new DropPath(dropPath);
  }

  forward(x: Value): Value {
    const mixed = this.dwconv.forward(x);
    const y = this.se.forward(this.norm ? this.norm.forward(mixed) : mixed);
    const inner = this.act[1].forward(gelu(this.pwconv1[1].forward(y)));
    const projected = this.pwconv2[0].forward(inner);
    const normed = this.pwconv2[2] ? this.pwconv2[2].forward(projected) : projected;
    const residual = this.gamma ? mul(normed, reshape(this.gamma.value, [...this.gamma.shape, 1, 1])) : normed;
    return add(x, this.dropPath.forward(residual));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { dwconv, norm, gamma } = this;
    const [last, lastNorm] = [this.pwconv2[0], this.pwconv2[2]];
    const isLarge = dwconv instanceof DilatedReparamBlock;
    const mixer = isLarge ? dwconv.fused(k) : mapOf(k, dwconv);
    const { beta } = this.act[1];
    const own = mapOf(k, last);
    const shifted = beta ? { ...own, bias: k.shiftInputs(own.weight, k.of(beta), own.bias) } : own;
    const { weight, bias } = lastNorm ? normAfter(k, shifted, lastNorm) : (shifted as BiasedMap<T>);
    const scaled = (w: T): T => (gamma ? k.scaleOutputs(w, k.of(gamma)) : w);
    return {
      ...namedMap(isLarge ? "dwconv.lk_origin" : "dwconv", norm ? normAfter(k, mixer, norm) : (mixer as BiasedMap<T>)),
      ...namedMap("pwconv2.0", { weight: scaled(weight), bias: scaled(bias) }),
    };
  }

  merge(): Merge {
    if (!this.norm) return { kept: "already merged" };
    const { dwconv, act, pwconv2 } = this;
    const shell = cloneWith(this as UniRepLKNetBlock, {
      ...{ gamma: undefined, norm: undefined },
      dwconv: dwconv instanceof DilatedReparamBlock ? dwconv.shell() : dwconv,
      act: { 1: cloneWith(act[1], { beta: undefined }) },
      pwconv2: { 0: pwconv2[0], 2: undefined },
    });
    return {
      merged: mergedForm(shell, this),
      note: "all branches and batch norm into one convolution; beta, batch norm and layer scale into the second layer",
    };
  }
}
