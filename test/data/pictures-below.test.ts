import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readInputs } from "../../src/convert/node/onnx-inputs.ts";
import { picturesBelow } from "../../src/data/node/pictures-below.ts";
import { quantizeFile } from "../../src/quantize/node/quantize-file.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { picture, writeColourModel, writeFiles } from "../cli/colours.ts";

registerNode();
const folder = mkdtempSync(join(tmpdir(), "pictures-below-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Two pictures among all that is not one. */
const path = writeFiles(join(folder, "pictures"), {
  "1.ppm": "cat",
  "deep/er/2.PPM": "dog",
  "deep/half.ppm": picture("fox").subarray(0, 90),
  "notes.txt": new Uint8Array(1),
  ".hidden.ppm": "cow",
  "deep/.ipynb_checkpoints/1.ppm": "cow",
  "deep/.ipynb_checkpoints/.more/1.ppm": "cow",
});
mkdirSync(join(path, "folder.png"));
symlinkSync("nowhere", join(path, "lost.jpg"));
symlinkSync("nowhere", join(path, ".#notes"));
symlinkSync("nowhere", join(path, "old"));
const hidden = `${path}: left out because they begin with a dot: 3 (.#notes, .hidden.ppm, deep/.ipynb_checkpoints)`;

test("pictures of a folder without classes: no hidden ones, no folders, no links that lead nowhere but to pictures", async () => {
  const { pictures, notes } = await picturesBelow(path);
  expect(pictures).toEqual(["1.ppm", "deep/er/2.PPM", "deep/half.ppm", "lost.jpg"]);
  expect(notes).toEqual([hidden]);
});

test("what convert compares on leaves out what cannot be read, and names it", async () => {
  const said: string[] = [];
  const inputs = [{ name: "x", dtype: "float32", shape: ["n", 3, 8, 8] }] as const;
  const feeds = await readInputs([path], { inputs }, (text) => said.push(text));
  expect(feeds.map(({ x }) => x.shape)).toEqual([
    [1, 3, 8, 8],
    [1, 3, 8, 8],
  ]);
  expect(said).toEqual([hidden, expect.stringContaining("half.ppm: "), expect.stringContaining("lost.jpg: ")]);
  const bad = writeFiles(join(folder, "bad"), { "1.png": new Uint8Array(3) });
  await expect(readInputs([bad], { inputs })).rejects.toThrow(`none of the 1 pictures in ${bad} can be read`);
});

test("what quantize calibrates with, too", async () => {
  const [model, out] = ["model.onnx", "int8.onnx"].map((name) => join(folder, name));
  await writeColourModel(model, ["cat", "cow", "dog", "fox"]);
  const { samples, unreadable, notes } = await quantizeFile(model, out, { calib: path });
  expect({ samples, unreadable: unreadable.toSorted() }).toEqual({
    samples: 2,
    unreadable: ["deep/half.ppm", "lost.jpg"],
  });
  expect(notes).toContain(hidden);
});
