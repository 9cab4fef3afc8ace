import { ECB, MBRConv, RVSRRepConv } from "../../src/blocks/index.ts";
import {
  add,
  asChannelShape,
  concat,
  constant,
  gelu,
  globalAvgPool,
  matmul,
  mul,
  neg,
  pow,
  reduceMax,
  relu,
  reshape,
  resize2d,
  sigmoid,
  sqrt,
  sub,
  transpose,
  type Value,
} from "../../src/graph/index.ts";
import { Conv2d, constantInit, Module, type Net, Parameter } from "../../src/nn/index.ts";
import { Tensor } from "../../src/tensor/index.ts";

/*
 * The small networks whose training branches are still in their files, built from this package's blocks. Only what the
 * files need: fixed sizes, the authors' keys.
 */

const pointwise = (from: number, to: number): Conv2d => new Conv2d(from, to, { kernelSize: 1 });

/** `[N, C·r², H, W]` → `[N, C, H·r, W·r]`, as PyTorch's `PixelShuffle`. */
function pixelShuffle(x: Value, r: number): Value {
  const [n, c, h, w] = x.shape;
  const split = reshape(x, [n, c / (r * r), r, r, h, w]);
  return reshape(transpose(split, [0, 1, 4, 2, 5, 3]), [n, c / (r * r), h * r, w * r]);
}

/** Layers by number, those without weights left out. */
class Numbered extends Module {
  static override readonly stateNames = { layers: (key: string) => key };
  constructor(readonly layers: Readonly<Record<string, Net>>) {
    super();
  }
}

class PReLU extends Module {
  readonly weight: Parameter;
  constructor(channels: number) {
    super();
    this.weight = new Parameter([channels], { init: constantInit(0.25) });
  }
  forward(x: Value): Value {
    return sub(relu(x), mul(asChannelShape(this.weight.value, 4), relu(neg(x))));
  }
}

class Excite extends Module {
  readonly fc1 = pointwise(16, 8);
  readonly fc2 = pointwise(8, 16);
  forward(x: Value): Value {
    const pooled = reshape(globalAvgPool(x), [x.shape[0], x.shape[1], 1, 1]);
    return mul(x, sigmoid(this.fc2.forward(relu(this.fc1.forward(pooled)))));
  }
}

class RVSRBlock extends Module {
  readonly tokenMixer = new RVSRRepConv({ channels: 16 });
  readonly channelMixer = new Numbered({ "ffn.0": pointwise(16, 32), "ffn.2": pointwise(32, 16) });
  readonly attn = new Excite();
  forward(x: Value): Value {
    const y = this.attn.forward(this.tokenMixer.forward(x));
    const { layers } = this.channelMixer;
    return add(layers["ffn.2"].forward(gelu(layers["ffn.0"].forward(y))), y);
  }
}

/** RVSR, × 4: `[N, 3, H, W]` → `[N, 3, 4·H, 4·W]`. */
export class RVSR extends Module {
  readonly head = new Numbered({ 0: new Conv2d(3, 16, { kernelSize: 3, padding: 1 }) });
  readonly body = Array.from({ length: 8 }, () => new RVSRBlock());
  readonly tail = new Numbered({ 0: new RVSRRepConv({ channels: 16 }), 1: pointwise(16, 48) });
  forward(x: Value): Value {
    const first = this.head.layers[0].forward(x);
    const y = add(
      this.body.reduce((z, block) => block.forward(z), first),
      first,
    );
    const { 0: rep, 1: last } = this.tail.layers;
    const large = resize2d(x, [4 * x.shape[2], 4 * x.shape[3]], { mode: "bilinear" });
    return add(pixelShuffle(last.forward(rep.forward(y)), 4), large);
  }
}

