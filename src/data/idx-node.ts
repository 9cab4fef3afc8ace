import { fileURLToPath } from "node:url";
import type { Augmentation } from "./augment/augmentation.ts";
import { findFile, readNamed } from "./files-node.ts";
import {
  fashionMnistClasses,
  fashionMnistNormalization,
  idxDataset,
  mnistClasses,
  mnistNormalization,
} from "./idx-dataset.ts";
import type { Normalization } from "./normalize.ts";
import type { PixelDataset } from "./pixel-dataset.ts";

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
  fashionMnist(fileURLToPath(new URL("../../data/fashion-mnist-small", import.meta.url)), split, options);

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
