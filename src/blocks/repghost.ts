import { must } from "../errors.ts";
import { add, hardSigmoid, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Identity, Module, type Net, ReLU, Sequential } from "../nn/index.ts";
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
import { IndexedConvBn } from "./conv-bn.ts";
import { SqueezeExcite } from "./squeeze-excite.ts";

/** The nearest multiple of `divisor`, but not less than 0.9 of the number: how mobile networks round channels. */
export function roundChannels(channels: number, divisor: number): number {
  const near = Math.max(divisor, Math.floor((channels + divisor / 2) / divisor) * divisor);
  return near < 0.9 * channels ? near + divisor : near;
}

export interface RepGhostModuleOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Odd size of the first convolution's kernel. Default 1. */
  readonly kernelSize?: number;
  /** Of the first convolution. Default 1. */
  readonly stride?: number;
  /** Odd size of the depthwise kernel. Default 3. */
  readonly dwSize?: number;
  /** A ReLU after the first convolution, and one at the end. Default true. */
  readonly useRelu?: boolean;
  /** A branch of a batch norm alone beside the depthwise convolution. Default true. */
  readonly reparamBn?: boolean;
  /** A branch that passes its input on. Default false. */
  readonly reparamIdentity?: boolean;
}

/**
 * RepGhost's module (arXiv 2211.06088, section 3.2): a convolution with batch norm and ReLU, then a depthwise convolution
 * with batch norm to which its own input is added through a batch norm, and a ReLU. Keys `primary_conv.{0,1}.*`,
 * `cheap_operation.{0,1}.*`, `fusion_bn.0.*`; merged `cheap_operation.weight`, `cheap_operation.bias`, and the batch norm of
 * `primary_conv` as it was, as in the original.
 *
 * `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 */
export class RepGhostModule extends Module implements Reparameterizable {
  readonly primaryConv: Sequential;
  readonly fusionBn: Sequential | undefined;
  readonly cheapOperation: IndexedConvBn | Conv2d;
  private readonly useRelu: boolean;

  constructor({
    inChannels,
    outChannels,
    kernelSize = 1,
    stride = 1,
    dwSize = 3,
    useRelu = true,
    reparamBn = true,
    reparamIdentity = false,
  }: RepGhostModuleOptions) {
    super();
    const padding = centredPadding("repghost", { kernelSize });
    this.primaryConv = new Sequential(
      new Conv2d(inChannels, outChannels, { kernelSize, stride, padding, bias: false }),
      new BatchNorm2d(outChannels),
      useRelu ? new ReLU() : new Identity(),
    );
    const branches: Net[] = [];
    if (reparamBn) branches.push(new BatchNorm2d(outChannels));
    if (reparamIdentity) branches.push(new Identity());
    this.fusionBn = branches.length ? new Sequential(...branches) : undefined;
    this.cheapOperation = new IndexedConvBn(outChannels, outChannels, {
      ...{ kernelSize: dwSize, padding: centredPadding("repghost", { kernelSize: dwSize }), groups: outChannels },
    });
    this.useRelu = useRelu;
  }

  forward(x: Value): Value {
    const ghost = this.primaryConv.forward(x);
    const branches = this.fusionBn?.layers ?? [];
    const sum = branches.reduce((y, branch) => add(y, branch.forward(ghost)), this.cheapOperation.forward(ghost));
    return this.useRelu ? relu(sum) : sum;
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { cheapOperation, fusionBn } = this;
    if (cheapOperation instanceof Conv2d) return namedMap("cheap_operation", mapOf(k, cheapOperation) as BiasedMap<T>);
    // Left as it is, under the keys that it has.
    if (!fusionBn) return {};
    const [channels] = cheapOperation.conv.weight.shape;
    const own = cheapOperation.fused(k);
    const norms = fusionBn.layers.filter((branch) => branch instanceof BatchNorm2d);
    const { weight, bias } = parallel(k, [own, ...norms.map((norm) => identityWithNorm(k, norm, channels))]);
    if (norms.length === fusionBn.layers.length) return namedMap("cheap_operation", { weight, bias });
    const [, , height, width] = k.shapeOf(weight);
    const identity = k.identityKernel([height, width], channels, channels);
    return namedMap("cheap_operation", { weight: k.add(weight, identity), bias });
  }

