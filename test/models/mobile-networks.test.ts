import { describe, expect, test } from "vitest";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, RepGhostNet, VanillaNet } from "../../src/models/index.ts";
import { type Module, type Net, parameterNames } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";

describe("a state dict tells the variant and the form, with any number of classes", () => {
  for (const form of ["train", "deploy"] as const)
    test.for(["RepGhostNet-058", "RepGhostNet-200", "VanillaNet-5", "VanillaNet-9"])(`%s, ${form}`, (name) => {
      const model = createModel(name, { numClasses: 12 });
      const state = new Map((form === "train" ? model : deployForm(model)).state());
      expect(identifyState(state).found).toEqual({ name, form, numClasses: 12 });
    });
});

describe("merged equals unmerged, on pictures that are not square", () => {
  const narrow: readonly (readonly [string, () => Net])[] = [
    ["RepGhost", () => new RepGhostNet({ width: 0.25, numClasses: 5 })],
    ["RepGhost with identities", () => new RepGhostNet({ width: 0.25, numClasses: 5, reparamIdentity: true })],
    ["VanillaNet", () => new VanillaNet({ dims: [8, 12, 12, 16], strides: [2, 1, 2], numClasses: 5, dropRate: 0.5 })],
    [
      "VanillaNet with pooling to sizes",
      () => new VanillaNet({ dims: [8, 12, 16], strides: [2, 2], adaptivePool: [3, 0], numClasses: 5 }),
    ],
  ];
  test.for(narrow)("%s", async ([, build]) => {
    const model = withRandomState(build(), 3).eval();
    const deploy = convertToDeploy(model);
    const { maxRel, top1, blocks } = await verifyEquivalence(model, deploy, { inputShape: [3, 64, 40], samples: 4 });
    expect(maxRel).toBeLessThan(1e-5);
    expect(blocks.length).toBeGreaterThan(0);
    for (const block of blocks) expect(block.maxRel, block.path).toBeLessThan(1e-5);
    expect(top1.agree).toBe(4);
    expect([...convertToDeploy(deploy).stateDict().keys()]).toEqual([...deploy.stateDict().keys()]);
  });
});

describe("VanillaNet's slope", () => {
  const build = () => new VanillaNet({ dims: [8, 12, 16], strides: [2, 1], numClasses: 5 });

  test.for([0, 0.25, 0.999])("%d: convolutions with a non-linearity between them are not merged", (slope) => {
    const model = build().initialize().eval();
    model.slope.set(slope);
    const merge = (module: Module): unknown => convertToDeploy(module);
    for (const module of [model, model.stages[1]])
      expect(() => merge(module)).toThrow(
        `the slope between the convolutions (slope) is ${slope}: two convolutions with a non-linearity between them are not one. Train until it is 1`,
      );
    model.slope.set(1);
    expect([...convertToDeploy(model).stateDict().keys()]).toContain("cls.2.weight");
  });

  test("is no part of the state dict, and the same for all blocks of a copy", () => {
    const model = build();
    expect([...parameterNames(model).values()].filter((key) => key.includes("slope"))).toEqual([]);
    const copy = deployForm(model);
    expect(copy.stages[0].slope).toBe(copy.slope);
  });
});
