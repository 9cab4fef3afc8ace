import { ConvBnRelu, resizeAligned } from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { concat, maxPool2d, type Pair, type Value } from "../graph/index.ts";
import { Conv2d, Module, Sequential } from "../nn/index.ts";
import { defineFamily, picturesOf } from "./family.ts";
import { counts, oneOrTwo, whole } from "./options.ts";

export interface UNetOptions {
  /** Channels of the levels, each of half the size of the one before. Default 32, 64, 128, 256. */
  readonly channels?: readonly number[];
  /** Default 19. */
  readonly numClasses?: number;
  /** Height and width that pictures are cut to; the network takes any. Default 256. */
  readonly imageSize?: number | Pair;
}

const pairOfConvs = (inChannels: number, outChannels: number): Sequential =>
  new Sequential(
    ...[inChannels, outChannels].map((c) => new ConvBnRelu(c, outChannels, { kernelSize: 3, padding: 1 })),
  );

/**
 * U-Net (arXiv 1505.04597) with batch norms and same padding, as the baseline of segmentation networks: two 3×3
 * convolutions per level, max pooling down, bilinear resizing up, maps of the way down beside those of the way up.
 * Conversion takes the batch norms in. Keys `down.{i}.*`, `up.{i}.*`, `classifier.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses, H, W]`.
 */
export class UNet extends Module {
  readonly down: readonly Sequential[];
  readonly up: readonly Sequential[];
  readonly classifier: Conv2d;

  constructor({ channels = [32, 64, 128, 256], numClasses = 19 }: UNetOptions = {}) {
    super();
    this.down = channels.map((c, i) => pairOfConvs(i ? channels[i - 1] : 3, c));
    this.up = channels.slice(0, -1).map((c, i) => pairOfConvs(c + channels[i + 1], c));
    this.classifier = new Conv2d(channels[0], numClasses, { kernelSize: 1 });
  }

  forward(x: Value): Value {
    const maps: Value[] = [];
    for (const level of this.down) {
      const above = maps.at(-1);
      maps.push(level.forward(above ? maxPool2d(above, { kernelSize: 2, stride: 2 }) : x));
    }
    const [top, ...levels] = maps.reverse();
    const up = [...this.up].reverse();
    const joined = levels.reduce((y, own, i) => {
      const [, , height, width] = own.shape;
      return up[i].forward(concat([own, resizeAligned(y, [height, width])], 1));
    }, top);
    return this.classifier.forward(joined);
  }
}

export const unet = defineFamily<UNetOptions>({
  name: "UNet",
  task: "segmentation",
  variants: { UNet: { description: "U-Net with batch norms, a baseline of segmentation" } },
  options: { channels: counts, numClasses: whole, imageSize: oneOrTwo },
  create: (options) => new UNet(options),
  preprocessing: ({ imageSize = 256 }) => picturesOf(imageSize, imagenetNormalization),
  namings: [{ name: "repmlp", signature: [["down.0.0.conv.weight", "up.0.0.conv.weight", "classifier.weight"]] }],
});
