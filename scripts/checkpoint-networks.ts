/*
 * Networks of public checkpoints, built from this library's modules: what a user writes for weights of their own.
 */

import { add, globalAvgPool, pad, relu, slice, type Value } from "../src/graph/index.ts";
import { BatchNorm2d, Conv2d, Linear, Module, Sequential } from "../src/nn/index.ts";

/** Two 3×3 convolutions; the shortcut takes every second pixel and fills new channels with zeros (option A). */
class BasicBlock extends Module {
  readonly conv1: Conv2d;
  readonly bn1: BatchNorm2d;
  readonly conv2: Conv2d;
  readonly bn2: BatchNorm2d;
  /** Zero channels on either side of the shortcut. */
  private readonly added: number;

  constructor(inChannels: number, outChannels: number, stride: number) {
    super();
    this.conv1 = new Conv2d(inChannels, outChannels, { kernelSize: 3, stride, padding: 1, bias: false });
    this.bn1 = new BatchNorm2d(outChannels);
    this.conv2 = new Conv2d(outChannels, outChannels, { kernelSize: 3, padding: 1, bias: false });
    this.bn2 = new BatchNorm2d(outChannels);
    this.added = (outChannels - inChannels) / 2;
  }

  forward(x: Value): Value {
    const y = this.bn2.forward(this.conv2.forward(relu(this.bn1.forward(this.conv1.forward(x)))));
    return relu(add(y, this.added ? this.shortcut(x) : x));
  }

  private shortcut(x: Value): Value {
    const [, , height, width] = x.shape;
    const half = slice(x, [
      { axis: 2, start: 0, end: height, step: 2 },
      { axis: 3, start: 0, end: width, step: 2 },
    ]);
    const around = [0, this.added, 0, 0];
    return pad(half, around, around);
  }
}

/** CIFAR-10 ResNet-20 (He et al. 2015, section 4.2). */
export class ResNet20 extends Module {
  readonly conv1 = new Conv2d(3, 16, { kernelSize: 3, padding: 1, bias: false });
  readonly bn1 = new BatchNorm2d(16);
  readonly layer1: Sequential;
  readonly layer2: Sequential;
  readonly layer3: Sequential;
  readonly linear = new Linear(64, 10);

  constructor() {
    super();
    const layer = (from: number, to: number): Sequential =>
      new Sequential(...[0, 1, 2].map((i) => new BasicBlock(i ? to : from, to, i || from === to ? 1 : 2)));
    this.layer1 = layer(16, 16);
    this.layer2 = layer(16, 32);
    this.layer3 = layer(32, 64);
  }

  forward(x: Value): Value {
    const stem = relu(this.bn1.forward(this.conv1.forward(x)));
    const features = this.layer3.forward(this.layer2.forward(this.layer1.forward(stem)));
    return this.linear.forward(globalAvgPool(features));
  }
}

/** A merged MobileOne branch: one convolution with bias, ReLU. */
class MergedUnit extends Module {
  readonly reparamConv: Conv2d;

  constructor(
    inChannels: number,
    outChannels: number,
    options: { kernelSize: number; stride?: number; groups?: number },
  ) {
    super();
    this.reparamConv = new Conv2d(inChannels, outChannels, { padding: options.kernelSize === 3 ? 1 : 0, ...options });
  }

  forward(x: Value): Value {
    return relu(this.reparamConv.forward(x));
  }
}

/** MobileOne-S0 (arXiv 2206.04040) in its inference form. */
export class MobileOneS0 extends Module {
  readonly stage0 = new MergedUnit(3, 48, { kernelSize: 3, stride: 2 });
  readonly stage1: Sequential;
  readonly stage2: Sequential;
  readonly stage3: Sequential;
  readonly stage4: Sequential;
  readonly linear = new Linear(1024, 1000);

  constructor() {
    super();
    const stage = (blocks: number, from: number, to: number): Sequential =>
      new Sequential(
        ...Array.from({ length: blocks }, (_, i) => (i ? to : from)).flatMap((channels, i) => [
          new MergedUnit(channels, channels, { kernelSize: 3, stride: i ? 1 : 2, groups: channels }),
          new MergedUnit(channels, to, { kernelSize: 1 }),
        ]),
      );
    this.stage1 = stage(2, 48, 48);
    this.stage2 = stage(8, 48, 128);
    this.stage3 = stage(10, 128, 256);
    this.stage4 = stage(1, 256, 1024);
  }

  forward(x: Value): Value {
    const stages = [this.stage0, this.stage1, this.stage2, this.stage3, this.stage4];
    return this.linear.forward(globalAvgPool(stages.reduce((y, stage) => stage.forward(y), x)));
  }
}
