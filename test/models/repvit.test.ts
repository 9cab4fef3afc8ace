import { describe, expect, test } from "vitest";
import { input } from "../../src/graph/index.ts";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, familyOf, modelInfo, RepViT } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net, traceNet } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";
import { repvitInTimm } from "./foreign-names.ts";

const gmacs = (net: Net): number => Math.round(countMacs(net, [1, 3, 224, 224]) / 1e7) / 1e2;

describe("parameters and multiply-adds at 224: the authors' table states the deploy form", () => {
  test.for([
    ["RepViT-M0.9", 5_489_328, 5_067_056, "5.1", 0.82, "0.8", 78.7],
    ["RepViT-M1.0", 7_302_796, 6_810_312, "6.8", 1.11, "1.1", 80.0],
    ["RepViT-M1.1", 8_802_912, 8_244_312, "8.2", 1.34, "1.3", 80.7],
    ["RepViT-M1.5", 14_644_432, 14_049_992, "14.0", 2.27, "2.3", 82.3],
    ["RepViT-M2.3", 23_688_792, 22_926_792, "22.9", 4.52, "4.5", 83.3],
  ] as const)("%s", ([name, train, deploy, publishedM, macs, publishedG, top1]) => {
    const model = createModel(name).eval();
    const merged = deployForm(model);
    expect([countParameters(model), countParameters(merged), gmacs(merged)]).toEqual([train, deploy, macs]);
    expect([(deploy / 1e6).toFixed(1), macs.toFixed(1)]).toEqual([publishedM, publishedG]);
    expect(modelInfo(name).figures).toEqual([expect.objectContaining({ top1, imageSize: 224 })]);
  });

  test("pictures are resized and cropped as the authors do", () => {
    const expected = { inputSize: [3, 224, 224], resize: 256, interpolation: "bicubic" };
    expect(modelInfo("RepViT-M0.9").preprocessing({})).toMatchObject(expected);
  });
});

describe("a state dict tells the variant and the form", () => {
  for (const form of ["train", "deploy"] as const)
    test.for(["RepViT-M0.9", "RepViT-M1.5"])(`%s, ${form}`, (name) => {
      const model = createModel(name, { numClasses: 12 });
      const state = new Map((form === "train" ? model : deployForm(model)).state());
      expect(identifyState(state).found).toEqual({ name, form, numClasses: 12 });
    });
});

test.for(["train", "deploy"] as const)("timm's names and preprocessing, %s", (form) => {
  const model = createModel("RepViT-M1.0", { numClasses: 12 });
  const own = new Map((form === "train" ? model : deployForm(model)).state());
  const state = new Map([...own].map(([key, p]) => [repvitInTimm(key), p] as const));
  const { found, entries, taken } = identifyState(state);
  expect(found).toEqual({ name: "RepViT-M1.0", form, numClasses: 12 });
  expect([...entries.keys()]).toEqual([...own.keys()]);
  expect(taken.naming).toBe("timm");
  const timm = familyOf("RepViT-M1.0").namings.find(({ name }) => name === "timm");
  expect(timm?.preprocessing?.(modelInfo("RepViT-M1.0").preprocessing({}))).toMatchObject({
    ...{ resize: 235, inputSize: [3, 224, 224], interpolation: "bicubic" },
  });
});

const small = {
  layers: [
    { outChannels: 8, useSe: true },
    { outChannels: 12, stride: 2, kernelSize: 5, useSe: true },
    { outChannels: 12 },
  ],
  numClasses: 5,
} as const;

test("merged equals unmerged, with either head, on pictures that are not square", async () => {
  for (const distillation of [true, false]) {
    const model = withRandomState(new RepViT({ ...small, distillation }), 3).eval();
    const deploy = convertToDeploy(model);
    expect([...deploy.stateDict().keys()].filter((key) => key.startsWith("classifier"))).toEqual([
      "classifier.weight",
      "classifier.bias",
    ]);
    const { maxRel, top1 } = await verifyEquivalence(model, deploy, { inputShape: [3, 40, 32], samples: 4 });
    expect(maxRel).toBeLessThan(1e-5);
    expect(top1.agree).toBe(4);
  }
});

test("in training the heads are apart, merged there is one", () => {
  const outputs = (model: RepViT): string[] =>
    Object.keys(traceNet(model, () => model.trainingOutputs(input("x", [2, 3, 32, 32])), Object.values).result);
  const model = new RepViT(small).train();
  expect(outputs(model)).toEqual(["output", "dist"]);
  expect(outputs(new RepViT({ ...small, distillation: false }))).toEqual(["output"]);
  expect(outputs(deployForm(model))).toEqual(["output"]);
});

test("blocks that cannot be are refused", () => {
  expect(() => new RepViT({ layers: [] })).toThrow(/layers must name at least one block/);
  expect(() => new RepViT({ layers: [{ outChannels: 8 }, { outChannels: 12 }] })).toThrow(
    /a block with stride 1 keeps its 8 channels, got outChannels 12/,
  );
});