  merge(): Merge {
    const { cheapOperation, fusionBn } = this;
    if (cheapOperation instanceof Conv2d) return { kept: "already merged" };
    if (!fusionBn) return { kept: "no branch stands beside the depthwise convolution" };
    const [channels, , height, width] = cheapOperation.conv.weight.shape;
    const shell = cloneWith(this as RepGhostModule, {
      fusionBn: undefined,
      cheapOperation: new Conv2d(channels, channels, { ...cheapOperation.conv.options, kernelSize: [height, width] }),
    });
    return {
      merged: mergedForm(shell, this),
      note: "the depthwise convolution's batch norm and the branch beside it into the convolution",
    };
  }
}

/** RepGhost's squeeze-and-excitation: a quarter of the channels, a hard sigmoid. Keys `conv_reduce.*`, `conv_expand.*`. */
class HardSqueezeExcite extends SqueezeExcite {
  static override readonly stateNames = { down: "conv_reduce", up: "conv_expand" };

  protected override gate(x: Value): Value {
    return hardSigmoid(x);
  }
}

export interface RepGhostBottleneckOptions {
  readonly inChannels: number;
  readonly midChannels: number;
  readonly outChannels: number;
  /** Odd size of the depthwise kernels with stride 2. Default 3. */
  readonly dwKernelSize?: number;
  /** Default 1. */
  readonly stride?: number;
  /** Share of the channels within the squeeze-and-excitation; 0 leaves it out. Default 0. */
  readonly seRatio?: number;
  /** Adds the input where the shape stays the same. Default true. */
  readonly shortcut?: boolean;
  /** Of both modules, as of {@link RepGhostModuleOptions}. Default true. */
  readonly reparamBn?: boolean;
  /** Of both modules. Default false. */
  readonly reparamIdentity?: boolean;
}

/**
 * RepGhost's bottleneck (arXiv 2211.06088, section 3.3): a {@link RepGhostModule} to `midChannels`, with stride 2 a depthwise
 * convolution, squeeze-and-excitation, a module to `outChannels`, and a shortcut. Keys `ghost1.*`, `conv_dw.*`, `bn_dw.*`,
 * `se.*`, `ghost2.*`, `shortcut.{0..3}.*`; only the two modules merge, as in the original.
 *
 * `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 */
export class RepGhostBottleneck extends Module {
  readonly ghost1: RepGhostModule;
  readonly convDw: Conv2d | undefined;
  readonly bnDw: BatchNorm2d | undefined;
  readonly se: HardSqueezeExcite | undefined;
  readonly ghost2: RepGhostModule;
  readonly shortcut: Sequential | undefined;

  constructor({
    inChannels,
    midChannels,
    outChannels,
    dwKernelSize = 3,
    stride = 1,
    seRatio = 0,
    shortcut = true,
    reparamBn = true,
    reparamIdentity = false,
  }: RepGhostBottleneckOptions) {
    super();
    must(seRatio >= 0 && seRatio <= 1, "repghost/se-ratio", () => `repghost: seRatio must be in 0…1, got ${seRatio}`);
    const padding = centredPadding("repghost", { kernelSize: dwKernelSize });
    const depthwise = (channels: number): Conv2d =>
      new Conv2d(channels, channels, { kernelSize: dwKernelSize, stride, padding, groups: channels, bias: false });
    const branches = { reparamBn, reparamIdentity };
    this.ghost1 = new RepGhostModule({ inChannels, outChannels: midChannels, ...branches });
    this.convDw = stride > 1 ? depthwise(midChannels) : undefined;
    this.bnDw = stride > 1 ? new BatchNorm2d(midChannels) : undefined;
    this.se = seRatio ? new HardSqueezeExcite(midChannels, roundChannels(midChannels * seRatio, 4)) : undefined;
    this.ghost2 = new RepGhostModule({ inChannels: midChannels, outChannels, useRelu: false, ...branches });
    const same = inChannels === outChannels && stride === 1;
    if (!same)
      this.shortcut = new Sequential(
        depthwise(inChannels),
        new BatchNorm2d(inChannels),
        new Conv2d(inChannels, outChannels, { kernelSize: 1, bias: false }),
        new BatchNorm2d(outChannels),
      );
    else this.shortcut = shortcut ? new Sequential() : undefined;
  }

  forward(x: Value): Value {
    let y = this.ghost1.forward(x);
    if (this.convDw && this.bnDw) y = this.bnDw.afterConv(this.convDw, y);
    if (this.se) y = this.se.forward(y);
    y = this.ghost2.forward(y);
    return this.shortcut ? add(y, this.shortcut.forward(x)) : y;
  }
}
