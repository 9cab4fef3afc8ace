import { must } from "../errors.ts";
import { add, stopGradient, sub, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, Identity } from "../nn/index.ts";
import { type BiasedMap, graphAlgebra, type KernelAlgebra, normAfter } from "../reparam/index.ts";
import { type Branch, BranchedConv, type BranchedConvOptions } from "./branched.ts";
import { ConvBn } from "./conv-bn.ts";
import { centreOf, RepVGGBlock, squares } from "./repvgg.ts";

export interface QARepVGGBlockOptions extends BranchedConvOptions {
  /**
   * Refused if true: the original's squeeze-and-excitation stands in front of the last batch norm in training and behind
   * the merged convolution in deployment, which is not the same function.
   */
  readonly useSe?: boolean;
}

function mustHaveNoSe({ useSe = false }: QARepVGGBlockOptions): void {
  must(
    !useSe,
    "qarepvgg/se",
    () =>
      "qarepvgg: useSe cannot be merged exactly: in training, squeeze-and-excitation stands in front of the batch norm after the sum; a factor that depends on the picture lies between the convolutions and that norm's shift. The original moves it behind the merged convolution, which gives other outputs. Leave useSe out, or use RepVGG's block, which has it behind its sum.",
    "usage",
  );
}

/**
 * QARepVGG's block (arXiv 2212.01593, section 4; the original's `QARepVGGBlockV2`), which keeps its accuracy when it is
 * quantized: the ReLU of a batch norm of the sum of a 3×3 convolution with batch norm, a 1×1 convolution without, and
 * (where the shape stays the same) the input itself. `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 *
 * Keys `rbr_dense.conv.weight`, `rbr_dense.bn.*`, `rbr_1x1.weight`, `bn.*`; merged `rbr_reparam.weight`,
 * `rbr_reparam.bias`.
 */
export class QARepVGGBlock extends BranchedConv {
  static override readonly stateNames = { rbr1x1: "rbr_1x1" };

  readonly rbrDense: ConvBn | undefined;
  readonly rbr1x1: Conv2d | undefined;
  readonly rbrIdentity: Identity | undefined;
  readonly bn: BatchNorm2d | undefined;
  readonly rbrReparam: Conv2d | undefined = undefined;

  /** @throws `qarepvgg/se` */
  constructor(options: QARepVGGBlockOptions) {
    mustHaveNoSe(options);
    super("qarepvgg", options);
    const { inChannels, outChannels, kernelSize, stride, groups } = this.options;
    this.rbrDense = new ConvBn(inChannels, outChannels, { kernelSize, ...this.convOptions });
    this.rbr1x1 = new Conv2d(inChannels, outChannels, { kernelSize: 1, stride, groups, bias: false });
    this.rbrIdentity = this.hasIdentity ? new Identity() : undefined;
    this.bn = new BatchNorm2d(outChannels);
  }

  protected branches(): readonly Branch[] {
    return [this.rbrDense, this.rbr1x1, this.rbrIdentity];
  }

  protected get taken(): object {
    return { rbrDense: undefined, rbr1x1: undefined, rbrIdentity: undefined, bn: undefined };
  }

  protected override preActivation(x: Value): Value {
    const y = super.preActivation(x);
    return this.bn ? this.bn.forward(y) : y;
  }

  /** The sum in front of the last batch norm as one convolution. */
  private sum<T>(k: KernelAlgebra<T>, dense: ConvBn, pointwise: Conv2d): BiasedMap<T> {
    const { outChannels, kernelSize, groups } = this.options;
    const { weight, bias } = dense.fused(k);
    const others = [k.padKernel(k.of(pointwise.weight), kernelSize)];
    if (this.hasIdentity) others.push(k.identityKernel(kernelSize, outChannels, groups));
    return { weight: k.add(weight, ...others), bias };
  }

  protected fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const { rbrDense, rbr1x1, bn } = this;
    must(rbrDense && rbr1x1 && bn, "internal/qarepvgg", () => "internal: a branch of an unmerged block is missing");
    return normAfter(k, this.sum(k, rbrDense, rbr1x1), bn);
  }

  /**
   * The penalty that the original offers in place of weight decay: squares of the kernel in front of the last batch norm.
   * The norm behind the 3×3 kernel counts as a constant, by its running statistics. One number `[]`; times half a weight
   * decay it is a term of the loss.
   *
   * @throws `qarepvgg/merged` for a merged block
   */
  customL2(): Value {
    const { rbrDense: dense, rbr1x1: pointwise } = this;
    must(
      dense && pointwise,
      "qarepvgg/merged",
      () => "qarepvgg: a merged block has no branches for a custom L2 penalty",
      "model",
    );
    const kernels = new Set([dense.conv.weight, pointwise.weight]);
    const { dtype } = pointwise.weight;
    const k = graphAlgebra({ dtype, of: (p) => (kernels.has(p) ? p.value : stopGradient(p.value)) });
    const [outer, whole] = [dense.fused(k).weight, this.sum(k, dense, pointwise).weight];
    return add(sub(squares(outer), squares(centreOf(outer))), squares(centreOf(whole)));
  }
}

/**
 * The first version of QARepVGG's block (the original's `QARepVGGBlockV1`): {@link RepVGGBlock} with one more batch norm
 * between its sum and the ReLU. Keys as RepVGG's, and `bn.*`.
 */
export class QARepVGGBlockV1 extends RepVGGBlock {
  readonly bn: BatchNorm2d | undefined;

  /** @throws `qarepvgg/se` */
  constructor(options: QARepVGGBlockOptions) {
    mustHaveNoSe(options);
    super(options);
    this.bn = new BatchNorm2d(options.outChannels);
  }

  protected override get taken(): object {
    return { ...super.taken, bn: undefined };
  }

  protected override preActivation(x: Value): Value {
    const y = super.preActivation(x);
    return this.bn ? this.bn.forward(y) : y;
  }

  protected override fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const sum = super.fused(k);
    return this.bn ? normAfter(k, sum, this.bn) : sum;
  }
}
