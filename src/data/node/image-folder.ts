import { readdir, realpath } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { extname, join } from "node:path";
import { listed, must, type RepmlpError } from "../../errors.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";
import type { Augmentation } from "../augment/augmentation.ts";
import type { DecodeSettings, DecodeTask } from "../preprocessing/decode-task.ts";
import { imagenetPreprocessing, type Preprocessing } from "../preprocessing/preprocess.ts";
import { type Batch, checkIndices, type Dataset, type Draw, type ImageShape } from "../sets/dataset.ts";
import { DecodePool } from "./decode-pool.ts";
import { listFolder, statOf } from "./files.ts";
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
}

export interface ImageFile {
  readonly path: string;
  /** Class index: the rank of the class folder's name. */
  readonly label: number;
}

const extensions: ReadonlySet<string> = new Set(".jpg .jpeg .png .webp .bmp .ppm .pgm .tif .tiff".split(" "));

/**
 * A data set of picture files in one folder per class; the class index is the rank of the folder's name. Files are found
 * in sub-folders too. Pictures are read when a batch asks for them, in worker threads.
 *
 * @throws `image-folder/no-classes`, `image-folder/empty-class` naming the folders, `image-folder/options`
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
  const classes = await classFolders(folder);
  const files = await Promise.all(
    classes.map(async (name, label) => (await pictureFiles(join(folder, name))).map((path) => ({ path, label }))),
  );
  const empty = classes.filter((_, label) => files[label].length === 0);
  must(
    empty.length === 0,
    "image-folder/empty-class",
    () =>
      `${folder}: no picture in ${listed(empty)}. Each class folder needs files ending in ${[...extensions].join(", ")}; remove folders that are no class`,
    "file",
  );
  return new ImageFolder(files.flat(), classes, {
    preprocessing: options.preprocessing ?? imagenetPreprocessing(),
    augment: options.augment ?? [],
    workers,
    onUnreadable: options.onUnreadable,
  });
}

type FolderSettings = Required<Omit<ImageFolderOptions, "onUnreadable">> & Pick<ImageFolderOptions, "onUnreadable">;

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
  ) {
    this.length = files.length;
    this.imageShape = preprocessing.inputSize;
    this.#settings = { preprocessing, augment };
    this.#workers = workers;
    this.#onUnreadable = onUnreadable;
    this.#pool = workers > 0 ? new DecodePool(this.#settings, workers) : undefined;
  }

  /** The same files with other options; has threads of its own. */
  with(changes: ImageFolderOptions): ImageFolder {
    const own = { ...this.#settings, workers: this.#workers, onUnreadable: this.#onUnreadable };
    return new ImageFolder(this.files, this.classes, { ...own, ...changes });
  }

  /** Rejects with `picture/decode` naming the file when one cannot be decoded, unless `onUnreadable` takes care of it. */
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
    };
  }

  /** Ends the threads, which otherwise live as long as the process. */
  async close(): Promise<void> {
    await this.#pool?.close();
  }
}

async function classFolders(folder: string): Promise<string[]> {
  const names = await listFolder(folder);
  const isFolder = await Promise.all(names.map(async (name) => (await statOf(join(folder, name))).isDirectory()));
  const classes = names.filter((_, i) => isFolder[i]);
  must(
    classes.length > 0,
    "image-folder/no-classes",
    () =>
      `${folder}: no class folders. Expected one folder per class with its pictures; found ${listed(names) || "nothing"}`,
    "file",
  );
  return classes;
}

/** Picture files in a folder and below it, folder by folder, sorted; symbolic links are followed, but not in circles. */
async function pictureFiles(folder: string, above: readonly string[] = []): Promise<string[]> {
  const place = await realpath(folder);
  if (above.includes(place)) return [];
  const entries = await readdir(folder, { withFileTypes: true });
  const kinds = await Promise.all(
    entries.map(async (entry) => {
      const path = join(folder, entry.name);
      const kind = entry.isSymbolicLink() ? await statOf(path) : entry;
      return { path, isFolder: kind.isDirectory(), isFile: kind.isFile() };
    }),
  );
  const files = kinds.filter(({ path, isFile }) => isFile && extensions.has(extname(path).toLowerCase()));
  const below = await Promise.all(
    kinds
      .filter(({ isFolder }) => isFolder)
      .map(({ path }) => path)
      .sort()
      .map((path) => pictureFiles(path, [...above, place])),
  );
  return [...files.map(({ path }) => path).sort(), ...below.flat()];
}
