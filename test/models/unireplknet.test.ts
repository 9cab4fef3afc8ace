import { describe, expect, test } from "vitest";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { createModel, detectModel, listModels, modelInfo, UniRepLKNet } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { randomTensor, withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";

describe("UniRepLKNet at 224: parameters and 10⁹ multiply-adds of both forms, the merged ones rounded as published", () => {
  test.for([
    ["UniRepLKNet-A", 4_649_060, 4_437_300, 0.675, 4.4, 0.6],
    ["UniRepLKNet-F", 6_489_328, 6_235_216, 0.947, 6.2, 0.9],
    ["UniRepLKNet-P", 11_080_520, 10_741_704, 1.629, 10.7, 1.6],
    ["UniRepLKNet-N", 18_818_880, 18_318_560, 2.849, 18.3, 2.8],
    ["UniRepLKNet-T", 31_693_420, 31_037_980, 5.004, 31, 4.9],
    ["UniRepLKNet-S", 56_456_704, 55_645_984, 9.219, 56, 9.1],
  ] as const)("%s", ([name, train, deploy, trainGmacs, millions, gmacs]) => {
    const model = createModel(name);
    const merged = deployForm(model);
    const macs = (net: Net): number => countMacs(net, [1, 3, 224, 224]) / 1e9;
    // As many digits as are published.
    const like = (x: number, p: number): number => Number(x.toFixed(Number.isInteger(p) ? 0 : 1));
    expect([countParameters(model), countParameters(merged), Math.round(macs(model) * 1e3) / 1e3]).toEqual([
      ...[train, deploy, trainGmacs],
    ]);
    expect([like(deploy / 1e6, millions), like(macs(merged), gmacs)]).toEqual([millions, gmacs]);
  });

  test("the table above is all there is, with the paper's accuracies and preprocessing", () => {
    expect(listModels("UniRepLKNet-*")).toHaveLength(6);
    expect(modelInfo("unireplknet-s").figures).toEqual([{ top1: 83.9, imageSize: 224, source: expect.any(String) }]);
    const { preprocessing } = modelInfo("UniRepLKNet-S");
    expect(preprocessing({})).toMatchObject({ resize: 256, cropMode: "center", interpolation: "bicubic" });
    expect(preprocessing({ imageSize: 384 })).toMatchObject({ resize: [384, 384], cropMode: "squash" });
  });
});

test("UniRepLKNet: 13 alternates with 3 in the third stage from T on", () => {
  const sizes = (name: string) =>
    (createModel(name) as UniRepLKNet).stages[2].map(({ dwconv }) => ("kernelSize" in dwconv ? dwconv.kernelSize : 3));
  expect(sizes("UniRepLKNet-P")).toEqual([13, 13, 13, 13, 13, 13]);
  expect(sizes("UniRepLKNet-T").slice(0, 4)).toEqual([13, 3, 13, 3]);
  expect(sizes("UniRepLKNet-S").slice(-6)).toEqual([13, 3, 3, 13, 3, 3]);
});

describe("UniRepLKNet: a state dict tells the variant and the form", () => {
  for (const form of ["train", "deploy"] as const)
    test.for(listModels("UniRepLKNet-*"))(`%s, ${form}`, (name) => {
      const model = createModel(name, { numClasses: 12 });
      const state = new Map((form === "train" ? model : deployForm(model)).state());
      expect(detectModel(state)).toEqual({ name, form, numClasses: 12 });
    });
});

test("UniRepLKNet: merged equals unmerged on pictures that are not square", async () => {
  const net = new UniRepLKNet({ depths: [1, 1, 2], dims: [4, 8, 12], kernelSizes: [[3], [9], [13, 5]], numClasses: 5 });
  const model = withRandomState(net, 3).eval();
  for (const [key, p] of model.state()) if (/gamma$|beta$/.test(key)) p.set(randomTensor(p.shape, key));
  const { maxRel, top1 } = await verifyEquivalence(model, convertToDeploy(model), {
    inputShape: [3, 64, 40],
    samples: 4,
  });
  expect(maxRel).toBeLessThan(1e-5);
  expect(top1.agree).toBe(4);
});

test("UniRepLKNet: kernels that do not go with the blocks are refused by name", () => {
  expect(() => createModel("UniRepLKNet-A", { depths: [2, 2, 2, 2] })).toThrow(
    /stage 2 has 2 blocks, and kernelSizes for 6/,
  );
  expect(() => new UniRepLKNet({ depths: [1], dims: [8], kernelSizes: [[19]] })).toThrow(/kernelSize must be one of 5/);
});
