import { ACB, type ConvFactory, type ConvUnitName, convUnit, convUnits, eligibleUnit } from "../blocks/index.ts";
import { cifar10Normalization } from "../data/index.ts";
import { must } from "../errors.ts";
import { add, avgPool2d, flatten, globalAvgPool, maxPool2d, relu, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, Linear, Module, type Net } from "../nn/index.ts";
import { defineFamily, type PublishedSize, picturesOf, type Variant } from "./family.ts";
import { oneOf, positive, whole } from "./options.ts";

export interface ACNetCifarOptions {
  readonly network: keyof typeof networks;
  /** What the convolutions are made of. Default `plain`. */
  readonly unit?: ConvUnitName;
  /** Width as a multiple of the network's own. Default 1. */
  readonly widthMultiplier?: number;
  /** Blocks of each stage of the two residual networks. Default 9 and 2. */
  readonly numBlocks?: number;
  /** Default 10. */
  readonly numClasses?: number;
  /** Height and width of the input in pixels. Default 32. */
  readonly imageSize?: number;
}

type Sizes = Required<Omit<ACNetCifarOptions, "network" | "numBlocks">> & Pick<ACNetCifarOptions, "numBlocks">;

/** With the initial weights of batch norms that the authors take on CIFAR-10. */
const units: Readonly<Record<ConvUnitName, ConvFactory>> = {
  ...convUnits,
  acb: (inChannels, outChannels, options) => new ACB({ inChannels, outChannels, ...options, gammaInit: 1 / 3 }),
};

/** Units without a batch norm, where one comes before the convolution. */
const bare: typeof units = {
  ...units,
  plain: (inChannels, outChannels, options) => new Conv2d(inChannels, outChannels, { ...options, bias: false }),
};

const same = (kernelSize: number, stride = 1) => ({ kernelSize, stride, padding: (kernelSize - 1) / 2 });

/** A unit under its own name, as the authors' sequence of unit and ReLU has it: `acb.*`; a plain one without. */
class Named extends Module {
  static override readonly stateNames = { unit: (name: string) => name };

  constructor(readonly unit: Readonly<Record<string, Net>>) {
    super();
  }

  forward(x: Value): Value {
    return Object.values(this.unit).reduce((y, unit) => unit.forward(y), x);
  }
}

/** Units that a ReLU follows. */
const beforeRelu =
  (name: ConvUnitName): ConvFactory =>
  (...args) => {
    const unit = convUnit(name, units)(...args);
    const own = eligibleUnit(name, args[2].kernelSize);
    return own === "plain" ? unit : new Named({ [own]: unit });
  };

/** Batch norm, ReLU and a convolution, or another unit. Keys `bn.*`, `conv.*` or the unit's name. */
class NormReluConv extends Module {
  static override readonly stateNames = { unit: (name: string) => name };
  readonly bn: BatchNorm2d;
  readonly unit: Readonly<Record<string, Net>>;

  constructor(name: ConvUnitName, ...[inChannels, outChannels, options]: Parameters<ConvFactory>) {
    super();
    const own = eligibleUnit(name, options.kernelSize);
    this.bn = new BatchNorm2d(inChannels);
    this.unit = { [own === "plain" ? "conv" : own]: bare[own](inChannels, outChannels, options) };
  }

  forward(x: Value): Value {
    return Object.values(this.unit).reduce((y, unit) => unit.forward(y), relu(this.bn.forward(x)));
  }
}

/** Cifar-quick with batch norms: three 5×5 convolutions with pooling between them, two fully connected layers. */
class CifarQuick extends Module {
  readonly conv1: Net;
  readonly conv2: Net;
  readonly conv3: Net;
  readonly fc1: Linear;
  readonly fc2: Linear;

