import { fmt, must } from "../../errors.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";
import { augmented } from "../augment/apply.ts";
import { type Augmentation, sampleRng } from "../augment/augmentation.ts";
import { eraseParts } from "../augment/erase.ts";
import { copyWindow, drawWindow, isWindow, wholePicture } from "../augment/window.ts";
import { type Normalization, normalizationTables } from "../preprocessing/normalize.ts";
import type { Picture } from "../preprocessing/picture.ts";
import { throughTables } from "../preprocessing/preprocess.ts";
import { type Batch, checkIndices, checkLabel, type Dataset, type Draw, type ImageShape } from "./dataset.ts";

export interface PixelDatasetOptions extends Normalization {
  /** Bytes `[N, C, H, W]`; kept, not copied. */
  readonly pixels: Uint8Array<ArrayBuffer>;
  /** Class index of each picture, `[N]`; kept, not copied. */
  readonly labels: Uint8Array | Int32Array;
  readonly imageShape: ImageShape;
  readonly classes: readonly string[];
  /** Random changes per picture and epoch; default none. */
  readonly augment?: readonly Augmentation[];
  /** What to call the data in errors, such as a file name. */
  readonly name?: string;
}

/**
 * Small pictures held in memory as bytes (MNIST, CIFAR); a batch is normalised and augmented in one pass over them.
 *
 * @throws `data/size` when pixels and labels do not belong together, `data/label` naming the picture
 */
export class PixelDataset implements Dataset {
  readonly length: number;
  readonly classes: readonly string[];
  readonly imageShape: ImageShape;
  readonly pixels: Uint8Array<ArrayBuffer>;
  readonly labels: Uint8Array | Int32Array;
  readonly #tables: readonly Float32Array<ArrayBuffer>[];
  readonly #options: PixelDatasetOptions;
  /** Whether augmentation is no more than a window, which is copied and normalised in one go. */
  readonly #moves: boolean;

  constructor(options: PixelDatasetOptions) {
    const { pixels, labels, imageShape, classes, name = "dataset" } = options;
    const size = sizeOf(imageShape);
    must(
      imageShape.length === 3 && size > 0 && pixels.length === labels.length * size,
      "data/size",
      () =>
        `${name}: ${labels.length} labels and pictures ${fmt(imageShape)} need ${labels.length * size} bytes, got ${pixels.length}`,
      "file",
    );
    for (let i = 0; i < labels.length; i++) checkLabel(labels[i], classes.length, () => `${name}: record ${i}`);
    this.length = labels.length;
    this.classes = classes;
    this.imageShape = imageShape;
    this.pixels = pixels;
    this.labels = labels;
    this.#tables = normalizationTables(options, imageShape[0]);
    this.#options = options;
    this.#moves = isWindow(options.augment ?? []);
  }

  /** The same pictures with another normalisation or augmentation; shares the bytes. */
  with(changes: Partial<Pick<PixelDatasetOptions, "mean" | "std" | "augment">>): PixelDataset {
    return new PixelDataset({ ...this.#options, ...changes });
  }

  async batch(indices: ArrayLike<number>, draw: Draw = { seed: 0, epoch: 0 }): Promise<Batch> {
    checkIndices(indices, this.length);
    const images = new Float32Array(indices.length * sizeOf(this.imageShape));
    const labels = new Int32Array(indices.length);
    const { imageShape } = this;
    const size = sizeOf(imageShape);
    const { augment = [] } = this.#options;
    for (let i = 0; i < indices.length; i++) {
      const index = indices[i];
      labels[i] = this.labels[index];
      if (augment.length === 0) {
        copyWindow(this.pixels, index * size, imageShape, this.#tables, wholePicture, images, i * size);
        continue;
      }
      const random = sampleRng(draw, index);
      if (this.#moves) {
        const window = drawWindow(augment, imageShape, random);
        copyWindow(this.pixels, index * size, imageShape, this.#tables, window, images, i * size);
      } else {
        const changed = augmented(
          this.picture(index),
          augment,
          { height: imageShape[1], width: imageShape[2] },
          random,
        );
        throughTables(changed, this.#tables, images.subarray(i * size, (i + 1) * size));
      }
      eraseParts(images.subarray(i * size, (i + 1) * size), imageShape, augment, random);
    }
    return { images: new Tensor("float32", [indices.length, ...imageShape], images), labels };
  }

  /** One picture as it is stored, with its channels interleaved; the data set must be grey or RGB. */
  picture(index: number): Picture {
    checkIndices([index], this.length);
    const [channels, height, width] = this.imageShape;
    const plane = height * width;
    const data = new Uint8Array(channels * plane);
    for (let c = 0, from = index * data.length; c < channels; c++)
      for (let p = 0; p < plane; p++, from++) data[p * channels + c] = this.pixels[from];
    return { width, height, data };
  }
}
