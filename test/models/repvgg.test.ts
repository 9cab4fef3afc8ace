import { describe, expect, test } from "vitest";
import { input } from "../../src/graph/index.ts";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, detectModel, listModels, modelInfo, RepVGG } from "../../src/models/index.ts";
import type { Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";
import { repvggInTimm } from "./foreign-names.ts";

describe("variants", () => {
  test("all of them, with timm's accuracies and preprocessing", () => {
    expect(listModels("RepVGG-*")).toHaveLength(14);
    expect(modelInfo("repvgg-a0").figures).toEqual([{ top1: 72.426, imageSize: 224, source: expect.any(String) }]);
    expect(modelInfo("RepVGG-A0").preprocessing({})).toMatchObject({ inputSize: [3, 224, 224], resize: 256 });
    expect(modelInfo("RepVGG-D2se").preprocessing({})).toMatchObject({ inputSize: [3, 320, 320], resize: 320 });
  });
});

describe("a state dict tells the variant and the form", () => {
  for (const naming of ["repvgg", "timm"])
    for (const form of ["train", "deploy"] as const)
      test.for(["RepVGG-A0", "RepVGG-B1g2", "RepVGG-D2se"])(`%s, ${form}, keys of ${naming}`, (name) => {
        const model = createModel(name, { numClasses: 12 });
        const own = new Map((form === "train" ? model : deployForm(model)).state());
        const state = naming === "timm" ? new Map([...own].map(([key, p]) => [repvggInTimm(key), p] as const)) : own;
        const { found, entries, taken } = identifyState(state);
        expect(found).toEqual({ name, form, numClasses: 12 });
        expect([...entries.keys()]).toEqual([...own.keys()]);
        expect(taken.naming).toBe(naming === "timm" ? "timm" : undefined);
      });

  test("options other than a variant's are needed where the file does not state them, and are enough", () => {
    const model = { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.25, 0.25] };
    const state = new Map(createModel("RepVGG-A0", { ...model, numClasses: 3 }).state());
    expect(() => detectModel(state)).toThrow(/Nearest is the training form of RepVGG-A0/);
    expect(detectModel(state, { arch: "RepVGG-A0", options: model })).toMatchObject({
      name: "RepVGG-A0",
      numClasses: 3,
    });
  });

  test("a half-merged file is refused by the name of a block", () => {
    const options = { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.25, 0.25] };
    const model = createModel("RepVGG-A0", options);
    const merged = new Map(deployForm(model).state());
    const half = new Map([
      ...[...model.state()].filter(([key]) => !key.startsWith("stage3.1.")),
      ...[...merged].filter(([key]) => key.startsWith("stage3.1.")),
    ]);
    expect(() => detectModel(half, { arch: "RepVGG-A0", options, where: "half.pth" })).toThrow(
      /^half\.pth: holds RepVGG-A0 half merged: of 6 blocks 1 are merged\. Block stage3\.1 is merged\./,
    );
  });
});

test("merged equals unmerged, with groups and squeeze-and-excitation, on pictures that are not square", async () => {
  const net = new RepVGG({
    ...{ numBlocks: [1, 2, 2, 1], widthMultiplier: [0.25, 0.25, 0.25, 0.125], groups: 2, useSe: true, numClasses: 5 },
  });
  const model = withRandomState(net, 3).eval();
  const { maxRel, top1 } = await verifyEquivalence(model, convertToDeploy(model), {
    inputShape: [3, 64, 40],
    samples: 4,
  });
  expect(maxRel).toBeLessThan(1e-5);
  expect(top1.agree).toBe(4);
});

test("strides of the stages are the network's for small pictures, with the same weights", () => {
  const options = { numBlocks: [1, 1, 2, 1], widthMultiplier: [0.25, 0.25, 0.125, 0.125], numClasses: 3 };
  const [usual, small] = [{}, { strides: [1, 2, 2, 2, 1] }].map((more) =>
    createModel("RepVGG-A0", { ...options, ...more }),
  );
  const shapes = (net: Net): unknown => [...net.state()].map(([key, { shape }]) => [key, shape]);
  expect(shapes(small)).toEqual(shapes(usual));
  const maps = (net: Net): number[] =>
    (deployForm(net) as RepVGG).features(input("x", [1, 3, 32, 32])).map(({ shape }) => shape[2]);
  expect([maps(usual), maps(small)]).toEqual([
    [8, 4, 2, 1],
    [16, 8, 4, 4],
  ]);
  expect(() => createModel("RepVGG-A0", { strides: [1, 2] })).toThrow(/option strides must be a list of 5 numbers/);
});
