import { must } from "../errors.ts";
import { add, asChannelShape, conv2d, mul, neg, relu, sub, type Value } from "../graph/index.ts";
import {
  Buffer,
  Conv2d,
  cloneWith,
  constantInit,
  fanIn,
  type Initializer,
  Module,
  Parameter,
  uniform,
} from "../nn/index.ts";
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
import { paddedByBias } from "./rvsr.ts";

export interface ECBOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** Width between the 1×1 and the 3×3 convolution of the expanding branch as a multiple of `outChannels`. Default 2. */
  readonly depthMultiplier?: number;
  /** Whether the input is added, too; only where channels stay as many. Default false. */
  readonly identity?: boolean;
  /** What follows the sum. Default `prelu`, one slope for each channel. */
  readonly activation?: "prelu" | "relu" | "none";
}

/** Masks of the edge branches, row by row. */
const MASKS = {
  sbx: [1, 0, -1, 2, 0, -2, 1, 0, -1],
  sby: [1, 2, 1, 0, 0, 0, -1, -2, -1],
  lpl: [0, 1, 0, 1, -4, 1, 0, 1, 0],
} as const;

const weights = (shape: readonly number[], init: Initializer = uniform(1 / Math.sqrt(fanIn(shape)))): Parameter =>
  new Parameter(shape, { init });

/** A 1×1 and then a 3×3 convolution, with the former's bias around the map between them: `k0`, `b0`, `k1`, `b1`. */
class Expanding extends Module {
  readonly k0: Parameter;
  readonly b0: Parameter;
  readonly k1: Parameter;
  readonly b1: Parameter;

  constructor(inChannels: number, width: number, outChannels: number) {
    super();
    this.k0 = weights([width, inChannels, 1, 1]);
    this.b0 = weights([width], uniform(1 / Math.sqrt(inChannels)));
    this.k1 = weights([outChannels, width, 3, 3]);
    this.b1 = weights([outChannels], uniform(1 / Math.sqrt(width * 9)));
  }

  forward(x: Value): Value {
    const y = conv2d(paddedByBias(conv2d(x, this.k0.value), this.b0.value), this.k1.value);
    return add(y, asChannelShape(this.b1.value, 4));
  }

  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const second = { weight: k.of(this.k1), bias: k.of(this.b1) };
    return inSequence(k, { weight: k.of(this.k0), bias: k.of(this.b0) }, second);
  }
}

/** A 1×1 convolution and then a fixed edge filter per channel, scaled: `k0`, `b0`, `scale`, `bias`, `mask`. */
class Edge extends Module {
  readonly k0: Parameter;
  readonly b0: Parameter;
  readonly scale: Parameter;
  readonly bias: Parameter;
  readonly mask: Buffer;

  constructor(inChannels: number, outChannels: number, mask: readonly number[]) {
    super();
    this.k0 = weights([outChannels, inChannels, 1, 1]);
    this.b0 = weights([outChannels], uniform(1 / Math.sqrt(inChannels)));
    // Small, so that at the start the branch adds next to nothing.
    this.scale = weights([outChannels, 1, 1, 1], uniform(1e-3));
    this.bias = weights([outChannels], uniform(1e-3));
    const repeated = (): number[] => Array.from({ length: outChannels }, () => mask).flat();
    this.mask = new Buffer([outChannels, 1, 3, 3], { init: repeated });
  }

  forward(x: Value): Value {
    const filter = mul(this.scale.value, this.mask.value);
    const y = conv2d(paddedByBias(conv2d(x, this.k0.value), this.b0.value), filter, { groups: this.bias.shape[0] });
    return add(y, asChannelShape(this.bias.value, 4));
  }

  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const channels = this.bias.shape[0];
    const filter = k.scaleOutputs(k.of(this.mask), k.of(this.scale));
    // A filter per channel repeats each output of the 1×1 convolution in its own place: no sums over channels.
    return {
      weight: k.pointwiseThen(k.of(this.k0), filter, channels),
      bias: k.shiftInputs(filter, k.of(this.b0), k.of(this.bias), channels),
    };
  }
}

/** Activation with a slope for each channel below 0: key `weight`. */
export class PReLU extends Module {
  readonly weight: Parameter;

  constructor(channels: number) {
    super();
    this.weight = weights([channels], constantInit(0.25));
  }

