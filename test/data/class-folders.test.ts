import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { imageFolder } from "../../src/data/node/index.ts";
import { indicesByName } from "../../src/inference/class-names.ts";
import { openTrainingData } from "../../src/recipes/node/training-data.ts";
import { byCodePoint } from "../../src/text.ts";

const root = mkdtempSync(join(tmpdir(), "class-folders-"));
afterAll(() => rmSync(root, { recursive: true }));

let count = 0;
/** A new folder with empty files, and links by what they lead to. */
function folderOf(files: readonly string[], links: Readonly<Record<string, string>> = {}): string {
  const folder = join(root, `${count++}`);
  for (const name of [...files, ...Object.keys(links)]) mkdirSync(dirname(join(folder, name)), { recursive: true });
  for (const name of files) writeFileSync(join(folder, name), "");
  for (const [name, target] of Object.entries(links)) symlinkSync(target, join(folder, name));
  return folder;
}

/** Classes, and files as `label name`. */
async function read(folder: string, classes?: readonly string[]) {
  const data = await imageFolder(folder, { workers: 0, classes });
  const files = data.files.map(({ path, label }) => `${label} ${path.slice(folder.length + 1)}`);
  return { classes: data.classes, files, left: data.left, notes: data.notes("DATA") };
}

const nothing = { hidden: [], links: [], nowhere: [] };

describe("order is that of Python's sorted", () => {
  test("of class folders and files, whatever the length of their UTF-16", async () => {
    // By UTF-16 the emoji, U+1F600, begins with 0xD83D and would be before U+FF21.
    const { classes, files } = await read(
      folderOf(["Ａ/1.png", "😀/1.png", "z/Ａ.png", "z/😀.png", "z/é.png", "z/Z.png"]),
    );
    expect(classes).toEqual(["z", "Ａ", "😀"]);
    expect(files).toEqual(["0 z/Z.png", "0 z/é.png", "0 z/Ａ.png", "0 z/😀.png", "1 Ａ/1.png", "2 😀/1.png"]);
  });

  test("of folders in folders: by their paths, as torchvision does", async () => {
    const { files } = await read(folderOf(["c/a/b/1.png", "c/a-b/1.png", "c/a/1.png", "c/2.png", "c/10.png"]));
    expect(files).toEqual(["0 c/10.png", "0 c/2.png", "0 c/a/1.png", "0 c/a-b/1.png", "0 c/a/b/1.png"]);
  });

  test("byCodePoint compares code points", () => {
    const points = (text: string): number[] => Array.from(text, (c) => c.codePointAt(0)!);
    const text = fc.string({ unit: fc.constantFrom("a", "b", "é", "\uffff", "Ａ", "😀", "𐀀", "\ue000"), maxLength: 4 });
    fc.assert(
      fc.property(text, text, (a, b) => {
        const [x, y] = [points(a), points(b)];
        const at = x.findIndex((point, i) => point !== y[i]);
        const wanted = at < 0 ? x.length - y.length : (x[at] ?? -1) - (y[at] ?? -1);
        expect(Math.sign(byCodePoint(a, b))).toBe(Math.sign(wanted));
      }),
      { numRuns: 500 },
    );
  });
});

test("names that begin with a dot are left out at every level, and counted", async () => {
  const hidden = [
    ".ipynb_checkpoints/a.png",
    ".DS_Store",
    "a/.ipynb_checkpoints/a.png",
    "a/._1.png",
    "a/deep/.x/y.png",
  ];
  const { classes, files, left, notes } = await read(folderOf([...hidden, "a/1.png", "a/deep/2.png", "b/3.png"]));
  expect(classes).toEqual(["a", "b"]);
  expect(files).toEqual(["0 a/1.png", "0 a/deep/2.png", "1 b/3.png"]);
  expect(left.hidden).toEqual([".DS_Store", ".ipynb_checkpoints", "a/._1.png", "a/.ipynb_checkpoints", "a/deep/.x"]);
  expect(notes).toEqual([
    "DATA: left out because they begin with a dot: 5 (.DS_Store, .ipynb_checkpoints, a/._1.png, a/.ipynb_checkpoints, a/deep/.x)",
  ]);
  // Not the folder itself, nor those above it.
  expect((await read(join(folderOf([".cache/set/a/1.png"]), ".cache/set"))).files).toEqual(["0 a/1.png"]);
});

