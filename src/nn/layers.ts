import { fmt, must } from "../errors.ts";
import type { ConvOptions, Pair, PoolOptions, Value } from "../graph/index.ts";
import * as ops from "../graph/index.ts";
import { Tensor } from "../tensor/index.ts";
import { constantInit, fanIn, kaimingUniform, uniform } from "./init.ts";
import { Module } from "./module.ts";
import { Buffer, Counter, type Initializer, Parameter } from "./parameter.ts";

export interface Conv2dOptions extends ConvOptions {
  readonly kernelSize: number | Pair;
  /** Default true. */
  readonly bias?: boolean;
  /** Initial weights. Default Kaiming uniform with a = √5, as in PyTorch. */
  readonly init?: Initializer;
  /** Initial bias. Default uniform in ±1 / √fan-in, as in PyTorch. */
  readonly biasInit?: Initializer;
}

/** Checks window sizes and steps when a layer is built, where the mistake is. */
function mustBeSizes(layer: string, least: 0 | 1, sizes: Readonly<Record<string, number | Pair | undefined>>): void {
  for (const [name, size = least] of Object.entries(sizes))
    must(
      ops.pair(size).every((d) => Number.isInteger(d) && d >= least),
      `${layer}/size`,
      () =>
        `${layer}: ${name} must be ${least ? "a positive integer" : "an integer, 0 or more"}, got ${fmt(ops.pair(size))}`,
      "usage",
    );
}

function mustDivide(layer: string, groups: number, channels: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(channels))
    must(
      Number.isInteger(count) && count > 0 && Number.isInteger(groups) && groups > 0 && count % groups === 0,
      `${layer}/channels`,
      () =>
        groups === 1
          ? `${layer}: ${name} must be a positive integer, got ${count}`
          : `${layer}: ${name} must be a positive multiple of groups, got ${count} with ${groups} groups`,
      "usage",
    );
}

const biasOf = (outputs: number, inputs: number, init: Initializer = uniform(1 / Math.sqrt(inputs))): Parameter =>
  new Parameter([outputs], { init });

/** 2-D convolution; weight `[outChannels, inChannels / groups, kH, kW]`. */
export class Conv2d extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  readonly options: ConvOptions;

  constructor(
    inChannels: number,
    outChannels: number,
    { kernelSize, bias = true, init = kaimingUniform(), biasInit, ...options }: Conv2dOptions,
  ) {
    super();
    const { groups = 1, stride, padding, dilation } = options;
    mustBeSizes("conv2d", 1, { kernelSize, stride, dilation });
    mustBeSizes("conv2d", 0, { padding });
    mustDivide("conv2d", groups, { inChannels, outChannels });
    const shape = [outChannels, inChannels / groups, ...ops.pair(kernelSize)];
    this.weight = new Parameter(shape, { init });
    this.bias = bias ? biasOf(outChannels, fanIn(shape), biasInit) : undefined;
    this.options = options;
  }

  /** A depthwise convolution has as many groups as channels are left. */
  override afterResize({ weight: before }: this): object {
    const { groups = 1 } = this.options;
    if (groups === 1 || before.shape[1] !== 1) return {};
    return { options: { ...this.options, groups: (this.weight.shape[0] * groups) / before.shape[0] } };
  }

  forward(x: Value): Value {
    const y = ops.conv2d(x, this.weight.value, this.options);
    return this.bias ? ops.add(y, ops.asChannelShape(this.bias.value, 4)) : y;
  }
}

/** What a convolution's weight says of its widths. */
export const convWidths = ({ weight, options: { groups = 1 } }: Conv2d) => ({
  inChannels: weight.shape[1] * groups,
  outChannels: weight.shape[0],
  groups,
});

export interface ConvTranspose2dOptions extends Conv2dOptions {
  readonly outputPadding?: number | Pair;
}

/** 2-D transposed convolution; weight `[inChannels, outChannels / groups, kH, kW]`. */
export class ConvTranspose2d extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  readonly options: ConvOptions & { readonly outputPadding?: number | Pair };

  constructor(
    inChannels: number,
    outChannels: number,
    { kernelSize, bias = true, init = kaimingUniform(), biasInit, ...options }: ConvTranspose2dOptions,
  ) {
    super();
    const { groups = 1, stride, padding, dilation, outputPadding } = options;
    mustBeSizes("convTranspose2d", 1, { kernelSize, stride, dilation });
    mustBeSizes("convTranspose2d", 0, { padding, outputPadding });
    mustDivide("convTranspose2d", groups, { inChannels, outChannels });
    const shape = [inChannels, outChannels / groups, ...ops.pair(kernelSize)];
    this.weight = new Parameter(shape, { init });
    this.bias = bias ? biasOf(outChannels, fanIn(shape), biasInit) : undefined;
    this.options = options;
  }

  forward(x: Value): Value {
    const y = ops.convTranspose2d(x, this.weight.value, this.options);
    return this.bias ? ops.add(y, ops.asChannelShape(this.bias.value, 4)) : y;
  }
}

