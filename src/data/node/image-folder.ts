import { availableParallelism } from "node:os";
import { listed, must, type RepmlpError } from "../../errors.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";
import type { Augmentation } from "../augment/augmentation.ts";
import type { DecodeSettings, DecodeTask } from "../preprocessing/decode-task.ts";
import { imagenetPreprocessing, type Preprocessing } from "../preprocessing/preprocess.ts";
import { type Batch, checkIndices, type Dataset, type Draw, type ImageShape } from "../sets/dataset.ts";
import { type LeftOut, leftOutNotes, pictureEndings, readClassFolders } from "./class-folders.ts";
import { DecodePool } from "./decode-pool.ts";
import { type Decoded, decodeHere } from "./prepare.ts";

export interface ImageFolderOptions {
  /** Default: {@link imagenetPreprocessing} at 224. */
  readonly preprocessing?: Preprocessing;
  /** Random changes per picture and epoch; default none. */
  readonly augment?: readonly Augmentation[];
  /** Threads that decode; 0 decodes in the calling thread. Default: one less than the cores, at least 1. */
  readonly workers?: number;
  /**
   * Is told of each picture that cannot be read or decoded; its batch then comes without it. By default such a picture
   * rejects the batch.
   */
  readonly onUnreadable?: (path: string, error: RepmlpError) => void;
  /**
   * Names of all classes by index, such as those of the training set: labels then go by them. Default: the names of the
   * folders in their order.
   */
  readonly classes?: readonly string[];
}

export interface ImageFile {
  readonly path: string;
  /** Class index: the place of the class folder's name among the classes. */
  readonly label: number;
}

/**
 * A data set of picture files in one folder per class; the class index is the rank of the folder's name by code point, as
 * in Python, or its place in `classes`. Files are found in sub-folders too; {@link ImageFolder.left} tells what was left
 * out (see there). Pictures are read when a batch asks for them, in worker threads.
 *
 * @throws `image-folder/no-classes`, `image-folder/empty-class` naming the folders, `image-folder/class-names` when there
 *   is a folder that is none of `classes`, `image-folder/link` when two folders are one, `image-folder/options`
 * @example
 * const data = await imageFolder("imagenet/val", { preprocessing: imagenetPreprocessing(224) });
 */
export async function imageFolder(folder: string, options: ImageFolderOptions = {}): Promise<ImageFolder> {
  const { workers = Math.max(1, availableParallelism() - 1) } = options;
  must(
    Number.isInteger(workers) && workers >= 0,
    "image-folder/options",
    () => `image folder: workers must be an integer from 0, got ${workers}`,
    "usage",
  );
  const { names, pictures, left } = await readClassFolders(folder);
  const classes = options.classes ?? names;
  if (options.classes) mustBeAmong(options.classes, names, folder);
  const files = names.map((name, i) => pictures[i].map((path) => ({ path, label: classes.indexOf(name) })));
  const empty = names.filter((_, i) => files[i].length === 0);
  must(
    empty.length === 0,
    "image-folder/empty-class",
    () =>
      `${folder}: no picture in ${listed(empty)}. Each class folder needs files ending in ${[...pictureEndings].join(", ")}; remove folders that are no class`,
    "file",
  );
  const settings = {
    preprocessing: options.preprocessing ?? imagenetPreprocessing(),
    augment: options.augment ?? [],
    workers,
    onUnreadable: options.onUnreadable,
  };
  return new ImageFolder(files.flat(), classes, settings, left);
}

/** A folder with another name than the classes would have no label, and all after it the wrong one. */
function mustBeAmong(classes: readonly string[], names: readonly string[], folder: string): void {
  const [known, present] = [new Set(classes), new Set(names)];
  const additional = names.filter((name) => !known.has(name));
  const missing = classes.filter((name) => !present.has(name));
  must(
    additional.length === 0,
    "image-folder/class-names",
    () => {
      const alike = likeness(additional[0], missing);
      return (
        `${folder}: ${listed(additional)} ${additional.length > 1 ? "are" : "is"} none of the ${classes.length} classes` +
        `${missing.length ? `, of which ${listed(missing)} ${missing.length > 1 ? "have" : "has"} no folder` : ""}. ` +
        `${alike ? `${listed([additional[0]])} and ${listed([alike])} differ in ${alike.toLowerCase() === additional[0].toLowerCase() ? "capital letters" : "how they are encoded"} only. ` : ""}Give the folders the same names`
      );
    },
    "file",
  );
}

