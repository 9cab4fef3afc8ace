import { describe, expect, test } from "vitest";
import { ACB, ConvBn, convUnit, DBB, RepVGGConv } from "../../src/blocks/index.ts";
import { BatchNorm, type Module } from "../../src/nn/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";

const acb =
  (options: object): (() => ACB) =>
  () =>
    new ACB({ inChannels: 4, outChannels: 6, ...options });
const dbb =
  (options: object): (() => DBB) =>
  () =>
    new DBB({ inChannels: 4, outChannels: 6, ...options });

/** The initial weight of each batch norm by its path; `undefined` without one. */
const gammas = (model: Module): Record<string, number | undefined> =>
  Object.fromEntries(
    [...model.initialize().modules()].flatMap(([path, m]) =>
      m instanceof BatchNorm ? [[path, m.weight?.data.toFloat64()[0]]] : [],
    ),
  );

describe("options that the branches do not allow are refused", () => {
  test.for([
    [acb({ kernelSize: 4 }), "acb: kernelSize must be odd, so that it has a middle row and column, got [4, 4]"],
    [acb({ useAffine: false, gammaInit: 1 }), "acb: without useAffine the batch norms have no weights"],
    [dbb({ kernelSize: [3, 2] }), "dbb: kernelSize must be odd, so that the 1x1 branch has a middle"],
    [dbb({ padding: 0 }), "dbb: padding must be dilation · floor(kernelSize / 2) = [1, 1], so that all branches"],
    [dbb({ dilation: 2, padding: 1 }), "= [2, 2], so that all branches see the same pixels, got [1, 1]"],
    [dbb({ outChannels: 1 }), "dbb: with one group per output channel the average pool takes the channels as they are"],
    [dbb({ groups: 2, internalChannels: 5 }), "dbb: internalChannels must be a positive multiple of groups (2), got 5"],
  ] as const)("$1", ([make, message]) => {
    expect(make).toThrow(message);
  });
});

describe("batch norms begin with", () => {
  test("one value in all branches", () => {
    expect(gammas(acb({ gammaInit: 1 / 4 })())).toEqual({ square_bn: 1 / 4, ver_bn: 1 / 4, hor_bn: 1 / 4 });
  });

  test("1 in the main branch and 0 in the others", () => {
    expect(gammas(acb({ gammaInit: "single" })())).toEqual({ square_bn: 1, ver_bn: 0, hor_bn: 0 });
    // The norms inside of a branch have nothing to do with it.
    expect(gammas(dbb({ gammaInit: "single" })())).toEqual({
      "dbb_origin.bn": 1,
      "dbb_1x1.bn": 0,
      ...{ "dbb_avg.bn.bn": 1, "dbb_avg.avgbn": 0 },
      ...{ "dbb_1x1_kxk.bn1.bn": 1, "dbb_1x1_kxk.bn2": 0 },
    });
  });

  test("no value without weight and bias; such norms merge", () => {
    const block = acb({ useAffine: false })();
    expect(gammas(block)).toEqual({ square_bn: undefined, ver_bn: undefined, hor_bn: undefined });
    expect([...convertToDeploy(block.eval()).stateDict().keys()]).toEqual(["fused_conv.weight", "fused_conv.bias"]);
  });
});

test("a depthwise DBB has no 1x1 branch and twice the channels inside; else the first 1x1 learns a difference", () => {
  const keys = (model: Module): string[] => [...model.stateDict().keys()].filter((key) => key.includes("conv"));
  const depthwise = new DBB({ inChannels: 4, outChannels: 4, groups: 4 });
  expect(keys(depthwise)).toEqual(["dbb_origin.conv.weight", "dbb_1x1_kxk.conv1.weight", "dbb_1x1_kxk.conv2.weight"]);
  expect(depthwise.stateDict().get("dbb_1x1_kxk.conv1.weight")!.shape).toEqual([8, 1, 1, 1]);
  const difference = dbb({})().stateDict().get("dbb_1x1_kxk.idconv1.weight")!;
  expect(difference.shape).toEqual([4, 4, 1, 1]);
  expect(new Set(difference.readSync().toFloat64())).toEqual(new Set([0]));
});

test("a network takes them by name, and plain ones for 1x1 and large kernels", () => {
  const kinds = [
    ["acb", ACB],
    ["dbb", DBB],
    ["repvgg", RepVGGConv],
    ["plain", ConvBn],
  ] as const;
  for (const [name, Kind] of kinds) {
    const make = convUnit(name);
    expect(make(4, 6, { kernelSize: 3, padding: 1 })).toBeInstanceOf(Kind);
    for (const kernelSize of [1, 7]) expect(make(4, 6, { kernelSize })).toBeInstanceOf(ConvBn);
  }
});
