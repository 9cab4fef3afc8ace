import type { Value } from "../graph/index.ts";
import { Conv2d, type Initializer, Module } from "../nn/index.ts";

const identity: Initializer = ([channels]) =>
  Float64Array.from({ length: channels ** 2 }, (_, i) => Number(i % (channels + 1) === 0));

/**
 * ResRep's compactor (arXiv 2007.03260, section 3.1): a 1×1 convolution `[O, O, 1, 1]` without bias after a batch norm and
 * before the activation, the identity at the start. Training shrinks its rows; a row of zeros is a filter that can go.
 * {@link ConvBn} merges it. Key `pwc.weight`.
 */
export class Compactor extends Module {
  readonly pwc: Conv2d;

  constructor(channels: number) {
    super();
    this.pwc = new Conv2d(channels, channels, { kernelSize: 1, bias: false, init: identity });
  }

  forward(x: Value): Value {
    return this.pwc.forward(x);
  }
}
