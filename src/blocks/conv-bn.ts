import { relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, type BatchNormOptions, Conv2d, type Conv2dOptions, cloneWith, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  normAfter,
  type Reparameterizable,
} from "../reparam/index.ts";
import type { Compactor } from "./compactor.ts";

/** Those of the convolution, which has no bias by default, and of the norm. */
export interface ConvBnOptions extends Conv2dOptions {
  /** Of the batch norm. */
  readonly norm?: BatchNormOptions;
}

/**
 * Initial weights of the batch norms of a block of several branches: a number for all, or `single` for 1 in the branch of
 * the largest kernel and 0 in the others, so that the block starts as that one alone.
 */
export type GammaInit = number | "single";

/** What a {@link GammaInit} gives to the branch of the largest kernel and to the others. */
export const gammas = (init: GammaInit): readonly [main: number, others: number] =>
  init === "single" ? [1, 0] : [init, init];

/**
 * Convolution and batch norm. Keys `conv.weight`, `bn.*`; merged `conv.weight`, `conv.bias`. A network that is being pruned
 * by ResRep also has `compactor.pwc.weight`.
 */
export class ConvBn extends Module implements Reparameterizable {
  readonly conv: Conv2d;
  readonly bn: BatchNorm2d | undefined;
  /** Only while ResRep trains; see `withCompactors`. */
  readonly compactor: Compactor | undefined;

  constructor(inChannels: number, outChannels: number, { norm, ...options }: ConvBnOptions) {
    super();
    this.conv = new Conv2d(inChannels, outChannels, { bias: false, ...options });
    this.bn = new BatchNorm2d(outChannels, norm);
  }

  forward(x: Value): Value {
    const y = this.bn ? this.bn.afterConv(this.conv, x) : this.conv.forward(x);
    return this.compactor ? this.compactor.forward(y) : y;
  }

  /** Convolution, batch norm and compactor as one convolution with bias. */
  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const own = mapOf(k, this.conv);
    // Without a norm there is a bias: the merge has put it there.
    const fused = this.bn ? normAfter(k, own, this.bn) : (own as BiasedMap<T>);
    if (!this.compactor) return fused;
    const { weight } = mapOf(k, this.compactor.pwc);
    return { weight: k.thenPointwise(fused.weight, weight), bias: k.shiftInputs(weight, fused.bias) };
  }

  /** The convolution with bias that it becomes, without values. */
  emptyConv(): Conv2d {
    const { weight, options } = this.conv;
    const [outChannels, perGroup, height, width] = weight.shape;
    return new Conv2d(perGroup * (options.groups ?? 1), outChannels, { ...options, kernelSize: [height, width] });
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return namedMap("conv", this.fused(k));
  }

  merge(): Merge {
    const taken = [...(this.bn ? ["batch norm"] : []), ...(this.compactor ? ["compactor"] : [])];
    if (!taken.length) return { kept: "already merged" };
    const shell = cloneWith(this as ConvBn, { bn: undefined, compactor: undefined });
    return { merged: mergedForm(shell, this), note: `${taken.join(" and ")} into the convolution` };
  }
}

/** {@link ConvBn} followed by a ReLU. */
export class ConvBnRelu extends ConvBn {
  override forward(x: Value): Value {
    return relu(super.forward(x));
  }
}

/** Convolution and batch norm that conversion leaves two, as some authors' deploy forms have them. Keys `conv.weight`, `bn.*`. */
export class UnfusedConvBn extends Module {
  readonly conv: Conv2d;
  readonly bn: BatchNorm2d;

  constructor(inChannels: number, outChannels: number, options: ConvBnOptions) {
    super();
    this.conv = new Conv2d(inChannels, outChannels, { bias: false, ...options });
    this.bn = new BatchNorm2d(outChannels);
  }

  forward(x: Value): Value {
    return this.bn.afterConv(this.conv, x);
  }
}

/** A convolution with batch norm that conversion merges, or does not. */
export const convBnOf = (fuse: boolean): typeof ConvBn | typeof UnfusedConvBn => (fuse ? ConvBn : UnfusedConvBn);

/** {@link ConvBn} in a sequence of layers: keys `0.*` of the convolution, `1.*` of the batch norm. */
export class IndexedConvBn extends ConvBn {
  static override readonly stateNames: Readonly<Record<string, string>> = { conv: "0", bn: "1" };

  override equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return namedMap("0", this.fused(k));
  }
}