  constructor({ unit, widthMultiplier, numClasses, imageSize }: Sizes) {
    super();
    const conv = beforeRelu(unit);
    const [a, b, c] = [32, 32, 64].map((width) => Math.floor(width * widthMultiplier));
    const pooled = [1, 2, 3].reduce((size) => Math.floor((size - 1) / 2), imageSize);
    mustLeaveSomething("Cifar-quick", pooled, imageSize, 15);
    this.conv1 = conv(3, a, same(5));
    this.conv2 = conv(a, b, same(5));
    this.conv3 = conv(b, c, same(5));
    this.fc1 = new Linear(c * pooled ** 2, 64);
    this.fc2 = new Linear(64, numClasses);
  }

  forward(x: Value): Value {
    const window = { kernelSize: 3, stride: 2 };
    const y = maxPool2d(relu(this.conv1.forward(x)), window);
    const z = avgPool2d(relu(this.conv2.forward(y)), window);
    const features = flatten(avgPool2d(relu(this.conv3.forward(z)), window));
    return this.fc2.forward(relu(this.fc1.forward(features)));
  }
}

/** VGG-16's convolutions, and two fully connected layers. */
class CifarVGG extends Module {
  /** The 13 convolutions, `conv1` and so on. */
  readonly stem: Readonly<Record<string, Net>>;
  readonly linear1: Linear;
  readonly linear2: Linear;

  constructor({ unit, widthMultiplier, numClasses, imageSize }: Sizes) {
    super();
    const conv = beforeRelu(unit);
    const widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512].map((width) =>
      Math.floor(width * widthMultiplier),
    );
    const pooled = Math.floor(imageSize / 32);
    mustLeaveSomething("VGG", pooled, imageSize, 32);
    this.stem = Object.fromEntries(
      widths.map((width, i) => [`conv${i + 1}`, conv(i ? widths[i - 1] : 3, width, same(3))]),
    );
    this.linear1 = new Linear(widths[12] * pooled ** 2, 512);
    this.linear2 = new Linear(512, numClasses);
  }

  forward(x: Value): Value {
    const y = Object.entries(this.stem).reduce((y, [name, conv]) => {
      const z = relu(conv.forward(y));
      return ["conv2", "conv4", "conv7", "conv10", "conv13"].includes(name) ? maxPool2d(z, { kernelSize: 2 }) : z;
    }, x);
    return this.linear2.forward(relu(this.linear1.forward(flatten(y))));
  }
}

function mustLeaveSomething(name: string, pooled: number, imageSize: number, least: number): void {
  must(
    pooled > 0,
    "acnet-cifar/size",
    () => `acnet-cifar: ${name} needs pictures of ${least} x ${least} pixels or more, got \`imageSize\` ${imageSize}`,
    "usage",
  );
}

/** Residual blocks of two 3×3 convolutions. The first one's shortcut is the stage's projection, or what `conv1` makes. */
class BasicStage extends Module {
  static override readonly stateNames = { blocks: (index: string) => `block${index}` };
  readonly conv1: Net | undefined;
  readonly projection: Net | undefined;
  readonly blocks: readonly BasicBranch[];

  constructor(unit: ConvUnitName, inChannels: number, channels: number, numBlocks: number) {
    super();
    const conv = convUnit(unit, units);
    const first = inChannels === 3;
    this.conv1 = first ? conv(3, channels, same(3)) : undefined;
    this.projection = first ? undefined : conv(inChannels, channels, { kernelSize: 1, stride: 2 });
    this.blocks = Array.from({ length: numBlocks }, (_, i) =>
      i || first ? new BasicBranch(unit, channels, channels, 1) : new BasicBranch(unit, inChannels, channels, 2),
    );
  }

  forward(x: Value): Value {
    const start = this.conv1 ? relu(this.conv1.forward(x)) : x;
    return this.blocks.reduce((y, block, i) => {
      const shortcut = i === 0 && this.projection ? this.projection.forward(y) : y;
      return relu(add(shortcut, block.forward(y)));
    }, start);
  }
}

class BasicBranch extends Module {
  readonly conv1: Net;
  readonly conv2: Net;

