import { readdirSync } from "node:fs";
import { extname, join } from "node:path";
import { type Case, type Context, inNode, inPython, own, timesFaster } from "../case.ts";

const ownPictures = join(import.meta.dirname, "..", "..", "test", "fixtures", "transforms", "pictures");
const endings: ReadonlySet<string> = new Set([".jpg", ".jpeg", ".png"]);

/** Pictures of a folder and those below it, over and over up to a number. */
function picturesOf(folder: string, count: number): string[] {
  const found = readdirSync(folder, { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((name) => endings.has(extname(name).toLowerCase()))
    .sort();
  return Array.from({ length: found.length ? count : 0 }, (_, i) => found[i % found.length]);
}

/** The input pipeline: decoding and preprocessing of files, augmentation of small pictures in memory. */
export const dataCases = (context: Context): readonly Case[] => {
  const { threads, data = ownPictures } = context;
  const files = picturesOf(data, 256);
  const pictures = { files, batch: 32, workers: threads };
  const cifar = { count: 8192, batch: 128 };
  const decoded = { count: files.length, unit: "images" };
  const augmented = { count: cifar.count, unit: "images" };
  return [
    {
      name: "data/pictures",
      about: `${files.length} picture files: decode, shorter side 256, crop 224, normalise; ${threads} workers`,
      contestants: [
        inNode(own, "pictures", pictures, decoded),
        ...inPython(context, "pictures", { ...pictures, threads }, decoded),
      ],
      figures: [timesFaster("PyTorch")],
    },
    {
      name: "data/cifar",
      about: `${cifar.count} CIFAR pictures in memory: pad and crop, flip, normalise; batch ${cifar.batch}`,
      contestants: [
        inNode(own, "cifar", cifar, augmented),
        ...inPython(context, "cifar", { ...cifar, workers: threads, threads }, augmented),
      ],
      figures: [timesFaster("PyTorch")],
    },
  ];
};
