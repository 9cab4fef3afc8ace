import { describe, expect, test } from "vitest";
import { RepMLPCifar } from "../../src/models/index.ts";
import { trainerOptions } from "../../src/recipes/node/prepared.ts";
import { readRecipe, recipeNames } from "../../src/recipes/node/read-recipe.ts";
import { mustFitSome, parseRecipe } from "../../src/recipes/recipe.ts";
import { fitsPattern } from "../../src/text.ts";
import { tinyRecipe } from "./support.ts";

const parsed = (changes: object): ReturnType<typeof parseRecipe> =>
  parseRecipe(JSON.stringify({ ...tinyRecipe, ...changes }), "my.json");

describe("recipes", () => {
  test.for(recipeNames)("%s of the package can be read", async (name) => {
    const recipe = await readRecipe(name);
    expect(recipe.epochs).toBeGreaterThan(0);
    expect(recipe.description).toMatch(/\.$/);
  });

  test("what is left out has the usual value", () => {
    const recipe = parsed({});
    expect(recipe.schedule).toEqual({ kind: "cosine" });
    expect(recipe.optimizer.settings).toEqual({ momentum: 0.9, nesterov: false, weightDecay: 0 });
    expect(recipe.augment[1]).toEqual({ kind: "horizontalFlip", probability: 0.5 });
    expect(recipe.decayNormAndBias).toBe(true);
  });

  test("options of a step arrive at the trainer", () => {
    const options = {
      accumulate: 4,
      clipNorm: 1,
      ema: { decay: 0.99, warmup: true },
      patience: 5,
      preciseBatchNorm: { batches: 20, everyEpoch: true },
      schedule: { kind: "polynomial", power: 0.9, minLr: 1e-4 },
    };
    expect(trainerOptions(parsed(options), new RepMLPCifar({ channels: [4, 4, 4] }))).toMatchObject(options);
    expect(parsed({ clipValue: 0.1, schedule: { kind: "linear" } })).toMatchObject({ clipValue: 0.1 });
  });

  test.for([
    ["{", /^my\.json: is not valid JSON/],
    [{ epoch: 3 }, 'my.json: there is no entry "epoch". Did you mean epochs?'],
    [{ epochs: 0 }, /^my\.json: epochs: .*>=1 but received 0/],
    [{ lr: "high" }, /^my\.json: lr: .*number.*"high"/],
    [{ optimizer: { name: "lion" } }, /^my\.json: optimizer\.name: /],
    [{ ema: { decay: 1 } }, /^my\.json: ema\.decay: .*<1 but received 1/],
    [{ ema: { deccay: 0.9 } }, /^my\.json: (ema\.decay: .*|there is no entry "ema\.deccay")/],
    [{ preciseBatchNorm: { batches: 2, often: true } }, 'my.json: there is no entry "preciseBatchNorm.often". See'],
    [{ accumulate: 0 }, /^my\.json: accumulate: .*>=1 but received 0/],
    [{ schedule: { kind: "exponential" } }, /^my\.json: schedule\.kind: /],
    [{ augment: [{ kind: "blur" }] }, /^my\.json: augment\.0\.kind: /],
    [{ augment: [{ kind: "cutout", size: -1 }] }, /cutout: size must be a positive integer, got -1/],
  ] as const)("%j is refused", ([changes, message]) => {
    expect(() => (typeof changes === "string" ? parseRecipe(changes, "my.json") : parsed(changes))).toThrow(message);
  });

  test("an unknown name is told from those there are", async () => {
    await expect(readRecipe("cifar10-pure-mpl")).rejects.toThrow(
      /neither a file nor .* Did you mean cifar10-pure-mlp\?/,
    );
  });
});

describe("patterns", () => {
  test.for([
    ["linear.weight", "linear.*", true],
    ["linear.weight", "linear", false],
    ["stage1.rep1.fc3.weight", "*.fc3.*", true],
    ["stage1xrep1", "stage1.rep1", false],
  ] as const)("%s and %s: %s", ([key, pattern, fits]) => {
    expect(fitsPattern(key, pattern)).toBe(fits);
  });

  test("one that fits nothing is an error", () => {
    expect(() => mustFitSome(["head.*"], ["linear.weight"], "recipe: freeze")).toThrow(
      'recipe: freeze: "head.*" fits no parameter. The network has linear.weight.',
    );
  });

  test("freezing, rates and decay by key", () => {
    const model = new RepMLPCifar({ channels: [4, 4, 4] });
    const { group } = trainerOptions(
      parsed({ freeze: ["fc0.*", "stage1.*"], lrScale: { "linear.*": 10 }, decayNormAndBias: false }),
      model,
    );
    const of = (key: string): unknown => group?.(key, new Map(model.parameters()).get(key)!);
    expect(of("fc0.conv.weight")).toEqual({ frozen: true, lrScale: 1 });
    expect(of("linear.weight")).toEqual({ frozen: false, lrScale: 10 });
    expect(of("linear.bias")).toEqual({ frozen: false, lrScale: 10, weightDecay: 0 });
  });
});
