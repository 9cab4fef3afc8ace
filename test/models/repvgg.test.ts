import { describe, expect, test } from "vitest";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, detectModel, listModels, modelInfo, RepVGG } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";

const gmacs = (net: Net): number => Math.round(countMacs(net, [1, 3, 224, 224]) / 1e6) / 1e3;

describe("parameters and multiply-adds at 224, computed with the original", () => {
  test.for([
    ["RepVGG-A0", 9_108_968, 8_309_384, 1.513, 1.361],
    ["RepVGG-A1", 14_092_264, 12_789_864, 2.626, 2.364],
    ["RepVGG-A2", 28_210_600, 25_499_944, 5.685, 5.117],
    ["RepVGG-B0", 15_817_960, 14_339_048, 3.397, 3.058],
    ["RepVGG-B1", 57_415_016, 51_829_480, 13.128, 11.815],
    ["RepVGG-B1g2", 45_782_376, 41_360_104, 9.788, 8.81],
    ["RepVGG-B1g4", 39_966_056, 36_125_416, 8.119, 7.307],
    ["RepVGG-B2", 89_022_376, 80_315_112, 20.418, 18.377],
    ["RepVGG-B2g2", 70_846_376, 63_956_712, 15.2, 13.68],
    ["RepVGG-B2g4", 61_758_376, 55_777_512, 12.591, 11.332],
    ["RepVGG-B3", 123_085_288, 110_960_872, 29.121, 26.209],
    ["RepVGG-B3g2", 96_911_848, 87_404_776, 21.606, 19.446],
    ["RepVGG-B3g4", 83_825_128, 75_626_728, 17.849, 16.064],
    ["RepVGG-D2se", 133_334_836, 120_387_572, 36.477, 32.83],
  ] as const)("%s", ([name, train, deploy, trainGmacs, deployGmacs]) => {
    const model = createModel(name);
    const merged = deployForm(model);
    expect([countParameters(model), countParameters(merged), gmacs(model), gmacs(merged)]).toEqual([
      ...[train, deploy, trainGmacs, deployGmacs],
    ]);
  });

  test("the table above is all there is, with timm's accuracies and preprocessing", () => {
    expect(listModels("RepVGG-*")).toHaveLength(14);
    expect(modelInfo("repvgg-a0").figures).toEqual([{ top1: 72.426, imageSize: 224, source: expect.any(String) }]);
    expect(modelInfo("RepVGG-A0").preprocessing({})).toMatchObject({ inputSize: [3, 224, 224], resize: 256 });
    expect(modelInfo("RepVGG-D2se").preprocessing({})).toMatchObject({ inputSize: [3, 320, 320], resize: 320 });
  });
});

/** Authors' names as timm has them. */
const toTimm = (key: string): string =>
  key
    .replace(/^stage0/, "stem")
    .replace(/^stage(\d)/, (_, s: string) => `stages.${Number(s) - 1}`)
    .replace("linear.", "head.fc.")
    .replace("rbr_dense", "conv_kxk")
    .replace("rbr_1x1", "conv_1x1")
    .replace("rbr_identity", "identity")
    .replace("rbr_reparam", "reparam_conv")
    .replace("se.down", "attn.fc1")
    .replace("se.up", "attn.fc2");

describe("a state dict tells the variant and the form", () => {
  for (const naming of ["repvgg", "timm"])
    for (const form of ["train", "deploy"] as const)
      test.for(["RepVGG-A0", "RepVGG-B1g2", "RepVGG-D2se"])(`%s, ${form}, keys of ${naming}`, (name) => {
        const model = createModel(name, { numClasses: 12 });
        const own = new Map((form === "train" ? model : deployForm(model)).state());
        const state = naming === "timm" ? new Map([...own].map(([key, p]) => [toTimm(key), p] as const)) : own;
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
