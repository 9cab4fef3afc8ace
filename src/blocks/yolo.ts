import { add, avgPool2d, relu, silu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Module } from "../nn/index.ts";
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
import { centredPadding } from "./centred.ts";
import { ConvBn, type ConvBnOptions, IndexedConvBn } from "./conv-bn.ts";
import { RepVGGBlock, type RepVGGBlockOptions } from "./repvgg.ts";

/** What detectors of the YOLO kind set their batch norms to; a checkpoint does not tell. */
export const YOLO_EPS = 1e-3;

/** What follows a block. */
export type YoloActivation = "silu" | "relu" | "none";

const activate = (x: Value, activation: YoloActivation): Value =>
  activation === "silu" ? silu(x) : activation === "relu" ? relu(x) : x;

export interface YoloV7RepConvOptions extends Omit<RepVGGBlockOptions, "norm" | "useSe"> {
  /** Default `silu`. */
  readonly activation?: YoloActivation;
  /** Of all batch norms. Default 1e-3. */
  readonly eps?: number;
}

/**
 * YOLOv7's `RepConv`: {@link RepVGGBlock} with a SiLU, and with positions for names within the branches: keys
 * `rbr_dense.{0,1}.*`, `rbr_1x1.{0,1}.*`, `rbr_identity.*`; merged `rbr_reparam.*`. Unlike the original's conversion, ours
 * is right with several groups, too.
 */
export class YoloV7RepConv extends RepVGGBlock {
  constructor({ eps = YOLO_EPS, activation = "silu", ...options }: YoloV7RepConvOptions) {
    super({ ...options, norm: { eps } });
    this.activation = activation;
  }

  readonly activation: YoloActivation;

  protected override unit(inChannels: number, outChannels: number, options: ConvBnOptions): ConvBn {
    return new IndexedConvBn(inChannels, outChannels, options);
  }

  override forward(x: Value): Value {
    return activate(this.preActivation(x), this.activation);
  }
}

export interface YoloRepConvOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd. Default 3. */
  readonly kernelSize?: number;
  /** Default 1. */
  readonly stride?: number;
  /** Default 1. */
  readonly groups?: number;
  /** A branch of a batch norm alone, where the shape stays the same. Default false. */
  readonly identity?: boolean;
  /** Default `silu`. */
  readonly activation?: YoloActivation;
  /** Of all batch norms. Default 1e-3; RT-DETR's `RepVggBlock`, which is this block, has 1e-5. */
  readonly eps?: number;
}

/**
 * `RepConv` of Ultralytics' YOLOs and YOLOv10: a k×k convolution and a 1×1 one, each with batch norm, and where asked for
 * the input itself, added up. Keys `conv1.{conv,bn}.*`, `conv2.{conv,bn}.*`, `bn.*`; merged `conv.*`.
 *
 * `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 */
export class YoloRepConv extends Module implements Reparameterizable {
  // First, as in the original's state dicts.
  readonly bn: BatchNorm2d | undefined;
  readonly conv1: ConvBn | undefined;
  readonly conv2: ConvBn | undefined;
  readonly conv: Conv2d | undefined = undefined;
  private readonly options: Required<Pick<YoloRepConvOptions, "groups" | "activation">>;

  constructor({
    inChannels,
    outChannels,
    kernelSize = 3,
    stride = 1,
    groups = 1,
    identity = false,
    activation = "silu",
    eps = YOLO_EPS,
  }: YoloRepConvOptions) {
    super();
    const padding = centredPadding("repconv", { kernelSize });
    const shared = { stride, groups, norm: { eps } };
    this.bn =
      identity && inChannels === outChannels && stride === 1 ? new BatchNorm2d(outChannels, { eps }) : undefined;
    this.conv1 = new ConvBn(inChannels, outChannels, { kernelSize, padding, ...shared });
    this.conv2 = new ConvBn(inChannels, outChannels, { kernelSize: 1, ...shared });
    this.options = { groups, activation };
  }

  forward(x: Value): Value {
    const branches = [this.conv, this.conv1, this.conv2, this.bn].filter((b) => b !== undefined);
    const sum = branches.map((b) => b.forward(x)).reduce((y, branch) => add(y, branch));
    return activate(sum, this.options.activation);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    if (this.conv) return namedMap("conv", mapOf(k, this.conv) as BiasedMap<T>);
    const [_outChannels] = this.conv1!.conv.weight.shape;
    const identity = this.bn && identityWithNorm(k, this.bn, this.options.groups);
    const branches = [this.conv1?.fused(k), this.conv2?.fused(k), identity].filter((b) => b !== undefined);
    return namedMap("conv", parallel(k, branches));
  }

  merge(): Merge {
    if (!this.conv1) return { kept: "already merged" };
    const shell = cloneWith(this as YoloRepConv, {
      ...{ bn: undefined, conv1: undefined, conv2: undefined },
      conv: this.conv1.emptyConv(),
    });
    return {
      merged: mergedForm(shell, this),
      note: `the large, the 1x1${this.bn ? " and the identity" : ""} branch into one convolution`,
    };
  }
}

export interface YoloRepVGGDWOptions {
  readonly channels: number;
  /** Of all batch norms. Default 1e-3. */
  readonly eps?: number;
}

/**
 * `RepVGGDW` of YOLOv10 and Ultralytics: a depthwise 7×7 and a depthwise 3×3 convolution, each with batch norm, added up,
 * and a SiLU. Keys `conv.{conv,bn}.*`, `conv1.{conv,bn}.*`; merged `conv.*`. RepViT's block of this name is
 * {@link RepVGGDW}.
 *
 * `[N, C, H, W]` → the same shape.
 */
