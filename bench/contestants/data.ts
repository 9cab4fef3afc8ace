import {
  cifar10Classes,
  cifar10Normalization,
  DataLoader,
  ImageFolder,
  imagenetPreprocessing,
  PixelDataset,
  rng,
} from "../../src/node.ts";
import { meanSize } from "./networks.ts";
import type { Prepared, Tasks } from "./task.ts";

/** One pass over a data set in batches; `check` is the mean size of the first batch's values. */
async function pass(loader: DataLoader): Promise<number> {
  let check = 0;
  for await (const { images, batch } of loader) if (batch === 0) check = meanSize(images);
  return check;
}

/** Decodes picture files, shorter side to 256, centre crop of 224, normalised: one pass over all of them. */
async function pictures(options: {
  readonly files: readonly string[];
  readonly batch: number;
  readonly workers: number;
}): Promise<Prepared> {
  const { files, batch, workers } = options;
  const preprocessing = imagenetPreprocessing(224);
  const labelled = files.map((path) => ({ path, label: 0 }));
  const folder = new ImageFolder(labelled, ["all"], { preprocessing, augment: [], workers });
  const loader = new DataLoader(folder, { batchSize: batch });
  return { facts: { check: await pass(loader) }, run: () => pass(loader) };
}

/** CIFAR-10's augmentation (pad and crop, flip) on pictures in memory, normalised: one pass over all of them. */
async function cifar({ count, batch }: { readonly count: number; readonly batch: number }): Promise<Prepared> {
  const random = rng(1, "pixels");
  const pixels = Uint8Array.from({ length: count * 3 * 32 * 32 }, () => 256 * random.next());
  const data = new PixelDataset({
    pixels,
    labels: new Uint8Array(count),
    imageShape: [3, 32, 32],
    classes: cifar10Classes,
    ...cifar10Normalization,
    augment: [
      { kind: "randomCrop", padding: 4 },
      { kind: "horizontalFlip", probability: 0.5 },
    ],
  });
  const loader = new DataLoader(data, { batchSize: batch, shuffle: true });
  return { run: () => pass(loader) };
}

export const dataTasks: Tasks = { pictures, cifar };
