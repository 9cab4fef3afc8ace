import { describe, expect, test } from "vitest";
import { ConvBn } from "../../src/blocks/index.ts";
import { matmul, reshape, type Value } from "../../src/graph/index.ts";
import { createModel } from "../../src/models/index.ts";
import {
  Conv2d,
  ConvTranspose2d,
  countMacs,
  countParameters,
  Module,
  type Net,
  Parameter,
} from "../../src/nn/index.ts";
import { deployForm } from "../../src/reparam/index.ts";

/** Counted by PyTorch hooks on the original networks: parameters and multiply-adds of training and deploy form. */
describe("figures of full-size networks", () => {
  test.for([
    ["RepMLP-Res50-light-224", 87038248, 86142440, 3301703680, 3076915200],
    ["RepMLP-Res50-bottleneck-224", 41071144, 40871528, 3950419968, 3890710528],
    ["ResNet-50-base-224", 25557032, 25530472, 4089184256, 4089184256],
  ] as const)("%s", ([name, trainParameters, deployParameters, trainMacs, deployMacs]) => {
    const model = createModel(name);
    const deploy = deployForm(model);
    const shape = [1, 3, 224, 224];
    expect([countParameters(model), countParameters(deploy)]).toEqual([trainParameters, deployParameters]);
    expect([countMacs(model, shape), countMacs(deploy, shape)]).toEqual([trainMacs, deployMacs]);
    expect([...model.state()].some(([, p]) => p.isSet)).toBe(false);
  });
});

test.for<[string, () => Net, number]>([
  // 7 × 5 outputs of 6 channels, each from 3 × 3 pixels of 4 / 2 channels.
  [
    "grouped convolution",
    () => new Conv2d(4, 6, { kernelSize: 3, stride: [1, 2], padding: 1, groups: 2 }),
    7 * 5 * 6 * 18,
  ],
  // Each of the 7 × 9 inputs of 4 channels goes to 2 × 3 pixels of 5 channels.
  ["transposed convolution", () => new ConvTranspose2d(4, 5, { kernelSize: [2, 3], stride: 2 }), 7 * 9 * 4 * 6 * 5],
])("multiply-adds: %s", ([, make, expected]) => {
  expect(countMacs(make(), [1, 4, 7, 9])).toBe(expected);
  expect(countMacs(make(), [3, 4, 7, 9])).toBe(3 * expected);
});

test("multiply-adds: matrix product", () => {
  class Product extends Module {
    readonly weight = new Parameter([7, 11], { init: () => [] });
    forward(x: Value): Value {
      return matmul(reshape(x, [2, 3, 7]), this.weight.value);
    }
  }
  expect(countMacs(new Product(), [6, 7])).toBe(2 * 3 * 7 * 11);
});

test("counting changes nothing and takes a shared parameter once", () => {
  const block = new ConvBn(4, 8, { kernelSize: 3 });
  const modes = [...block.modules()].map(([, m]) => m.training);
  expect(countMacs(block, [1, 4, 5, 5])).toBe(9 * 8 * 36);
  expect([...block.modules()].map(([, m]) => m.training)).toEqual(modes);
  // Kernel, scale and shift; running statistics do not count.
  expect(countParameters(block)).toBe(8 * 36 + 16);
  class Twice extends Module {
    readonly a = block;
    readonly b = block;
  }
  expect(countParameters(new Twice())).toBe(8 * 36 + 16);
});
