import { fmt, must } from "../../errors.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";

/** Channels, height and width of every picture of a data set, in pixels. */
export type ImageShape = readonly [channels: number, height: number, width: number];

/** Labelled pictures, ready for the network. */
export interface Batch {
  /** float32 `[N, C, H, W]`, normalised. */
  readonly images: Tensor;
  /** Class index of each picture, `[N]`. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** float32 `[N, classes]`, rows summing to 1: present when mixup or CutMix blended the labels. */
  readonly targets?: Tensor;
}

/** Which random draw an augmenting data set makes: the same draw and index give the same picture on every machine. */
export interface Draw {
  readonly seed: number;
  readonly epoch: number;
}

/**
 * Labelled pictures of one size. The loader only ever asks for whole batches, so that a data set can fill one buffer
 * without an object per picture; where single pictures are more natural, see {@link sampleDataset}.
 */
export interface Dataset {
  /** Number of pictures. */
  readonly length: number;
  /** Class names; a label is an index into them. */
  readonly classes: readonly string[];
  readonly imageShape: ImageShape;
  /**
   * The pictures with these indices (each in 0 … length−1, repeats allowed), in this order.
   * `draw` selects the random augmentation, if the data set has any; default seed 0, epoch 0.
   */
  batch(indices: ArrayLike<number>, draw?: Draw): Promise<Batch>;
}

/** Throws `data/index` unless every index names one of `length` pictures. */
export function checkIndices(indices: ArrayLike<number>, length: number): void {
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i];
    must(
      Number.isInteger(index) && index >= 0 && index < length,
      "data/index",
      () => `dataset: index ${index} is outside 0 … ${length - 1}`,
    );
  }
}

export interface SampleDatasetOptions {
  readonly length: number;
  readonly classes: readonly string[];
  readonly imageShape: ImageShape;
  /** One normalised picture, `[C, H, W]` row-major, and its label. */
  sample(index: number, draw: Draw): Sample | Promise<Sample>;
}

export interface Sample {
  readonly image: Float32Array;
  readonly label: number;
}

/**
 * A data set from a function that makes one picture at a time.
 *
 * @throws `data/sample-size`, `data/label` when a picture or a label does not fit what was announced
 * @example
 * sampleDataset({ length: 100, classes: ["dark", "bright"], imageShape: [1, 8, 8],
 *   sample: (i) => ({ image: new Float32Array(64).fill(i % 2), label: i % 2 }) })
 */
export function sampleDataset({ length, classes, imageShape, sample }: SampleDatasetOptions): Dataset {
  const size = sizeOf(imageShape);
  return {
    length,
    classes,
    imageShape,
    async batch(indices, draw = { seed: 0, epoch: 0 }) {
      checkIndices(indices, length);
      const samples = await Promise.all(Array.from(indices, (index) => sample(index, draw)));
      const images = new Float32Array(samples.length * size);
      samples.forEach(({ image, label }, i) => {
        must(
          image.length === size,
          "data/sample-size",
          () => `dataset: sample ${indices[i]} has ${image.length} values, shape ${fmt(imageShape)} needs ${size}`,
        );
        checkLabel(label, classes.length, () => `dataset: sample ${indices[i]}`);
        images.set(image, i * size);
      });
      return {
        images: new Tensor("float32", [samples.length, ...imageShape], images),
        labels: Int32Array.from(samples, ({ label }) => label),
      };
    },
  };
}

/** Throws `data/label` unless `label` is one of `classes` class indices. */
export function checkLabel(label: number, classes: number, where: () => string): void {
  must(
    Number.isInteger(label) && label >= 0 && label < classes,
    "data/label",
    () => `${where()} has label ${label}, but there are ${classes} classes (0 … ${classes - 1})`,
    "file",
  );
}

/** The pictures of `dataset` with these indices, in this order, as a data set of its own. */
export function subset(dataset: Dataset, indices: ArrayLike<number>): Dataset {
  checkIndices(indices, dataset.length);
  const chosen = Uint32Array.from(indices);
  return {
    length: chosen.length,
    classes: dataset.classes,
    imageShape: dataset.imageShape,
    batch(wanted, draw) {
      checkIndices(wanted, chosen.length);
      return dataset.batch(
        Uint32Array.from(wanted, (i) => chosen[i]),
        draw,
      );
    },
  };
}
