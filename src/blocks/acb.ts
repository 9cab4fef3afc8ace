import { fmt, must } from "../errors.ts";
import { add, type ConvOptions, type Pair, pair, slice, type Value } from "../graph/index.ts";
import { BatchNorm, Conv2d, cloneWith, convWidths, Module } from "../nn/index.ts";
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
import { type GammaInit, gammas } from "./conv-bn.ts";

export interface ACBOptions extends ConvOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd, so that there is a middle row and column. Default 3. */
  readonly kernelSize?: number | Pair;
  /** Whether the batch norms have a weight and a bias. Default true. */
  readonly useAffine?: boolean;
  /** Initial weights of the batch norms; the authors advise 1/3 on CIFAR-10. Default 1. */
  readonly gammaInit?: GammaInit;
}

/**
 * ACNet's asymmetric convolution block (arXiv 1908.03930, section 3): a k×k, a k×1 and a 1×k convolution, each with its
 * batch norm, added up. `[N, C, H, W]` → `[N, O, H', W']`; an activation follows where the network has one.
 *
 * Merged, one k×k convolution with bias is left. Keys are those of the original: `square_conv.weight`, `square_bn.*`,
 * `ver_conv.weight`, `hor_conv.weight`, `ver_bn.*`, `hor_bn.*`; merged `fused_conv.weight`, `fused_conv.bias`.
 *
 * So that all windows have the same middle, the two narrow kernels take the input with less padding across them, or cut
 * where the square one has less than half its size. Unlike in the original, this counts the dilation, and batch norms
 * without weight and bias can be merged.
 *
 * @throws `acb/kernel-size` for an even kernel, `acb/gamma` for initial weights of batch norms that have none
 */
export class ACB extends Module implements Reparameterizable {
  // In the order of the original's state dicts.
  readonly squareConv: Conv2d | undefined;
  readonly squareBn: BatchNorm | undefined;
  readonly verConv: Conv2d | undefined;
  readonly horConv: Conv2d | undefined;
  readonly verBn: BatchNorm | undefined;
  readonly horBn: BatchNorm | undefined;
  readonly fusedConv: Conv2d | undefined = undefined;
  readonly options: ACBOptions;
  /** Pixels by which the narrow kernels reach less far across than the padding of the square one leaves; cut if negative. */
  private readonly across: Pair;

  constructor(options: ACBOptions) {
    super();
    const { inChannels, outChannels, kernelSize = 3, useAffine = true, gammaInit = 1, ...conv } = options;
    const [height, width] = pair(kernelSize);
    must(
      height % 2 === 1 && width % 2 === 1,
      "acb/kernel-size",
      () => `acb: kernelSize must be odd, so that it has a middle row and column, got ${fmt([height, width])}`,
      "usage",
    );
    must(
      useAffine || options.gammaInit === undefined,
      "acb/gamma",
      () =>
        "acb: without useAffine the batch norms have no weights that gammaInit could set. Leave one of the two out.",
      "usage",
    );
    this.options = options;
    const padding = pair(conv.padding ?? 0);
    const dilation = pair(conv.dilation ?? 1);
    this.across = [padding[0] - (dilation[0] * (height - 1)) / 2, padding[1] - (dilation[1] * (width - 1)) / 2];
    const [rows, columns] = this.across.map((p) => Math.max(p, 0));
    const branch = (size: Pair, pad: Pair): Conv2d =>
      new Conv2d(inChannels, outChannels, { ...conv, kernelSize: size, padding: pad, bias: false });
    const [main, others] = gammas(gammaInit);
    const norm = (initialWeight: number): BatchNorm => new BatchNorm(outChannels, { affine: useAffine, initialWeight });
    this.squareConv = branch([height, width], padding);
    this.squareBn = norm(main);
    this.verConv = branch([height, 1], [padding[0], columns]);
    this.horConv = branch([1, width], [rows, padding[1]]);
    this.verBn = norm(others);
    this.horBn = norm(others);
  }

  override afterResize(_before: this): object {
    return { options: { ...this.options, ...convWidths((this.fusedConv ?? this.squareConv)!) } };
  }

  /** The branches that are there, each with its input. */
  private branches(x?: Value) {
    const [rows, columns] = this.across;
    return (
      [
        [this.squareConv, this.squareBn, x],
        [this.verConv, this.verBn, x && cut(x, 3, -columns)],
        [this.horConv, this.horBn, x && cut(x, 2, -rows)],
      ] as const
    ).flatMap(([conv, norm, input]) => (conv ? [{ conv, norm, input }] : []));
  }

  forward(x: Value): Value {
    if (this.fusedConv) return this.fusedConv.forward(x);
    return this.branches(x)
      .map(({ conv, norm, input }) => norm!.forward(conv.forward(input!)))
      .reduce((sum, y) => add(sum, y));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    if (this.fusedConv) return namedMap("fused_conv", mapOf(k, this.fusedConv) as BiasedMap<T>);
    const branches = this.branches().map(({ conv, norm }) => normAfter(k, mapOf(k, conv), norm!));
    return namedMap("fused_conv", parallel(k, branches));
  }

  merge(): Merge {
    if (this.fusedConv) return { kept: "already merged" };
    const { inChannels, outChannels, kernelSize = 3, stride, padding, dilation, groups } = this.options;
    const shell = cloneWith(this as ACB, {
      ...{ squareConv: undefined, squareBn: undefined, verConv: undefined, horConv: undefined },
      ...{ verBn: undefined, horBn: undefined },
      fusedConv: new Conv2d(inChannels, outChannels, { kernelSize, stride, padding, dilation, groups }),
    });
    const [h, w] = pair(kernelSize);
    return {
      merged: mergedForm(shell, this),
      note: `the ${h}x${w}, the ${h}x1 and the 1x${w} branch into one convolution`,
    };
  }
}

/** Without `by` pixels at both ends of an axis. */
const cut = (x: Value, axis: number, by: number): Value =>
  by > 0 ? slice(x, [{ axis, start: by, end: x.shape[axis] - by }]) : x;
