import { must } from "../errors.ts";
import {
  adaptiveMaxPool2d,
  add,
  asChannelShape,
  conv2d,
  maxPool2d,
  mul,
  relu,
  sub,
  type Value,
} from "../graph/index.ts";
import { BatchNorm2d, Coefficient, Conv2d, cloneWith, constantInit, Module, normal, Parameter } from "../nn/index.ts";
import {
  type BiasedMap,
  inSequence,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  normAfter,
  type Reparameterizable,
} from "../reparam/index.ts";
import { type ConvBnOptions, IndexedConvBn } from "./conv-bn.ts";

/** VanillaNet's initial values. */
export const vanillaInit = { init: normal(0.02), biasInit: constantInit(0) } as const;

/** Of VanillaNet's batch norms. */
const EPS = 1e-6;

/** Options of a convolution with bias and batch norm as VanillaNet has them. */
export const vanillaConv = (options: ConvBnOptions): ConvBnOptions => ({
  ...{ bias: true, norm: { eps: EPS }, ...vanillaInit },
  ...options,
});

/**
 * What stands between two convolutions that become one: x where positive, λ · x elsewhere. λ is the network's
 * {@link Coefficient}; in training it goes from 0 (a ReLU) to 1 (nothing), in this class's words from non-linear to linear.
 */
export function fadingRelu(x: Value, slope: Coefficient): Value {
  const lambda = slope.read(x.shape.length);
  if (lambda === 1) return x;
  const positive = relu(x);
  return lambda === 0 ? positive : add(positive, mul(sub(x, positive), lambda));
}

/** Throws `vanillanet/slope` unless what stands between the convolutions is linear. */
export function mustBeLinear({ present, name }: Coefficient): void {
  must(
    present === 1,
    "vanillanet/slope",
    () =>
      `vanillanet: the slope between the convolutions (${name}) is ${present}: two convolutions with a non-linearity between them are not one. Train until it is 1 (the recipe's coefficients), then merge.`,
    "model",
  );
}

/** The coefficient of VanillaNet: 1, as in finished networks. */
export const newSlope = (): Coefficient => new Coefficient("slope", 1);

export interface SeriesActivationOptions {
  readonly channels: number;
  /** The activation is summed over 2n + 1 rows and columns around each pixel. Default 3. */
  readonly actNum?: number;
}

/**
 * VanillaNet's series activation (arXiv 2305.12972, section 3.2, `activation` there): a ReLU, then a weighted sum over the
 * neighbourhood of each pixel, which is a depthwise convolution, and batch norm. Keys `weight`, `bn.*`; merged `weight`,
 * `bias`. `[N, C, H, W]` → the same shape.
 */
export class SeriesActivation extends Module implements Reparameterizable {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined = undefined;
  readonly bn: BatchNorm2d | undefined;
  private readonly actNum: number;

  constructor({ channels, actNum = 3 }: SeriesActivationOptions) {
    super();
    const size = 2 * actNum + 1;
    this.weight = new Parameter([channels, 1, size, size], { init: normal(0.02) });
    this.bn = new BatchNorm2d(channels, { eps: EPS });
    this.actNum = actNum;
  }

  forward(x: Value): Value {
    const y = conv2d(relu(x), this.weight.value, { padding: this.actNum, groups: this.weight.shape[0] });
    if (this.bn) return this.bn.forward(y);
    return this.bias ? add(y, asChannelShape(this.bias.value, 4)) : y;
  }

  /** Its depthwise convolution with the batch norm in it. */
  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const own = mapOf(k, this);
    return this.bn ? normAfter(k, own, this.bn) : (own as BiasedMap<T>);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { weight, bias } = this.fused(k);
    return { weight, bias };
  }

  /** The merged form without values. */
  get shell(): SeriesActivation {
    return cloneWith(this as SeriesActivation, { bn: undefined });
  }

  merge(): Merge {
    if (!this.bn) return { kept: "already merged" };
    return { merged: mergedForm(this.shell, this), note: "batch norm into the activation's convolution" };
  }
}

