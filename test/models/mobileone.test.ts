import { describe, expect, test } from "vitest";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, detectModel, listModels, modelInfo } from "../../src/models/index.ts";
import { deployForm } from "../../src/reparam/index.ts";
import { mobileoneInTimm } from "./foreign-names.ts";

test("five variants, with both accuracies, published sizes and timm's preprocessing", () => {
  expect(listModels("MobileOne-*")).toHaveLength(5);
  expect(modelInfo("MobileOne-s2").sizes?.map(({ parameters }) => parameters)).toEqual(["7.88 M", "7.81 M"]);
  expect(modelInfo("mobileone-s4").figures?.map(({ top1 }) => top1)).toEqual([79.4, 79.446]);
  expect(modelInfo("MobileOne-s0").preprocessing({})).toMatchObject({ resize: 256, interpolation: "bilinear" });
  expect(modelInfo("MobileOne-s1").preprocessing({})).toMatchObject({ resize: 248, inputSize: [3, 224, 224] });
  expect(() => createModel("MobileOne-s0", { cropPct: 1.5 })).toThrow(/must be a number above 0, up to 1, got 1.5/);
});

describe("a state dict tells the variant and the form", () => {
  for (const naming of ["mobileone", "timm"])
    for (const form of ["train", "deploy"] as const)
      test.for(["MobileOne-s0", "MobileOne-s1", "MobileOne-s4"])(`%s, ${form}, keys of ${naming}`, (name) => {
        const model = createModel(name, { numClasses: 12 });
        const own = new Map((form === "train" ? model : deployForm(model)).state());
        const state = naming === "timm" ? new Map([...own].map(([key, p]) => [mobileoneInTimm(key), p] as const)) : own;
        const { found, entries, taken } = identifyState(state);
        expect(found).toEqual({ name, form, numClasses: 12 });
        expect([...entries.keys()]).toEqual([...own.keys()]);
        expect(taken.naming).toBe(naming === "timm" ? "timm" : undefined);
      });

  test("a half-merged file is refused by the name of a block", () => {
    const model = createModel("MobileOne-s1");
    const merged = new Map(deployForm(model).state());
    const half = new Map([
      ...[...model.state()].filter(([key]) => !key.startsWith("stage3.1.")),
      ...[...merged].filter(([key]) => key.startsWith("stage3.1.")),
    ]);
    expect(() => detectModel(half, { where: "half.pth" })).toThrow(
      /^half\.pth: holds MobileOne-s1 half merged: of 43 blocks 1 are merged\. Block stage3\.1 is merged\./,
    );
  });
});
