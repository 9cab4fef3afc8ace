import { readFile, stat } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import type { Dataset, Preprocessing } from "../../data/index.ts";
import { type ImageFolder, imageFolder } from "../../data/node/index.ts";
import { listed, must, RepmlpError } from "../../errors.ts";
import { indicesByName, parseClassMap } from "../class-names.ts";

export interface TestDataOptions {
  readonly preprocessing: Preprocessing;
  /** Threads that decode. */
  readonly workers: number;
  /** File that says which class index a folder is; see {@link parseClassMap}. */
  readonly classMap?: string;
  /** Class names by output, where the network has them. */
  readonly labels?: readonly string[];
  /** Is told of each picture that cannot be read, by its path below `val`; it is then left out. Default: it is an error. */
  readonly onUnreadable?: (name: string, error: RepmlpError) => void;
}

/** How the folders were given their class indices. */
export type ClassRule = "map" | "name" | "rank";

interface ClassIndices {
  readonly by: ClassRule;
  readonly indices: readonly number[];
}

/** Pictures of a test, and what identifies them. */
export interface TestData {
  readonly dataset: Dataset;
  /** Folder of the class folders. */
  readonly folder: string;
  /** Class folders. */
  readonly classes: number;
  readonly classesBy: ClassRule;
  /** What one should know of the folder, as sentences. */
  readonly notes: readonly string[];
  /** SHA-256 over path and class index of every picture, in order. */
  readonly labelsSha256: string;
  /** Ends the threads. */
  close(): Promise<void>;
}

/**
 * Opens `<data>/val/<class>/<picture>`. A class's index is what the class map says; without one, the place of the folder's
 * name among the network's class names; without those, the rank of the name among the folders.
 *
 * @throws RepmlpError `test/data` without a `val` folder, `test/class-map` for a map that cannot be read, `classes/…` for
 *   one that does not fit, `test/classes` when the folders have other names than the network's classes
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
  return openClassFolders(folder, options);
}

/**
 * Opens `<folder>/<class>/<picture>`, with the class indices of {@link openTestData}.
 *
 * @throws RepmlpError as {@link openTestData}, and what {@link imageFolder} throws
 */
export async function openClassFolders(folder: string, options: TestDataOptions): Promise<TestData> {
  const { preprocessing, workers, onUnreadable } = options;
  const nameOf = (path: string): string => relative(folder, path).split(sep).join("/");
  const images = await imageFolder(folder, {
    preprocessing,
    workers,
    onUnreadable: onUnreadable && ((path, error) => onUnreadable(nameOf(path), error)),
  });
  const { by, indices } = await indicesOf(images, folder, options).catch(async (error: unknown) => {
    await images.close();
    throw error;
  });
  const { createHash } = await import("node:crypto");
  const hash = createHash("sha256");
  for (const { path, label } of images.files) hash.update(`${nameOf(path)}\t${indices[label]}\n`);
  return {
    dataset: by === "rank" ? images : relabelled(images, indices),
    folder,
    classes: images.classes.length,
    classesBy: by,
    notes: images.notes(folder),
    labelsSha256: hash.digest("hex"),
    close: () => images.close(),
  };
}

/** Class index of each class folder: by the class map, by the network's class names, by rank; see {@link openTestData}. */
async function indicesOf({ classes }: ImageFolder, folder: string, options: TestDataOptions): Promise<ClassIndices> {
  const { classMap: path, labels } = options;
  if (path !== undefined) {
    const text = await readFile(path, "utf8").catch((cause: Error) => {
      throw new RepmlpError("test/class-map", `${path}: cannot be read (${cause.message})`, "file", { cause });
    });
    const map = parseClassMap(text, path, classes);
    return { by: "map", indices: classes.map((name) => map.get(name)!) };
  }
  if (labels === undefined) return { by: "rank", indices: classes.map((_, i) => i) };
  const indices = indicesByName(labels, classes);
  must(
    indices,
    "test/classes",
    () => {
      const unknown = classes.filter((name) => !labels.includes(name));
      const problem = unknown.length
        ? `${listed(unknown)} ${unknown.length > 1 ? "are" : "is"} none of the ${labels.length} classes that the weights name (${listed(labels)})`
        : `the weights name ${listed(classes.filter((name) => labels.indexOf(name) !== labels.lastIndexOf(name)))} twice`;
      return `${folder}: ${problem}. Say which class a folder is with a class map (\`classMap\` FILE): a line per folder with its name, a tab and the index of its class; or the names of all folders alone, in the order of the classes.`;
    },
    "file",
  );
  return { by: "name", indices };
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
