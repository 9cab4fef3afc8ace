import type { Augmentation } from "../augment/augmentation.ts";
import type { Normalization } from "../preprocessing/normalize.ts";
import {
  fashionMnistClasses,
  fashionMnistNormalization,
  idxDataset,
  mnistClasses,
  mnistNormalization,
} from "../sets/idx-dataset.ts";
import type { PixelDataset } from "../sets/pixel-dataset.ts";
import { findFile, readNamed } from "./files.ts";
import { packageFile } from "./package-file.ts";

export type Split = "train" | "test";

export interface IdxFolderOptions extends Partial<Normalization> {
  readonly classes?: readonly string[];
  readonly augment?: readonly Augmentation[];
}

/** `[N, 1, 28, 28]` handwritten digits from a folder of the four IDX files under their usual names, gzipped or not. */
export const mnist = (folder: string, split: Split, options: IdxFolderOptions = {}): Promise<PixelDataset> =>
  idxFolder(folder, split, { classes: mnistClasses, ...mnistNormalization, ...options });

/** `[N, 1, 28, 28]` pictures of clothes from a folder of the four IDX files under their usual names, gzipped or not. */
export const fashionMnist = (folder: string, split: Split, options: IdxFolderOptions = {}): Promise<PixelDataset> =>
  idxFolder(folder, split, { classes: fashionMnistClasses, ...fashionMnistNormalization, ...options });

/** The part of Fashion-MNIST that comes with this package: 6,000 training and 1,000 test pictures, balanced. */
export const fashionMnistSmall = (split: Split, options: IdxFolderOptions = {}): Promise<PixelDataset> =>
  fashionMnist(packageFile("data", "fashion-mnist-small"), split, options);

async function idxFolder(
  folder: string,
  split: Split,
  options: Normalization & { readonly classes: readonly string[]; readonly augment?: readonly Augmentation[] },
): Promise<PixelDataset> {
  const [images, labels] = await Promise.all(
    ["images-idx3-ubyte", "labels-idx1-ubyte"].map(async (ending) => {
      const stems = split === "train" ? ["train"] : ["t10k", "test"];
      const names = stems.flatMap((stem) => [`${stem}-${ending}.gz`, `${stem}-${ending}`]);
      // Some downloads come unpacked with a dot for the dash.
      return readNamed(
        await findFile(folder, [...names, ...stems.map((s) => `${s}-${ending.replace("-idx", ".idx")}`)]),
      );
    }),
  );
  return idxDataset({ ...options, images, labels });
}
