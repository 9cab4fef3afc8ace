import { add, asChannelShape, conv2d, pad, type Value } from "../graph/index.ts";
import { Conv2d, cloneWith, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  inSequence,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  parallel,
  type Reparameterizable,
} from "../reparam/index.ts";

export interface RVSRRepConvOptions {
  /** Of input and output. */
  readonly channels: number;
  /** Width within the two expanding paths as a multiple of `channels`. Default 2. */
  readonly expansion?: number;
}

/**
 * The block of RVSR, a network for super-resolution in real time (AIM/AIS 2024; github.com/huai-chang/RVSR): the input
 * itself, a 1×1 and a 3×3 convolution, and two paths that widen by a 1×1 convolution, go through a 3×3 one and narrow by a
 * 1×1 one, added up. No batch norm; every convolution has a bias. Between the widening and the 3×3 convolution the border
 * is padded with the former's bias. `[N, C, H, W]` → `[N, C, H, W]`.
 *
 * Keys are the authors': `expand_conv`, `fea_conv`, `reduce_conv`, `expand1_conv`, `fea1_conv`, `reduce1_conv`,
 * `res_conv3x3`, `res_conv1x1`; merged `rep_conv.weight`, `rep_conv.bias`.
 */
export class RVSRRepConv extends Module implements Reparameterizable {
  static override readonly stateNames = { resConv3x3: "res_conv3x3", resConv1x1: "res_conv1x1" };

  readonly options: Required<RVSRRepConvOptions>;
  readonly expandConv: Conv2d | undefined;
  readonly feaConv: Conv2d | undefined;
  readonly reduceConv: Conv2d | undefined;
  readonly expand1Conv: Conv2d | undefined;
  readonly fea1Conv: Conv2d | undefined;
  readonly reduce1Conv: Conv2d | undefined;
  readonly resConv3x3: Conv2d | undefined;
  readonly resConv1x1: Conv2d | undefined;
  readonly repConv: Conv2d | undefined = undefined;

  constructor({ channels, expansion = 2 }: RVSRRepConvOptions) {
    super();
    this.options = { channels, expansion };
    const wide = channels * expansion;
    const pointwise = (from: number, to: number): Conv2d => new Conv2d(from, to, { kernelSize: 1 });
    this.expandConv = pointwise(channels, wide);
    this.feaConv = new Conv2d(wide, wide, { kernelSize: 3 });
    this.reduceConv = pointwise(wide, channels);
    this.expand1Conv = pointwise(channels, wide);
    this.fea1Conv = new Conv2d(wide, wide, { kernelSize: 3 });
    this.reduce1Conv = pointwise(wide, channels);
    this.resConv3x3 = new Conv2d(channels, channels, { kernelSize: 3, padding: 1 });
    this.resConv1x1 = pointwise(channels, channels);
  }

  /** The two expanding paths: widen, 3×3, narrow. */
  private get paths(): readonly (readonly [Conv2d, Conv2d, Conv2d])[] {
    const paths = [
      [this.expandConv, this.feaConv, this.reduceConv],
      [this.expand1Conv, this.fea1Conv, this.reduce1Conv],
    ];
    return paths.filter((path): path is [Conv2d, Conv2d, Conv2d] => path.every(Boolean));
  }

  private get convs(): readonly Conv2d[] {
    return [this.resConv3x3, this.resConv1x1].filter((conv) => conv !== undefined);
  }

  forward(x: Value): Value {
    if (this.repConv) return this.repConv.forward(x);
    const paths = this.paths.map(([expand, fea, reduce]) =>
      reduce.forward(fea.forward(paddedByBias(conv2d(x, expand.weight.value), expand.bias!.value))),
    );
    return [...paths, ...this.convs.map((conv) => conv.forward(x))].reduce((sum, branch) => add(sum, branch), x);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const map = (conv: Conv2d): BiasedMap<T> => mapOf(k, conv) as BiasedMap<T>;
    if (this.repConv) return namedMap("rep_conv", map(this.repConv));
    const paths = this.paths.map(([expand, fea, reduce]) =>
      inSequence(k, inSequence(k, map(expand), map(fea)), map(reduce)),
    );
    const { weight, bias } = parallel(k, [...this.convs.map(map), ...paths]);
    return namedMap("rep_conv", { weight: k.add(weight, k.identityKernel(3, this.options.channels)), bias });
  }

  merge(): Merge {
    if (this.repConv) return { kept: "already merged" };
    const { channels } = this.options;
    const shell = cloneWith(this as RVSRRepConv, {
      ...{ expandConv: undefined, feaConv: undefined, reduceConv: undefined },
      ...{ expand1Conv: undefined, fea1Conv: undefined, reduce1Conv: undefined },
      ...{ resConv3x3: undefined, resConv1x1: undefined },
      repConv: new Conv2d(channels, channels, { kernelSize: 3, padding: 1 }),
    });
    return {
      merged: mergedForm(shell, this),
      note: "two expanding paths, the 3x3, the 1x1 and the identity branch into one convolution",
    };
  }
}

/** The output of a 1×1 convolution, its bias added, with one more row or column on each side, where the input counts as 0. */
export const paddedByBias = (y: Value, bias: Value): Value =>
  add(pad(y, [0, 0, 1, 1], [0, 0, 1, 1]), asChannelShape(bias, 4));
