import { ConvBn, PReLU } from "../blocks/index.ts";
import { add, type Pair, pair, reshape, type Value } from "../graph/index.ts";
import { Module } from "../nn/index.ts";
import { facePictures, recognizer } from "./face-family.ts";
import { defineFamily } from "./family.ts";
import { oneOrTwo, whole } from "./options.ts";

export interface MobileFaceNetOptions {
  /** Features of the embedding. Default 128. */
  readonly embedding?: number;
  /** Height and width of the input in pixels. Default 112. */
  readonly imageSize?: number | Pair;
}

/** Convolution, batch norm and an activation with a slope per channel. Keys `conv.weight`, `bn.*`, `act.weight`. */
class ConvBnPReLU extends ConvBn {
  readonly act: PReLU;

  constructor(inChannels: number, outChannels: number, options: ConstructorParameters<typeof ConvBn>[2]) {
    super(inChannels, outChannels, options);
    this.act = new PReLU(outChannels);
  }

  override forward(x: Value): Value {
    return this.act.forward(super.forward(x));
  }
}

/** Inverted residual: 1×1 to more channels, depthwise 3×3, 1×1 back without activation. */
class Bottleneck extends Module {
  readonly expand: ConvBnPReLU;
  readonly depthwise: ConvBnPReLU;
  readonly project: ConvBn;

  constructor(
    inChannels: number,
    outChannels: number,
    midChannels: number,
    stride: number,
    readonly residual = stride === 1 && inChannels === outChannels,
  ) {
    super();
    this.expand = new ConvBnPReLU(inChannels, midChannels, { kernelSize: 1 });
    this.depthwise = new ConvBnPReLU(midChannels, midChannels, {
      ...{ kernelSize: 3, stride, padding: 1, groups: midChannels },
    });
    this.project = new ConvBn(midChannels, outChannels, { kernelSize: 1 });
  }

  forward(x: Value): Value {
    const y = this.project.forward(this.depthwise.forward(this.expand.forward(x)));
    return this.residual ? add(x, y) : y;
  }
}

/** Expansion, output channels, repetitions and stride of the first (table 1 of the paper). */
const rows = [
  [2, 64, 5, 2],
  [4, 128, 1, 2],
  [2, 128, 6, 1],
  [4, 128, 1, 2],
  [2, 128, 2, 1],
] as const;

/**
 * MobileFaceNet (arXiv 1804.07573, table 1): inverted residuals with PReLU, and in place of global average pooling a
 * depthwise convolution as large as the last map. Keys `conv1.*`, `dw_conv.*`, `blocks.{i}.*`, `conv.*`, `pool.*`,
 * `embedding.*`. `[N, 3, H, W]` → `[N, embedding]`, not of unit length.
 */
export class MobileFaceNet extends Module {
  readonly conv1: ConvBnPReLU;
  readonly dwConv: ConvBnPReLU;
  readonly blocks: readonly Bottleneck[];
  readonly conv: ConvBnPReLU;
  readonly pool: ConvBn;
  readonly embedding: ConvBn;

  constructor({ embedding = 128, imageSize = 112 }: MobileFaceNetOptions = {}) {
    super();
    this.conv1 = new ConvBnPReLU(3, 64, { kernelSize: 3, stride: 2, padding: 1 });
    this.dwConv = new ConvBnPReLU(64, 64, { kernelSize: 3, padding: 1, groups: 64 });
    let inChannels = 64;
    this.blocks = rows.flatMap(([expansion, channels, count, stride]) =>
      Array.from({ length: count }, (_, i) => {
        const made = new Bottleneck(inChannels, channels, expansion * inChannels, i ? 1 : stride);
        inChannels = channels;
        return made;
      }),
    );
    this.conv = new ConvBnPReLU(inChannels, 512, { kernelSize: 1 });
    const [height, width] = pair(imageSize).map((d) => Math.ceil(d / 16));
    this.pool = new ConvBn(512, 512, { kernelSize: [height, width], groups: 512 });
    this.embedding = new ConvBn(512, embedding, { kernelSize: 1 });
  }

  forward(x: Value): Value {
    const map = this.blocks.reduce((y, block) => block.forward(y), this.dwConv.forward(this.conv1.forward(x)));
    const y = this.embedding.forward(this.pool.forward(this.conv.forward(map)));
    return reshape(y, [y.shape[0], y.shape[1]]);
  }
}

interface Options extends MobileFaceNetOptions {
  /** Identities that it is trained to tell apart. Default those of MS1M-V2, 85,742. */
  readonly numClasses?: number;
}

export const mobilefacenet = defineFamily<Options>({
  name: "MobileFaceNet",
  task: "faces",
  variants: {
    MobileFaceNet: {
      description: "embeddings of faces with few multiply-adds; the reference of RepMLP-FaceRes",
      sizes: [{ form: "deploy", parameters: "0.99 M", macs: "221 M", source: "arXiv 1804.07573, table 2" }],
    },
  },
  options: { embedding: whole, imageSize: oneOrTwo, numClasses: whole },
  create: ({ numClasses, ...options }) => recognizer(new MobileFaceNet(options), options.embedding ?? 128, numClasses),
  preprocessing: ({ imageSize = 112 }) => facePictures(imageSize),
  namings: [{ name: "repmlp", signature: [["embedder.conv1.conv.weight", "embedder.dw_conv.conv.weight"]] }],
});
