import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { blurred, type Labelled, turned } from "../../src/data/augment/joint.ts";
import { encodePalettePng } from "../../src/data/node/index.ts";
import { decodeMask } from "../../src/data/node/mask-png.ts";
import { classNamesOf, decodePicture, maskPairs, maskSet } from "../../src/node.ts";
import { tempFolder } from "../training/support.ts";

const root = tempFolder();
const place = (path: string): string => {
  mkdirSync(dirname(path), { recursive: true });
  return path;
};
const picture = (path: string): Promise<unknown> =>
  sharp({ create: { width: 4, height: 3, channels: 3, background: "red" } }).toFile(place(path));
const palette = [
  [0, 0, 0],
  [128, 0, 0],
  [0, 128, 0],
] as const;
const labels = Uint8Array.from([0, 1, 2, 0, 1, 1, 1, 1, 255, 0, 0, 2]);
const mask = (path: string, values = labels): void =>
  writeFileSync(place(path), encodePalettePng(values, 4, 3, palette));

describe("data sets with masks in the layouts of others", () => {
  test("Pascal VOC: lists of names, palette PNGs", async () => {
    for (const name of ["a", "b", "c"]) {
      await picture(join(root, `voc/JPEGImages/${name}.jpg`));
      mask(join(root, `voc/SegmentationClass/${name}.png`));
    }
    writeFileSync(place(join(root, "voc/ImageSets/Segmentation/train.txt")), "a\nc\n");
    writeFileSync(place(join(root, "voc/ImageSets/Segmentation/val.txt")), "b\nd\n");
    const pairs = await maskPairs(join(root, "voc"), "train");
    expect(pairs.map(({ mask: path }) => path.slice(-5))).toEqual(["a.png", "c.png"]);
    const { targets } = await maskSet(pairs, { imageSize: [3, 4], numClasses: 3 }).batch([1]);
    expect(Array.from(targets.data, Number)).toEqual([...labels]);
    await expect(maskPairs(join(root, "voc"), "val")).rejects.toThrow(/val\.txt: names "d", but there is no .*d\.jpg/);
  });

  test("ADE20K: folders training and validation, classes from 1", async () => {
    await picture(join(root, "ade/images/training/x.png"));
    mask(
      join(root, "ade/annotations/training/x.png"),
      labels.map((l) => (l === 255 ? 0 : l)),
    );
    const pairs = await maskPairs(join(root, "ade"), "train");
    const own = { imageSize: [3, 4], numClasses: 2, fromOne: true } as const;
    const { targets } = await maskSet(pairs, own).batch([0]);
    expect(Array.from(targets.data, Number)).toEqual([255, 0, 1, 255, 0, 0, 0, 0, 255, 255, 255, 1]);
    await expect(maskSet(pairs, { ...own, numClasses: 1 }).batch([0])).rejects.toThrow(
      /x\.png: the mask has label 2, but there are 1 classes \(1 … 1\)/,
    );
  });

  test("a list of paths; what is no pair is refused by its line", async () => {
    await picture(join(root, "list/p/x.png"));
    mask(join(root, "list/m/y.png"));
    writeFileSync(join(root, "list/train.txt"), "p/x.png m/y.png\n");
    writeFileSync(join(root, "list/val.txt"), "p/x.png m/y.png\n\np/x.png\n");
    const [pair] = await maskPairs(join(root, "list"), "train");
    expect([pair.picture, pair.mask]).toEqual([join(root, "list/p/x.png"), join(root, "list/m/y.png")]);
    await expect(maskPairs(join(root, "list"), "val")).rejects.toThrow(/val\.txt: line 2 must be the paths/);
  });

  test("a folder of something else is told what was looked for; names of classes are lines", async () => {
    await expect(maskPairs(join(root, "list/p"), "train")).rejects.toThrow(
      /holds no pictures with masks for "train"\. Expected train\/ and trainannot\/.*it holds x\.png/,
    );
    expect(await classNamesOf(join(root, "voc"))).toBeUndefined();
    writeFileSync(join(root, "voc/classes.txt"), "ground\n disc \n\nbar\n");
    expect(await classNamesOf(join(root, "voc"))).toEqual(["ground", "disc", "bar"]);
    writeFileSync(join(root, "list/classes.txt"), "\n");
    await expect(classNamesOf(join(root, "list"))).rejects.toThrow(/holds no class names/);
  });

  test("a mask in which nothing counts is refused by name", async () => {
    await picture(join(root, "void/train/x.png"));
    mask(join(root, "void/trainannot/x.png"), new Uint8Array(12).fill(255));
    const data = maskSet(await maskPairs(join(root, "void"), "train"), { imageSize: [3, 4] });
    await expect(data.batch([0])).rejects.toThrow(
      /trainannot\/x\.png: every pixel has the label 255, which is ignored/,
    );
  });
});

test("a palette PNG that is written shows its colours to others, and its numbers to us", async () => {
  mask(join(root, "own.png"));
  const bytes = readFileSync(join(root, "own.png"));
  expect([...decodeMask(bytes, "own.png").labels]).toEqual([...labels]);
  const two = encodePalettePng(Uint8Array.from([1, 2]), 2, 1, palette);
  expect([...(await decodePicture(two, "two.png")).data]).toEqual([128, 0, 0, 0, 128, 0]);
});

describe("pictures turned and blurred with their masks", () => {
  const [width, height] = [31, 21];
  const scene: Labelled = {
    picture: {
      ...{ width, height },
      data: Uint8Array.from({ length: 3 * width * height }, (_, i) => 8 * (Math.floor(i / 3) % width)),
    },
    labels: Uint16Array.from({ length: width * height }, (_, i) => i % width),
  };

  test("turned, the mask tells from where in the picture every pixel is", () => {
    const { picture: moved, labels: own } = turned(scene, 10);
    let inside = 0;
    for (let p = 0; p < own.length; p++) {
      if (own[p] === 256) continue;
      inside++;
      expect(Math.abs(moved.data[3 * p] / 8 - own[p])).toBeLessThan(0.6);
    }
    expect(inside).toBeGreaterThan(0.75 * own.length);
    expect(inside).toBeLessThan(own.length);
    // Counter-clockwise: what was right of the centre is above it now, a little to the left.
    const centre = 10 * width + 15;
    expect(own[centre]).toBe(15);
    expect(own[10 * width + 25]).toBeLessThan(26);
    expect(turned(scene, 0)).toEqual(scene);
    const quarter = turned({ ...scene, labels: scene.labels.map((_, i) => Math.floor(i / width)) }, 90);
    // Row r of the picture, turned counter-clockwise by a right angle, is column 15 + (r − 10).
    expect(quarter.labels[10 * width + 18]).toBe(13);
  });

  test("blurred, a grey picture stays as it is, an edge is spread by the weights of a Gaussian", () => {
    const grey = { width: 6, height: 5, data: new Uint8Array(30).fill(77) };
    expect(blurred(grey)).toEqual(grey);
    const edge = { width: 8, height: 3, data: Uint8Array.from({ length: 24 }, (_, i) => (i % 8 < 4 ? 0 : 200)) };
    const row = [...blurred(edge).data.subarray(8, 16)];
    // OpenCV's weights for 5 pixels, σ 1.1: 0.0708, 0.2445, 0.3694 from the outside.
    expect(row).toEqual([0, 0, 14, 63, 137, 186, 200, 200]);
  });
});
