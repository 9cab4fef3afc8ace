import { adaptiveAvgPool2d, concat, dropout2d, type Pair, relu, resize2d, type Value } from "../graph/index.ts";
import { Conv2d, Module } from "../nn/index.ts";
import { type KernelAlgebra, type NamedTensors, namedMap, type TrainingOnly } from "../reparam/index.ts";
import { ConvBn, IndexedConvBn } from "./conv-bn.ts";

/** Bilinear resizing with the corners' centres aligned, as PSPNet has it everywhere: `[N, C, H, W]` → `[N, C, ...size]`. */
export const resizeAligned = (x: Value, size: Pair): Value =>
  resize2d(x, size, { mode: "bilinear", alignCorners: true });

/** Average pool to bin × bin, 1×1 convolution, batch norm and ReLU, resized back. Keys `1.*`, `2.*`; merged `1.*`. */
class PooledConvBn extends ConvBn {
  static override readonly stateNames: Readonly<Record<string, string>> = { conv: "1", bn: "2" };

  constructor(
    inChannels: number,
    outChannels: number,
    readonly bin: number,
  ) {
    super(inChannels, outChannels, { kernelSize: 1 });
  }

  override forward(x: Value): Value {
    const [, , height, width] = x.shape;
    return resizeAligned(relu(super.forward(adaptiveAvgPool2d(x, this.bin))), [height, width]);
  }

  override equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return namedMap("1", this.fused(k));
  }
}

/**
 * PSPNet's pyramid pooling module (arXiv 1612.01105, section 3.2): the map itself and averages of it over `bins` × `bins`
 * regions, each reduced to a share of the channels. Keys `features.{i}.1.*`, `features.{i}.2.*` as in the author's code.
 * `[N, C, H, W]` → `[N, C + bins·floor(C / bins), H, W]`.
 */
export class PyramidPooling extends Module {
  readonly features: readonly PooledConvBn[];
  /** Channels of the output. */
  readonly outChannels: number;

  /** @param bins  regions along each side, per branch. Default 1, 2, 3, 6 */
  constructor(inChannels: number, bins: readonly number[] = [1, 2, 3, 6]) {
    super();
    const reduced = Math.floor(inChannels / bins.length);
    this.features = bins.map((bin) => new PooledConvBn(inChannels, reduced, bin));
    this.outChannels = inChannels + bins.length * reduced;
  }

  forward(x: Value): Value {
    return concat([x, ...this.features.map((branch) => branch.forward(x))], 1);
  }
}

export interface SegmentationHeadOptions {
  readonly inChannels: number;
  readonly midChannels: number;
  readonly numClasses: number;
  /** Probability with which a channel of a picture is left out in training. Default 0.1. */
  readonly dropout?: number;
}

/**
 * Classifier of pixels: 3×3 convolution, batch norm, ReLU, dropout of channels, 1×1 convolution. Keys `0.*`, `1.*`, `4.*`;
 * merged `0.*`, `4.*`. `[N, C, H, W]` → `[N, numClasses, H, W]`.
 */
export class SegmentationHead extends IndexedConvBn {
  static override readonly stateNames = { ...IndexedConvBn.stateNames, classifier: "4" };

  readonly classifier: Conv2d;
  readonly dropout: number;

  constructor({ inChannels, midChannels, numClasses, dropout = 0.1 }: SegmentationHeadOptions) {
    super(inChannels, midChannels, { kernelSize: 3, padding: 1 });
    this.classifier = new Conv2d(midChannels, numClasses, { kernelSize: 1 });
    this.dropout = dropout;
  }

  override forward(x: Value): Value {
    const y = relu(super.forward(x));
    return this.classifier.forward(this.training ? dropout2d(y, this.dropout) : y);
  }
}

/** A {@link SegmentationHead} on an earlier map that only training uses (deep supervision). */
export class AuxiliaryHead extends SegmentationHead implements TrainingOnly {
  readonly trainingOnly = "the auxiliary head";
}
