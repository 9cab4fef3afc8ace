import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as affine from "../../src/data/augment/affine.ts";
import { augmented } from "../../src/data/augment/apply.ts";
import * as color from "../../src/data/augment/color.ts";
import { mirrored } from "../../src/data/augment/crops.ts";
import { eraseParts } from "../../src/data/augment/erase.ts";
import { mixed } from "../../src/data/augment/mix.ts";
import {
  type Augmentation,
  autoAugment,
  colorJitter,
  cutout,
  DataLoader,
  horizontalFlip,
  type LoadedBatch,
  type MixOptions,
  normalized,
  type Picture,
  PixelDataset,
  randAugment,
  randomCrop,
  randomErasing,
  randomResizedCrop,
  sampleRng,
} from "../../src/data/index.ts";
import { rng } from "../../src/tensor/index.ts";

interface Reference {
  readonly operation: string;
  readonly strength: number | null;
  readonly source: "formula" | "gentle";
  readonly sha256: string;
}
// Made by Pillow and torchvision: see make_references.py there.
const file = new URL("../fixtures/transforms/references.json", import.meta.url);
const references: readonly Reference[] = JSON.parse(readFileSync(file, "utf8")).augmented;

const sources: Readonly<Record<Reference["source"], (x: number, y: number, c: number) => number>> = {
  formula: (x, y, c) => 31 * x + 57 * y + 85 * c + 7 * ((x * y) % 23),
  gentle: (x, y, c) => 60 + ((3 * x + 5 * y + 11 * c) % 90),
};
const made = (value: (x: number, y: number, c: number) => number, width = 61, height = 47): Picture => ({
  width,
  height,
  data: Uint8Array.from({ length: 3 * width * height }, (_, i) =>
    value(Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3),
  ),
});

const operations: Readonly<Record<string, (picture: Picture, strength: number) => Picture>> = {
  ...color,
  ...affine,
  mirrored,
} as never;

describe("operations on bytes equal Pillow's", () => {
  test.for(references)("$operation $strength of $source", ({ operation, strength, source, sha256 }) => {
    const { data } = operations[operation](made(sources[source]), strength ?? 0);
    expect(createHash("sha256").update(data).digest("hex")).toBe(sha256);
  });
});

const all: readonly Augmentation[] = [
  randomCrop({ padding: 3 }),
  horizontalFlip(),
  randomResizedCrop(),
  colorJitter({ brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 }),
  randAugment(),
  autoAugment({ policy: "imagenet" }),
  autoAugment({ policy: "cifar10" }),
];

