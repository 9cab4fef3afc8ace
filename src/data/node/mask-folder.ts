import { must } from "../../errors.ts";
import { sampleRng } from "../augment/augmentation.ts";
import { augmented, type Labelled, type MaskAugmentation, OUTSIDE, window } from "../augment/joint.ts";
import { imagenetNormalization, type Normalization } from "../preprocessing/normalize.ts";
import { normalized } from "../preprocessing/preprocess.ts";
import { type Draw, type PictureSet, sampleDataset, type TargetBatch } from "../sets/dataset.ts";
import { readPicture } from "./decode.ts";
import { readNamed } from "./files.ts";
import { type MaskPair, pairsIn } from "./mask-pairs.ts";
import { decodeMask } from "./mask-png.ts";

/** What the labels of masks mean. */
export interface MaskLabels {
  /** Label of pixels that count nowhere, such as those around a picture. Default 255. */
  readonly ignoreLabel?: number;
  /** Number of classes: masks with other labels are refused, by name. Default: not checked here. */
  readonly numClasses?: number;
  /** Label 0 counts nowhere and classes begin with label 1, as in ADE20K. Default false. */
  readonly fromOne?: boolean;
}

export interface MaskFolderOptions extends MaskLabels {
  /** Height and width of what the network gets, in pixels. */
  readonly imageSize: readonly [height: number, width: number];
  /** Default that of ImageNet. */
  readonly normalization?: Normalization;
  /** For training: random changes, then a crop at a random place. Default none. */
  readonly augment?: MaskAugmentation;
  /** Cuts the middle out of pictures that are larger than `imageSize`. Default: without `augment` they are refused. */
  readonly centerCrop?: boolean;
}

/**
 * A data set of pictures with masks: `pictures` and `masks` are two folders with files of the same names, such as CamVid's
 * `train` and `trainannot`. See {@link maskSet} for what becomes of them.
 *
 * @throws `data/folder`, `mask-folder/empty`, `mask-folder/no-mask` naming the files, and as {@link maskSet}
 */
export const maskFolder = async (
  pictures: string,
  masks: string,
  options: MaskFolderOptions,
): Promise<PictureSet<TargetBatch>> => maskSet(await pairsIn(pictures, masks), options);

/**
 * A data set of pictures with masks. A mask is a PNG file whose pixels are class numbers (grey or palette), as large as
 * its picture.
 *
 * With `augment` each picture is changed at random and cut at a random place, its mask with it. Where a picture is smaller
 * than `imageSize`, what is missing is filled with the mean colour, in the mask with `ignoreLabel`: around a crop at random
 * in training, below and at the right otherwise. Pictures are read when a batch asks for them.
 *
 * Images `[N, 3, H, W]`, targets float32 `[N, H, W]`.
 *
 * @throws from batches `mask-folder/size` when a mask is of another size than its picture, or a picture is larger than
 *   `imageSize` without `augment`, `mask-folder/label` for a label beyond the classes, `mask-folder/ignored` for a mask in
 *   which no pixel counts, `mask/decode`, `picture/decode`
 */
export function maskSet(pairs: readonly MaskPair[], options: MaskFolderOptions): PictureSet<TargetBatch> {
  const { imageSize, normalization = imagenetNormalization, ignoreLabel = 255 } = options;
  return sampleDataset({
    length: pairs.length,
    imageShape: [3, ...imageSize],
    targetShape: imageSize,
    async sample(index, draw) {
      const pair = await readPair(pairs[index], options);
      const { picture, labels } = placed(pair, pairs[index], options, draw, index);
      const image = normalized(picture, normalization);
      // What lies outside of the picture: the mean, which is 0.
      const size = labels.length;
      for (let p = 0; p < size; p++) if (labels[p] === OUTSIDE) for (let c = 0; c < 3; c++) image[c * size + p] = 0;
      return { image, target: Float32Array.from(labels, (label) => (label === OUTSIDE ? ignoreLabel : label)) };
    },
  });
}

/**
 * A picture with its mask as they are, labels as the classes count.
 *
 * @throws `mask-folder/size`, `mask-folder/label`, `mask-folder/ignored`, `mask/decode`, `picture/decode`
 */
export async function readPair({ picture, mask }: MaskPair, options: MaskLabels = {}): Promise<Labelled> {
  const [own, { width, height, labels }] = await Promise.all([readPicture(picture), readMask(mask, options)]);
  must(
    own.width === width && own.height === height,
    "mask-folder/size",
    () => `${mask}: the mask is ${width} x ${height}, its picture ${picture} ${own.width} x ${own.height}`,
    "file",
  );
  return { picture: own, labels };
}

/** A mask alone; see {@link readPair}. */
export async function readMask(
  path: string,
  { numClasses, ignoreLabel = 255, fromOne = false }: MaskLabels = {},
): Promise<{ readonly width: number; readonly height: number; readonly labels: Uint16Array }> {
  const { bytes } = await readNamed(path);
  const { width, height, labels: stored } = decodeMask(bytes, path);
  const labels = fromOne
    ? Uint16Array.from(stored, (label) => (label === 0 || label === ignoreLabel ? ignoreLabel : label - 1))
    : Uint16Array.from(stored);
  if (numClasses !== undefined) {
    const wrong = labels.find((label) => label >= numClasses && label !== ignoreLabel);
    must(
      wrong === undefined,
      "mask-folder/label",
      () =>
        `${path}: the mask has label ${(wrong ?? 0) + Number(fromOne)}, but there are ${numClasses} classes (${Number(fromOne)} … ${numClasses - 1 + Number(fromOne)}), and ${ignoreLabel} for pixels to be ignored`,
      "file",
    );
  }
  must(
    labels.some((label) => label !== ignoreLabel),
    "mask-folder/ignored",
    () =>
      `${path}: every pixel has the label ${fromOne ? 0 : ignoreLabel}, which is ignored. Take the picture out, or say which label the masks have for such pixels (in a recipe "task": { "ignoreLabel": … }).`,
    "file",
  );
  return { width, height, labels };
}

/** A picture and its mask changed and cut to the size of the data set. */
function placed(
  pair: Labelled,
  { picture: name }: MaskPair,
  { imageSize: [height, width], augment, centerCrop = false, ignoreLabel = 255 }: MaskFolderOptions,
  draw: Draw,
  index: number,
): Labelled {
  if (augment)
    return augmented(pair, [height, width], augment, sampleRng(draw, index), (label) => label !== ignoreLabel);
  const { picture } = pair;
  must(
    centerCrop || (picture.width <= width && picture.height <= height),
    "mask-folder/size",
    () =>
      `${name}: a picture is ${picture.width} x ${picture.height}, \`imageSize\` allows ${width} x ${height}. Give an \`imageSize\` that holds all pictures, or use augment, which cuts them.`,
    "usage",
  );
  const [top, left] = [picture.height - height, picture.width - width].map((d) => Math.max(0, Math.floor(d / 2)));
  return window(pair, top, left, height, width);
}
