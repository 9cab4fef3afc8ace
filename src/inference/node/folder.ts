import { readFile, stat } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import type { Dataset, Preprocessing } from "../../data/index.ts";
import { type ImageFolder, imageFolder } from "../../data/node/index.ts";
import { listed, must, RepmlpError } from "../../errors.ts";
import { parseClassMap } from "../class-names.ts";

export interface TestDataOptions {
  readonly preprocessing: Preprocessing;
  /** Threads that decode. */
  readonly workers: number;
  /** File that says which class index a folder is; see {@link parseClassMap}. Default: the rank of its name. */
  readonly classMap?: string;
  /** Is told of each picture that cannot be read, by its path below `val`; it is then left out. Default: it is an error. */
  readonly onUnreadable?: (name: string, error: RepmlpError) => void;
}

/** Pictures of a test, and what identifies them. */
export interface TestData {
  readonly dataset: Dataset;
  /** Folder of the class folders. */
  readonly folder: string;
  /** Class folders. */
  readonly classes: number;
  /** SHA-256 over path and class index of every picture, in order. */
  readonly labelsSha256: string;
  /** Ends the threads. */
  close(): Promise<void>;
}

/**
 * Opens `<data>/val/<class>/<picture>`. A class's index is the rank of its folder's name among the folders, or what the
 * class map says: that is for data with only some of the network's classes.
 *
 * @throws RepmlpError `test/data` without a `val` folder, `test/class-map` for folders that the map does not know
 */
export async function openTestData(data: string, options: TestDataOptions): Promise<TestData> {
  const folder = join(data, "val");
  const found = await stat(folder).catch(() => undefined);
  must(
    found?.isDirectory(),
    "test/data",
    () => `${data}: has no folder "val" with a folder of pictures per class. Give the folder that holds it.`,
    "file",
  );
  const { preprocessing, workers, classMap, onUnreadable } = options;
  const nameOf = (path: string): string => relative(folder, path).split(sep).join("/");
  const images = await imageFolder(folder, {
    preprocessing,
    workers,
    onUnreadable: onUnreadable && ((path, error) => onUnreadable(nameOf(path), error)),
  });
  const labelOf = classMap === undefined ? undefined : await mappedClasses(images, folder, classMap);
  const { createHash } = await import("node:crypto");
  const hash = createHash("sha256");
  for (const { path, label } of images.files) hash.update(`${nameOf(path)}\t${labelOf ? labelOf[label] : label}\n`);
  return {
    dataset: labelOf ? relabelled(images, labelOf) : images,
    folder,
    classes: images.classes.length,
    labelsSha256: hash.digest("hex"),
    close: () => images.close(),
  };
}

/** Class index of each class folder. */
async function mappedClasses({ classes }: ImageFolder, folder: string, path: string): Promise<number[]> {
  const text = await readFile(path, "utf8").catch((cause: Error) => {
    throw new RepmlpError("test/class-map", `${path}: cannot be read (${cause.message})`, "file", { cause });
  });
  const map = parseClassMap(text, path);
  const unknown = classes.filter((name) => !map.has(name));
  must(
    !unknown.length,
    "test/class-map",
    () => `${path}: does not know ${listed(unknown)} of ${folder}. Add a line for each, or remove the folders.`,
    "file",
  );
  return classes.map((name) => map.get(name)!);
}

/** The same pictures with other class indices. */
function relabelled(images: ImageFolder, labelOf: readonly number[]): Dataset {
  const { length, imageShape } = images;
  const classes = Array.from({ length: Math.max(...labelOf) + 1 }, (_, i) => `${i}`);
  for (const [rank, index] of labelOf.entries()) classes[index] = images.classes[rank];
  return {
    ...{ length, classes, imageShape },
    async batch(indices, draw) {
      const batch = await images.batch(indices, draw);
      return { ...batch, labels: batch.labels.map((rank) => labelOf[rank]) };
    },
  };
}
