import { ConvBnRelu, RepMLP } from "../../src/blocks/index.ts";
import { globalAvgPool, relu, type Value } from "../../src/graph/index.ts";
import { Linear, Module } from "../../src/nn/index.ts";
import { withRandomState } from "../reparam/support.ts";

/** Fields in another order than they run in. */
export class Small extends Module {
  readonly linear = new Linear(4, 3);
  readonly rep1 = new RepMLP({ inChannels: 4, height: 6, width: 5, partition: [3, 5], reparamConvKernels: [1, 3] });
  readonly rep0 = new RepMLP({ inChannels: 4, height: 6, width: 5, partition: [2, 5], groups: 2 });
  readonly stem = new ConvBnRelu(3, 4, { kernelSize: 1 });

  forward(x: Value): Value {
    const y = relu(this.rep0.forward(this.stem.forward(x)));
    return this.linear.forward(globalAvgPool(relu(this.rep1.forward(y))));
  }
}
export const inputShape = [3, 6, 5];
export const small = (): Small => withRandomState(new Small()).eval();