describe("augmentations", () => {
  test("give pictures of the asked size, whatever comes in, and the same ones again for the same numbers", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 30 }),
        fc.integer({ min: 1, max: 30 }),
        fc.constantFrom(1, 3),
        fc.constantFrom<readonly Augmentation[]>([all[0]], [all[2]], [all[2], ...all], all),
        fc.nat(),
        (width, height, channels, steps, seed) => {
          const data = Uint8Array.from({ length: width * height * channels }, (_, i) => i * 37);
          const run = () => augmented({ width, height, data }, steps, { height: 11, width: 13 }, rng(seed));
          const result = run();
          expect([result.width, result.height, result.data.length]).toEqual([13, 11, 143 * channels]);
          expect(run()).toEqual(result);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("a random crop shows the picture and zeros around it; all places come up", () => {
    const picture = made((x, y) => 1 + x + 10 * y, 5, 4);
    const tops = new Set<string>();
    for (let seed = 0; seed < 200; seed++) {
      const { data } = augmented(picture, [randomCrop({ padding: 1 })], picture, rng(seed));
      // Upper left corner: 0 in the padding, else 1 + x + 10 y.
      tops.add(`${data[0]} ${data[3 * 19]}`);
    }
    expect([...tops].sort()).toEqual(["0 0", "0 24", "0 25", "0 34", "1 35", "11 0", "12 0", "2 0"].sort());
  });

  test("a random resized crop of one colour is that colour, and its area is what was asked for", () => {
    const flat = made(() => 77, 40, 30);
    expect(new Set(augmented(flat, [randomResizedCrop()], { height: 9, width: 9 }, rng(1)).data)).toEqual(
      new Set([77]),
    );
    const steps = [randomResizedCrop({ scale: [0.25, 0.25], ratio: [1, 1] })];
    const ramp = made((x) => 4 * x, 60, 60);
    const { data } = augmented(ramp, steps, { height: 30, width: 30 }, rng(4));
    expect(data[3 * 29] - data[0]).toBe(4 * 29);
  });

  test("half of the pictures are mirrored", () => {
    const picture = made((x) => x, 4, 1);
    const flips = Array.from(
      { length: 400 },
      (_, i) => augmented(picture, [horizontalFlip()], picture, rng(i)).data[0],
    );
    const share = flips.filter((v) => v === 3).length / 400;
    expect(share).toBeGreaterThan(0.42);
    expect(share).toBeLessThan(0.58);
  });

  test.for<{ name: string; step: Augmentation }>([
    { name: "cutout", step: cutout({ size: 4 }) },
    { name: "random erasing", step: randomErasing({ probability: 1 }) },
  ])("$name clears the same rectangle in each channel", ({ step }) => {
    for (let seed = 0; seed < 50; seed++) {
      const values = new Float32Array(2 * 9 * 7).fill(1);
      eraseParts(values, [2, 9, 7], [step], rng(seed));
      expect([...values.subarray(0, 63)]).toEqual([...values.subarray(63)]);
      const cleared = values.filter((v) => v === 0).length / 2;
      expect(cleared).toBeGreaterThan(0);
      expect(cleared).toBeLessThanOrEqual(step.kind === "cutout" ? 16 : 63 * 0.45);
    }
  });

  test("random erasing can fill with noise, and acts as often as asked", () => {
    const erased = Array.from({ length: 300 }, (_, seed) => {
      const values = new Float32Array(400).fill(9);
      eraseParts(values, [1, 20, 20], [randomErasing({ probability: 0.25, fill: "noise" })], rng(seed));
      return values.filter((v) => v !== 9);
    });
    const hit = erased.filter(({ length }) => length > 0);
    expect(hit.length / 300).toBeGreaterThan(0.17);
    expect(hit.length / 300).toBeLessThan(0.33);
    expect(new Set(hit[0]).size).toBe(hit[0].length);
  });

  test("options out of range are refused", () => {
    expect(() => randomCrop({ padding: -1 })).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: randomCrop: padding must be an integer from 0, got -1]`,
    );
    expect(() => horizontalFlip({ probability: 2 })).toThrow("probability must be in 0 … 1, got 2");
    expect(() => randomResizedCrop({ scale: [0.5, 0.1] })).toThrow("scale: must rise within 0 … 1, got [0.5, 0.1]");
    expect(() => colorJitter({ hue: 0.7 })).toThrow("hue must be in 0 … 0.5");
    expect(() => randAugment({ magnitude: 31 })).toThrow("magnitude must be an integer in 0 … 30, got 31");
    expect(() => cutout({ size: 0 })).toThrow("size must be a positive integer");
  });
});

describe("augmenting data sets in memory", () => {
  const pixels = (channels: 1 | 3, augment: readonly Augmentation[]): PixelDataset =>
    new PixelDataset({
      pixels: Uint8Array.from({ length: 12 * channels * 63 }, (_, i) => i * 29 + (i >> 4)),
      labels: new Uint8Array(12),
      imageShape: [channels, 9, 7],
      classes: ["only"],
      mean: [0.3, 0.4, 0.5].slice(0, channels),
      std: [0.2, 0.3, 0.4].slice(0, channels),
      augment,
    });
  const indices = Array.from({ length: 12 }, (_, i) => i);

  test.for<{ name: string; steps: readonly Augmentation[] }>([
    { name: "crop, flip", steps: [randomCrop({ padding: 2 }), horizontalFlip()] },
    {
      name: "flip, crop, flip, cutout",
      steps: [horizontalFlip(), randomCrop(), horizontalFlip(), cutout({ size: 3 })],
    },
    { name: "padding larger than the picture", steps: [randomCrop({ padding: 20 })] },
    { name: "two crops", steps: [randomCrop({ padding: 2 }), randomCrop({ padding: 2 })] },
    { name: "erasing alone", steps: [randomErasing({ probability: 1, fill: "noise" })] },
    { name: "colours, then crop", steps: [colorJitter({ brightness: 0.5, hue: 0.2 }), randomCrop()] },
  ])("the fast way equals making the changes one by one: $name", async ({ steps }) => {
    for (const channels of [1, 3] as const) {
      const data = pixels(channels, steps);
      const draw = { seed: 5, epoch: 2 };
      const { images } = await data.batch(indices, draw);
      const expected = indices.flatMap((index) => {
        const random = sampleRng(draw, index);
        const changed = augmented(data.picture(index), steps, { height: 9, width: 7 }, random);
        const mean = [0.3, 0.4, 0.5].slice(0, channels);
        const values = normalized(changed, { mean, std: [0.2, 0.3, 0.4].slice(0, channels) });
        eraseParts(values, [channels, 9, 7], steps, random);
        return [...values];
      });
      expect([...images.data]).toEqual(expected);
    }
  });

  test("a picture depends on seed, epoch and index, not on its batch", async () => {
    const data = pixels(3, all);
    const draw = { seed: 1, epoch: 4 };
    const together = (await data.batch(indices, draw)).images.data;
    const alone = (await data.batch([7], draw)).images.data;
    expect([...alone]).toEqual([...together.slice(7 * 189, 8 * 189)]);
    expect([...(await data.batch([7], { seed: 1, epoch: 5 })).images.data]).not.toEqual([...alone]);
    expect([...(await data.batch([7], { seed: 2, epoch: 4 })).images.data]).not.toEqual([...alone]);
  });
});

describe("mixup and CutMix", () => {
  const size = 2 * 5 * 7;
  /** Picture i is filled with i and has label i. */
  const data = new PixelDataset({
    pixels: Uint8Array.from({ length: 6 * size }, (_, i) => Math.floor(i / size)),
    labels: Uint8Array.from([0, 1, 2, 3, 4, 5]),
    imageShape: [2, 5, 7],
    classes: ["a", "b", "c", "d", "e", "f"],
    mean: [0, 0],
    std: [1 / 255, 1 / 255],
  });
  const load = async (mix: MixOptions, seed: number): Promise<LoadedBatch> => {
    for await (const batch of new DataLoader(data, { batchSize: 6, seed, mix })) return batch;
    throw new Error("no batch");
  };

  test.for<{ name: string; mix: MixOptions }>([
    { name: "mixup", mix: { mixup: 0.8 } },
    { name: "CutMix", mix: { cutmix: 1 } },
    { name: "either", mix: { mixup: 0.2, cutmix: 1, probability: 0.7 } },
  ])("$name: targets say what the pictures are made of", async ({ mix }) => {
    for (let seed = 0; seed < 40; seed++) {
      const { images, labels, targets } = await load(mix, seed);
      expect([...labels]).toEqual([0, 1, 2, 3, 4, 5]);
      for (let i = 0; i < 6; i++) {
        const row = [...targets!.data.slice(6 * i, 6 * i + 6)].map(Number);
        expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 6);
        // Picture i is mixed with picture 5 − i.
        const own = row[i];
        const mean = [...images.data.slice(i * size, (i + 1) * size)].map(Number).reduce((a, b) => a + b, 0) / size;
        expect(mean).toBeCloseTo(own * i + (1 - own) * (5 - i), 4);
      }
    }
  });

  test("CutMix exchanges whole pixels, mixup blends them", async () => {
    const cut = await load({ cutmix: 1 }, 3);
    expect(new Set([...cut.images.data]).size).toBeLessThanOrEqual(6);
    const blended = await load({ mixup: 1 }, 3);
    expect(Number(blended.images.data[0])).not.toBe(Math.round(Number(blended.images.data[0])));
  });

  test("the weights are Beta distributed: mean 1/2 and variance 1/(8α + 4)", async () => {
    const batch = await data.batch([0, 1, 2, 3, 4, 5]);
    for (const alpha of [0.2, 1, 4]) {
      const weights = Array.from({ length: 3000 }, (_, i) => {
        return Number(mixed(batch, 6, { mixup: alpha }, { seed: 7, epoch: 0 }, i).targets!.data[0]);
      });
      const mean = weights.reduce((a, b) => a + b) / 3000;
      const variance = weights.reduce((a, b) => a + (b - mean) ** 2, 0) / 3000;
      expect(Math.abs(mean - 0.5)).toBeLessThan(0.03);
      expect(variance * (8 * alpha + 4)).toBeCloseTo(1, 0.8);
    }
  });

  test("the data set's own pictures stay as they are, options are checked", async () => {
    const batch = await data.batch([0, 1]);
    const before = [...batch.images.data];
    mixed(batch, 6, { mixup: 1 }, { seed: 0, epoch: 0 }, 0);
    expect([...batch.images.data]).toEqual(before);
    expect(() => new DataLoader(data, { batchSize: 2, mix: {} })).toThrow("one must be positive; got 0 and 0");
    expect(() => new DataLoader(data, { batchSize: 2, mix: { mixup: 1, probability: 3 } })).toThrow("in 0 … 1, got 3");
  });
});