/** Bias and initial values, as of {@link Conv2dOptions}. */
export type LinearOptions = Pick<Conv2dOptions, "bias" | "init" | "biasInit">;

/** Fully connected layer; weight `[outFeatures, inFeatures]`. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;

  constructor(
    inFeatures: number,
    outFeatures: number,
    { bias = true, init = kaimingUniform(), biasInit }: LinearOptions = {},
  ) {
    super();
    mustDivide("linear", 1, { inFeatures, outFeatures });
    this.weight = new Parameter([outFeatures, inFeatures], { init });
    this.bias = bias ? biasOf(outFeatures, inFeatures, biasInit) : undefined;
  }

  /** `[N, inFeatures]` → `[N, outFeatures]`. */
  forward(x: Value): Value {
    return ops.linear(x, this.weight.value, this.bias?.value);
  }
}

export interface BatchNormOptions {
  /** Default 1e-5. */
  readonly eps?: number;
  /** Share of the new batch in the running statistics. Default 0.1. */
  readonly momentum?: number;
  /** Initial weight of every channel. Default 1; 0 lets a residual branch begin as nothing. */
  readonly initialWeight?: number;
}

/**
 * Batch norm over channel axis 1 of `[N, C, …]`. In training mode the batch's mean and biased variance normalise, and
 * the running statistics take the unbiased variance; in evaluation mode the running statistics normalise.
 */
export class BatchNorm extends Module {
  readonly weight: Parameter | undefined;
  readonly bias: Parameter | undefined;
  readonly runningMean: Buffer;
  readonly runningVar: Buffer;
  readonly numBatchesTracked = new Counter();
  readonly eps: number;
  readonly momentum: number;

  /** @param options  `affine`: whether there is a weight and a bias; without them it only normalises. Default true. */
  constructor(channels: number, options: BatchNormOptions & { readonly affine?: boolean } = {}) {
    super();
    const { eps = 1e-5, momentum = 0.1, initialWeight = 1, affine = true } = options;
    mustDivide("batchNorm", 1, { channels });
    this.weight = affine ? new Parameter([channels], { init: constantInit(initialWeight) }) : undefined;
    this.bias = affine ? new Parameter([channels], { init: constantInit(0) }) : undefined;
    this.runningMean = new Buffer([channels], { init: constantInit(0) });
    this.runningVar = new Buffer([channels], { init: constantInit(1) });
    this.eps = eps;
    this.momentum = momentum;
  }

  forward(x: Value): Value {
    const { shape } = this.runningMean;
    const weight = this.weight?.value ?? ops.constant(Tensor.full(x.dtype, shape, 1));
    const bias = this.bias?.value ?? ops.constant(Tensor.full(x.dtype, shape, 0));
    if (!this.training) return ops.batchNorm(x, weight, bias, this.runningMean.value, this.runningVar.value, this.eps);
    return this.tracked(ops.batchNormTrain(x, weight, bias, this.eps));
  }

  /** The norm's output; notes the batch's statistics. */
  protected tracked(normalized: ops.BatchNormalized): Value {
    ops.countBatch(this.numBatchesTracked);
    return tracked(normalized, this);
  }
}

/** The running statistics of a batch norm in training mode. */
export interface TrackedStatistics {
  readonly runningMean: Buffer;
  readonly runningVar: Buffer;
  readonly momentum: number;
}

/** Output of a norm by the batch's own statistics, of which the running ones take their share. */
export function tracked(
  { y, mean, variance }: ops.BatchNormalized,
  { runningMean, runningVar, momentum }: TrackedStatistics,
): Value {
  const count = ops.valuesPerChannel(y.shape);
  const track = (buffer: Buffer, batch: Value): void => {
    const before = ops.pendingUpdate(buffer) ?? buffer.value;
    ops.updateBuffer(buffer, ops.add(ops.mul(before, 1 - momentum), ops.mul(batch, momentum)));
  };
  track(runningMean, mean);
  track(runningVar, ops.mul(variance, count / (count - 1)));
  return y;
}

/** One that has a weight and a bias. */
class AffineBatchNorm extends BatchNorm {
  declare readonly weight: Parameter;
  declare readonly bias: Parameter;

  constructor(channels: number, options: BatchNormOptions = {}) {
    super(channels, options);
  }
}

/** Gives a new batch norm values with which it changes nothing in evaluation mode. */
export function asIdentity<B extends BatchNorm>(bn: B): B {
  const { weight, bias, runningMean, runningVar, eps } = bn;
  const values = [
    [weight, Math.sqrt(1 + eps)],
    [bias, 0],
    [runningMean, 0],
    [runningVar, 1],
  ] as const;
  for (const [p, value] of values) p?.set(Tensor.full(p.dtype, p.shape, value));
  return bn;
}

