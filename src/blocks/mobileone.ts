import { must } from "../errors.ts";
import { add, type ConvOptions, gelu, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, convWidths, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  identityWithNorm,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  parallel,
  type Reparameterizable,
} from "../reparam/index.ts";
import type { BranchedConvOptions } from "./branched.ts";
import { centredPadding } from "./centred.ts";
import { ConvBn } from "./conv-bn.ts";
import { SqueezeExcite } from "./squeeze-excite.ts";

const activations = { relu, gelu, none: (x: Value): Value => x } as const;

/** What a {@link MobileOneBlock} ends with: MobileOne's ReLU, FastViT's GELU, or nothing. */
export type MobileOneActivation = keyof typeof activations;

export interface MobileOneBlockOptions extends BranchedConvOptions {
  /** Convolutions of the full kernel size beside each other, 0 or more. Default 1. */
  readonly numConvBranches?: number;
  /** A 1×1 convolution beside them, where the kernel is larger. Default true. */
  readonly useScaleBranch?: boolean;
  /** Squeeze-and-excitation before the activation, with a sixteenth of the channels inside. Default false. */
  readonly useSe?: boolean;
  /** Default `relu`. */
  readonly activation?: MobileOneActivation;
}

/** {@link SqueezeExcite} under MobileOne's names: `reduce.*`, `expand.*`. */
class ReduceExpand extends SqueezeExcite {
  static override readonly stateNames = { down: "reduce", up: "expand" };
}

/**
 * MobileOne's block (arXiv 2206.04040, section 3.2): several k×k convolutions, a 1×1 convolution (if k > 1) and (where
 * the shape stays the same) the input itself, each with its batch norm, added up; then squeeze-and-excitation, where
 * there is one, and the activation. `[N, C, H, W]` → `[N, O, ceil(H/stride), ceil(W/stride)]`.
 *
 * Merged, one k×k convolution with bias is left. Keys are those of the original: `rbr_conv.{i}.conv.weight`,
 * `rbr_conv.{i}.bn.*`, `rbr_scale.*`, `rbr_skip.*`, `se.reduce.*`, `se.expand.*`; merged `reparam_conv.weight`,
 * `reparam_conv.bias`. Unlike there, a dilation holds for both forms.
 */
export class MobileOneBlock extends Module implements Reparameterizable {
  readonly options: Required<MobileOneBlockOptions>;
  readonly se: SqueezeExcite | undefined;
  // First of the branches, as in the original's state dicts.
  readonly rbrSkip: BatchNorm2d | undefined;
  readonly rbrConv: readonly ConvBn[];
  readonly rbrScale: ConvBn | undefined;
  readonly reparamConv: Conv2d | undefined = undefined;

  /** @throws `mobileone/kernel-size`, `mobileone/padding`, `mobileone/branches` (usage) */
  constructor(options: MobileOneBlockOptions) {
    super();
    const { inChannels, outChannels, kernelSize = 3, stride = 1, dilation = 1, groups = 1 } = options;
    const { numConvBranches = 1, useScaleBranch = true, useSe = false, activation = "relu" } = options;
    const padding = centredPadding("mobileone", { kernelSize, dilation, padding: options.padding });
    const hasSkip = inChannels === outChannels && stride === 1;
    const hasScale = useScaleBranch && kernelSize > 1;
    must(
      Number.isInteger(numConvBranches) && numConvBranches >= 0 && (numConvBranches > 0 || hasScale || hasSkip),
      "mobileone/branches",
      () =>
        numConvBranches === 0
          ? "mobileone: no branch is left: no k×k and no 1×1 convolution, and the input's shape is not kept. Set numConvBranches to 1 or more."
          : `mobileone: numConvBranches must be an integer, 0 or more, got ${numConvBranches}`,
      "usage",
    );
    this.options = {
      ...{ inChannels, outChannels, kernelSize, stride, padding, dilation, groups },
      ...{ numConvBranches, useScaleBranch, useSe, activation },
    };
    this.se = useSe ? new ReduceExpand(outChannels, Math.floor(outChannels / 16)) : undefined;
    this.rbrSkip = hasSkip ? new BatchNorm2d(outChannels) : undefined;
    this.rbrConv = Array.from(
      { length: numConvBranches },
      () => new ConvBn(inChannels, outChannels, { kernelSize, ...this.convOptions }),
    );
    this.rbrScale = hasScale ? new ConvBn(inChannels, outChannels, { kernelSize: 1, stride, groups }) : undefined;
  }

  override afterResize(_before: this): object {
    const conv = this.reparamConv ?? (this.rbrConv[0] ?? this.rbrScale)?.conv;
    return conv ? { options: { ...this.options, ...convWidths(conv) } } : {};
  }

  private get convOptions(): ConvOptions {
    const { stride, padding, dilation, groups } = this.options;
    return { stride, padding, dilation, groups };
  }

  forward(x: Value): Value {
    const branches = [this.reparamConv, this.rbrSkip, this.rbrScale, ...this.rbrConv].filter((b) => b !== undefined);
    const y = branches.map((b) => b.forward(x)).reduce((sum, branch) => add(sum, branch));
    return activations[this.options.activation](this.se ? this.se.forward(y) : y);
  }

  /** All branches as one k×k convolution with bias. */
  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    if (this.reparamConv) return mapOf(k, this.reparamConv) as BiasedMap<T>;
    const { kernelSize, groups } = this.options;
    const skip = this.rbrSkip && identityWithNorm(k, this.rbrSkip, groups);
    const convolutions = [...this.rbrConv, this.rbrScale].map((b) => b?.fused(k));
    const { weight, bias } = parallel(
      k,
      [...convolutions, skip].filter((b) => b !== undefined),
    );
    // Without a k×k branch what is left is smaller.
    return { weight: k.padKernel(weight, kernelSize), bias };
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return namedMap("reparam_conv", this.fused(k));
  }

  merge(): Merge {
    if (this.reparamConv) return { kept: "already merged" };
    const { inChannels, outChannels, kernelSize } = this.options;
    const shell = cloneWith(this as MobileOneBlock, {
      ...{ rbrSkip: undefined, rbrConv: [], rbrScale: undefined },
      reparamConv: new Conv2d(inChannels, outChannels, { kernelSize, ...this.convOptions }),
    });
    const size = `${kernelSize}x${kernelSize}`;
    const parts = [
      this.rbrConv.length ? `${this.rbrConv.length} ${size}` : undefined,
      this.rbrScale && "the 1x1",
      this.rbrSkip && "the identity",
    ].filter((part) => part !== undefined);
    return { merged: mergedForm(shell, this), note: `${listOf(parts)} into one ${size} convolution` };
  }
}

const listOf = (parts: readonly string[]): string =>
  parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : parts[0];
