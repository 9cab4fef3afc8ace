import { describe, expect, test } from "vitest";
import { verifyEquivalence } from "../../src/inference/index.ts";
import { createModel, detectModel, listModels } from "../../src/models/index.ts";
import { countMacs, countParameters, type Net } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm } from "../../src/reparam/index.ts";
import { withRandomState } from "../reparam/support.ts";
import "../../src/node.ts";

const variants = listModels("RepMLP-CIFAR10-*");
const shape = [1, 3, 32, 32];
const sizes = (net: Net): [number, number] => [countParameters(net), countMacs(net, shape)];

describe("the CIFAR-10 networks", () => {
  // Multiply-adds of the deploy forms as published (52.8 M and 65.1 M), to the digit as the layout gives them.
  test.for([
    ["RepMLP-CIFAR10-pure-MLP", [22_844_858, 118_866_560], [22_376_666, 52_806_272]],
    ["RepMLP-CIFAR10-wide-convnet", [438_634, 65_111_296], [437_610, 65_111_296]],
  ] as const)("%s has the published size in both forms", ([name, train, deploy]) => {
    const model = createModel(name).eval();
    expect(sizes(model)).toEqual(train);
    expect(sizes(deployForm(model))).toEqual(deploy);
  });

  test.for(variants)("%s: merged equals unmerged", async (name) => {
    const model = withRandomState(createModel(name, { channels: [4, 6, 8], imageSize: 16, partition: 4 }), 3).eval();
    const deploy = convertToDeploy(model);
    const { maxRel, top1 } = await verifyEquivalence(model, deploy, { inputShape: [3, 16, 16], samples: 8 });
    expect(maxRel).toBeLessThan(1e-5);
    expect(top1.agree).toBe(8);
    const branches = [...deploy.state()].filter(([key]) => /\.bn\.|_bn\.|repconv/.test(key));
    expect(branches).toEqual([]);
  });

  test.for(variants)("%s is recognised by its training checkpoint", (name) => {
    expect(detectModel(new Map(createModel(name, { numClasses: 7 }).state()))).toEqual({
      name,
      form: "train",
      numClasses: 7,
    });
  });

  test("merged, the pure MLP with and without Local Perceptron cannot be told apart", () => {
    const state = new Map(deployForm(createModel("RepMLP-CIFAR10-pure-MLP").eval()).state());
    expect(() => detectModel(state)).toThrow(/fits RepMLP-CIFAR10-(no-local|pure-MLP).* alike. Name the architecture/);
    expect(detectModel(state, { prefer: "RepMLP-CIFAR10-no-local" }).name).toBe("RepMLP-CIFAR10-no-local");
  });

  test("a size that cannot be halved twice is refused", () => {
    expect(() => createModel("RepMLP-CIFAR10-pure-MLP", { imageSize: 30 })).toThrow("4 must divide it; got 30");
  });
});
