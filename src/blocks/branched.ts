import { add, type ConvOptions, relu, type Value } from "../graph/index.ts";
import { Conv2d, cloneWith, convWidths, Module } from "../nn/index.ts";
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
import { centredPadding } from "./centred.ts";

export interface BranchedConvOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd size of the dense branch's kernel. Default 3, as in the paper. */
  readonly kernelSize?: number;
  /** Default 1. */
  readonly stride?: number;
  /** Default, and the only value that lets all branches see the same pixels: dilation · (kernelSize − 1) / 2. */
  readonly padding?: number;
  /** Default 1. */
  readonly dilation?: number;
  /** Default 1. */
  readonly groups?: number;
}

/** What a block adds up: a layer of its own, or the input itself. */
export type Branch = { forward(x: Value): Value } | undefined;

/**
 * What RepVGG's block and its relatives share: a dense convolution, a 1×1 convolution and the identity (where the shape
 * stays the same), added up; merged, one convolution with the keys `rbr_reparam.*`.
 */
export abstract class BranchedConv extends Module implements Reparameterizable {
  readonly options: Required<BranchedConvOptions>;
  abstract readonly rbrReparam: Conv2d | undefined;

  constructor(name: string, options: BranchedConvOptions) {
    super();
    const { inChannels, outChannels, kernelSize = 3, stride = 1, dilation = 1, groups = 1 } = options;
    const padding = centredPadding(name, { kernelSize, dilation, padding: options.padding });
    this.options = { inChannels, outChannels, kernelSize, stride, padding, dilation, groups };
  }

  /** The branches of the training form. */
  protected abstract branches(): readonly Branch[];
  /** The training form as one convolution. */
  protected abstract fused<T>(k: KernelAlgebra<T>): BiasedMap<T>;
  /** Fields that the merge takes in, as `undefined`. */
  protected abstract readonly taken: object;

  protected get hasIdentity(): boolean {
    return this.options.inChannels === this.options.outChannels && this.options.stride === 1;
  }

  protected get convOptions(): ConvOptions {
    const { stride, padding, dilation, groups } = this.options;
    return { stride, padding, dilation, groups };
  }

  override afterResize(_before: this): object {
    const conv = [...this.modules()].map(([, m]) => m).find((m) => m instanceof Conv2d);
    return conv ? { options: { ...this.options, ...convWidths(conv) } } : {};
  }

  /** What the activation gets. */
  protected preActivation(x: Value): Value {
    const branches = [this.rbrReparam, ...this.branches()].filter((b) => b !== undefined);
    return branches.map((b) => b.forward(x)).reduce((sum, branch) => add(sum, branch));
  }

  forward(x: Value): Value {
    return relu(this.preActivation(x));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return namedMap("rbr_reparam", this.rbrReparam ? (mapOf(k, this.rbrReparam) as BiasedMap<T>) : this.fused(k));
  }

  merge(): Merge {
    if (this.rbrReparam) return { kept: "already merged" };
    const { inChannels, outChannels, kernelSize } = this.options;
    const shell = cloneWith(this as BranchedConv, {
      ...this.taken,
      rbrReparam: new Conv2d(inChannels, outChannels, { kernelSize, ...this.convOptions }),
    });
    const identity = this.hasIdentity ? ", the 1x1 and the identity" : " and the 1x1";
    return {
      merged: mergedForm(shell, this),
      note: `the ${kernelSize}x${kernelSize}${identity} branch into one convolution`,
    };
  }
}
