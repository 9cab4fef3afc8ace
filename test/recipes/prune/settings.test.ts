import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readRecipe, recipeNames, train } from "../../../src/node.ts";
import { withPruning } from "../../../src/recipes/recipe.ts";
import { expectResult, type PruneRuns, pruneRuns, recipeOf } from "./support.ts";

let runs: PruneRuns;
beforeAll(async () => {
  runs = await pruneRuns();
});
afterAll(() => runs.remove());

const l1 = { method: "l1", flops: 0.5, fineTune: { epochs: 1 } };

test("l1: files, figures, an opened result", async () => {
  const result = await runs.run(l1, "l1");
  await expectResult(result, { method: "l1", target: 0.5, tuned: true });
  expect(result.layers!.length).toBeGreaterThan(2);
});

test("a recipe for pruning does not train, and one for training does not prune", async () => {
  const [data, init, folder] = ["cifar", "whole.safetensors", "t"].map(runs.at);
  await expect(train({ data, recipe: recipeOf(l1), init, folder })).rejects.toThrow("Use repmlp prune");
  await expect(runs.run(l1, "none", { recipe: recipeOf() })).rejects.toThrow("the recipe does not say how to prune");
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