export class YoloRepVGGDW extends Module implements Reparameterizable {
  readonly conv: ConvBn | Conv2d;
  readonly conv1: ConvBn | undefined;

  constructor({ channels, eps = YOLO_EPS }: YoloRepVGGDWOptions) {
    super();
    const depthwise = (kernelSize: number): ConvBn =>
      new ConvBn(channels, channels, {
        ...{ kernelSize, padding: (kernelSize - 1) / 2, groups: channels, norm: { eps } },
      });
    this.conv = depthwise(7);
    this.conv1 = depthwise(3);
  }

  forward(x: Value): Value {
    const y = this.conv.forward(x);
    return silu(this.conv1 ? add(y, this.conv1.forward(x)) : y);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { conv, conv1 } = this;
    if (conv instanceof Conv2d) return namedMap("conv", mapOf(k, conv) as BiasedMap<T>);
    return namedMap(
      "conv",
      parallel(
        k,
        [conv, ...(conv1 ? [conv1] : [])].map((branch) => branch.fused(k)),
      ),
    );
  }

  merge(): Merge {
    const { conv } = this;
    if (conv instanceof Conv2d) return { kept: "already merged" };
    const shell = cloneWith(this as YoloRepVGGDW, { conv: conv.emptyConv(), conv1: undefined });
    return { merged: mergedForm(shell, this), note: "the 7x7 and the 3x3 branch into one convolution" };
  }
}

export interface YoloQARepVGGBlockOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd. Default 3. */
  readonly kernelSize?: number;
  /** Default 1. */
  readonly stride?: number;
  /** Default 1. */
  readonly groups?: number;
  /**
   * A branch that averages the input over the kernel, where the shape stays the same (`QARepVGGBlockV2`). It has no
   * parameters: keys alone do not tell it from the block without. Default false.
   */
  readonly average?: boolean;
  /** Of both batch norms. Default 1e-3. */
  readonly eps?: number;
}

/**
 * YOLOv6's `QARepVGGBlock` and `QARepVGGBlockV2` (after arXiv 2212.01593): a k×k convolution with batch norm, a 1×1 one
 * without, the input and maybe its average are added up, then a batch norm and a ReLU. Keys `rbr_dense.{conv,bn}.*`,
 * `rbr_1x1.weight`, `bn.*`; merged `rbr_reparam.*`, and `bn.*` as it was, as in the original.
 *
 * `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 */
export class YoloQARepVGGBlock extends Module implements Reparameterizable {
  static override readonly stateNames = { rbr1x1: "rbr_1x1" };
  readonly rbrDense: ConvBn | undefined;
  readonly rbr1x1: Conv2d | undefined;
  readonly rbrReparam: Conv2d | undefined = undefined;
  readonly bn: BatchNorm2d;
  private readonly kernelSize: number;
  private readonly groups: number;
  /** Branches without parameters. */
  private readonly same: boolean;
  private readonly average: boolean;

  constructor({
    inChannels,
    outChannels,
    kernelSize = 3,
    stride = 1,
    groups = 1,
    average = false,
    eps = YOLO_EPS,
  }: YoloQARepVGGBlockOptions) {
    super();
    const padding = centredPadding("qarepvgg", { kernelSize });
    this.rbrDense = new ConvBn(inChannels, outChannels, { kernelSize, stride, padding, groups, norm: { eps } });
    this.rbr1x1 = new Conv2d(inChannels, outChannels, { kernelSize: 1, stride, groups, bias: false });
    this.bn = new BatchNorm2d(outChannels, { eps });
    this.kernelSize = kernelSize;
    this.groups = groups;
    this.same = inChannels === outChannels && stride === 1;
    this.average = this.same && average;
  }

  forward(x: Value): Value {
    return relu(this.bn.forward(this.summed(x)));
  }

  private summed(x: Value): Value {
    if (this.rbrReparam) return this.rbrReparam.forward(x);
    const { kernelSize } = this;
    let sum = add(this.rbrDense!.forward(x), this.rbr1x1!.forward(x));
    if (this.same) sum = add(sum, x);
    // Zeros of the padding count, as in PyTorch's default.
    const window = { kernelSize, stride: 1, padding: (kernelSize - 1) / 2, countIncludePad: true };
    return this.average ? add(sum, avgPool2d(x, window)) : sum;
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { rbrDense, rbr1x1, rbrReparam, kernelSize, groups } = this;
    if (rbrReparam) return namedMap("rbr_reparam", mapOf(k, rbrReparam) as BiasedMap<T>);
    const { weight, bias } = rbrDense!.fused(k);
    const [outChannels] = rbr1x1!.weight.shape;
    const kernels = [k.padKernel(k.of(rbr1x1!.weight), kernelSize)];
    if (this.same) kernels.push(k.identityKernel(kernelSize, outChannels, groups));
    if (this.average) kernels.push(k.poolKernel(kernelSize, outChannels, groups));
    return namedMap("rbr_reparam", { weight: k.add(weight, ...kernels), bias });
  }

  merge(): Merge {
    const { rbrDense } = this;
    if (!rbrDense) return { kept: "already merged" };
    const shell = cloneWith(this as YoloQARepVGGBlock, {
      ...{ rbrDense: undefined, rbr1x1: undefined },
      rbrReparam: rbrDense.emptyConv(),
    });
    const others = [this.same ? "the identity" : "", this.average ? "the average" : ""].filter(Boolean);
    return {
      merged: mergedForm(shell, this),
      note: `${["the large", "the 1x1", ...others].join(", ")} branch into one convolution; the batch norm after the sum stays`,
    };
  }
}