  constructor(unit: ConvUnitName, inChannels: number, channels: number, stride: number) {
    super();
    this.conv1 = beforeRelu(unit)(inChannels, channels, same(3, stride));
    this.conv2 = convUnit(unit, units)(channels, channels, same(3));
  }

  forward(x: Value): Value {
    return this.conv2.forward(relu(this.conv1.forward(x)));
  }
}

/** ResNet-56 (arXiv 1512.03385, section 4.2), with projections where the size changes. */
class CifarResNet extends Module {
  readonly stage1: BasicStage;
  readonly stage2: BasicStage;
  readonly stage3: BasicStage;
  readonly linear: Linear;

  constructor({ unit, widthMultiplier, numBlocks = 9, numClasses }: Sizes) {
    super();
    const [a, b, c] = [16, 32, 64].map((width) => Math.floor(width * widthMultiplier));
    this.stage1 = new BasicStage(unit, 3, a, numBlocks);
    this.stage2 = new BasicStage(unit, a, b, numBlocks);
    this.stage3 = new BasicStage(unit, b, c, numBlocks);
    this.linear = new Linear(c, numClasses);
  }

  forward(x: Value): Value {
    const y = [this.stage1, this.stage2, this.stage3].reduce((y, stage) => stage.forward(y), x);
    return this.linear.forward(globalAvgPool(y));
  }
}

/** A wide residual network's block: two convolutions, each after its norm and ReLU, and the input or a 1×1 of it. */
class WideBlock extends Module {
  readonly proj: NormReluConv | undefined;
  readonly conv1: NormReluConv;
  readonly conv2: NormReluConv;

  constructor(unit: ConvUnitName, [inChannels, channels]: readonly [number, number], stride: number, first: boolean) {
    super();
    this.proj = first ? new NormReluConv(unit, inChannels, channels, { kernelSize: 1, stride }) : undefined;
    this.conv1 = new NormReluConv(unit, inChannels, channels, same(3, stride));
    this.conv2 = new NormReluConv(unit, channels, channels, same(3));
  }

  forward(x: Value): Value {
    return add(this.conv2.forward(this.conv1.forward(x)), this.proj ? this.proj.forward(x) : x);
  }
}

/** Blocks one after the other, counted from 1. */
class WideStage extends Module {
  static override readonly stateNames = { blocks: (index: string) => `block${Number(index) + 1}` };

  constructor(readonly blocks: readonly WideBlock[]) {
    super();
  }

  forward(x: Value): Value {
    return this.blocks.reduce((y, block) => block.forward(y), x);
  }
}

/** WRN-16-8 (arXiv 1605.07146) without dropout. As the authors have it, no ReLU follows the last norm. */
class WideResNet extends Module {
  readonly conv1: Net;
  readonly stage1: WideStage;
  readonly stage2: WideStage;
  readonly stage3: WideStage;
  readonly lastBn: BatchNorm2d;
  readonly linear: Linear;

  constructor({ unit, widthMultiplier, numBlocks = 2, numClasses }: Sizes) {
    super();
    const widths = [128, 256, 512].map((width) => Math.floor(width * widthMultiplier));
    const stage = (i: 0 | 1 | 2): WideStage => {
      const [before, width] = [i ? widths[i - 1] : 16, widths[i]];
      const block = (_: unknown, j: number): WideBlock =>
        new WideBlock(unit, [j ? width : before, width], i && !j ? 2 : 1, j === 0);
      return new WideStage(Array.from({ length: numBlocks }, block));
    };
    this.conv1 = convUnit(unit, bare)(3, 16, same(3));
    this.stage1 = stage(0);
    this.stage2 = stage(1);
    this.stage3 = stage(2);
    this.lastBn = new BatchNorm2d(widths[2]);
    this.linear = new Linear(widths[2], numClasses);
  }

  forward(x: Value): Value {
    const y = [this.conv1, this.stage1, this.stage2, this.stage3].reduce((y, part) => part.forward(y), x);
    return this.linear.forward(globalAvgPool(this.lastBn.forward(y)));
  }
}

