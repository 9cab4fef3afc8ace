import { existsSync } from "node:fs";
import { extname, join, parse } from "node:path";
import { listed, must, RepmlpError } from "../../errors.ts";
import { pictureEndings } from "./class-folders.ts";
import { listFolder, readNamed } from "./files.ts";

/** Paths of a picture and of its mask. */
export interface MaskPair {
  readonly picture: string;
  readonly mask: string;
}

/**
 * Pictures of a folder and their masks, which have the same name (with the ending .png) in another one.
 *
 * @throws `data/folder`, `mask-folder/empty`, `mask-folder/no-mask` naming the files
 */
export async function pairsIn(pictures: string, masks: string): Promise<readonly MaskPair[]> {
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

/** Non-empty lines of a text file. */
async function linesOf(path: string): Promise<readonly string[]> {
  const { bytes } = await readNamed(path);
  const lines = new TextDecoder().decode(bytes).split(/\r?\n/);
  return lines.map((line) => line.trim()).filter((line) => line);
}

/** Pictures and masks by a list of names, as in Pascal VOC. */
async function vocPairs(folder: string, list: string): Promise<readonly MaskPair[]> {
  return (await linesOf(list)).map((name) => {
    const picture = ["jpg", "png"].map((end) => join(folder, "JPEGImages", `${name}.${end}`)).find(existsSync);
    const mask = join(folder, "SegmentationClass", `${name}.png`);
    const missing = picture === undefined ? join(folder, "JPEGImages", `${name}.jpg`) : mask;
    must(
      picture !== undefined && existsSync(mask),
      "mask-folder/no-mask",
      () => `${list}: names "${name}", but there is no ${missing}. Add the file, or take the name out.`,
      "file",
    );
    return { picture, mask };
  });
}

/** Pictures and masks by a list with both paths in each line, below the folder. */
async function listedPairs(folder: string, list: string): Promise<readonly MaskPair[]> {
  return (await linesOf(list)).map((line, i) => {
    const [picture, mask, ...more] = line.split(/\s+/);
    must(
      mask !== undefined && !more.length,
      "mask-folder/list",
      () => `${list}: line ${i + 1} must be the paths of a picture and of its mask, but is "${line}"`,
      "file",
    );
    return { picture: join(folder, picture), mask: join(folder, mask) };
  });
}

/** Where data sets with masks have the pictures and masks of a part. */
const layouts: readonly {
  readonly expected: (part: string) => string;
  readonly has: (folder: string, part: string) => boolean;
  readonly pairs: (folder: string, part: string) => Promise<readonly MaskPair[]>;
}[] = [
  {
    expected: (part) => `${part}/ and ${part}annot/`,
    has: (folder, part) => [part, `${part}annot`].every((name) => existsSync(join(folder, name))),
    pairs: (folder, part) => pairsIn(join(folder, part), join(folder, `${part}annot`)),
  },
  {
    expected: (part) => `images/${adeName(part)}/ and annotations/${adeName(part)}/`,
    has: (folder, part) => ["images", "annotations"].every((name) => existsSync(join(folder, name, adeName(part)))),
    pairs: (folder, part) => pairsIn(join(folder, "images", adeName(part)), join(folder, "annotations", adeName(part))),
  },
  {
    expected: (part) => `ImageSets/Segmentation/${part}.txt with JPEGImages/ and SegmentationClass/`,
    has: (folder, part) => existsSync(join(folder, "ImageSets", "Segmentation", `${part}.txt`)),
    pairs: (folder, part) => vocPairs(folder, join(folder, "ImageSets", "Segmentation", `${part}.txt`)),
  },
  {
    expected: (part) => `${part}.txt with lines of picture and mask`,
    has: (folder, part) => existsSync(join(folder, `${part}.txt`)),
    pairs: (folder, part) => listedPairs(folder, join(folder, `${part}.txt`)),
  },
];

const adeName = (part: string): string => ({ train: "training", val: "validation" })[part] ?? part;

/**
 * Pictures and masks of a part (`train`, `val`) of a data set: two folders with the same file names as CamVid has them,
 * ADE20K's and Pascal VOC's folders, or a list with the paths of a picture and its mask per line.
 *
 * @throws `mask-folder/layout` naming what was looked for; what reading folders and lists throws
 */
export async function maskPairs(folder: string, part: string): Promise<readonly MaskPair[]> {
  const layout = layouts.find(({ has }) => has(folder, part));
  if (layout) return layout.pairs(folder, part);
  const present = await listFolder(folder);
  throw new RepmlpError(
    "mask-folder/layout",
    `${folder}: holds no pictures with masks for "${part}". Expected ${layouts.map(({ expected }) => expected(part)).join("; or ")}; it holds ${listed(present, 6) || "nothing"}.`,
    "file",
  );
}

/**
 * Class names of a data set: lines of `classes.txt` in its folder; `undefined` where there is no such file.
 *
 * @throws `mask-folder/classes` for a file without names
 */
export async function classNamesOf(folder: string): Promise<readonly string[] | undefined> {
  const path = join(folder, "classes.txt");
  if (!existsSync(path)) return undefined;
  const names = await linesOf(path);
  must(names.length > 0, "mask-folder/classes", () => `${path}: holds no class names, one per line`, "file");
  return names;
}
