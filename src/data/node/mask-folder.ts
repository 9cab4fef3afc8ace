import { extname, join, parse } from "node:path";
import { listed, must } from "../../errors.ts";
import type { Rng } from "../../tensor/index.ts";
import { sampleRng } from "../augment/augmentation.ts";
import { between, drawOffset, mirrored } from "../augment/crops.ts";
import { imagenetNormalization, type Normalization } from "../preprocessing/normalize.ts";
import { crop, type Picture } from "../preprocessing/picture.ts";
import { normalized } from "../preprocessing/preprocess.ts";
import { resize } from "../preprocessing/resample.ts";
import { type PictureSet, sampleDataset, type TargetBatch } from "../sets/dataset.ts";
import { pictureEndings } from "./class-folders.ts";
import { readPicture } from "./decode.ts";
import { listFolder, readNamed } from "./files.ts";
import { decodeMask } from "./mask-png.ts";

/** Random changes of a picture together with its mask. */
export interface MaskAugmentation {
  /** Least and greatest factor of height and width before the crop. Default 0.5 and 2. */
  readonly scale?: readonly [least: number, greatest: number];
  /** Probability of mirroring left and right. Default 0.5. */
  readonly flip?: number;
}

export interface MaskFolderOptions {
  /** Height and width of what the network gets, in pixels. */
  readonly imageSize: readonly [height: number, width: number];
  /** Default that of ImageNet. */
  readonly normalization?: Normalization;
  /** Label of pixels that count nowhere, such as those around a picture. Default 255. */
  readonly ignoreLabel?: number;
  /** Number of classes: masks with other labels are refused, by name. Default: not checked here. */
  readonly numClasses?: number;
  /** For training: a random scale, a crop at a random place and mirroring. Default none. */
  readonly augment?: MaskAugmentation;
}

interface Pair {
  readonly picture: string;
  readonly mask: string;
}

/** Pictures of a folder and their masks, which have the same name (with the ending .png) in another one. */
async function pairsIn(pictures: string, masks: string): Promise<readonly Pair[]> {
  const [names, maskNames] = await Promise.all([listFolder(pictures), listFolder(masks)]);
  const ending = (name: string): string => extname(name).toLowerCase();
  const byStem = new Map(maskNames.filter((name) => ending(name) === ".png").map((name) => [parse(name).name, name]));
  const wanted = names.filter((name) => !name.startsWith(".") && pictureEndings.has(ending(name)));
  must(wanted.length > 0, "mask-folder/empty", () => `${pictures}: there is no picture in this folder`, "file");
  const without = wanted.filter((name) => !byStem.has(parse(name).name));
  must(
    !without.length,
    "mask-folder/no-mask",
    () =>
      `${pictures}: ${without.length} of ${wanted.length} pictures have no mask of their name in ${masks}: ${listed(without)}. Add the masks, or take the pictures out.`,
    "file",
  );
  return wanted.map((name) => ({
    picture: join(pictures, name),
    mask: join(masks, byStem.get(parse(name).name) as string),
  }));
}

/**
 * A data set of pictures with masks: `pictures` and `masks` are two folders with files of the same names, such as CamVid's
 * `train` and `trainannot`. A mask is a PNG file whose pixels are class numbers (grey or palette), as large as its picture.
 *
 * With `augment` each picture is scaled, cut at a random place and mirrored, its mask with it. Where a picture is smaller
 * than `imageSize`, what is missing is filled with the mean colour, in the mask with `ignoreLabel`: around a crop at random
 * in training, below and at the right otherwise. Pictures are read when a batch asks for them.
 *
 * Images `[N, 3, H, W]`, targets float32 `[N, H, W]`.
 *
 * @throws `data/folder`, `mask-folder/empty`, `mask-folder/no-mask` naming the files; from batches `mask-folder/size`
 *   when a mask is of another size than its picture, or a picture is larger than `imageSize` without `augment`,
 *   `mask-folder/label` for a label beyond the classes, `mask/decode`, `picture/decode`
 */
