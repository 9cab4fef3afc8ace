import { describe, expect, test } from "vitest";
import { convUnits } from "../../src/blocks/index.ts";
import { identifyState } from "../../src/models/detect.ts";
import { createModel, detectModel, listModels, modelInfo } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import { type Renaming, renamings } from "./foreign-names.ts";
import "../../src/node.ts";

/** Parameters, multiply-adds in millions, and parameters in training. The forms of one network merge to the same. */
const sizes: readonly [network: string, deploy: [number, number], train: Readonly<Record<string, number>>][] = [
  ["ResNet-18", [11_684_712, 1_814.073], { base: 11_689_512, ACB: 19_028_520, DBB: 26_288_296 }],
  ["ResNet-50", [25_530_472, 4_089.184], { base: 25_557_032, ACB: 33_116_968, DBB: 40_684_456 }],
  ["MobileNet", [4_221_032, 568.74], { base: 4_231_976, ACB: 4_282_280, DBB: 4_372_183 }],
  ["Cifar-quick", [116_906, 10.764], { base: 117_034, ACB: 149_226, DBB: 205_785, RepVGG: 120_522 }],
  ["VGG-CIFAR10", [14_982_474, 313.464], { base: 14_986_698, ACB: 24_810_570, DBB: 34_555_673, RepVGG: 16_636_170 }],
  ["ResNet-56", [853_642, 125.748], { base: 855_770, ACB: 1_429_434, DBB: 2_005_721, RepVGG: 957_930 }],
  // Its plain form keeps its batch norms, which come before the convolutions.
  ["WRN-16-8", [10_965_770, 1_548.146], { ACB: 18_172_538, DBB: 25_298_137, RepVGG: 12_180_074 }],
];

describe("parameters and multiply-adds of both forms", () => {
  for (const [network, deploy, train] of sizes)
    test.for(Object.entries(train))(`${network}-%s`, ([unit, parameters]) => {
      const name = `${network}-${unit}`;
      const model = createModel(name);
      const merged = deployForm(model);
      const macs = countMacs(merged, [1, ...modelInfo(name).preprocessing({}).inputSize]);
      expect([countParameters(model), countParameters(merged), Math.round(macs / 1e3) / 1e3]).toEqual([
        ...[parameters, ...deploy],
      ]);
    });
});

const narrow = { widthMultiplier: 1 / 16, numClasses: 7 };
const names = sizes.flatMap(([network]) => listModels(`${network}-*`)).filter((name) => !name.endsWith("-224"));

describe("a state dict tells network, unit and form", () => {
  test.for(names)("%s", (name) => {
    const model = createModel(name, { numClasses: 7 });
    const wrapped = new Map([...model.state()].map(([key, p]) => [`module.${key}`, p] as const));
    expect(detectModel(wrapped)).toEqual({ name, form: "train", numClasses: 7 });
    if (name === "WRN-16-8-base") return;
    expect(detectModel(new Map(deployForm(model).state()))).toEqual({ name, form: "deploy", numClasses: 7 });
  });

  test.for([
    ["torchvision", "ResNet-18-base"],
    ["torchvision", "ResNet-50-base"],
    ["acnet", "ResNet-18-base"],
    ["acnet", "ResNet-18-ACB"],
    ["acnet", "ResNet-50-base"],
    ["acnet", "ResNet-50-ACB"],
  ] as const)("under the keys of %s: %s", ([naming, name]) => {
    const own = new Map(createModel(name, { numClasses: 7 }).state());
    const { rename } = renamings.find((row) => row.naming === naming && row.arch === name) as Renaming;
    const state = new Map([...own].map(([key, p]) => [rename(key), p] as const));
    const { found, entries, taken } = identifyState(state);
    expect(found).toEqual({ name, form: "train", numClasses: 7 });
    expect([...entries.keys()]).toEqual([...own.keys()]);
    expect(taken.naming).toBe(naming);
  });
});

describe("keys are the authors'", () => {
  const first = (name: string, form: (net: Net) => Net = (net) => net): string[] =>
    [...form(createModel(name, narrow)).state()].map(([key]) => key).filter((key) => /weight$/.test(key));

  test.for([
    ["Cifar-quick-base", ["conv1.conv.weight", "conv1.bn.weight", "conv2.conv.weight"]],
    ["Cifar-quick-ACB", ["conv1.acb.square_conv.weight", "conv1.acb.square_bn.weight", "conv1.acb.ver_conv.weight"]],
    ["VGG-CIFAR10-ACB", ["stem.conv1.acb.square_conv.weight", "stem.conv1.acb.square_bn.weight"]],
    ["ResNet-56-ACB", ["stage1.conv1.square_conv.weight", "stage1.conv1.square_bn.weight"]],
    ["WRN-16-8-base", ["conv1.weight", "stage1.block1.proj.bn.weight", "stage1.block1.proj.conv.weight"]],
    ["ResNet-18-DBB", ["stage0.conv1.conv.weight", "stage0.conv1.bn.weight", "stage1.0.conv1.dbb_origin.conv.weight"]],
  ] as const)("%s", ([name, keys]) => {
    expect(first(name).slice(0, keys.length)).toEqual(keys);
  });
});

test("an eligible kernel is neither 1 x 1 nor 7 x 7 or larger; every unit merges into one convolution", () => {
  for (const unit of Object.keys(convUnits)) {
    const net = withRandomState(createModel("ResNet-18-base", { ...narrow, unit, numBlocks: [1, 1, 1, 1] }), 4);
    const keys = [...convertToDeploy(net.eval()).stateDict().keys()];
    expect(keys.filter((key) => key.startsWith("stage0."))).toEqual([
      "stage0.conv1.conv.weight",
      "stage0.conv1.conv.bias",
    ]);
    expect(keys.filter((key) => key.startsWith("stage2.0."))).toHaveLength(6);
  }
});

test("pictures too small for the pooling are refused", () => {
  expect(() => createModel("Cifar-quick-ACB", { imageSize: 14 })).toThrow(/needs pictures of 15 x 15 pixels or more/);
  expect(() => createModel("VGG-CIFAR10-ACB", { imageSize: 28 })).toThrow(/VGG needs pictures of 32 x 32 pixels/);
  expect(createModel("Cifar-quick-ACB", { imageSize: 15 })).toBeDefined();
});
