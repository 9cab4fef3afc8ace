import { must } from "../errors.ts";
import { mul, reduceMean, relu, sigmoid, type Value } from "../graph/index.ts";
import { Conv2d, Module } from "../nn/index.ts";

/**
 * Squeeze-and-excitation (arXiv 1709.01507): channels times a factor in 0…1 that follows from the averages of all
 * channels. Keys `down.*`, `up.*`.
 */
export class SqueezeExcite extends Module {
  readonly down: Conv2d;
  readonly up: Conv2d;

  constructor(channels: number, hidden: number) {
    super();
    must(
      Number.isInteger(hidden) && hidden > 0,
      "squeeze-excite/hidden",
      () => `squeezeExcite: ${channels} channels are too few: the hidden layer would have ${hidden}`,
      "usage",
    );
    this.down = new Conv2d(channels, hidden, { kernelSize: 1 });
    this.up = new Conv2d(hidden, channels, { kernelSize: 1 });
  }

  /** `[N, C, H, W]` → the same shape. */
  forward(x: Value): Value {
    const averages = reduceMean(x, [2, 3], { keepDims: true });
    return mul(x, this.gate(this.up.forward(relu(this.down.forward(averages)))));
  }

  protected gate(x: Value): Value {
    return sigmoid(x);
  }
}
