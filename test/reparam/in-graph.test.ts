import { describe, expect, test } from "vitest";
import * as blocks from "../../src/blocks/index.ts";
import { add, constant, grad, mul, reduceSum, type Value } from "../../src/graph/index.ts";
import { type Module, toDtype } from "../../src/nn/index.ts";
import { convertToDeploy, equivalentInGraph, type Reparameterizable } from "../../src/reparam/index.ts";
import { compile } from "../../src/runtime/index.ts";
import type { Tensor } from "../../src/tensor/index.ts";
import { type Config, configsByBlock } from "./configurations.ts";
import { randomTensor, relativeError, withAnyNorms } from "./support.ts";

/** Values of several graphs by their names, computed in one session: building one takes longer than running it. */
async function compute(outputs: Readonly<Record<string, Value>>): Promise<Record<string, Tensor>> {
  await using program = await compile({ outputs }, { threads: 1 });
  return await program.run({});
}

type Float = "float32" | "float64";

/** Configurations whose merge in the graph is not that on the host. */
async function differences(configs: readonly Config[], dtype: Float, bound: number): Promise<object[]> {
  const different: object[] = [];
  for (let start = 0; start < configs.length; start += 50) {
    const some = configs.slice(start, start + 50).map((config, i) => {
      const model = toDtype<Module>(withAnyNorms(config.build(), start + i).eval(), dtype);
      return { config, model, merged: convertToDeploy(model).stateDict(), inGraph: equivalentInGraph(model) };
    });
    const outputs = some.flatMap(({ inGraph }, i) => [...inGraph].map(([key, v]) => [`${i}/${key}`, v] as const));
    const results = await compute(Object.fromEntries(outputs));
    for (const [i, { config, model, merged, inGraph }] of some.entries()) {
      const before = model.stateDict();
      for (const [key, tensor] of merged) {
        // What is not among the merged values stays what it was, under the same key.
        const [other, limit] = inGraph.has(key) ? [results[`${i}/${key}`], bound] : [before.get(key)?.readSync(), 0];
        const error = other ? relativeError(tensor.readSync(), other) : Number.POSITIVE_INFINITY;
        if (!(error <= limit)) different.push({ block: config.block, options: config.options, key, error });
      }
      for (const key of inGraph.keys()) if (!merged.has(key)) different.push({ ...config, key });
    }
  }
  return different.sort((a, b) => JSON.stringify(a).length - JSON.stringify(b).length);
}

describe("the merge in the graph is that on the host", () => {
  test.for(Object.entries(configsByBlock))("%s", async ([, configs]) => {
    expect(configs.length).toBeGreaterThanOrEqual(200);
    expect(await differences(configs, "float64", 1e-12)).toEqual([]);
    expect(await differences(configs.slice(0, 20), "float32", 1e-5)).toEqual([]);
  });

  test("the configurations cover every block that merges", () => {
    const merging = Object.entries(blocks).flatMap(([name, C]) =>
      typeof C === "function" && typeof C.prototype?.merge === "function" ? [name] : [],
    );
    expect(merging.sort()).toEqual(Object.keys(configsByBlock).sort());
  });

  test("of a merged block gives its present weights", async () => {
    const build = configsByBlock.RepVGGBlock[0].build;
    const [model, deploy] = [toDtype<Module>(build(), "float64"), toDtype<Module>(convertToDeploy(build()), "float64")];
    const outputs = Object.fromEntries([...equivalentInGraph(deploy)]);
    expect(Object.keys(outputs)).toEqual([...equivalentInGraph(model).keys()]);
    for (const [key, value] of Object.entries(await compute(outputs)))
      expect(value.data).toEqual(deploy.stateDict().get(key)!.readSync().data);
  });

  test("has the keys of the merged network, wherever its blocks stand", () => {
    const block = new blocks.LightBlock({
      ...{ inChannels: 4, midChannels: 2, outChannels: 6 },
      ...{ height: 4, width: 4, partition: 2, reparamConvKernels: [1, 3] },
    });
    expect([...equivalentInGraph(block).keys()]).toEqual(
      ["shortcut.conv", "light_conv1.conv", "light_repmlp.fc1_fc2.fc1", "light_repmlp.fc3", "light_conv3.conv"].flatMap(
        (layer) => [`${layer}.weight`, `${layer}.bias`],
      ),
    );
  });

  test("names a block that cannot be put into a graph", () => {
    class Old extends blocks.ConvBn {}
    const old = new Old(1, 1, { kernelSize: 1 });
    const bare = new Proxy(old, { has: (target, key) => key !== "equivalent" && key in target });
    expect(() => equivalentInGraph(bare)).toThrow(
      "merge: Old has a merge(), but no equivalent() to be put into a graph",
    );
  });
});

