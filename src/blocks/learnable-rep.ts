import { must } from "../errors.ts";
import { add, asChannelShape, hardSwish, mul, type Pair, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, type Conv2d, cloneWith, constantInit, Module, Parameter } from "../nn/index.ts";
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
import { ConvBn } from "./conv-bn.ts";

/** One scale and one bias for all channels: `[1]` each. Keys `scale`, `bias`. */
class LearnableAffine extends Module {
  readonly scale = new Parameter([1], { init: constantInit(1) });
  readonly bias = new Parameter([1], { init: constantInit(0) });

  forward(x: Value): Value {
    return add(mul(x, asChannelShape(this.scale.value, 4)), asChannelShape(this.bias.value, 4));
  }
}

const activations = { hardSwish, relu } as const;

/** Activation and then a learnable scale and bias, which nothing can take in. Keys `lab.*`. */
class AffineActivation extends Module {
  readonly lab = new LearnableAffine();

  constructor(readonly activation: keyof typeof activations) {
    super();
  }

  forward(x: Value): Value {
    return this.lab.forward(activations[this.activation](x));
  }
}

export interface LearnableRepLayerOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd size of the kernels. Default 3. */
  readonly kernelSize?: number;
  /** Default 1. Layers of stride 2 have no activation; those of a pair, such as the recogniser's 2 and 1, have one. */
  readonly stride?: number | Pair;
  /** Default 1. */
  readonly groups?: number;
  /** Convolutions of the full kernel size beside each other, 1 or more. Default 4, as in PP-LCNetV3. */
  readonly numConvBranches?: number;
  /** Default `hardSwish`, as in PP-LCNetV3. */
  readonly activation?: keyof typeof activations;
  /** Whether the merge takes the first scale and bias in, too. The authors' deploy form keeps them. Default false. */
  readonly foldAffine?: boolean;
}

/**
 * The layer of PP-OCR's PP-LCNetV3 (its repository; there is no paper): several k×k convolutions, a 1×1 convolution (if
 * k > 1) and, where the shape stays the same, the input itself, each with its batch norm, added up; a learnable scale and
 * bias for all channels; unless the stride is 2, an activation and another scale and bias.
 * `[N, C, H, W]` → `[N, O, ⌈H/stride⌉, ⌈W/stride⌉]`.
 *
 * Keys `identity.*`, `conv_kxk.{i}.{conv,bn}.*`, `conv_1x1.{conv,bn}.*`, `lab.{scale,bias}`, `act.lab.{scale,bias}`; merged
 * `reparam_conv.*` in place of the branches, and with `foldAffine` of `lab`, too.
 */
export class LearnableRepLayer extends Module implements Reparameterizable {
  static override readonly stateNames = { convKxk: "conv_kxk", conv1x1: "conv_1x1" };

  readonly identity: BatchNorm2d | undefined;
  readonly convKxk: readonly ConvBn[];
  readonly conv1x1: ConvBn | undefined;
  readonly reparamConv: Conv2d | undefined = undefined;
  readonly lab: LearnableAffine | undefined = new LearnableAffine();
  /** As in the original it is there with stride 2, too, where nothing uses it. */
  readonly act: AffineActivation;
  private readonly activates: boolean;
  private readonly groups: number;
  private readonly foldAffine: boolean;

  /** @throws `learnable-rep/kernel-size` for an even kernel, `learnable-rep/branches` without a full-size convolution */
  constructor({
    inChannels,
    outChannels,
    kernelSize = 3,
    stride = 1,
    groups = 1,
    numConvBranches = 4,
    activation = "hardSwish",
    foldAffine = false,
  }: LearnableRepLayerOptions) {
    super();
    const padding = centredPadding("learnable-rep", { kernelSize });
    must(
      Number.isInteger(numConvBranches) && numConvBranches > 0,
      "learnable-rep/branches",
      () => `learnable-rep: numConvBranches must be a whole number from 1, got ${numConvBranches}`,
      "usage",
    );
    const around = { stride, groups };
    this.identity = inChannels === outChannels && stride === 1 ? new BatchNorm2d(outChannels) : undefined;
    this.convKxk = Array.from(
      { length: numConvBranches },
      () => new ConvBn(inChannels, outChannels, { kernelSize, padding, ...around }),
    );
    this.conv1x1 = kernelSize > 1 ? new ConvBn(inChannels, outChannels, { kernelSize: 1, ...around }) : undefined;
    this.act = new AffineActivation(activation);
    this.activates = stride !== 2;
    this.groups = groups;
    this.foldAffine = foldAffine;
  }

  forward(x: Value): Value {
    const branches = [this.reparamConv, this.identity, this.conv1x1, ...this.convKxk].filter((b) => b !== undefined);
    const sum = branches.map((b) => b.forward(x)).reduce((y, branch) => add(y, branch));
    const y = this.lab ? this.lab.forward(sum) : sum;
    return this.activates ? this.act.forward(y) : y;
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    if (this.reparamConv) return namedMap("reparam_conv", mapOf(k, this.reparamConv) as BiasedMap<T>);
    const [outChannels] = this.convKxk[0].conv.weight.shape;
    const identity = this.identity && identityWithNorm(k, this.identity, this.groups);
    const branches = [...this.convKxk.map((b) => b.fused(k)), this.conv1x1?.fused(k), identity];
    const { weight, bias } = parallel(
      k,
      branches.filter((b) => b !== undefined),
    );
    if (!this.foldAffine || !this.lab) return namedMap("reparam_conv", { weight, bias });
    const [scale, shift] = [this.lab.scale, this.lab.bias].map((p) => k.repeatOutputs(k.of(p), outChannels));
    return namedMap("reparam_conv", {
      weight: k.scaleOutputs(weight, scale),
      bias: k.add(k.scaleOutputs(bias, scale), shift),
    });
  }

  merge(): Merge {
    if (this.reparamConv) return { kept: "already merged" };
    const shell = cloneWith(this as LearnableRepLayer, {
      ...{ identity: undefined, convKxk: [], conv1x1: undefined },
      reparamConv: this.convKxk[0].emptyConv(),
      ...(this.foldAffine && { lab: undefined }),
    });
    return {
      merged: mergedForm(shell, this),
      note: `${this.convKxk.length} large, the 1x1 and the identity branch where it has them${this.foldAffine ? ", scale and bias" : ""} into one convolution`,
    };
  }
}