const networks = {
  "cifar-quick": CifarQuick,
  vgg: CifarVGG,
  "resnet-56": CifarResNet,
  "wrn-16-8": WideResNet,
} as const;

const suffixes = { plain: "base", acb: "ACB", dbb: "DBB", repvgg: "RepVGG" } as const;

/** What the units are, for people. */
const words: Readonly<Record<ConvUnitName, string>> = {
  plain: "plain",
  acb: "asymmetric convolution blocks",
  dbb: "diverse branch blocks",
  repvgg: "RepVGG's branches",
};

/** The four forms of a network; the authors' README has the accuracy of the plain one and of the one with ACBs. */
function variantsOf(
  name: string,
  network: keyof typeof networks,
  [plain, acb]: readonly [number, number],
  sizes: readonly PublishedSize[] = [],
): Record<string, Variant<ACNetCifarOptions>> {
  const published: Partial<Record<ConvUnitName, number>> = { plain, acb };
  return Object.fromEntries(
    (Object.keys(suffixes) as ConvUnitName[]).map((unit) => {
      const top1 = published[unit];
      const figures = top1 && [{ top1, imageSize: 32, source: "ACNet's authors, README (CIFAR-10)" }];
      const options = { network, unit };
      return [
        `${name}-${suffixes[unit]}`,
        { description: `${name} for CIFAR-10, ${words[unit]}`, options, sizes, ...(figures && { figures }) },
      ];
    }),
  );
}

/** First keys of the units, in both forms. */
const unitKeys = [
  ...["conv.weight", "acb.square_conv.weight", "acb.fused_conv.weight"],
  ...["dbb.dbb_origin.conv.weight", "dbb.dbb_reparam.weight"],
  ...["repvgg.rbr_dense.conv.weight", "repvgg.rbr_reparam.weight"],
];

/**
 * The networks of ACNet's experiments on CIFAR-10 (arXiv 1908.03930, section 4.1) as the authors' repository has them,
 * each plain, with asymmetric convolution blocks, diverse branch blocks, or RepVGG's branches. Keys are the authors';
 * for units that they do not have, the unit's name takes the place of `acb`. Merged, batch norms of plain convolutions
 * are merged, too, where the authors' conversion leaves them (the projections of ResNet-56).
 */
export const acnetCifar = defineFamily<ACNetCifarOptions>({
  name: "ACNet-CIFAR10",
  variants: {
    ...variantsOf("Cifar-quick", "cifar-quick", [86.2, 86.87]),
    ...variantsOf("VGG-CIFAR10", "vgg", [93.99, 94.54]),
    ...variantsOf(
      "ResNet-56",
      "resnet-56",
      [94.55, 95.06],
      [
        {
          ...{ form: "deploy", parameters: "0.85 M", source: "arXiv 1512.03385, table 6" },
        },
      ],
    ),
    ...variantsOf(
      "WRN-16-8",
      "wrn-16-8",
      [95.89, 96.33],
      [{ form: "deploy", parameters: "11.0 M", source: "arXiv 1605.07146, table 4" }],
    ),
  },
  options: {
    network: oneOf("cifar-quick", "vgg", "resnet-56", "wrn-16-8"),
    unit: oneOf("plain", "repvgg", "acb", "dbb"),
    widthMultiplier: positive,
    numBlocks: whole,
    numClasses: whole,
    imageSize: whole,
  },
  create: ({ network, ...sizes }) =>
    new networks[network]({ unit: "plain", widthMultiplier: 1, numClasses: 10, imageSize: 32, ...sizes }),
  preprocessing: ({ imageSize = 32 }) => picturesOf(imageSize, cifar10Normalization),
  namings: [
    {
      name: "acnet",
      signature: unitKeys.flatMap((key) => [
        [`conv3.${key}`, "fc2.weight"],
        [`stem.conv13.${key}`, "linear2.weight"],
        [`stage3.block0.conv1.${key}`, "linear.weight"],
        [`stage3.block1.conv1.${key}`, "last_bn.weight"],
      ]),
    },
  ],
});