describe("links", () => {
  test("to pictures and folders are followed, as torchvision does", async () => {
    const pool = folderOf(["cats/1.png", "cats/more/2.png", "dogs/2.png", "dog.png"]);
    const links = { cat: join(pool, "cats"), "dog/1.png": join(pool, "dog.png"), "dog/more": join(pool, "dogs") };
    const { classes, files, left } = await read(folderOf(["dog/0.png"], links));
    expect(classes).toEqual(["cat", "dog"]);
    expect(files).toEqual(["0 cat/1.png", "0 cat/more/2.png", "1 dog/0.png", "1 dog/1.png", "1 dog/more/2.png"]);
    expect(left).toEqual(nothing);
  });

  test.for<[string, string]>([
    ["cat/loop", ".."],
    ["cat/loop", "."],
    ["cat/loop", "../.."],
    ["cat/deep/loop", ".."],
    ["cat/deep/loop", "../.."],
    ["cat/more", "../dog"],
    ["cat/more", "../dog/deep"],
    ["all", "."],
    ["all", ".."],
  ])("that give pictures a second label are not followed, but named: %s → %s", async ([link, target]) => {
    const files = ["cat/1.png", "cat/deep/2.png", "dog/3.png", "dog/deep/4.png"];
    const found = await read(folderOf(files, { [link]: target }));
    expect(found.classes).toEqual(["cat", "dog"]);
    expect(found.files).toEqual(["0 cat/1.png", "0 cat/deep/2.png", "1 dog/3.png", "1 dog/deep/4.png"]);
    expect(found.left).toEqual({ ...nothing, links: [link] });
    expect(found.notes).toEqual([expect.stringContaining(`holds the link or another class: 1 (${link})`)]);
  });

  test("in a circle outside", async () => {
    const pool = folderOf(["x/1.png"], { "x/up": ".." });
    const { files, left } = await read(folderOf(["a/0.png"], { "a/x": join(pool, "x") }));
    expect(files).toEqual(["0 a/0.png", "0 a/x/1.png"]);
    expect(left.links).toEqual(["a/x/up"]);
  });

  test.for<[string, string]>([
    ["b", "a"],
    ["b", "a/deep"],
  ])("a class that is a part of another is refused: %s → %s", async ([link, target]) => {
    const folder = folderOf(["a/1.png", "a/deep/2.png"], { [link]: target });
    await expect(read(folder)).rejects.toMatchObject({
      code: "image-folder/link",
      message: expect.stringContaining("the class folders a, b lead to the same pictures"),
    });
  });

  test("that lead nowhere: pictures where their names say so, else nothing", async () => {
    const links = {
      "a/.#1.png": "nowhere",
      "a/x.jpg": "nowhere",
      "a/notes": "nowhere",
      old: "nowhere",
      "o.jpg": "o.jpg",
    };
    const { classes, files, left } = await read(folderOf(["a/1.png"], links));
    expect(classes).toEqual(["a"]);
    expect(files).toEqual(["0 a/1.png", "0 a/x.jpg"]);
    expect(left).toEqual({ hidden: ["a/.#1.png"], links: [], nowhere: ["a/notes", "old"] });
  });
});

describe("labels by the names of other folders", () => {
  const classes = ["cat", "cow", "dog", "fox"];
  test("in any number", async () => {
    const { files, notes, ...rest } = await read(folderOf(["fox/1.png", "cow/2.png"]), classes);
    expect(rest.classes).toEqual(classes);
    expect(files).toEqual(["1 cow/2.png", "3 fox/1.png"]);
    expect(notes).toEqual(["DATA: no folder for 2 of 4 classes (cat, dog)"]);
  });

  test.for<[string, readonly string[], string]>([
    [
      "one more, one less",
      ["cat", "dog", "fox", "owl"],
      "owl is none of the 4 classes, of which cow has no folder. Give",
    ],
    ["two more", [...classes, "emu", "owl"], "emu, owl are none of the 4 classes. Give"],
    [
      "other capitals",
      ["Cat", "cow", "dog", "fox"],
      "Cat is none of the 4 classes, of which cat has no folder. Cat and cat differ in capital letters only",
    ],
  ])("%s is refused", async ([, names, message]) => {
    const folder = folderOf(names.map((name) => `${name}/1.png`));
    await expect(read(folder, classes)).rejects.toMatchObject({
      code: "image-folder/class-names",
      message: expect.stringContaining(`${folder}: ${message}`),
    });
  });

  test("the same letters in another encoding are pointed out", async () => {
    const folder = folderOf(["cafe\u0301/1.png"]);
    await expect(read(folder, ["caf\u00e9"])).rejects.toThrow("differ in how they are encoded only");
  });

  test("validation goes by the training set's names", async () => {
    const preprocessing = { inputSize: [3, 8, 8], mean: [0, 0, 0], std: [1, 1, 1] } as const;
    const open = (folder: string) => openTrainingData(folder, { preprocessing, workers: 0 });
    const train = classes.map((name) => `train/${name}/1.png`);
    const part = await open(folderOf([...train, "train/.x/1.png", "val/dog/1.png", "val/fox/1.png"]));
    expect(part.validation.classes).toEqual(classes);
    expect((part.validation as Awaited<ReturnType<typeof imageFolder>>).files.map(({ label }) => label)).toEqual([
      2, 3,
    ]);
    expect(part.notes).toEqual([expect.stringContaining("(.x)"), expect.stringContaining("2 of 4 classes (cat, cow)")]);
    await expect(open(folderOf([...train, "val/Cat/1.png"]))).rejects.toThrow("Cat and cat differ in capital letters");
  });
});

test("class names of a network give folders their classes, unless they are ambiguous", () => {
  expect(indicesByName(["cat", "crane", "dog", "crane"], ["dog", "cat"])).toEqual([2, 0]);
  expect(indicesByName(["cat", "crane", "dog", "crane"], ["cat", "crane"])).toBeUndefined();
  expect(indicesByName(["cat", "dog"], ["cat", "Dog"])).toBeUndefined();
});