/** A name that looks the same: other capitals, or the same letters in another Unicode form. */
const likeness = (name: string, others: readonly string[]): string | undefined => {
  const form = (text: string): string => text.normalize("NFKC").toLowerCase().trim();
  return others.find((other) => form(other) === form(name));
};

type FolderSettings = Required<Omit<ImageFolderOptions, "onUnreadable" | "classes">> &
  Pick<ImageFolderOptions, "onUnreadable">;

const nothing: LeftOut = { hidden: [], links: [], nowhere: [] };

/** See {@link imageFolder}. */
export class ImageFolder implements Dataset {
  readonly length: number;
  readonly imageShape: ImageShape;
  readonly #settings: DecodeSettings;
  readonly #workers: number;
  readonly #pool: DecodePool | undefined;
  readonly #onUnreadable: ImageFolderOptions["onUnreadable"];

  constructor(
    readonly files: readonly ImageFile[],
    readonly classes: readonly string[],
    { preprocessing, augment, workers, onUnreadable }: FolderSettings,
    /** What the folders hold that is no data. */
    readonly left: LeftOut = nothing,
  ) {
    this.length = files.length;
    this.imageShape = preprocessing.inputSize;
    this.#settings = { preprocessing, augment };
    this.#workers = workers;
    this.#onUnreadable = onUnreadable;
    this.#pool = workers > 0 ? new DecodePool(this.#settings, workers) : undefined;
  }

  /** The same files with other options; has threads of its own. */
  with(changes: Omit<ImageFolderOptions, "classes">): ImageFolder {
    const own = { ...this.#settings, workers: this.#workers, onUnreadable: this.#onUnreadable };
    return new ImageFolder(this.files, this.classes, { ...own, ...changes }, this.left);
  }

  /**
   * Rejects with `picture/decode` or `data/read` naming the file when one cannot be read, unless `onUnreadable` is told;
   * the batch then comes without it, and `missing` says which places those are.
   */
  async batch(indices: ArrayLike<number>, draw: Draw = { seed: 0, epoch: 0 }): Promise<Batch> {
    checkIndices(indices, this.length);
    const tasks = Array.from(indices, (index) => ({ path: this.files[index].path, index, draw }));
    const size = sizeOf(this.imageShape);
    const use = (decoded: Decoded): Batch => this.#batch(tasks, decoded, size);
    return this.#pool ? this.#pool.run(tasks, size, use) : use(await decodeHere(tasks, this.#settings, size));
  }

  /** Those tasks that could be done. */
  #batch(tasks: readonly DecodeTask[], { values, errors }: Decoded, size: number): Batch {
    for (const [i, { path }] of tasks.entries()) {
      const error = errors.get(i);
      if (!error) continue;
      if (!this.#onUnreadable || error.kind !== "file") throw error;
      this.#onUnreadable(path, error);
    }
    const read = [...tasks.keys()].filter((i) => !errors.has(i));
    // All of it is written below.
    const memory = Buffer.allocUnsafeSlow(read.length * size * Float32Array.BYTES_PER_ELEMENT);
    const images = new Float32Array(memory.buffer);
    if (read.length === tasks.length) images.set(values);
    else for (const [place, i] of read.entries()) images.set(values.subarray(i * size, (i + 1) * size), place * size);
    return {
      images: new Tensor("float32", [read.length, ...this.imageShape], images),
      labels: Int32Array.from(read, (i) => this.files[tasks[i].index].label),
      ...(errors.size && { missing: [...errors.keys()].sort((a, b) => a - b) }),
    };
  }

  /** What one should know of the folder, as sentences: what was left out, which classes have no picture. */
  notes(folder: string): string[] {
    const seen = new Set(this.files.map(({ label }) => label));
    const unseen = this.classes.filter((_, label) => !seen.has(label));
    const none = `${folder}: no folder for ${unseen.length} of ${this.classes.length} classes (${listed(unseen)})`;
    return [...leftOutNotes(folder, this.left), ...(unseen.length ? [none] : [])];
  }

  /** Ends the threads, which otherwise live as long as the process. */
  async close(): Promise<void> {
    await this.#pool?.close();
  }
}