export async function maskFolder(
  pictures: string,
  masks: string,
  options: MaskFolderOptions,
): Promise<PictureSet<TargetBatch>> {
  const pairs = await pairsIn(pictures, masks);
  const { imageSize, normalization = imagenetNormalization } = options;
  return sampleDataset({
    length: pairs.length,
    imageShape: [3, ...imageSize],
    targetShape: imageSize,
    async sample(index, draw) {
      const { picture, labels } = placed(await readPair(pairs[index], options), options, sampleRng(draw, index));
      const image = normalized(picture, normalization);
      // What lies outside of the picture: the mean, which is 0.
      const size = labels.length;
      for (let p = 0; p < size; p++) if (labels[p] === OUTSIDE) for (let c = 0; c < 3; c++) image[c * size + p] = 0;
      const { ignoreLabel = 255 } = options;
      return { image, target: Float32Array.from(labels, (label) => (label === OUTSIDE ? ignoreLabel : label)) };
    },
  });
}

/** Marks pixels outside of a picture: no label, since those are bytes. */
const OUTSIDE = 256;

interface Labelled {
  readonly picture: Picture;
  readonly labels: Uint16Array;
}

async function readPair(
  { picture, mask }: Pair,
  { numClasses, ignoreLabel = 255 }: MaskFolderOptions,
): Promise<Labelled> {
  const [own, { bytes }] = await Promise.all([readPicture(picture), readNamed(mask)]);
  const { width, height, labels } = decodeMask(bytes, mask);
  must(
    own.width === width && own.height === height,
    "mask-folder/size",
    () => `${mask}: the mask is ${width} x ${height}, its picture ${picture} ${own.width} x ${own.height}`,
    "file",
  );
  if (numClasses !== undefined) {
    const wrong = labels.find((label) => label >= numClasses && label !== ignoreLabel);
    must(
      wrong === undefined,
      "mask-folder/label",
      () =>
        `${mask}: the mask has label ${wrong}, but there are ${numClasses} classes (0 … ${numClasses - 1}), and ${ignoreLabel} for pixels to be ignored`,
      "file",
    );
  }
  return { picture: own, labels: Uint16Array.from(labels) };
}

/** A picture and its mask scaled, mirrored and cut to the size of the data set. */
function placed(pair: Labelled, { imageSize: [height, width], augment }: MaskFolderOptions, random: Rng): Labelled {
  if (!augment) {
    const { picture } = pair;
    must(
      picture.width <= width && picture.height <= height,
      "mask-folder/size",
      () =>
        `mask folder: a picture is ${picture.width} x ${picture.height}, imageSize allows ${width} x ${height}. Give an imageSize that holds all pictures, or use augment, which cuts them.`,
      "usage",
    );
    return window(pair, 0, 0, height, width);
  }
  const { scale: [least, greatest] = [0.5, 2], flip = 0.5 } = augment;
  const scaledPair = resized(pair, between(random, least, greatest));
  const turned = random.next() < flip ? flipped(scaledPair) : scaledPair;
  const [top, left] = [
    [turned.picture.height, height],
    [turned.picture.width, width],
  ].map(([own, wanted]) => (own >= wanted ? drawOffset(random, own, 0, wanted) : -Math.floor((wanted - own) / 2)));
  return window(turned, top, left, height, width);
}

/** Scaled by one factor: the picture bilinearly, the mask to the nearest pixel. */
function resized({ picture, labels }: Labelled, factor: number): Labelled {
  const [width, height] = [picture.width, picture.height].map((d) => Math.max(1, Math.round(d * factor)));
  const scaled = new Uint16Array(width * height);
  const source = (o: number, from: number, to: number): number =>
    Math.min(from - 1, Math.floor(((o + 0.5) * from) / to));
  for (let y = 0; y < height; y++) {
    const row = source(y, picture.height, height) * picture.width;
    for (let x = 0; x < width; x++) scaled[y * width + x] = labels[row + source(x, picture.width, width)];
  }
  return { picture: resize(picture, width, height), labels: scaled };
}

function flipped({ picture, labels }: Labelled): Labelled {
  const { width } = picture;
  const at = (i: number): number => i - (i % width) + width - 1 - (i % width);
  return { picture: mirrored(picture), labels: labels.map((_, i) => labels[at(i)]) };
}

/** The part of a picture and its mask from a corner on, marked where it lies outside. */
function window({ picture, labels }: Labelled, top: number, left: number, height: number, width: number): Labelled {
  const part = new Uint16Array(height * width).fill(OUTSIDE);
  for (let y = Math.max(0, -top); y < Math.min(height, picture.height - top); y++) {
    const from = (y + top) * picture.width + left;
    for (let x = Math.max(0, -left); x < Math.min(width, picture.width - left); x++)
      part[y * width + x] = labels[from + x];
  }
  return { picture: crop(picture, { top, left, height, width }), labels: part };
}
