import { must } from "../errors.ts";
import { concat, type Pair, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  inSequence,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  normAfter,
  type Reparameterizable,
} from "../reparam/index.ts";

export interface MBRConvOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Of the largest branch. Default 3. */
  readonly kernelSize?: 1 | 3 | 5;
  /** Width of each branch as a multiple of `outChannels`. Default 4; of the compact form 1. */
  readonly expansion?: number;
  /** Only the largest branch, with a batch norm `bn` (the authors' "EC" block). Default false. */
  readonly compact?: boolean;
}

/** Kernels of the branches by their keys, in the order in which their outputs are put side by side. */
const kernelsOf = (kernelSize: number): Readonly<Record<string, Pair>> => ({
  conv: [kernelSize, kernelSize],
  ...(kernelSize > 1 && { conv1: [1, 1] }),
  ...(kernelSize > 3 && { conv2: [3, 3] }),
  ...(kernelSize > 1 && { conv_crossh: [3, 1], conv_crossv: [1, 3] }),
});

/**
 * The multi-branch convolution of MobileIE (Yan et al., 2025, section 3.1; github.com/AVC2-UESTC/MobileIE): convolutions
 * with several kernels (square ones, 3×1 and 1×3), each with and without a batch norm after it, side by side, and a 1×1
 * convolution over all of them. The result is linear; what follows is not the block's. `[N, C, H, W]` → `[N, O, H, W]`.
 *
 * Keys are the authors': `conv`, `conv1`, `conv2`, `conv_crossh`, `conv_crossv`, `<branch>_bn.0`, `conv_out`; of the compact
 * form `conv`, `bn`, `conv_out`. Merged it is a convolution with kernel `kernelSize`: `weight`, `bias`.
 */
export class MBRConv extends Module implements Reparameterizable {
  static override readonly stateNames = { branches: (key: string) => key, norms: (key: string) => key };

  readonly options: Required<MBRConvOptions>;
  readonly branches: Readonly<Record<string, Conv2d>>;
  /** Of each branch, by its key. */
  readonly norms: Readonly<Record<string, BatchNorm2d>>;
  readonly convOut: Conv2d;

  constructor(options: MBRConvOptions) {
    super();
    const { inChannels, outChannels, kernelSize = 3, compact = false, expansion = compact ? 1 : 4 } = options;
    must(
      [1, 3, 5].includes(kernelSize),
      "mbr-conv/kernel-size",
      () => `mbrConv: kernelSize must be 1, 3 or 5, got ${kernelSize}`,
      "usage",
    );
    this.options = { inChannels, outChannels, kernelSize, compact, expansion };
    const kernels = Object.entries(kernelsOf(kernelSize)).slice(0, compact ? 1 : undefined);
    const width = outChannels * expansion;
    this.branches = Object.fromEntries(
      kernels.map(([key, kernel]) => {
        const padding: Pair = [(kernel[0] - 1) / 2, (kernel[1] - 1) / 2];
        return [key, new Conv2d(inChannels, width, { kernelSize: kernel, padding })];
      }),
    );
    this.norms = Object.fromEntries(kernels.map(([key]) => [compact ? "bn" : `${key}_bn.0`, new BatchNorm2d(width)]));
    this.convOut = new Conv2d(2 * width * kernels.length, outChannels, { kernelSize: 1 });
  }

  forward(x: Value): Value {
    const plain = Object.values(this.branches).map((branch) => branch.forward(x));
    const normed = Object.values(this.norms).map((norm, i) => norm.forward(plain[i]));
    return this.convOut.forward(concat([...plain, ...normed], 1));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { kernelSize } = this.options;
    const plain = Object.values(this.branches).map((branch) => mapOf(k, branch) as BiasedMap<T>);
    const normed = Object.values(this.norms).map((norm, i) => normAfter(k, plain[i], norm));
    const all = [...plain, ...normed].map((b) => ({ ...b, weight: k.padKernel(b.weight, kernelSize) }));
    const [weight, ...weights] = all.map((b) => b.weight);
    const [bias, ...biases] = all.map((b) => b.bias);
    const sideBySide = { weight: k.concatOutputs(weight, ...weights), bias: k.concatOutputs(bias, ...biases) };
    // Spread, as the type of named tensors asks for.
    return { ...inSequence(k, sideBySide, mapOf(k, this.convOut) as BiasedMap<T>) };
  }

  merge(): Merge {
    const { inChannels, outChannels, kernelSize } = this.options;
    const padding = (kernelSize - 1) / 2;
    const kernels = Object.keys(this.branches);
    return {
      merged: mergedForm(new Conv2d(inChannels, outChannels, { kernelSize, padding }), this),
      note: `${kernels.length > 1 ? `${kernels.length} kernels` : "the kernel"} with and without batch norm and the 1x1 after into one convolution`,
    };
  }
}
