import { describe, expect, test } from "vitest";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, listModels, modelInfo, RepMLPNet } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import { repmlpnetInMMPretrain } from "./foreign-names.ts";
import "../../src/node.ts";

describe("parameters and multiply-adds, computed with the original", () => {
  test.for([
    ["RepMLPNet-T224", 224, 38_293_608, 38_331_720, 2.808, 2.798],
    ["RepMLPNet-T256", 256, 58_687_848, 58_739_400, 4.258, 4.246],
    ["RepMLPNet-B224", 224, 68_242_712, 68_332_664, 6.676, 6.657],
    ["RepMLPNet-B256", 256, 96_447_512, 96_568_184, 9.64, 9.616],
    ["RepMLPNet-D256", 256, 86_887_648, 86_985_280, 8.636, 8.611],
    ["RepMLPNet-L256", 256, 117_641_560, 117_820_600, 11.609, 11.579],
  ] as const)("%s", ([name, size, train, deploy, trainGmacs, deployGmacs]) => {
    const model = createModel(name);
    const merged = deployForm(model);
    const gmacs = (net: Net): number => Math.round(countMacs(net, [1, 3, size, size]) / 1e6) / 1e3;
    expect([countParameters(model), countParameters(merged), gmacs(model), gmacs(merged)]).toEqual([
      ...[train, deploy, trainGmacs, deployGmacs],
    ]);
  });

  test("the table above is all there is, with the authors' accuracies and preprocessing", () => {
    expect(listModels("RepMLPNet-*")).toHaveLength(6);
    expect(modelInfo("repmlpnet-b256").figures).toEqual([
      { top1: 81.03, imageSize: 256, source: expect.stringContaining("README") },
    ]);
    for (const size of [224, 256])
      expect(modelInfo(`RepMLPNet-T${size}`).preprocessing({})).toMatchObject({
        inputSize: [3, size, size],
        resize: size,
      });
    expect(modelInfo("RepMLPNet-T224").preprocessing({ imageSize: 448 })).toMatchObject({ resize: 448 });
  });
});

/** Narrow, for maps of 8, 4, 2 and 1 pixels. */
const small = {
  ...{ channels: [8, 16, 32, 64], numBlocks: [1, 1, 2, 1], shareSets: [1, 4, 8, 64], partitions: [8, 4, 2, 1] },
};

describe("a state dict tells the variant and the form", () => {
  for (const naming of ["repmlp", "mmpretrain"])
    for (const form of ["train", "deploy"] as const)
      test.for(["RepMLPNet-T224", "RepMLPNet-B256"])(`%s, ${form}, keys of ${naming}`, (name) => {
        const model = createModel(name, { numClasses: 12 });
        const own = new Map((form === "train" ? model : deployForm(model)).state());
        const state =
          naming === "repmlp" ? own : new Map([...own].map(([key, p]) => [repmlpnetInMMPretrain(key), p] as const));
        const { found, entries, taken } = identifyState(state);
        expect(found).toEqual({ name, form, numClasses: 12 });
        expect([...entries.keys()]).toEqual([...own.keys()]);
        expect(taken.naming).toBe(naming === "repmlp" ? undefined : naming);
      });
});

describe("merged equals unmerged", () => {
  test.for([
    { name: "one partition per map", options: {}, size: 32 },
    { name: "several partitions, a map that is not square", options: {}, size: [64, 96] as const },
    { name: "partitions where the original puts them", options: { scramblePartitions: true }, size: 64 },
    { name: "every convolution with its batch norm", options: { fuseConvBn: true }, size: 32 },
  ])("$name", async ({ options, size }) => {
    const net = new RepMLPNet({ ...small, ...options, imageSize: size, numClasses: 5 });
    const model = withRandomState(net, 3).eval();
    const inputShape = [3, ...(typeof size === "number" ? [size, size] : size)];
    const { maxRel, top1 } = await verifyEquivalence(model, convertToDeploy(model), { inputShape, samples: 4 });
    expect(maxRel).toBeLessThan(1e-5);
    expect(top1.agree).toBe(4);
  });

  test("the authors' deploy form keeps the other batch norms; fuseConvBn leaves those in front of the two halves", () => {
    const norms = (fuseConvBn: boolean): string[] =>
      [...deployForm(new RepMLPNet({ ...small, fuseConvBn })).state()].flatMap(([key]) =>
        key.endsWith(".running_var") ? [key.replace(/\.\d+(?=\.)/g, "")] : [],
      );
    const inFront = ["head_norm.running_var", "stages.prebn1.running_var", "stages.prebn2.running_var"];
    expect([...new Set(norms(true))].sort()).toEqual(inFront);
    expect([...new Set(norms(false))].sort()).toEqual(
      [
        ...inFront,
        "conv_embedding.bn.running_var",
        "embeds.bn.running_var",
        "stages.ffn_block.ffn_fc1.bn.running_var",
        "stages.ffn_block.ffn_fc2.bn.running_var",
      ].sort(),
    );
  });
});

describe("sizes that do not fit are refused with those that do", () => {
  test.for([
    [
      { imageSize: 32 },
      /make maps of \[8, 8\] in stage 0, which partitions of \[56, 56\] do not divide.*multiple of \[224, 224\]/,
    ],
    [{ imageSize: 300 }, /maps of \[75, 75\] in stage 0/],
    [{ shareSets: [1, 4, 16] }, /need one entry per stage, got 4, 4, 4 and 3$/],
    [{ shareSets: [3, 4, 16, 128] }, /shareSets must divide channels; 3 does not divide 64$/],
    [{ reparamConvKernels: [], channels: [] }, /option channels must be a list with an entry for each stage, got \[\]/],
  ] as const)("%j", ([options, message]) => {
    expect(() => createModel("RepMLPNet-T224", options)).toThrow(message);
  });

  test("pictures of another size than those of the partitions", () => {
    const model = new RepMLPNet(small).eval();
    expect(() => countMacs(model, [1, 3, 40, 40])).toThrow(
      /takes maps \[N, 8, H, W\] with H a multiple of 8 .* got \[1, 8, 10, 10\]/,
    );
  });
});
