import { must } from "../errors.ts";
import { add, mul, reciprocal, reduceSum, slice, sqrt, stopGradient, sub, type Value } from "../graph/index.ts";
import { BatchNorm2d, type BatchNormOptions, type Conv2d } from "../nn/index.ts";
import { type BiasedMap, graphAlgebra, identityWithNorm, type KernelAlgebra, parallel } from "../reparam/index.ts";
import { type Branch, BranchedConv, type BranchedConvOptions } from "./branched.ts";
import { ConvBn, type ConvBnOptions } from "./conv-bn.ts";
import { SqueezeExcite } from "./squeeze-excite.ts";

/** Sum of squares. */
export const squares = (x: Value): Value => reduceSum(mul(x, x), [0, 1, 2, 3]);

/** The middle column of a kernel `[O, C/g, k, k]`: `[O, C/g, 1, 1]`. */
export const centreOf = (kernel: Value): Value => {
  const middle = (kernel.shape[2] - 1) / 2;
  return slice(
    kernel,
    [2, 3].map((axis) => ({ axis, start: middle, end: middle + 1 })),
  );
};

export interface RepVGGBlockOptions extends BranchedConvOptions {
  /** Squeeze-and-excitation before the ReLU. Default false. */
  readonly useSe?: boolean;
  /** Of all batch norms. */
  readonly norm?: BatchNormOptions;
}

export interface RepVGGplusBlockOptions extends BranchedConvOptions {
  /** Squeeze-and-excitation behind the ReLU, its hidden layer a quarter as wide. Default false. */
  readonly usePostSe?: boolean;
}

/**
 * RepVGG's block (arXiv 2101.03697, section 3): the ReLU of a 3×3 convolution, a 1×1 convolution and (where the shape
 * stays the same) the input itself, each with its batch norm, added up. `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 *
 * Merged, one 3×3 convolution with bias is left. Keys are those of the original: `rbr_dense.conv.weight`,
 * `rbr_dense.bn.*`, `rbr_1x1.*`, `rbr_identity.*`, `se.*`; merged `rbr_reparam.weight`, `rbr_reparam.bias`. Unlike there,
 * a dilation holds for both forms.
 */
export class RepVGGBlock extends BranchedConv {
  static override readonly stateNames = { rbr1x1: "rbr_1x1" };

  readonly se: SqueezeExcite | undefined;
  // First of the branches, as in the original's state dicts.
  readonly rbrIdentity: BatchNorm2d | undefined;
  readonly rbrDense: ConvBn | undefined;
  readonly rbr1x1: ConvBn | undefined;
  readonly rbrReparam: Conv2d | undefined = undefined;

  constructor({ useSe = false, norm = {}, ...options }: RepVGGBlockOptions) {
    super("repvgg", options);
    const { inChannels, outChannels, kernelSize, stride, groups } = this.options;
    this.se = useSe ? new SqueezeExcite(outChannels, Math.floor(outChannels / 16)) : undefined;
    this.rbrIdentity = this.hasIdentity ? new BatchNorm2d(outChannels, norm) : undefined;
    this.rbrDense = this.unit(inChannels, outChannels, { kernelSize, norm, ...this.convOptions });
    this.rbr1x1 = this.unit(inChannels, outChannels, { kernelSize: 1, stride, groups, norm });
  }

  /** A branch with a convolution. */
  protected unit(inChannels: number, outChannels: number, options: ConvBnOptions): ConvBn {
    return new ConvBn(inChannels, outChannels, options);
  }

  protected branches(): readonly Branch[] {
    return [this.rbrDense, this.rbr1x1, this.rbrIdentity];
  }

  protected get taken(): object {
    return { rbrIdentity: undefined, rbrDense: undefined, rbr1x1: undefined };
  }

  protected override preActivation(x: Value): Value {
    const y = super.preActivation(x);
    return this.se ? this.se.forward(y) : y;
  }

  protected fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const { groups } = this.options;
    const identity = this.rbrIdentity && identityWithNorm(k, this.rbrIdentity, groups);
    const branches = [this.rbrDense?.fused(k), this.rbr1x1?.fused(k), identity].filter((b) => b !== undefined);
    return parallel(k, branches);
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
    const merged = parallel(k, [dense.fused(k), pointwise.fused(k)]).weight;
    const length = sqrt(add(mul(outer, outer), mul(inner, inner)));
    const own = k.of(dense.conv.weight);
    const outside = sub(squares(own), squares(centreOf(own)));
    return add(outside, squares(k.scaleOutputs(centreOf(merged), reciprocal(length))));
  }
}

/**
 * RepVGGplus's block: {@link RepVGGBlock} with squeeze-and-excitation behind the ReLU. Keys `post_se.down.*`,
 * `post_se.up.*` and those of RepVGG's.
 */
export class RepVGGplusBlock extends RepVGGBlock {
  readonly postSe: SqueezeExcite | undefined;

  constructor({ usePostSe = false, ...options }: RepVGGplusBlockOptions) {
    super(options);
    const { outChannels } = options;
    this.postSe = usePostSe ? new SqueezeExcite(outChannels, Math.floor(outChannels / 4)) : undefined;
  }

  override forward(x: Value): Value {
    const y = super.forward(x);
    return this.postSe ? this.postSe.forward(y) : y;
  }
}

/** {@link RepVGGBlock} without its ReLU: a unit in the place of a convolution and its batch norm. */
export class RepVGGConv extends RepVGGBlock {
  override forward(x: Value): Value {
    return this.preActivation(x);
  }
}