/** Tensors under a layer's keys. */
const under = <T>(path: string, tensors: NamedTensors<T>): NamedTensors<T> =>
  Object.fromEntries(Object.entries(tensors).map(([key, tensor]) => [`${path}.${key}`, tensor]));

export interface VanillaBlockOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  /** As of {@link SeriesActivationOptions}. Default 3. */
  readonly actNum?: number;
  /** Of the maximum pooling; 1 leaves it out. Default 2. */
  readonly stride?: number;
  /** Rows and columns that the pooling makes of the map, whatever its size, in place of the stride. Default 0: it does not. */
  readonly adaptivePool?: number;
  /** λ of what stands between the convolutions. Default one of its own. */
  readonly slope?: Coefficient;
}

/**
 * VanillaNet's block (arXiv 2305.12972, section 3): two 1×1 convolutions with batch norm and a ReLU between that fades to
 * nothing in the course of training ({@link fadingRelu}), maximum pooling and a {@link SeriesActivation}. Keys
 * `conv1.{0,1}.*`, `conv2.{0,1}.*`, `act.*`; merged `conv.*`, `act.weight`, `act.bias`.
 *
 * `[N, C, H, W]` → `[N, O, H/stride, W/stride]`.
 */
export class VanillaBlock extends Module implements Reparameterizable {
  readonly conv1: IndexedConvBn | undefined;
  readonly conv2: IndexedConvBn | undefined;
  readonly conv: Conv2d | undefined = undefined;
  readonly act: SeriesActivation;
  readonly slope: Coefficient;
  private readonly stride: number;
  private readonly adaptivePool: number;

  constructor({
    inChannels,
    outChannels,
    actNum = 3,
    stride = 2,
    adaptivePool = 0,
    slope = newSlope(),
  }: VanillaBlockOptions) {
    super();
    const pointwise = vanillaConv({ kernelSize: 1 });
    this.conv1 = new IndexedConvBn(inChannels, inChannels, pointwise);
    this.conv2 = new IndexedConvBn(inChannels, outChannels, pointwise);
    this.act = new SeriesActivation({ channels: outChannels, actNum });
    this.slope = slope;
    this.stride = stride;
    this.adaptivePool = adaptivePool;
  }

  forward(x: Value): Value {
    const { stride, adaptivePool } = this;
    const y = this.convolved(x);
    if (stride === 1) return this.act.forward(y);
    return this.act.forward(adaptivePool ? adaptiveMaxPool2d(y, adaptivePool) : maxPool2d(y, { kernelSize: stride }));
  }

  private convolved(x: Value): Value {
    if (this.conv) return this.conv.forward(x);
    return this.conv2!.forward(fadingRelu(this.conv1!.forward(x), this.slope));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { conv1, conv2 } = this;
    const conv = conv1 && conv2 ? inSequence(k, conv1.fused(k), conv2.fused(k)) : mapOf(k, this.conv!);
    return { ...namedMap("conv", conv as BiasedMap<T>), ...under("act", this.act.equivalent(k)) };
  }

  /** The merged form without values. */
  get shell(): VanillaBlock {
    const [inChannels] = this.conv1!.conv.weight.shape;
    const [outChannels] = this.conv2!.conv.weight.shape;
    return cloneWith(this as VanillaBlock, {
      ...{ conv1: undefined, conv2: undefined, act: this.act.shell },
      conv: new Conv2d(inChannels, outChannels, { kernelSize: 1 }),
    });
  }

  /** @throws `vanillanet/slope` while there is a non-linearity between the convolutions */
  merge(): Merge {
    if (this.conv) return { kept: "already merged" };
    mustBeLinear(this.slope);
    return {
      merged: mergedForm(this.shell, this),
      note: "both 1x1 convolutions into one, and the batch norms into it and the activation",
    };
  }
}
