import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import {
  type Augmentation,
  cifar10Normalization,
  type Dataset,
  fashionMnistNormalization,
  mnistNormalization,
  type Normalization,
  type Preprocessing,
} from "../../data/index.ts";
import { cifar10, fashionMnist, type ImageFolderOptions, imageFolder, mnist } from "../../data/node/index.ts";
import { listed, RepmlpError } from "../../errors.ts";

export type DataKind = "cifar10" | "mnist" | "fashion-mnist" | "image-folder";

export interface TrainingDataOptions {
  /** For the training pictures. */
  readonly augment?: readonly Augmentation[];
  /** For picture files: size and normalisation. */
  readonly preprocessing: Preprocessing;
  /** For data sets of ready pictures, instead of the usual one of each. */
  readonly normalization?: Normalization;
  /** Threads that decode picture files. */
  readonly workers?: number;
  /** Is told of each picture that cannot be read, which is then left out; see {@link ImageFolderOptions}. */
  readonly onUnreadable?: ImageFolderOptions["onUnreadable"];
  /** Default: told by what the folder holds; MNIST and Fashion-MNIST by whether its path says "fashion". */
  readonly kind?: DataKind;
}

export interface TrainingData {
  readonly kind: DataKind;
  readonly train: Dataset;
  readonly validation: Dataset;
  /** What happens to a picture of this data before it is trained on. */
  readonly preprocessing: Preprocessing;
  /** What one should know of the folders, as sentences. */
  readonly notes: readonly string[];
  /** Ends the worker threads. */
  close(): Promise<void>;
}

/**
 * Training and validation pictures of a folder: CIFAR-10 as distributed (binary or Python batches), MNIST and
 * Fashion-MNIST (IDX files), or `train/<class>/*` and `val/<class>/*` of picture files. The names of the training folders
 * are the classes; a class without pictures in `val` is noted.
 *
 * @throws `data/unknown` when the folder holds none of these, `image-folder/class-names` for a folder in `val` that is none
 *   in `train`, and what the readers throw
 */
export async function openTrainingData(folder: string, options: TrainingDataOptions): Promise<TrainingData> {
  const { augment = [], preprocessing, workers } = options;
  const kind = options.kind ?? (await kindOf(folder));
  if (kind === "image-folder") {
    const { onUnreadable } = options;
    const [trainFolder, valFolder] = [join(folder, "train"), join(folder, "val")];
    const train = await imageFolder(trainFolder, { preprocessing, augment, workers, onUnreadable });
    const { classes } = train;
    const validation = await imageFolder(valFolder, { preprocessing, workers, onUnreadable, classes });
    const close = async (): Promise<void> => void (await Promise.all([train.close(), validation.close()]));
    const notes = [...train.notes(trainFolder), ...validation.notes(valFolder)];
    return { kind, train, validation, preprocessing, notes, close };
  }
  const [read, usual] = ready[kind];
  const { mean, std } = options.normalization ?? usual;
  const normalization = { mean, std };
  const [train, validation] = await Promise.all([
    read(folder, "train", { augment, ...normalization }),
    read(folder, "test", normalization),
  ]);
  const inputSize = train.imageShape;
  const whole = {
    inputSize,
    resize: [inputSize[1], inputSize[2]],
    interpolation: "bilinear",
    ...normalization,
  } as const;
  return { kind, train, validation, preprocessing: whole, notes: [], close: async () => {} };
}

/** Data sets whose pictures need no preparation but normalisation. */
const ready = {
  cifar10: [cifar10, cifar10Normalization],
  mnist: [mnist, mnistNormalization],
  "fashion-mnist": [fashionMnist, fashionMnistNormalization],
} as const;

async function kindOf(folder: string): Promise<DataKind> {
  const names = await readdir(folder).catch((cause: NodeJS.ErrnoException) => {
    const reason = cause.code === "ENOENT" ? "there is no such folder" : `cannot be read (${cause.code})`;
    throw new RepmlpError("data/unknown", `${folder}: ${reason}. Check the path.`, "file", { cause });
  });
  if (names.some((name) => /^(data_batch|cifar-10-batches)|^train\w*\.bin/.test(name))) return "cifar10";
  if (names.some((name) => /^train-(images|labels)/.test(name)))
    return /fashion/i.test(folder) ? "fashion-mnist" : "mnist";
  if (["train", "val"].every((name) => existsSync(join(folder, name)))) return "image-folder";
  throw new RepmlpError(
    "data/unknown",
    `${folder}: holds no data set. Expected CIFAR-10 (data_batch_*), MNIST (train-images-idx3-ubyte.gz, …) or folders train and val with a folder per class; it holds ${listed(names, 6) || "nothing"}.`,
    "file",
  );
}