/** Batch norm of images `[N, C, H, W]`. */
export class BatchNorm2d extends AffineBatchNorm {
  override forward(x: Value): Value {
    must(x.shape.length === 4, "batchNorm2d/rank", () => `batchNorm2d: x must be [N, C, H, W], got ${fmt(x.shape)}`);
    return super.forward(x);
  }

  /** The norm of a convolution's output; a 1×1 convolution is trained in one with it where that is faster. */
  afterConv(conv: Conv2d, x: Value): Value {
    const { weight } = conv;
    const together =
      this.training &&
      ops.isPointwiseConv(weight.shape, conv.options) &&
      ops.pointwiseNormPays(x.shape, weight.shape[0]);
    if (!together || conv.bias) return this.forward(conv.forward(x));
    return this.tracked(ops.pointwiseNormTrain(x, weight.value, this.weight.value, this.bias.value, this.eps));
  }
}

/** Batch norm of features `[N, F]`. */
export class BatchNorm1d extends AffineBatchNorm {}

/**
 * Layer norm over the channels, axis 1 of `[N, C, …]`, at every position alone: weight · (x − mean) / √(variance + eps) +
 * bias, with the biased variance (arXiv 1607.06450).
 */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly eps: number;

  constructor(channels: number, { eps = 1e-5 }: Pick<BatchNormOptions, "eps"> = {}) {
    super();
    mustDivide("layerNorm", 1, { channels });
    this.weight = new Parameter([channels], { init: constantInit(1) });
    this.bias = new Parameter([channels], { init: constantInit(0) });
    this.eps = eps;
  }

  forward(x: Value): Value {
    const rank = x.shape.length;
    const centred = ops.sub(x, ops.reduceMean(x, [1], { keepDims: true }));
    const variance = ops.reduceMean(ops.mul(centred, centred), [1], { keepDims: true });
    const y = ops.div(centred, ops.sqrt(ops.add(variance, this.eps)));
    const [weight, bias] = [this.weight, this.bias].map((p) => ops.asChannelShape(p.value, rank));
    return ops.add(ops.mul(y, weight), bias);
  }
}

/** Passes its input on. */
export class Identity extends Module {
  forward(x: Value): Value {
    return x;
  }
}

export class ReLU extends Module {
  forward(x: Value): Value {
    return ops.relu(x);
  }
}

export class GELU extends Module {
  forward(x: Value): Value {
    return ops.gelu(x);
  }
}

export class Sigmoid extends Module {
  forward(x: Value): Value {
    return ops.sigmoid(x);
  }
}

export class HardSwish extends Module {
  forward(x: Value): Value {
    return ops.hardSwish(x);
  }
}

function mustBeWindow(layer: string, { kernelSize, stride, padding }: PoolOptions): void {
  mustBeSizes(layer, 1, { kernelSize, stride });
  mustBeSizes(layer, 0, { padding });
}

export class MaxPool2d extends Module {
  constructor(readonly options: PoolOptions) {
    super();
    mustBeWindow("maxPool2d", options);
  }

  forward(x: Value): Value {
    return ops.maxPool2d(x, this.options);
  }
}

export class AvgPool2d extends Module {
  constructor(readonly options: PoolOptions) {
    super();
    mustBeWindow("avgPool2d", options);
  }

  forward(x: Value): Value {
    return ops.avgPool2d(x, this.options);
  }
}

/** `[N, C, H, W]` → `[N, C]`. */
export class GlobalAvgPool extends Module {
  forward(x: Value): Value {
    return ops.globalAvgPool(x);
  }
}

/** `[N, …]` → `[N, D]`. */
export class Flatten extends Module {
  forward(x: Value): Value {
    return ops.flatten(x);
  }
}

/** Zeroes values with probability `p` in training mode; see {@link ops.dropout}. */
export class Dropout extends Module {
  constructor(readonly p: number) {
    super();
  }

  forward(x: Value): Value {
    return this.training ? ops.dropout(x, this.p) : x;
  }
}

/** Zeroes whole samples with probability `p` in training mode (stochastic depth). */
export class DropPath extends Module {
  constructor(readonly p: number) {
    super();
  }

  forward(x: Value): Value {
    return this.training ? ops.dropPath(x, this.p) : x;
  }
}

/** Layers one after the other; state-dict keys start with their positions. */
export class Sequential extends Module {
  static override readonly stateNames = { layers: (index: string) => index };
  readonly layers: readonly (Module & { forward(x: Value): Value })[];

  constructor(...layers: (Module & { forward(x: Value): Value })[]) {
    super();
    this.layers = layers;
  }

  forward(x: Value): Value {
    return this.layers.reduce((y, layer) => layer.forward(y), x);
  }
}
