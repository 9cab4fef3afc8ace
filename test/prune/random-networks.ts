import { ConvBn, ConvBnRelu, RepVGGBlock, SqueezeExcite } from "../../src/blocks/index.ts";
import { add, concat, flatten, globalAvgPool, maxPool2d, relu, type Value } from "../../src/graph/index.ts";
import { BatchNorm1d, Buffer, Linear, Module } from "../../src/nn/index.ts";
import { type Rng, rng, Tensor } from "../../src/tensor/index.ts";

type Layer = Module & { forward(x: Value): Value };

/** Values that hide no mistake: statistics and norms are far from 0 and 1. */
export function randomize<M extends Module>(net: M, seed: number): M {
  const random = rng(seed, "values");
  for (const [key, p] of net.state()) {
    if (p.dtype !== "float32") continue;
    const value = (): number => (key.endsWith("running_var") ? 0.5 + random.next() : 0.5 * random.normal());
    p.set(Tensor.float32(p.shape, Float64Array.from({ length: p.shape.reduce((n, d) => n * d, 1) }, value)));
  }
  return net.eval();
}

export const isStatistic = (p: unknown): boolean => p instanceof Buffer;

class Plain extends Module {
  constructor(readonly conv: Layer) {
    super();
  }
  forward(x: Value): Value {
    return this.conv.forward(x);
  }
}

class Residual extends Module {
  readonly conv1: ConvBnRelu;
  readonly conv2: ConvBn;
  readonly shortcut: ConvBn | undefined;
  constructor(inChannels: number, hidden: number, outChannels: number) {
    super();
    this.conv1 = new ConvBnRelu(inChannels, hidden, { kernelSize: 3, padding: 1 });
    this.conv2 = new ConvBn(hidden, outChannels, { kernelSize: 1 });
    if (inChannels !== outChannels) this.shortcut = new ConvBn(inChannels, outChannels, { kernelSize: 1 });
  }
  forward(x: Value): Value {
    return relu(add(this.conv2.forward(this.conv1.forward(x)), this.shortcut ? this.shortcut.forward(x) : x));
  }
}

/** What goes in stays in front of what is made (DenseNet), or two branches side by side. */
class Concat extends Module {
  readonly branches: readonly ConvBnRelu[];
  constructor(
    inChannels: number,
    widths: readonly number[],
    readonly dense: boolean,
  ) {
    super();
    this.branches = widths.map((w) => new ConvBnRelu(inChannels, w, { kernelSize: 3, padding: 1 }));
  }
  forward(x: Value): Value {
    return concat([...(this.dense ? [x] : []), ...this.branches.map((b) => b.forward(x))], 1);
  }
}

class Separable extends Module {
  readonly depthwise: ConvBnRelu;
  readonly se: SqueezeExcite;
  readonly pointwise: ConvBnRelu;
  constructor(inChannels: number, multiplier: number, outChannels: number) {
    super();
    const wide = inChannels * multiplier;
    this.depthwise = new ConvBnRelu(inChannels, wide, { kernelSize: 3, padding: 1, groups: inChannels });
    this.se = new SqueezeExcite(wide, 3);
    this.pointwise = new ConvBnRelu(wide, outChannels, { kernelSize: 1 });
  }
  forward(x: Value): Value {
    return this.pointwise.forward(this.se.forward(this.depthwise.forward(x)));
  }
}

/** A network of random blocks on 8 × 8 pixels; its head sees a flattened map or means. */
export class RandomNet extends Module {
  readonly stem: ConvBnRelu;
  readonly blocks: Layer[] = [];
  readonly fc1: Linear;
  readonly norm: BatchNorm1d;
  readonly fc2: Linear;
  private readonly flat: boolean;

  constructor(seed: number) {
    super();
    const random: Rng = rng(seed, "network");
    const width = (): number => 4 + 2 * random.below(4);
    let channels = width();
    this.stem = new ConvBnRelu(3, channels, { kernelSize: 3, padding: 1 });
    for (let i = 0; i < 3; i++) {
      const next = random.below(2) ? channels : width();
      const kinds = [
        (): readonly [Layer, number] => [new Residual(channels, width(), next), next],
        (): readonly [Layer, number] => {
          const [widths, dense] = [[width(), width()], random.below(2) === 1];
          return [new Concat(channels, widths, dense), widths[0] + widths[1] + (dense ? channels : 0)];
        },
        (): readonly [Layer, number] => [new Separable(channels, 1 + random.below(2), next), next],
        (): readonly [Layer, number] => {
          const [inner, groups] = [channels % 2 ? channels + 1 : channels, 2];
          const conv = new ConvBnRelu(inner, next + (next % 2), { kernelSize: 3, padding: 1, groups });
          return [new Plain(conv), next + (next % 2)];
        },
        (): readonly [Layer, number] => [new RepVGGBlock({ inChannels: channels, outChannels: next }), next],
      ];
      const [block, after] = kinds[random.below(kinds.length)]();
      this.blocks.push(block);
      channels = after;
    }
    this.flat = random.below(2) === 1;
    this.fc1 = new Linear(channels * (this.flat ? 16 : 1), 6);
    this.norm = new BatchNorm1d(6);
    this.fc2 = new Linear(6, 5);
  }

  forward(x: Value): Value {
    const y = maxPool2d(
      this.blocks.reduce((v, block) => block.forward(v), this.stem.forward(x)),
      { kernelSize: 2 },
    );
    const features = this.flat ? flatten(y) : globalAvgPool(y);
    return this.fc2.forward(relu(this.norm.forward(this.fc1.forward(features))));
  }
}