/** ECBSR, M4C8 × 2, on one channel: `[N, 1, H, W]` → `[N, 1, 2·H, 2·W]`. */
export class ECBSR extends Module {
  readonly backbone = [
    new ECB({ inChannels: 1, outChannels: 8 }),
    ...Array.from({ length: 4 }, () => new ECB({ inChannels: 8, outChannels: 8 })),
    new ECB({ inChannels: 8, outChannels: 4, activation: "none" }),
  ];
  forward(x: Value): Value {
    return pixelShuffle(
      add(
        this.backbone.reduce((y, block) => block.forward(y), x),
        x,
      ),
      2,
    );
  }
}

/** Feature self-transform around a block. */
class FST extends Module {
  readonly weight1 = new Parameter([1], { init: constantInit(1) });
  readonly weight2 = new Parameter([1], { init: constantInit(1) });
  readonly bias = new Parameter([1, 12, 1, 1], { init: constantInit(0) });
  constructor(readonly block1: Net) {
    super();
  }
  forward(x: Value): Value {
    const y = this.block1.forward(x);
    const factor = (w: Parameter): Value => reshape(w.value, [1, 1, 1, 1]);
    return add(mul(mul(factor(this.weight1), y), mul(factor(this.weight2), y)), this.bias.value);
  }
}

class InSequence extends Module {
  static override readonly stateNames = { layers: (key: string) => key };
  constructor(readonly layers: readonly Net[]) {
    super();
  }
  forward(x: Value): Value {
    return this.layers.reduce((y, layer) => layer.forward(y), x);
  }
}

/** Magnitudes of the two-dimensional Fourier transform with orthonormal scale, half of the last axis. */
function magnitudes(y: Value): Value {
  const [, , h, w] = y.shape;
  const half = Math.floor(w / 2) + 1;
  const matrix = (f: (angle: number) => number, length: number, columns: number): Value => {
    const at = (i: number): number => f((2 * Math.PI * Math.floor(i / columns) * (i % columns)) / length);
    const values = Array.from({ length: length * columns }, (_, i) => at(i) / Math.sqrt(length));
    return constant(Tensor.of(y.dtype, [length, columns], values));
  };
  const along = [Math.cos, Math.sin].map((f) => matmul(y, matrix(f, w, half)));
  const down = [Math.cos, Math.sin].map((f) => matrix(f, h, h));
  const real = sub(matmul(down[0], along[0]), matmul(down[1], along[1]));
  const imaginary = add(matmul(down[1], along[0]), matmul(down[0], along[1]));
  return sqrt(add(pow(real, 2), pow(imaginary, 2)));
}

class Attention extends Module {
  readonly fc = new Numbered({ 0: pointwise(24, 3), 2: pointwise(3, 12) });
  readonly local = new Numbered({ 0: new MBRConv({ inChannels: 1, outChannels: 12, kernelSize: 1 }) });
  forward(y: Value): Value {
    const [n, c, h, w] = y.shape;
    const frequencies = resize2d(magnitudes(y), [h, w], { mode: "bilinear" });
    const pooled = concat([globalAvgPool(y), globalAvgPool(frequencies)], 1);
    const hidden = relu(this.fc.layers[0].forward(reshape(pooled, [n, 2 * c, 1, 1])));
    const scaled = mul(sigmoid(this.fc.layers[2].forward(hidden)), y);
    const strongest = reshape(reduceMax(scaled, [1]), [n, 1, h, w]);
    return mul(scaled, sigmoid(this.local.layers[0].forward(strongest)));
  }
}

const compact = (inChannels: number, outChannels: number, kernelSize: 3 | 5): MBRConv =>
  new MBRConv({ inChannels, outChannels, kernelSize, compact: true });

/** MobileIE for low light, with compact blocks: `[N, 3, H, W]` → `[N, 3, H, W]`. */
export class MobileIE extends Module {
  readonly head = new FST(new InSequence([compact(3, 12, 5), new PReLU(12), compact(12, 12, 3)]));
  readonly body = new FST(compact(12, 12, 3));
  readonly att = new Attention();
  readonly tail = compact(12, 3, 3);
  /** For the start of the training only. */
  readonly tailWarm = compact(12, 3, 3);
  forward(x: Value): Value {
    return this.tail.forward(this.att.forward(this.body.forward(this.head.forward(x))));
  }
}
