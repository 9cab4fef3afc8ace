import { must } from "../errors.ts";
import {
  add,
  type ConvOptions,
  mul,
  reciprocal,
  reduceSum,
  relu,
  slice,
  sqrt,
  stopGradient,
  sub,
  type Value,
} from "../graph/index.ts";
import { BatchNorm2d, type BatchNormOptions, Conv2d, cloneWith, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  graphAlgebra,
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
import { centredPadding } from "./centred.ts";
import { ConvBn, type ConvBnOptions } from "./conv-bn.ts";
import { SqueezeExcite } from "./squeeze-excite.ts";

export interface RepVGGBlockOptions {
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
  /** Squeeze-and-excitation before the ReLU. Default false. */
  readonly useSe?: boolean;
  /** Of all batch norms. */
  readonly norm?: BatchNormOptions;
}

/**
 * RepVGG's block (arXiv 2101.03697, section 3): the ReLU of a 3×3 convolution, a 1×1 convolution and (where the shape
 * stays the same) the input itself, each with its batch norm, added up. `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 *
 * Merged, one 3×3 convolution with bias is left. Keys are those of the original: `rbr_dense.conv.weight`,
 * `rbr_dense.bn.*`, `rbr_1x1.*`, `rbr_identity.*`, `se.*`; merged `rbr_reparam.weight`, `rbr_reparam.bias`. Unlike there,
 * a dilation holds for both forms.
 */
export class RepVGGBlock extends Module implements Reparameterizable {
  static override readonly stateNames = { rbr1x1: "rbr_1x1" };

  readonly options: Required<RepVGGBlockOptions>;
  readonly se: SqueezeExcite | undefined;
  // First of the branches, as in the original's state dicts.
  readonly rbrIdentity: BatchNorm2d | undefined;
  readonly rbrDense: ConvBn | undefined;
  readonly rbr1x1: ConvBn | undefined;
  readonly rbrReparam: Conv2d | undefined = undefined;

  constructor(options: RepVGGBlockOptions) {
    super();
    const {
      inChannels,
      outChannels,
      kernelSize = 3,
      stride = 1,
      dilation = 1,
      groups = 1,
      useSe = false,
      norm = {},
    } = options;
    const padding = centredPadding("repvgg", { kernelSize, dilation, padding: options.padding });
    this.options = { inChannels, outChannels, kernelSize, stride, padding, dilation, groups, useSe, norm };
    this.se = useSe ? new SqueezeExcite(outChannels, Math.floor(outChannels / 16)) : undefined;
    this.rbrIdentity = inChannels === outChannels && stride === 1 ? new BatchNorm2d(outChannels, norm) : undefined;
    this.rbrDense = this.unit(inChannels, outChannels, { kernelSize, norm, ...this.convOptions });
    this.rbr1x1 = this.unit(inChannels, outChannels, { kernelSize: 1, stride, groups, norm });
  }

  /** A branch with a convolution. */
  protected unit(inChannels: number, outChannels: number, options: ConvBnOptions): ConvBn {
    return new ConvBn(inChannels, outChannels, options);
  }

  private get convOptions(): ConvOptions {
    const { stride, padding, dilation, groups } = this.options;
    return { stride, padding, dilation, groups };
  }

  forward(x: Value): Value {
    return relu(this.preActivation(x));
  }

  /** What the ReLU gets. */
  protected preActivation(x: Value): Value {
    const branches = [this.rbrReparam, this.rbrDense, this.rbr1x1, this.rbrIdentity].filter((b) => b !== undefined);
    const y = branches.map((b) => b.forward(x)).reduce((sum, branch) => add(sum, branch));
    return this.se ? this.se.forward(y) : y;
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    if (this.rbrReparam) return namedMap("rbr_reparam", mapOf(k, this.rbrReparam) as BiasedMap<T>);
    const { outChannels, groups } = this.options;
    const identity =
      this.rbrIdentity && normAfter(k, { weight: k.identityKernel(1, outChannels, groups) }, this.rbrIdentity);
    const branches = [this.rbrDense?.fused(k), this.rbr1x1?.fused(k), identity].filter((b) => b !== undefined);
    return namedMap("rbr_reparam", parallel(k, branches));
  }

  merge(): Merge {
    if (this.rbrReparam) return { kept: "already merged" };
    const { inChannels, outChannels, kernelSize } = this.options;
    const shell = cloneWith(this as RepVGGBlock, {
      ...{ rbrIdentity: undefined, rbrDense: undefined, rbr1x1: undefined },
      rbrReparam: new Conv2d(inChannels, outChannels, { kernelSize, ...this.convOptions }),
    });
    const identity = this.rbrIdentity ? ", the 1x1 and the identity" : " and the 1x1";
    return {
      merged: mergedForm(shell, this),
      note: `the ${kernelSize}x${kernelSize}${identity} branch into one convolution`,
    };
  }

  /**
   * The penalty that the original offers in place of weight decay on its two kernels: squares of the merged kernel's
   * centre (without the identity), taken back to the kernels' scale, plus those of the 3×3 kernel outside of it. Batch
   * norms count as constants, by their running statistics. One number `[]`; times half a weight decay it is a term of the
   * loss.
   *
   * @throws `repvgg/merged` for a merged block
   */
  customL2(): Value {
    const { rbrDense: dense, rbr1x1: pointwise } = this;
    must(
      dense?.bn && pointwise?.bn,
      "repvgg/merged",
      () => "repvgg: a merged block has no branches for a custom L2 penalty",
      "model",
    );
    const kernels = new Set([dense.conv.weight, pointwise.conv.weight]);
    const k = graphAlgebra({ of: (p) => (kernels.has(p) ? p.value : stopGradient(p.value)) });
    const [outer, inner] = [dense.bn, pointwise.bn].map((bn) => k.normAffine(bn).scale);
    const middle = (this.options.kernelSize - 1) / 2;
    const centre = (kernel: Value): Value =>
      slice(
        kernel,
        [2, 3].map((axis) => ({ axis, start: middle, end: middle + 1 })),
      );
    const squares = (x: Value): Value => reduceSum(mul(x, x), [0, 1, 2, 3]);
    const merged = parallel(k, [dense.fused(k), pointwise.fused(k)]).weight;
    const length = sqrt(add(mul(outer, outer), mul(inner, inner)));
    const own = k.of(dense.conv.weight);
    const outside = sub(squares(own), squares(centre(own)));
    return add(outside, squares(k.scaleOutputs(centre(merged), reciprocal(length))));
  }
}

/** {@link RepVGGBlock} without its ReLU: a unit in the place of a convolution and its batch norm. */
export class RepVGGConv extends RepVGGBlock {
  override forward(x: Value): Value {
    return this.preActivation(x);
  }
}
