import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Net } from "../../src/nn/index.ts";
import {
  createModel,
  exportOnnx,
  OnnxNet,
  openModelFile,
  openOnnx,
  type PruneOptions,
  parseRecipe,
  prune,
  readRecipe,
  recipeNames,
  saveCheckpointFile,
  saveOnnx,
  train,
} from "../../src/node.ts";
import { withPruning } from "../../src/recipes/recipe.ts";
import { randomize } from "../prune/random-networks.ts";
import { writeCifar } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "repmlp-prune-run-"));
const at = (name: string): string => join(folder, name);
const [arch, options] = ["Cifar-quick-base", { widthMultiplier: 0.25 }] as const;

const base = { epochs: 2, batchSize: 24, lr: 0.01, optimizer: { name: "sgd", momentum: 0.9 } };

const recipeOf = (entries: object): PruneOptions["recipe"] =>
  parseRecipe(JSON.stringify({ ...base, prune: entries }), "recipe.json");

const methods = {
  l1: { method: "l1", flops: 0.5, fineTune: { epochs: 1 } },
  resrep: { method: "resrep", flops: 0.6, lasso: 1, fromEpoch: 0, every: 1, fineTune: { epochs: 1 } },
  csgd: { method: "csgd", flops: 0.6, strength: 4 },
  aofp: { method: "aofp", flops: 0.6, damage: 1e9, stepsPerHalf: 1, from: 0, fineTune: { epochs: 1 } },
  gsm: { method: "gsm", share: 0.2, fineTune: { epochs: 1 } },
} as const;

const run = (name: keyof typeof methods, out: string, more: Partial<PruneOptions> = {}) =>
  prune({
    ...{ data: at("cifar"), recipe: recipeOf(methods[name]), init: at("whole.safetensors"), folder: at(out) },
    ...{ seed: 1, threads: 1 },
    ...more,
  });

const valuesOf = async (path: string): Promise<string> => {
  using opened = await openModelFile(path);
  return JSON.stringify([...opened.net.state()].map(([key, p]) => [key, [...p.data.toFloat64()]]));
};

beforeAll(async () => {
  writeCifar(at("cifar"), { train: 96, test: 30 });
  const net: Net = randomize(createModel(arch, options), 3);
  const metadata = { format: "pt", arch, options: JSON.stringify(options) };
  await saveCheckpointFile(at("whole.safetensors"), net.stateDict(), { metadata });
  const { model } = await exportOnnx(net, { inputShape: [3, 32, 32] });
  await saveOnnx(at("whole.onnx"), model);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("a run on a data set", () => {
  test.for(Object.keys(methods) as (keyof typeof methods)[])("%s: files, figures, an opened result", async (name) => {
    const result = await run(name, name);
    expect(result.finished).toBe(true);
    const [before, after] = result.macs!;
    expect(after / before).toBeLessThanOrEqual(name === "gsm" ? 1 : 0.61);
    for (const file of ["pruned.safetensors", "pruning.json", "pruning.svg"])
      expect(existsSync(join(at(name), file))).toBe(true);
    expect(JSON.parse(readFileSync(join(at(name), "pruning.json"), "utf8")).method).toBe(name);
    using opened = await openModelFile(result.weights!);
    expect(opened.arch).toBe(arch);
    if (name === "gsm") expect(Object.values(result.zeros!).every(({ zeros }) => zeros > 0)).toBe(true);
    else expect(result.layers!.length).toBeGreaterThan(2);
    const tuned = "fineTune" in methods[name];
    expect(result.weights!.includes("fine-tune")).toBe(tuned);
    expect(result.tuned === undefined).toBe(!tuned);
  });

  test.for(["prune", "fine-tune"] as const)("stopped in %s and resumed: the same bytes", async (phase) => {
    const stop = new AbortController();
    const out = `stopped-${phase}`;
    const first = await run("aofp", out, {
      signal: stop.signal,
      onEvent: (event, _, at) => {
        if (at === phase && event.type === "step" && event.step === 3) stop.abort();
      },
    });
    expect(first.finished).toBe(false);
    await expect(run("aofp", out)).rejects.toThrow("holds the results of an earlier run");
    const second = await run("aofp", out, { resume: true });
    expect(await valuesOf(second.weights!)).toBe(await valuesOf(join(at("aofp"), "fine-tune", "train.pth")));
  });

  test("an ONNX model stays one", async () => {
    const recipe = recipeOf({ ...methods.aofp, fineTune: { epochs: 1 } });
    const result = await run("aofp", "onnx", { recipe, init: at("whole.onnx") });
    expect(result.weights).toContain("model.onnx");
    const net: Net & OnnxNet = new OnnxNet(await openOnnx(result.weights!));
    expect(net.classes).toBe(10);
    expect(result.macs![1] / result.macs![0]).toBeLessThanOrEqual(0.61);
    await expect(run("resrep", "onnx-resrep", { init: at("whole.onnx") })).rejects.toThrow(
      "Choose another method, such as l1",
    );
  });

  test("a network that ResRep has begun with is not begun with again; a recipe for it does not train", async () => {
    const begun = join(at("resrep"), "prune", "train.pth");
    await expect(run("l1", "again", { init: begun })).rejects.toThrow("has compactors");
    await expect(
      train({ data: at("cifar"), recipe: recipeOf(methods.l1), init: at("whole.safetensors"), folder: at("t") }),
    ).rejects.toThrow("Use repmlp prune");
    await expect(run("l1", "none", { recipe: parseRecipe(JSON.stringify(base), "r.json") })).rejects.toThrow(
      "the recipe does not say how to prune",
    );
  });
});

describe("settings", () => {
  test.for(recipeNames.filter((name) => name.startsWith("prune-")))("recipe %s says how to prune", async (name) => {
    expect(`prune-${(await readRecipe(name)).prune?.method}`).toBe(name);
  });

  test("of another method, and those that it does not have", async () => {
    const aofp = await readRecipe("prune-aofp");
    expect(withPruning(aofp, { flops: 0.4 }, 3).prune).toMatchObject({
      method: "aofp",
      flops: 0.4,
      fineTune: { epochs: 3 },
    });
    expect(withPruning(aofp, { method: "l1" }).prune).toEqual({
      method: "l1",
      flops: 0.5,
      fineTune: { epochs: 240, lr: 0.01 },
    });
    expect(() => withPruning(aofp, { lasso: 1 })).toThrow(/aofp has no setting "lasso". It has flops, layers/);
    expect(() => withPruning(aofp, { damage: -1 })).toThrow("prune: damage");
  });
});
