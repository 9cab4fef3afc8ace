import { describe, expect, test } from "vitest";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, FastViT, listModels, modelInfo } from "../../src/models/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";
import { fastvitInTimm } from "./foreign-names.ts";

test("seven variants, with accuracies plain and distilled, and timm's preprocessing", () => {
  expect(listModels("FastViT-*")).toHaveLength(7);
  expect(modelInfo("fastvit-sa12").figures?.map(({ top1 }) => top1)).toEqual([80.9, 81.9]);
  expect(modelInfo("FastViT-T8").preprocessing({})).toMatchObject({ resize: 284, interpolation: "bicubic" });
  expect(modelInfo("FastViT-MA36").preprocessing({})).toMatchObject({ resize: 269, inputSize: [3, 256, 256] });
});

test("lists of other lengths than the stages are refused by name", () => {
  expect(() => new FastViT({ layers: [1, 1, 1, 1], mlpRatios: [3, 3] })).toThrow(
    "fastvit: mlpRatios must have an entry for each of the 4 stages in layers, got 2",
  );
  expect(() => createModel("FastViT-T8", { positionKernels: [0, 0, 0, 4] })).toThrow(/must be an odd number, or 0/);
  expect(() => createModel("FastViT-SA12", { embedDims: [12, 24, 48, 144] })).toThrow(
    "attention: channels must be a multiple of the heads' 32, got 144",
  );
});

describe("a state dict tells the variant and the form", () => {
  for (const naming of ["fastvit", "timm"])
    for (const form of ["train", "deploy"] as const)
      test.for(["FastViT-T8", "FastViT-S12", "FastViT-SA12"])(`%s, ${form}, keys of ${naming}`, (name) => {
        const model = createModel(name, { numClasses: 12 });
        const own = new Map((form === "train" ? model : deployForm(model)).state());
        const state =
          naming === "timm" ? new Map([...own].map(([k, p]) => [fastvitInTimm(k, [1, 3, 5]), p] as const)) : own;
        const { found, entries, taken } = identifyState(state);
        expect(found).toEqual({ name, form, numClasses: 12 });
        expect([...entries.keys()]).toEqual([...own.keys()]);
        expect(taken.naming).toBe(naming === "timm" ? "timm" : undefined);
      });
});

test("merged equals unmerged, with attention and two position encodings, on pictures that are not square", async () => {
  const net = new FastViT({
    ...{ layers: [1, 1, 2], embedDims: [16, 16, 32], mlpRatios: [2, 2, 1], downsamples: [false, true, true] },
    ...{ tokenMixers: ["repmixer", "repmixer", "attention"], positionKernels: [5, 0, 7], numClasses: 5 },
  });
  const model = withRandomState(net, 3).eval();
  const { maxRel, top1 } = await verifyEquivalence(model, convertToDeploy(model), {
    inputShape: [3, 64, 40],
    samples: 4,
  });
  expect(maxRel).toBeLessThan(1e-5);
  expect(top1.agree).toBe(4);
});