describe("it can be differentiated", () => {
  const made: Readonly<Record<string, () => Module & Reparameterizable>> = {
    RepVGGBlock: () => new blocks.RepVGGBlock({ inChannels: 4, outChannels: 4, groups: 2 }),
    RepMLP: () =>
      new blocks.RepMLP({ inChannels: 2, height: 4, width: 2, partition: 2, reparamConvKernels: [1, 3], groups: 2 }),
  };
  test.for(Object.entries(made))("by every parameter, as the merge on the host changes: %s", async ([, make]) => {
    const model = toDtype<Module>(withAnyNorms(make(), 3).eval(), "float64");
    const inGraph = equivalentInGraph(model);
    const cotangents = new Map([...inGraph].map(([key, v]) => [key, randomTensor(v.shape, key).cast("float64")]));
    const terms = [...inGraph].map(([key, v]) =>
      reduceSum(
        mul(v, constant(cotangents.get(key)!)),
        v.shape.map((_, i) => i),
      ),
    );
    const parameters = [...model.parameters()];
    const gradients = grad(
      terms.reduce((a, b) => add(a, b)),
      parameters.map(([, p]) => p.value),
    );
    const results = await compute(Object.fromEntries(gradients.map((g, i) => [parameters[i][0], g])));

    const onHost = (): number => {
      const merged = convertToDeploy(model).stateDict();
      let total = 0;
      for (const [key, cotangent] of cotangents) {
        const d = cotangent.toFloat64();
        total += merged
          .get(key)!
          .readSync()
          .toFloat64()
          .reduce((sum, v, i) => sum + v * d[i], 0);
      }
      return total;
    };
    for (const [key, p] of parameters) {
      const present = p.data;
      const element = present.size - 1;
      const at = (shift: number): number => {
        p.set(present.map((v, i) => (i === element ? v + shift : v)));
        return onHost();
      };
      const slope = (at(1e-4) - at(-1e-4)) / 2e-4;
      p.set(present);
      expect(results[key].toFloat64()[element], key).toBeCloseTo(slope, 6);
    }
  });
});

describe("RepVGG's custom L2", () => {
  const block = withAnyNorms(new blocks.RepVGGBlock({ inChannels: 4, outChannels: 6, groups: 2 }), 5).eval();

  test("is its formula", async () => {
    const [dense, pointwise] = [block.rbrDense!, block.rbr1x1!];
    const scale = ({ bn }: blocks.ConvBn): Float64Array => {
      const variance = bn!.runningVar.data.toFloat64();
      return bn!.weight.data.toFloat64().map((g, i) => g / Math.sqrt(variance[i] + bn!.eps));
    };
    const [k3, k1] = [dense, pointwise].map((b) => b.conv.weight.data.toFloat64());
    const [t3, t1] = [dense, pointwise].map(scale);
    let expected = 0;
    for (const [i, w] of k3.entries()) if (i % 9 !== 4) expected += w * w;
    for (const [i, w] of k1.entries()) {
      const o = Math.floor(i / 2);
      expected += (k3[9 * i + 4] * t3[o] + w * t1[o]) ** 2 / (t3[o] ** 2 + t1[o] ** 2);
    }
    const { penalty } = await compute({ penalty: block.customL2() });
    expect(penalty.shape).toEqual([]);
    expect(penalty.toFloat64()[0] / expected).toBeCloseTo(1, 5);
  });

  test("takes batch norms for constants and leaves the identity out", async () => {
    const parameters = [...block.parameters()];
    const gradients = grad(
      block.customL2(),
      parameters.map(([, p]) => p.value),
    );
    const results = await compute(Object.fromEntries(gradients.map((g, i) => [parameters[i][0], g])));
    const moved = Object.keys(results).filter((key) => results[key].toFloat64().some((v) => v !== 0));
    expect(moved.sort()).toEqual(["rbr_1x1.conv.weight", "rbr_dense.conv.weight"]);
  });

  test("a merged block has none", () => {
    expect(() => convertToDeploy(block).customL2()).toThrow("repvgg: a merged block has no branches");
  });
});

test("options of RepVGG's block that its branches do not allow are refused", () => {
  const block =
    (options: object): (() => blocks.RepVGGBlock) =>
    () =>
      new blocks.RepVGGBlock({ inChannels: 8, outChannels: 8, ...options });
  expect(block({ kernelSize: 4 })).toThrow("repvgg: kernelSize must be odd");
  expect(block({ dilation: 2, padding: 1 })).toThrow("padding must be dilation · (kernelSize − 1) / 2 = 2");
  expect(block({ useSe: true })).toThrow("squeezeExcite: 8 channels are too few");
});

test.for([blocks.QARepVGGBlock, blocks.QARepVGGBlockV1])(
  "$name refuses squeeze-and-excitation, which it could not merge",
  (Block) => {
    expect(() => new Block({ inChannels: 32, outChannels: 32, useSe: true })).toThrow(
      /^qarepvgg: useSe cannot be merged exactly: .* or use RepVGG's block/,
    );
  },
);
