import { copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type Augmentation,
  colorJitter,
  cutout,
  DataLoader,
  horizontalFlip,
  imagenetNormalization,
  imagenetPreprocessing,
  type Preprocessing,
  preprocess,
  randAugment,
  randomCrop,
  randomErasing,
  randomResizedCrop,
  subset,
} from "../../src/data/index.ts";
import { type ImageFolder, type ImageFolderOptions, imageFolder, readPicture } from "../../src/data/node/index.ts";

const fixtures = fileURLToPath(new URL("../fixtures/transforms/", import.meta.url));
const preprocessing: Preprocessing = { inputSize: [3, 24, 20], cropPct: 0.8, ...imagenetNormalization };

let root = "";
/** Makes a folder of class folders from `class/file` → fixture, or text to write. */
async function folderOf(name: string, files: Readonly<Record<string, string | { text: string }>>): Promise<string> {
  const folder = join(root, name);
  for (const [path, source] of Object.entries(files)) {
    await mkdir(join(folder, path, ".."), { recursive: true });
    if (typeof source === "string") await copyFile(join(fixtures, source), join(folder, path));
    else await writeFile(join(folder, path), source.text);
  }
  return folder;
}

const good = {
  "n02/b.JPEG": "pictures/gray_320x240.jpg",
  "n02/a.jpg": "pictures/synth_small_100x90_444.jpg",
  "n02/deep/c.png": "modes/rgba.png",
  "n02/notes.txt": { text: "not a picture" },
  "n01/z.webp": "modes/rgb.webp",
  "n01/y.BMP": "modes/p.bmp",
  "n10/x.tiff": "modes/lzw.tiff",
  "n10/w.ppm": "modes/rgb.ppm",
  "n10/v.pgm": "modes/l.pgm",
  "labels.csv": { text: "" },
};
let folder = "";
const open: ImageFolder[] = [];
const opened = async (options: ImageFolderOptions = {}, path = folder): Promise<ImageFolder> => {
  const data = await imageFolder(path, { preprocessing, workers: 0, ...options });
  open.push(data);
  return data;
};

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "image-folder-"));
  folder = await folderOf("good", good);
});
afterAll(async () => {
  await Promise.all(open.map((data) => data.close()));
  await rm(root, { recursive: true });
});

describe("a folder of pictures", () => {
  test("labels are the ranks of the folder names; files come in order, sub-folders last", async () => {
    const data = await opened();
    expect(data.classes).toEqual(["n01", "n02", "n10"]);
    expect(data.files.map(({ path, label }) => `${label} ${path.slice(folder.length + 1)}`)).toEqual([
      "0 n01/y.BMP",
      "0 n01/z.webp",
      "1 n02/a.jpg",
      "1 n02/b.JPEG",
      "1 n02/deep/c.png",
      "2 n10/v.pgm",
      "2 n10/w.ppm",
      "2 n10/x.tiff",
    ]);
    expect(data).toMatchObject({ length: 8, imageShape: [3, 24, 20] });
  });

  test("a batch holds the preprocessed pictures", async () => {
    const data = await opened();
    const { images, labels } = await data.batch([3, 0]);
    expect(images.shape).toEqual([2, 3, 24, 20]);
    expect([...labels]).toEqual([1, 0]);
    const expected = await Promise.all(
      [3, 0].map(async (i) => [...preprocess(await readPicture(data.files[i].path), preprocessing)]),
    );
    expect([...images.data]).toEqual(expected.flat());
  });

  const everything: readonly Augmentation[] = [
    randomResizedCrop(),
    horizontalFlip(),
    colorJitter({ brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 }),
    randAugment(),
    randomErasing({ probability: 1, fill: "noise" }),
  ];

  test.for([
    { name: "without augmentation", augment: [] },
    { name: "with random resized crops and colours", augment: everything },
    { name: "with random crops", augment: [randomCrop({ padding: 2 }), cutout({ size: 5 })] },
  ])("the number of threads changes nothing: $name", async ({ augment }) => {
    const epoch = async (workers: number): Promise<unknown[]> => {
      const batches = [];
      const loader = new DataLoader(await opened({ workers, augment }), { batchSize: 3, shuffle: true, seed: 5 });
      for await (const { images, labels } of loader) batches.push({ images, labels });
      return batches;
    };
    expect(await epoch(2)).toEqual(await epoch(0));
  });

  test("a random crop shows a part of the resized picture", async () => {
    const augment = [randomCrop({ padding: 0 })];
    const centre = await opened({ preprocessing: { ...preprocessing, inputSize: [3, 20, 20], cropPct: 1 } });
    // Both sides 20: there is only one place for a crop of 20.
    const square = centre.with({
      augment,
      preprocessing: { ...preprocessing, inputSize: [3, 20, 20], resize: [20, 20] },
    });
    const plain = centre.with({ preprocessing: { ...preprocessing, inputSize: [3, 20, 20], resize: [20, 20] } });
    expect((await square.batch([2])).images).toEqual((await plain.batch([2])).images);
    const moving = centre.with({ augment });
    const views = await Promise.all([1, 2, 3, 4].map((seed) => moving.batch([2], { seed, epoch: 0 })));
    expect(new Set(views.map(({ images }) => images.data.join())).size).toBeGreaterThan(1);
  });

  test("grey input from colour pictures", async () => {
    const grey: Preprocessing = { inputSize: [1, 11, 9], mean: [0.5], std: [0.5] };
    const data = await opened({ preprocessing: grey, augment: [randomCrop({ padding: 1 }), horizontalFlip()] });
    expect((await data.batch([2, 3])).images.shape).toEqual([2, 1, 11, 9]);
  });
});

