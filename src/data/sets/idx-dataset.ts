import { fmt, must } from "../../errors.ts";
import type { Augmentation } from "../augment/augmentation.ts";
import type { Normalization } from "../preprocessing/normalize.ts";
import type { ImageShape } from "./dataset.ts";
import { type Idx, readIdx } from "./idx.ts";
import { PixelDataset } from "./pixel-dataset.ts";

/** The contents of a file and what to call it in errors. */
export interface NamedBytes {
  readonly name: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface IdxDatasetOptions extends Normalization {
  /** IDX `[N, H, W]` (grey) or `[N, C, H, W]`, gzipped or not. */
  readonly images: NamedBytes;
  /** IDX `[N]`, gzipped or not. */
  readonly labels: NamedBytes;
  readonly classes: readonly string[];
  readonly augment?: readonly Augmentation[];
}

/**
 * A data set from a pair of IDX files.
 *
 * @throws `idx/rank`, `idx/pair` when the files do not belong together, `data/label` naming the record, and what {@link readIdx} throws
 */
export async function idxDataset(options: IdxDatasetOptions): Promise<PixelDataset> {
  const { images, labels } = options;
  const [pictures, answers] = await Promise.all([
    readIdx(images.bytes, images.name),
    readIdx(labels.bytes, labels.name),
  ]);
  must(
    answers.shape.length === 1,
    "idx/rank",
    () => `${labels.name}: labels must be one list, got ${fmt(answers.shape)}. Is it the file of the pictures?`,
    "file",
  );
  must(
    pictures.shape[0] === answers.shape[0],
    "idx/pair",
    () => `${images.name} has ${pictures.shape[0]} pictures, ${labels.name} has ${answers.shape[0]} labels`,
    "file",
  );
  return new PixelDataset({
    ...options,
    pixels: pictures.data,
    labels: answers.data,
    imageShape: imageShapeOf(pictures, images.name),
    name: labels.name,
  });
}

function imageShapeOf({ shape }: Idx, name: string): ImageShape {
  must(
    shape.length === 3 || shape.length === 4,
    "idx/rank",
    () => `${name}: pictures must be [N, H, W] or [N, C, H, W], got ${fmt(shape)}. Is it the file of the labels?`,
    "file",
  );
  const [channels, height, width] = shape.length === 3 ? [1, shape[1], shape[2]] : shape.slice(1);
  return [channels, height, width];
}

export const fashionMnistClasses: readonly string[] = [
  "T-shirt/top",
  "Trouser",
  "Pullover",
  "Dress",
  "Coat",
  "Sandal",
  "Shirt",
  "Sneaker",
  "Bag",
  "Ankle boot",
];
/** Over the 60,000 training pictures. */
export const fashionMnistNormalization: Normalization = { mean: [0.28604], std: [0.35302] };

export const mnistClasses: readonly string[] = Array.from({ length: 10 }, (_, digit) => String(digit));
/** Over the 60,000 training pictures. */
export const mnistNormalization: Normalization = { mean: [0.1307], std: [0.3081] };
