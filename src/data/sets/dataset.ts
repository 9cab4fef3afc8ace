import { fmt, must } from "../../errors.ts";
import { type Shape, sizeOf, Tensor } from "../../tensor/index.ts";

/** Channels, height and width of every picture of a data set, in pixels. */
export type ImageShape = readonly [channels: number, height: number, width: number];

/** Pictures, ready for the network. What a task wants to know of them lies beside: see {@link Batch}, {@link TargetBatch}. */
export interface PictureBatch {
  /** float32 `[N, C, H, W]`, normalised. */
  readonly images: Tensor;
  /**
   * Places among the indices asked for whose pictures could not be read, ascending: N is the number of indices less
   * these. Absent when there are all.
   */
  readonly missing?: readonly number[];
}

/** Pictures of classes. */
export interface Batch extends PictureBatch {
  /** Class index of each picture, `[N]`. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** float32 `[N, classes]`, rows summing to 1: present when mixup or CutMix blended the labels. */
  readonly targets?: Tensor;
}

/** Pictures with a target each: a number, a vector, a mask, an identity. */
export interface TargetBatch extends PictureBatch {
  /** One target per picture along the first axis: `[N]`, `[N, k]`, `[N, H, W]`, … */
  readonly targets: Tensor;
}

/** Which random draw an augmenting data set makes: the same draw and index give the same picture on every machine. */
export interface Draw {
  readonly seed: number;
  readonly epoch: number;
}

/**
 * Pictures of one size with what a task wants to know of them. The loader only ever asks for whole batches, so that a
 * data set can fill one buffer without an object per picture; where single pictures are more natural, see
 * {@link sampleDataset}.
 */
export interface PictureSet<B extends PictureBatch = PictureBatch> {
  /** Number of pictures. */
  readonly length: number;
  readonly imageShape: ImageShape;
  /** Class names, where the pictures are of classes. */
  readonly classes?: readonly string[];
  /**
   * The pictures with these indices (each in 0 … length−1, repeats allowed), in this order.
   * `draw` selects the random augmentation, if the data set has any; default seed 0, epoch 0. Picture and target come
   * from one call with one draw, so that a change that moves pixels moves a mask with them.
   */
  batch(indices: ArrayLike<number>, draw?: Draw): Promise<B>;
}

/** Pictures of classes: labels are class numbers. */
export interface Dataset extends PictureSet<Batch> {
  /** Class names; a label is an index into them. */
  readonly classes: readonly string[];
}

/** Whether the pictures have class labels. */
export const isLabelled = (data: PictureSet): data is Dataset => data.classes !== undefined;

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

interface SamplesOf<S> {
  readonly length: number;
  readonly imageShape: ImageShape;
  /** One normalised picture, `[C, H, W]` row-major, and its label or target. */
  sample(index: number, draw: Draw): S | Promise<S>;
}

export interface SampleDatasetOptions extends SamplesOf<Sample> {
  readonly classes: readonly string[];
}

export interface Sample {
  readonly image: Float32Array;
  readonly label: number;
}

export interface TargetDatasetOptions extends SamplesOf<TargetSample> {
  /** Shape of one target: `[]` for a number, `[k]` for a vector, `[H, W]` for a mask. */
  readonly targetShape: Shape;
}

export interface TargetSample {
  readonly image: Float32Array;
  /** A number, or the values of `targetShape` row-major. */
  readonly target: number | ArrayLike<number>;
}

/**
 * A data set from a function that makes one picture at a time: with `classes` one of labelled pictures, with
 * `targetShape` one of pictures with float32 targets.
 *
 * @throws `data/sample-size`, `data/label` when a picture, a label or a target does not fit what was announced
 * @example
 * sampleDataset({ length: 100, classes: ["dark", "bright"], imageShape: [1, 8, 8],
 *   sample: (i) => ({ image: new Float32Array(64).fill(i % 2), label: i % 2 }) })
 */
export function sampleDataset(options: SampleDatasetOptions): Dataset;
export function sampleDataset(options: TargetDatasetOptions): PictureSet<TargetBatch>;
export function sampleDataset(options: SampleDatasetOptions | TargetDatasetOptions): Dataset | PictureSet<TargetBatch> {
  if ("classes" in options) {
    const { classes } = options;
    return {
      classes,
      ...samples(options, (made, indices) => {
        for (const [i, { label }] of made.entries())
          checkLabel(label, classes.length, () => `dataset: sample ${indices[i]}`);
        return { labels: Int32Array.from(made, ({ label }) => label) };
      }),
    };
  }
  const { targetShape } = options;
  const size = sizeOf(targetShape);
  return samples(options, (made, indices) => {
    const values = new Float32Array(made.length * size);
    for (const [i, { target }] of made.entries()) {
      const own = typeof target === "number" ? [target] : target;
      must(
        own.length === size,
        "data/sample-size",
        () =>
          `dataset: sample ${indices[i]} has a target of ${own.length} values, shape ${fmt(targetShape)} needs ${size}`,
      );
      values.set(own, i * size);
    }
    return { targets: new Tensor("float32", [made.length, ...targetShape], values) };
  });
}

/** A data set from single pictures; `beside` gathers what goes with them. */
function samples<S extends { readonly image: Float32Array }, T>(
  { length, imageShape, sample }: SamplesOf<S>,
  beside: (made: readonly S[], indices: ArrayLike<number>) => T,
): PictureSet<PictureBatch & T> {
  const size = sizeOf(imageShape);
  return {
    length,
    imageShape,
    async batch(indices, draw = { seed: 0, epoch: 0 }) {
      checkIndices(indices, length);
      const made = await Promise.all(Array.from(indices, (index) => sample(index, draw)));
      const images = new Float32Array(made.length * size);
      for (const [i, { image }] of made.entries()) {
        must(
          image.length === size,
          "data/sample-size",
          () => `dataset: sample ${indices[i]} has ${image.length} values, shape ${fmt(imageShape)} needs ${size}`,
        );
        images.set(image, i * size);
      }
      return { images: new Tensor("float32", [made.length, ...imageShape], images), ...beside(made, indices) };
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
export function subset(dataset: Dataset, indices: ArrayLike<number>): Dataset;
export function subset<B extends PictureBatch>(dataset: PictureSet<B>, indices: ArrayLike<number>): PictureSet<B>;
export function subset(dataset: PictureSet, indices: ArrayLike<number>): PictureSet {
  checkIndices(indices, dataset.length);
  const chosen = Uint32Array.from(indices);
  return {
    ...(isLabelled(dataset) && { classes: dataset.classes }),
    length: chosen.length,
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
