import { describe, expect, test } from "vitest";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { createModel, detectModel, modelInfo, RepLKNet } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";

const narrow = { layers: [1, 1, 2], channels: [4, 8, 12], largeKernelSizes: [13, 9, 7] };

describe("RepLKNet: parameters and 10⁹ multiply-adds of the merged form, the published ones in the last two columns", () => {
  test.for([
    ["RepLKNet-31B", 224, 79_864_168, 79_438_952, 15.354, 79, 15.3],
    ["RepLKNet-31B", 384, 79_864_168, 79_438_952, 45.119, 79, 45.1],
    ["RepLKNet-31L", 384, 172_671_016, 172_033_192, 95.989, 172, 96.0],
    ["RepLKNet-XL", 320, 335_435_752, 335_210_984, 128.73, 335, 128.7],
  ] as const)("%s at %d", ([name, size, train, deploy, gmacs, ...published]) => {
    const model = createModel(name);
    const merged = deployForm(model);
    const macs = (net: Net): number => Math.round(countMacs(net, [1, 3, size, size]) / 1e6) / 1e3;
    expect([countParameters(model), countParameters(merged), macs(merged)]).toEqual([train, deploy, gmacs]);
    // The authors cut 15.354 off after one digit.
    expect([Math.floor(deploy / 1e6), gmacs - published[1] < 0.06]).toEqual([published[0], true]);
  });

  test("preprocessing: bicubic, the middle below 384 pixels, the whole picture warped from there", () => {
    const of = (name: string, imageSize?: number) => modelInfo(name).preprocessing(imageSize ? { imageSize } : {});
    const cut = { interpolation: "bicubic", cropMode: "center" };
    expect(of("RepLKNet-31B")).toMatchObject({
      ...cut,
      inputSize: [3, 224, 224],
      resize: 256,
      std: [0.229, 0.224, 0.225],
    });
    expect(of("RepLKNet-XL")).toMatchObject({ ...cut, inputSize: [3, 320, 320], resize: 365, mean: [0.5, 0.5, 0.5] });
    const warped = { interpolation: "bicubic", cropMode: "squash", resize: [384, 384] };
    expect([of("RepLKNet-31L"), of("RepLKNet-31B", 384)]).toMatchObject([warped, warped]);
  });
});

describe("RepLKNet: a state dict tells the variant and the form", () => {
  for (const form of ["train", "deploy"] as const)
    test.for(["RepLKNet-31B", "RepLKNet-31L", "RepLKNet-XL"])(`%s, ${form}`, (name) => {
      const model = createModel(name, { numClasses: 12 });
      const state = new Map((form === "train" ? model : deployForm(model)).state());
      expect(detectModel(state)).toEqual({ name, form, numClasses: 12 });
    });

  test("one with its large kernels merged and batch norms left is known where that is said", () => {
    const options = { deepFuseBn: false };
    const state = new Map(deployForm(createModel("RepLKNet-31B", options)).state());
    expect([state.has("stem.0.bn.weight"), state.has("stages.0.blocks.0.large_kernel.lkb_reparam.bias")]).toEqual([
      true,
      true,
    ]);
    expect(detectModel(state, { arch: "RepLKNet-31B", options })).toMatchObject({ form: "deploy" });
  });
});

test.for([
  ["with all batch norms", {}],
  ["large kernels alone", { deepFuseBn: false }],
  ["without small kernels, wider inside", { smallKernels: [], dwRatio: 1.5, ffnRatio: 2 }],
] as const)("RepLKNet: merged equals unmerged on pictures that are not square: %s", async ([, options]) => {
  const model = withRandomState(new RepLKNet({ ...narrow, ...options, numClasses: 5 }), 3).eval();
  const { maxRel, top1 } = await verifyEquivalence(model, convertToDeploy(model), {
    inputShape: [3, 64, 40],
    samples: 4,
  });
  expect(maxRel).toBeLessThan(1e-5);
  expect(top1.agree).toBe(4);
});

test("RepLKNet: lists of unequal length are refused by name", () => {
  expect(() => createModel("RepLKNet-31B", { layers: [1, 1] })).toThrow(
    /each list must have an entry for every stage, got layers 2, channels 4, largeKernelSizes 4/,
  );
  expect(() => new RepLKNet({ ...narrow, largeKernelSizes: [12, 9, 7] })).toThrow(/kernelSize must be odd/);
});
