import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { type Animal, picture, writeColourModel, writeFiles } from "./colours.ts";
import { repmlp, tempFolder } from "./harness.ts";

const folder = tempFolder();
const at = (name: string): string => join(folder, name);
const animals: readonly Animal[] = ["cat", "cow", "dog", "fox"];

/** Folders in `val`, with one picture of an animal each. */
const data = (name: string, folders: Readonly<Record<string, Animal>>): string =>
  writeFiles(
    at(name),
    Object.fromEntries(Object.entries(folders).map(([folder, animal]) => [`val/${folder}/1.ppm`, animal])),
  );

interface Counted {
  readonly correct: number;
  readonly total: number;
  readonly unreadable: readonly string[];
}

/** What `repmlp test` found, as JSON. */
async function tested(data: string, weights: string, ...args: string[]) {
  const { code, stdout, stderr } = await repmlp(["test", data, "deploy", at(weights), "--json", "-j", "1", ...args]);
  const lines = stdout
    .trim()
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const result = lines.find(({ type }) => type === "result");
  const counted: Counted | undefined = result && { ...result.counts, unreadable: result.unreadable };
  const error: string = lines.find(({ error }) => error)?.error?.message ?? stderr;
  return { code, counted, stderr, error, start: lines.find(({ type }) => type === "start") };
}

beforeAll(async () => {
  await writeColourModel(at("named.onnx"), animals, animals);
  await writeColourModel(at("nameless.onnx"), animals);
  await writeColourModel(at("twice.onnx"), animals, ["cat", "cow", "cow", "fox"]);
});

describe("test gives folders their classes by name", () => {
  test.for<[string, Readonly<Record<string, Animal>>]>([
    ["all of them", { cat: "cat", cow: "cow", dog: "dog", fox: "fox" }],
    ["some of them", { cow: "cow", fox: "fox" }],
    ["one", { dog: "dog" }],
  ])("%s", async ([name, folders]) => {
    const { counted, start } = await tested(data(`names-${name}`, folders), "named.onnx");
    const total = Object.keys(folders).length;
    expect(counted).toMatchObject({ correct: total, total });
    expect(start).toMatchObject({ classesBy: "name", mapped: true });
  });

  test.for<[string, Readonly<Record<string, Animal>>, string]>([
    ["an unknown name", { cat: "cat", dog: "dog", owl: "owl" }, "owl is none of the 4 classes that the weights name"],
    ["other capitals", { Cat: "cat", cow: "cow", dog: "dog", fox: "fox" }, "Cat is none of the 4 classes"],
    ["as many, all others", { n1: "cat", n2: "cow", n3: "dog", n4: "fox" }, "n1, n2, n3, n4 are none of the 4 classes"],
  ])("refuses %s, with the way out", async ([name, folders, message]) => {
    const path = data(`others-${name}`, folders);
    const { code, error } = await tested(path, "named.onnx");
    expect(code).toBe(1);
    expect(error).toContain(join(path, "val"));
    expect(error).toContain(message);
    expect(error).toContain("--class-map FILE");
    // The way out: the names of the folders in the order of the outputs.
    const map = at(`map-${name}.txt`);
    const order = animals.map((animal) => Object.keys(folders).find((f) => folders[f] === animal) ?? "nothing");
    writeFileSync(map, [...order, ...("owl" in folders ? ["owl"] : [])].join("\n"));
    const known = Object.values(folders).filter((animal) => animals.includes(animal)).length;
    if (!("owl" in folders))
      expect((await tested(path, "named.onnx", "--class-map", map)).counted).toMatchObject({ correct: known });
  });

  test("refuses a name that two outputs bear", async () => {
    const { error } = await tested(data("twice", { cow: "cow" }), "twice.onnx");
    expect(error).toContain("the weights name cow twice");
  });

  test("without names, by rank, with a word where the numbers differ", async () => {
    const { counted, stderr } = await tested(data("rank", { a: "cat", b: "cow" }), "nameless.onnx");
    expect(counted).toMatchObject({ correct: 2, total: 2 });
    expect(stderr).toContain("the network has 4 classes, the data 2 folders");
  });

  test("class maps with numbers as folder names, the index before or behind", async () => {
    const path = data("numbers", { 10: "dog", 7: "cat" });
    for (const [name, text] of [
      ["behind", "10\t2\n7\t0\n"],
      ["before", "2\t10\n0\t7\n"],
      ["named", "folder\tindex\n10\t2\n7\t0\n"],
    ]) {
      writeFileSync(at(name), text);
      expect((await tested(path, "nameless.onnx", "--class-map", at(name))).counted, name).toMatchObject({
        correct: 2,
      });
    }
    const circle = data("circle", { 0: "cow", 1: "dog", 2: "cat" });
    writeFileSync(at("circle.txt"), "0\t1\n1\t2\n2\t0\n");
    const { error, code } = await tested(circle, "nameless.onnx", "--class-map", at("circle.txt"));
    expect(error).toContain("several columns are numbers");
    expect(code).toBe(1);
    writeFileSync(at("circle.txt"), "folder\tindex\n0\t1\n1\t2\n2\t0\n");
    expect((await tested(circle, "nameless.onnx", "--class-map", at("circle.txt"))).counted?.correct).toBe(3);
  });
});

