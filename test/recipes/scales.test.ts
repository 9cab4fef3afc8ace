import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import {
  createModel,
  openCheckpointFile,
  RepOptSearchVGG,
  repOptInitialize,
  repOptMultipliers,
  repOptScales,
  saveCheckpointFile,
  Tensor,
  train,
} from "../../src/node.ts";
import { parseRecipe } from "../../src/recipes/recipe.ts";
import { withRandomState } from "../reparam/support.ts";
import { tinyRecipe, writeCifar } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "repmlp-scales-"));
const at = (name: string): string => join(folder, name);

/** Depths and widths of both networks. */
const narrow = { numBlocks: [1, 2, 1, 1], widthMultiplier: [1 / 8, 1 / 8, 1 / 16, 1 / 16], imageSize: 32 } as const;

const recipe = (changes: object = {}) =>
  parseRecipe(JSON.stringify({ ...tinyRecipe, arch: "RepOpt-VGG-B1", model: narrow, epochs: 1, ...changes }), "r.json");

const search = () => withRandomState(new RepOptSearchVGG({ ...narrow, numClasses: 10 }), 3);

beforeAll(async () => {
  writeCifar(at("cifar"));
  await saveCheckpointFile(at("search.pth"), search().stateDict());
});

const run = (out: string, options: object = {}) =>
  train({ data: at("cifar"), recipe: recipe(), folder: at(out), scales: at("search.pth"), seed: 1, ...options });

test("scales of a block begin with √(2/i), i its number in the stage, and that of the identity with 1", () => {
  const state = new RepOptSearchVGG(narrow).initialize().stateDict();
  const first = (key: string): number => state.get(key)!.readSync().toFloat64()[0];
  expect(first("stage0.scale_conv.weight")).toBeCloseTo(Math.SQRT2, 6);
  expect(first("stage1.0.scale_1x1.weight")).toBeCloseTo(Math.SQRT2, 6);
  expect(first("stage2.1.scale_conv.weight")).toBeCloseTo(1, 6);
  expect(first("stage2.1.scale_identity.weight")).toBe(1);
  expect(state.has("stage3.0.scale_identity.weight")).toBe(false);
});

describe("factors and initial values", () => {
  test.for([1, 2] as const)("power %d: everywhere, more at the centre, 1 more on its diagonal", async (power) => {
    const net = createModel("RepOpt-VGG-B1", narrow).initialize();
    const scales = await repOptScales(search().stateDict());
    const factors = repOptMultipliers(net, scales, power);
    expect(factors.size).toBe(6);
    const of = (key: string): number[][] => {
      const { shape, data } = factors.get(key) as Tensor;
      const [, inputs] = shape;
      return Array.from({ length: 2 * inputs }, (_, i) => Array.from(data.slice(9 * i, 9 * i + 9), Number));
    };
    const { conv, pointwise } = scales.get("stage2.1")!;
    const [s, p] = [conv, pointwise].map((t) => t.toFloat64()[0] ** power);
    const [own, other] = of("stage2.1.conv.weight");
    expect(own[0]).toBeCloseTo(s, 5);
    expect(own[4]).toBeCloseTo(s + p + 1, 5);
    expect(other[4]).toBeCloseTo(s + p, 5);
  });

  test("a network begins as the search network's blocks with these kernels would", async () => {
    const from = search();
    const net = createModel("RepOpt-VGG-B1", { ...narrow, numClasses: 10 }).initialize();
    const kernels = from.stateDict();
    net.loadStateDict(new Map([...net.stateDict()].map(([key, t]) => [key, kernels.get(key) ?? t])));
    repOptInitialize(net, await repOptScales(kernels), {
      pointwise: (path) => kernels.get(`${path}.conv_1x1.weight`)!.readSync(),
    });
    const [w, k] = [net, from].map((m) => m.stateDict());
    const kernel = w.get("stage1.0.conv.weight")!.readSync().toFloat64();
    const [dense, s, one, p] = ["conv", "scale_conv", "conv_1x1", "scale_1x1"].map((name) =>
      k.get(`stage1.0.${name}.weight`)!.readSync().toFloat64(),
    );
    expect(kernel[0]).toBeCloseTo(dense[0] * s[0], 6);
    expect(kernel[4]).toBeCloseTo(dense[4] * s[0] + one[0] * p[0], 6);
  });

  test("what does not fit is told by block", async () => {
    const scales = await repOptScales(search().stateDict());
    const wider = createModel("RepOpt-VGG-B1", { ...narrow, widthMultiplier: [1 / 4, 1 / 8, 1 / 16, 1 / 16] });
    expect(() => repOptMultipliers(wider, scales, 2)).toThrow(
      "repopt: the scales of stage0 are [8], the network has a convolution [16, 3, 3, 3] there. Take the scales from a search network of the same widths and depths.",
    );
    const deeper = createModel("RepVGG-A0");
    expect(() => repOptInitialize(deeper, scales)).toThrow(/the network has no convolution stage0\.conv there/);
    await expect(repOptScales(new Map([["conv.weight", Tensor.float32([1], [1])]]), "a.pth")).rejects.toThrow(
      'a.pth: holds no scales: no key ends with ".scale_conv.weight"; there are conv.weight.',
    );
  });
});

describe("train with scales", () => {
  test("the factors are in the checkpoint; stopping and going on changes no bit", async () => {
    const whole = await run("whole", { recipe: recipe({ epochs: 2 }) });
    const stopped = new AbortController();
    await run("parts", {
      recipe: recipe({ epochs: 2 }),
      signal: stopped.signal,
      onEvent: (event: { type: string; epoch?: number }) => event.type === "epoch" && stopped.abort(),
    });
    {
      using file = await openCheckpointFile(at("parts/last.safetensors"));
      expect([...file.entries.keys()].filter((key) => key.startsWith("optimizer.multiplier:"))).toHaveLength(6);
    }
    const parts = await run("parts", { recipe: recipe({ epochs: 2 }), resume: true });
    const [a, b] = [whole, parts].map(({ model }) => [...model.stateDict()].map(([, t]) => [...t.readSync().data]));
    expect(b).toEqual(a);
  });

  test("another run than without, from other values", async () => {
    const [scaled, plain] = [await run("scaled"), await run("plain", { scales: undefined })];
    const weights = [scaled, plain].map(({ model }) =>
      model.stateDict().get("stage1.0.conv.weight")!.readSync().toFloat64(),
    );
    expect(weights[0]).not.toEqual(weights[1]);
    expect(scaled.summary.history[0].trainLoss).not.toBe(plain.summary.history[0].trainLoss);
  });

  test("under AdamW", async () => {
    const { summary } = await run("adamw", { recipe: recipe({ optimizer: { name: "adamw" }, lr: 0.001 }) });
    expect(summary.finished).toBe(true);
  });
});
