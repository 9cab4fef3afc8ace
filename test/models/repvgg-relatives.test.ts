import { describe, expect, test } from "vitest";
import { input } from "../../src/graph/index.ts";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, detectModel, modelInfo, QARepVGG, RepVGGplus } from "../../src/models/index.ts";
import { countParameters } from "../../src/nn/index.ts";
import { type ConversionEntry, convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";

const small = { numBlocks: [1, 2, 2, 1], widthMultiplier: [0.25, 0.25, 0.25, 0.125], numClasses: 5 } as const;

describe("RepVGGplus", () => {
  test("has the parameters of RepVGG-D2se, with other squeeze-and-excitations and the auxiliary classifiers", () => {
    const [plus, d2] = ["RepVGGplus-L2pse", "RepVGG-D2se"].map((name) => createModel(name));
    const layers = [64, ...Array(8).fill(160), ...Array(14).fill(320), ...Array(24).fill(640), 2560] as number[];
    const gates = (part: number): number =>
      layers.reduce((n, c) => n + 2 * c * Math.floor(c / part) + Math.floor(c / part) + c, 0);
    const difference = gates(4) - gates(16);
    const heads = [160, 320, 640].reduce((n, c) => n + 9 * c * c + 2 * c + 1000 * c + 1000, 0);
    expect(countParameters(plus)).toBe(133_334_836 + difference + heads);
    expect(countParameters(deployForm(plus))).toBe(120_387_572 + difference);
    expect(countParameters(d2)).toBe(133_334_836);
    expect(modelInfo("repvggplus-l2pse").figures).toMatchObject([{ top1: 84.06, imageSize: 320 }]);
    expect(modelInfo("RepVGGplus-L2pse").preprocessing({})).toMatchObject({ inputSize: [3, 320, 320], resize: 320 });
  });

  test("gives its auxiliary classifiers' outputs in training, and the main one alone once merged", async () => {
    const model = withRandomState(new RepVGGplus(small), 3).eval();
    const x = input("x", [2, 3, 64, 64]);
    const shapes = (net: RepVGGplus): object =>
      Object.fromEntries(Object.entries(net.trainingOutputs(x)).map(([name, { shape }]) => [name, shape]));
    const names = ["output", "stage1_aux", "stage2_aux", "stage3_first_aux"];
    expect(shapes(model)).toEqual(Object.fromEntries(names.map((name) => [name, [2, 5]])));
    expect(model.outputWeights).toEqual({ stage1_aux: 0.1, stage2_aux: 0.1, stage3_first_aux: 0.1 });

    const entries: ConversionEntry[] = [];
    const merged = convertToDeploy(model, { explain: (entry) => entries.push(entry) });
    expect(shapes(merged)).toEqual({ output: [2, 5] });
    expect([...merged.state()].filter(([key]) => key.includes("aux") || key.includes("running"))).toEqual([]);
    expect(entries.filter(({ note }) => note === "left out: an auxiliary classifier").map(({ path }) => path)).toEqual(
      names.slice(1),
    );
    // The original has no other form, and its copy in training keeps what was left out here.
    expect([...model.state()].some(([key]) => key === "stage3_first_aux.3.weight")).toBe(true);
    const { maxRel, top1 } = await verifyEquivalence(model, merged, { inputShape: [3, 64, 40], samples: 4 });
    expect(maxRel).toBeLessThan(1e-5);
    expect(top1.agree).toBe(4);
  });

  test.for(["train", "deploy"] as const)("is told from the keys of its %s form", (form) => {
    const model = createModel("RepVGGplus-L2pse", { numClasses: 12 });
    const state = new Map((form === "train" ? model : deployForm(model)).state());
    expect(detectModel(state)).toEqual({ name: "RepVGGplus-L2pse", form, numClasses: 12 });
  });

  test("a half-merged file is refused by the name of a block, whatever classifiers it has", () => {
    const model = createModel("RepVGGplus-L2pse", small);
    const merged = new Map(deployForm(model).state());
    const half = new Map([
      ...[...model.state()].filter(([key]) => !key.startsWith("stage4.blocks.0.")),
      ...[...merged].filter(([key]) => key.startsWith("stage4.blocks.0.")),
    ]);
    expect(() => detectModel(half, { arch: "RepVGGplus-L2pse", options: small })).toThrow(
      /of 7 blocks 1 are merged\. Block stage4\.blocks\.0 is merged/,
    );
  });

  test("a third stage without halves is refused", () => {
    expect(() => new RepVGGplus({ numBlocks: [1, 1, 3, 1] })).toThrow("numBlocks[2] must be even, got 3");
  });
});

describe("QARepVGG", () => {
  test("has the published size, and merged that of RepVGG", () => {
    const model = createModel("QARepVGG-B0");
    expect(countParameters(model)).toBe(15_808_616);
    expect(countParameters(deployForm(model))).toBe(14_339_048);
    expect(modelInfo("QARepVGG-B0").figures).toMatchObject([{ top1: 74.78 }]);
  });

  test("merged equals unmerged, with groups, on pictures that are not square", async () => {
    const model = withRandomState(new QARepVGG({ ...small, groups: 2 }), 4).eval();
    const { maxRel, top1 } = await verifyEquivalence(model, convertToDeploy(model), {
      ...{ inputShape: [3, 64, 40], samples: 4 },
    });
    expect(maxRel).toBeLessThan(1e-5);
    expect(top1.agree).toBe(4);
  });

  test("its training form is told from the keys; merged it is a RepVGG, unless a file says what it was", () => {
    const model = createModel("QARepVGG-B0", { numClasses: 12 });
    const found = { form: "train", numClasses: 12 };
    expect(detectModel(new Map(model.state()))).toEqual({ name: "QARepVGG-B0", ...found });
    const merged = new Map(deployForm(model).state());
    expect(detectModel(merged)).toEqual({ name: "RepVGG-B0", ...found, form: "deploy" });
    for (const prefer of ["RepVGG-B0", "QARepVGG-B0"])
      expect(identifyState(merged, { prefer }).found.name).toBe(prefer);
    expect(detectModel(merged, { arch: "QARepVGG-B0" }).name).toBe("QARepVGG-B0");
  });

  test("squeeze-and-excitation is refused with the reason", () => {
    expect(() => createModel("QARepVGG-B0", { useSe: true })).toThrow("qarepvgg: useSe cannot be merged exactly");
  });
});
