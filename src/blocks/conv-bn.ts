import { type ConvOptions, type Pair, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Module } from "../nn/index.ts";
import {
  batchNormAffine,
  batchNormInputs,
  batchNormOf,
  derivedByRows,
  derivedParameter,
  fuseBias,
  type Merge,
  type Reparameterizable,
  scaledRows,
} from "../reparam/index.ts";
import { sizeOf } from "../tensor/index.ts";

export interface ConvBnOptions extends ConvOptions {
  readonly kernelSize: number | Pair;
}

/** A convolution without bias and its batch norm as one convolution with bias. */
export function mergeConvBn(conv: Conv2d, bn: BatchNorm2d): Conv2d {
  const stats = batchNormInputs(bn);
  const columns = sizeOf(conv.weight.shape.slice(1));
  const weight = derivedByRows(conv.weight, stats, (...t) =>
    scaledRows(batchNormAffine(batchNormOf(bn, t)).scale, columns),
  );
  const biases = conv.bias ? [conv.bias] : [];
  const bias = derivedParameter(bn.bias, [...stats, ...biases], (...t) =>
    fuseBias(bn.bias.dtype, batchNormAffine(batchNormOf(bn, t)), t[4]),
  );
  return cloneWith(conv, { weight, bias });
}

/**
 * Convolution and batch norm. Keys `conv.weight`, `bn.*`; merged `conv.weight`, `conv.bias`.
 */
export class ConvBn extends Module implements Reparameterizable {
  readonly conv: Conv2d;
  readonly bn: BatchNorm2d | undefined;

  constructor(inChannels: number, outChannels: number, options: ConvBnOptions) {
    super();
    this.conv = new Conv2d(inChannels, outChannels, { ...options, bias: false });
    this.bn = new BatchNorm2d(outChannels);
  }

  forward(x: Value): Value {
    return this.bn ? this.bn.afterConv(this.conv, x) : this.conv.forward(x);
  }

  merge(): Merge {
    if (!this.bn) return { kept: "already merged" };
    const conv = mergeConvBn(this.conv, this.bn);
    return { merged: cloneWith(this as ConvBn, { conv, bn: undefined }), note: "batch norm into the convolution" };
  }
}

/** {@link ConvBn} followed by a ReLU. */
export class ConvBnRelu extends ConvBn {
  override forward(x: Value): Value {
    return relu(super.forward(x));
  }
}