  forward(x: Value): Value {
    return sub(relu(x), mul(asChannelShape(this.weight.value, 4), relu(neg(x))));
  }
}

/**
 * The edge-oriented convolution block of ECBSR (Zhang et al., ACM MM 2021, section 3.2): a 3×3 convolution, a widening 1×1
 * and then 3×3 convolution, and three 1×1 convolutions, each followed by a fixed edge filter with a learnt scale (both
 * Sobel filters and the Laplacian); where it is wanted also the input itself; all added up, then the activation. No batch
 * norm. `[N, C, H, W]` → `[N, O, H, W]`.
 *
 * Keys are the authors': `conv3x3.*`, `conv1x1_3x3.{k0,b0,k1,b1}`, `conv1x1_{sbx,sby,lpl}.{k0,b0,scale,bias,mask}`,
 * `act.weight`; merged `conv3x3.weight`, `conv3x3.bias`, `act.weight`.
 */
export class ECB extends Module implements Reparameterizable {
  static override readonly stateNames = {
    conv1x13x3: "conv1x1_3x3",
    conv1x1Sbx: "conv1x1_sbx",
    conv1x1Sby: "conv1x1_sby",
    conv1x1Lpl: "conv1x1_lpl",
  };

  readonly options: Required<ECBOptions>;
  readonly conv3x3: Conv2d;
  readonly conv1x13x3: Expanding | undefined;
  readonly conv1x1Sbx: Edge | undefined;
  readonly conv1x1Sby: Edge | undefined;
  readonly conv1x1Lpl: Edge | undefined;
  readonly act: PReLU | undefined;

  constructor(options: ECBOptions) {
    super();
    const { inChannels, outChannels, depthMultiplier = 2, identity = false, activation = "prelu" } = options;
    must(
      !identity || inChannels === outChannels,
      "ecb/identity",
      () => `ecb: an identity branch needs as many input as output channels, got ${inChannels} and ${outChannels}`,
      "usage",
    );
    const width = Math.floor(outChannels * depthMultiplier);
    must(width > 0, "ecb/width", () => `ecb: depthMultiplier ${depthMultiplier} leaves no channels`, "usage");
    this.options = { inChannels, outChannels, depthMultiplier, identity, activation };
    this.conv3x3 = new Conv2d(inChannels, outChannels, { kernelSize: 3, padding: 1 });
    this.conv1x13x3 = new Expanding(inChannels, width, outChannels);
    this.conv1x1Sbx = new Edge(inChannels, outChannels, MASKS.sbx);
    this.conv1x1Sby = new Edge(inChannels, outChannels, MASKS.sby);
    this.conv1x1Lpl = new Edge(inChannels, outChannels, MASKS.lpl);
    this.act = activation === "prelu" ? new PReLU(outChannels) : undefined;
  }

  /** What a merge adds to the 3×3 convolution; nothing in the merged form. */
  private get branches(): readonly (Expanding | Edge)[] {
    return [this.conv1x13x3, this.conv1x1Sbx, this.conv1x1Sby, this.conv1x1Lpl].filter((b) => b !== undefined);
  }

  forward(x: Value): Value {
    const { branches } = this;
    const sum = branches.reduce((y, branch) => add(y, branch.forward(x)), this.conv3x3.forward(x));
    const y = this.options.identity && branches.length ? add(sum, x) : sum;
    if (this.act) return this.act.forward(y);
    return this.options.activation === "relu" ? relu(y) : y;
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const own = mapOf(k, this.conv3x3) as BiasedMap<T>;
    const { branches } = this;
    if (!branches.length) return namedMap("conv3x3", own);
    const { weight, bias } = parallel(k, [own, ...branches.map((branch) => branch.fused(k))]);
    const { identity, outChannels } = this.options;
    return namedMap("conv3x3", {
      weight: identity ? k.add(weight, k.identityKernel(3, outChannels)) : weight,
      bias,
    });
  }

  merge(): Merge {
    if (!this.branches.length) return { kept: "already merged" };
    const shell = cloneWith(this as ECB, {
      ...{ conv1x13x3: undefined, conv1x1Sbx: undefined, conv1x1Sby: undefined, conv1x1Lpl: undefined },
    });
    const identity = this.options.identity ? ", the identity" : "";
    return {
      merged: mergedForm(shell, this),
      note: `the expanding branch${identity} and three edge filters into the 3x3 convolution`,
    };
  }
}