describe("what can be wrong with it", () => {
  test.for([0, 2])("a damaged file is named, with %i threads, and the others still work", async (workers) => {
    const path = await folderOf(`bad-${workers}`, { "a/ok.png": "modes/rgb.png", "a/torn.jpg": "modes/half.jpg" });
    const data = await opened({ workers }, path);
    await expect(data.batch([0, 1])).rejects.toMatchObject({
      name: "RepmlpError",
      code: "picture/decode",
      kind: "file",
      message: expect.stringContaining(join(path, "a", "torn.jpg")),
    });
    expect((await data.batch([0])).labels).toEqual(Int32Array.of(0));
  });

  test.for([0, 2])("or left out of its batch, with %i threads, when somebody is told", async (workers) => {
    const files = { "a/1.png": "modes/rgb.png", "a/2.jpg": "modes/half.jpg", "b/3.png": "modes/rgb.png" };
    const path = await folderOf(`skip-${workers}`, files);
    const told: string[] = [];
    const data = await opened({ workers, onUnreadable: (file) => told.push(file) }, path);
    const [{ images, labels }, one] = [await data.batch([0, 1, 2]), await data.batch([2])];
    expect(told).toEqual([join(path, "a", "2.jpg")]);
    expect(labels).toEqual(Int32Array.of(0, 1));
    expect(one).not.toHaveProperty("missing");
    expect(images.shape).toEqual([2, ...data.imageShape]);
    expect(images.data.slice(one.images.size)).toEqual(one.images.data);
    expect((await data.batch([1])).images.shape).toEqual([0, ...data.imageShape]);
  });

  test("a loader's batches come without them, and say which pictures they hold", async () => {
    const bad = {
      "a/1.png": { text: "no" },
      "a/2.png": "modes/rgb.png",
      "b/3.png": { text: "" },
      "b/4.png": { text: "" },
    };
    const path = await folderOf("loader", bad);
    const told: string[] = [];
    const data = await opened({ onUnreadable: (file) => told.push(file.slice(path.length)) }, path);
    const all = subset(data, [3, 2, 1, 0]);
    const seen = [];
    for await (const { images, labels, indices } of new DataLoader(all, { batchSize: 2, prefetch: 0 }))
      seen.push([images.shape[0], [...labels], [...indices]]);
    expect(seen).toEqual([
      [0, [], []],
      [1, [0], [2]],
    ]);
    expect(told.sort()).toEqual(["/a/1.png", "/b/3.png", "/b/4.png"]);
  });

  test("tasks of closed threads are rejected, later ones start new threads", async () => {
    const data = await opened({ workers: 1 });
    const torn = data.batch([0, 1, 2]);
    torn.catch(() => undefined);
    await data.close();
    await expect(torn).rejects.toMatchObject({ code: "data/worker" });
    expect((await data.batch([0])).labels).toEqual(Int32Array.of(0));
  });

  test.for([
    { name: "no folder", files: undefined, code: "data/folder" },
    { name: "no class folders", files: { "1.jpg": "modes/q90.jpg" }, code: "image-folder/no-classes" },
    {
      name: "a class without pictures",
      files: { "a/1.jpg": "modes/q90.jpg", "b/1.txt": { text: "" } },
      code: "image-folder/empty-class",
    },
  ])("$name", async ({ name, files, code }) => {
    const path = files ? await folderOf(name, files as never) : join(root, "absent");
    await expect(imageFolder(path)).rejects.toMatchObject({ code, message: expect.stringContaining(path) });
  });

  test("a link into nowhere is a picture that cannot be read", async () => {
    const path = await folderOf("dangling", { "a/1.png": "modes/rgb.png" });
    await symlink(join(path, "gone.png"), join(path, "a", "2.png"));
    const told: string[] = [];
    const data = await opened({ onUnreadable: (file) => told.push(file) }, path);
    expect(await data.batch([0, 1])).toMatchObject({ labels: Int32Array.of(0), missing: [1] });
    expect(told).toEqual([join(path, "a", "2.png")]);
    await expect((await opened({}, path)).batch([1])).rejects.toMatchObject({
      code: "data/read",
      message: expect.stringContaining(join(path, "a", "2.png")),
    });
  });

  test("threads must be a number from 0", async () => {
    await expect(imageFolder(folder, { workers: -1 })).rejects.toThrow("workers must be an integer from 0, got -1");
  });

  test("preprocessing defaults to that of ImageNet", async () => {
    expect((await imageFolder(folder)).imageShape).toEqual(imagenetPreprocessing().inputSize);
  });
});