describe("test leaves out pictures that cannot be read, and goes on", () => {
  const good = {
    "val/cat/1.ppm": "cat",
    "val/cow/1.ppm": "cow",
    "val/dog/1.ppm": "dog",
    "val/fox/1.ppm": "fox",
  } as const;
  const half = picture("cat").subarray(0, 90);

  test.for<[string, Readonly<Record<string, Uint8Array>>, readonly string[]]>([
    ["in the first batch", { "val/cat/0.ppm": half }, []],
    [
      "text, nothing, and half of one",
      {
        "val/cat/2.jpg": new TextEncoder().encode("no picture"),
        "val/dog/2.png": new Uint8Array(0),
        "val/fox/2.ppm": half,
      },
      [],
    ],
    ["all of a batch", { "val/cat/2.ppm": half, "val/cat/3.ppm": half, "val/cat/4.ppm": half }, ["-b", "2"]],
    ["the last of all", { "val/fox/z.ppm": half }, ["-b", "1"]],
  ])("%s", async ([name, bad, args]) => {
    const path = writeFiles(at(`bad-${name}`), { ...good, ...bad });
    const { code, counted, stderr } = await tested(path, "named.onnx", ...args);
    const names = Object.keys(bad).map((file) => file.slice("val/".length));
    expect(counted).toMatchObject({ correct: 4, total: 4, unreadable: names });
    for (const file of names) expect(stderr).toContain(file);
    expect(code).toBe(0);
    const strict = await tested(path, "named.onnx", "--strict", ...args);
    expect(strict.code).toBe(1);
    expect(strict.error).toContain(names[0].slice(0, 4));
  });

  test("a link that leads nowhere is one; hidden links and those of other names do no harm", async () => {
    const path = writeFiles(at("links"), good);
    symlinkSync("nowhere", join(path, "val/cat/2.jpg"));
    symlinkSync("nowhere", join(path, "val/cat/.#notes"));
    symlinkSync("nowhere", join(path, "val/old"));
    const { code, counted, stderr } = await tested(path, "named.onnx");
    expect(counted).toMatchObject({ correct: 4, total: 4, unreadable: ["cat/2.jpg"] });
    expect(stderr).toContain("begin with a dot: 1 (cat/.#notes)");
    expect(stderr).toContain("lead nowhere: 1 (old)");
    expect(code).toBe(0);
  });

  test("none is left", async () => {
    const { code, error } = await tested(writeFiles(at("none"), { "val/cat/1.ppm": half }), "named.onnx");
    expect(error).toContain("none of 1 pictures can be read. Look at cat/1.ppm");
    expect(code).toBe(1);
  });
});

describe("predict", () => {
  test("names a picture that cannot be read, and says of the others what they are", async () => {
    const path = writeFiles(at("predicted"), { "a.ppm": "fox", "b.jpg": new Uint8Array(9), "c.ppm": "cow" });
    const files = ["a.ppm", "b.jpg", "none.png", "c.ppm"].map((name) => join(path, name));
    const { code, stdout, stderr } = await repmlp(["predict", at("named.onnx"), ...files, "--json"]);
    const said = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(said.map(({ topK: [{ label }] }) => label)).toEqual(["fox", "cow"]);
    for (const name of [files[1], files[2]]) expect(stderr).toContain(`warning: ${name}: cannot be`);
    expect(code).toBe(1);
  });

  test("prints a class name of several lines as one", async () => {
    await writeColourModel(at("lines.onnx"), animals, ["c\nat", "cow", "dog", "f\tox\u001b[2J"]);
    const path = writeFiles(at("lines"), { "1.ppm": "cat" });
    const { stdout } = await repmlp(["predict", at("lines.onnx"), join(path, "1.ppm")]);
    expect(stdout).toMatch(/ % {2}c\\nat \(0\)\n/);
    expect(stdout).toContain("f\\tox\\x1b[2J (3)");
  });
});

test("hidden folders shift no class", async () => {
  const path = data("hidden", { cat: "cat", cow: "cow", dog: "dog", fox: "fox", ".ipynb_checkpoints": "cow" });
  writeFiles(path, { "val/cat/.ipynb_checkpoints/1.ppm": "fox", "val/dog/._1.ppm": new Uint8Array(4) });
  const { counted, stderr } = await tested(path, "nameless.onnx");
  expect(counted).toMatchObject({ correct: 4, total: 4, unreadable: [] });
  expect(stderr).toContain("begin with a dot: 3 (.ipynb_checkpoints, cat/.ipynb_checkpoints, dog/._1.ppm)");
});
