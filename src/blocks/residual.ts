import { add, relu, type Value } from "../graph/index.ts";
import { Module } from "../nn/index.ts";
import { ConvBn, ConvBnRelu } from "./conv-bn.ts";
import { RepMLP, type RepMLPOptions } from "./repmlp.ts";

export interface ResidualOptions {
  readonly inChannels: number;
  readonly midChannels: number;
  readonly outChannels: number;
}

/** Adds the shortcut (the input itself, or a 1×1 convolution and batch norm of it) and applies the ReLU. */
const joinShortcut = (y: Value, x: Value, shortcut: ConvBn | undefined): Value =>
  relu(add(y, shortcut ? shortcut.forward(x) : x));

const shortcutFor = (inChannels: number, outChannels: number, stride = 1): ConvBn | undefined =>
  stride !== 1 || inChannels !== outChannels
    ? new ConvBn(inChannels, outChannels, { kernelSize: 1, stride })
    : undefined;

/** ResNet-50's bottleneck: 1×1, 3×3 (with the stride), 1×1, each with batch norm. Keys `conv1`–`conv3`, `shortcut`. */
export class BaseBlock extends Module {
  // First, as in the original's state dicts.
  readonly shortcut: ConvBn | undefined;
  readonly conv1: ConvBnRelu;
  readonly conv2: ConvBnRelu;
  readonly conv3: ConvBn;

  /** @param options  `dilation` of the 3×3 convolution. Default 1 */
  constructor({
    inChannels,
    midChannels,
    outChannels,
    stride = 1,
    dilation = 1,
  }: ResidualOptions & { readonly stride?: number; readonly dilation?: number }) {
    super();
    this.conv1 = new ConvBnRelu(inChannels, midChannels, { kernelSize: 1 });
    this.conv2 = new ConvBnRelu(midChannels, midChannels, { kernelSize: 3, stride, padding: dilation, dilation });
    this.conv3 = new ConvBn(midChannels, outChannels, { kernelSize: 1 });
    this.shortcut = shortcutFor(inChannels, outChannels, stride);
  }

  forward(x: Value): Value {
    return joinShortcut(this.conv3.forward(this.conv2.forward(this.conv1.forward(x))), x, this.shortcut);
  }
}

/** What a residual block passes on to its RepMLP; the channels follow from the block. */
export type InnerRepMLPOptions = Omit<RepMLPOptions, "inChannels" | "outChannels">;

/** RepMLP Light block: 1×1, RepMLP, 1×1. Keys `light_conv1`, `light_repmlp`, `light_conv3`, `shortcut`. */
export class LightBlock extends Module {
  readonly shortcut: ConvBn | undefined;
  readonly lightConv1: ConvBnRelu;
  readonly lightRepmlp: RepMLP;
  readonly lightConv3: ConvBn;

  constructor({ inChannels, midChannels, outChannels, ...repmlp }: ResidualOptions & InnerRepMLPOptions) {
    super();
    this.lightConv1 = new ConvBnRelu(inChannels, midChannels, { kernelSize: 1 });
    this.lightRepmlp = new RepMLP({ ...repmlp, inChannels: midChannels });
    this.lightConv3 = new ConvBn(midChannels, outChannels, { kernelSize: 1 });
    this.shortcut = shortcutFor(inChannels, outChannels);
  }

  forward(x: Value): Value {
    const mixed = relu(this.lightRepmlp.forward(this.lightConv1.forward(x)));
    return joinShortcut(this.lightConv3.forward(mixed), x, this.shortcut);
  }
}

/**
 * RepMLP Bottleneck block with reduction r: 1×1, 3×3 to mid/r channels, RepMLP, 3×3 back, 1×1. Keys `btnk_conv1`,
 * `btnk_conv2`, `btnk_repmlp`, `btnk_conv4`, `btnk_conv5`, `shortcut`.
 */
export class BottleneckBlock extends Module {
  readonly shortcut: ConvBn | undefined;
  readonly btnkConv1: ConvBnRelu;
  readonly btnkConv2: ConvBnRelu;
  readonly btnkRepmlp: RepMLP;
  readonly btnkConv4: ConvBnRelu;
  readonly btnkConv5: ConvBn;

  constructor({
    inChannels,
    midChannels,
    outChannels,
    reduction,
    ...repmlp
  }: ResidualOptions &
    InnerRepMLPOptions & { /** r; channels of the RepMLP are floor(mid / r). */ readonly reduction: number }) {
    super();
    const inner = Math.floor(midChannels / reduction);
    this.btnkConv1 = new ConvBnRelu(inChannels, midChannels, { kernelSize: 1 });
    this.btnkConv2 = new ConvBnRelu(midChannels, inner, { kernelSize: 3, padding: 1 });
    this.btnkRepmlp = new RepMLP({ ...repmlp, inChannels: inner });
    this.btnkConv4 = new ConvBnRelu(inner, midChannels, { kernelSize: 3, padding: 1 });
    this.btnkConv5 = new ConvBn(midChannels, outChannels, { kernelSize: 1 });
    this.shortcut = shortcutFor(inChannels, outChannels);
  }

  forward(x: Value): Value {
    const reduced = this.btnkConv2.forward(this.btnkConv1.forward(x));
    const mixed = relu(this.btnkRepmlp.forward(reduced));
    return joinShortcut(this.btnkConv5.forward(this.btnkConv4.forward(mixed)), x, this.shortcut);
  }
}
