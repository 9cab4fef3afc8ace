import { describe, expect, test } from "vitest";
import { ConvBn, ConvBnRelu } from "../../src/blocks/index.ts";
import { flatten, reduceMean, relu, sub, type Value } from "../../src/graph/index.ts";
import { countMacs, Linear, Module, type Net } from "../../src/nn/index.ts";
import { createModel, exportOnnx, OnnxNet } from "../../src/node.ts";
import {
  byChance,
  byL1,
  type ChannelGroup,
  type Clusters,
  channelDependencies,
  chooseChannels,
  clustersByKey,
  compactorKeys,
  costOfCompactors,
  cutChannels,
  evenClusters,
  groupOf,
  keepLargest,
  kMeansClusters,
  mergeChannels,
  mergeCompactors,
  withCompactors,
  withWidths,
} from "../../src/prune/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { rng, Tensor } from "../../src/tensor/index.ts";
import { RandomNet, randomize } from "./random-networks.ts";
import { expectEqual, randomCut, setChannels, shape } from "./support.ts";

const seeds = Array.from({ length: 12 }, (_, i) => i + 1);

describe("random networks with sums, concatenations, groups, depthwise layers, gates, flattened maps", () => {
  test.for(seeds)("zero filters, cut at random: the same outputs (%i)", async (seed) => {
    const net: Net = randomize(new RandomNet(seed), seed);
    const dependencies = channelDependencies(net, shape);
    const cut = randomCut(dependencies, seed);
    expect(cut.length).toBeGreaterThan(0);
    setChannels(
      net,
      cut.map((c) => [c, undefined]),
    );
    const narrow = cutChannels(net, dependencies, cut);
    await expectEqual(narrow, net);
    expect(countMacs(narrow, shape)).toBe(dependencies.macs(cut));
    expect(countMacs(narrow, shape)).toBeLessThan(countMacs(net, shape));
    // Branches merge as those of any other network, and the checkpoint opens again.
    await expectEqual(convertToDeploy(narrow), net);
    const again = withWidths<Net>(new RandomNet(seed).eval(), narrow.stateDict(), shape);
    await expectEqual(again, net);
  });

  test.for(seeds.slice(0, 6))("the same from an ONNX file (%i)", async (seed) => {
    const net: Net = randomize(new RandomNet(seed), seed);
    const { model } = await exportOnnx(net, { inputShape: shape.slice(1) });
    const foreign: Net & OnnxNet = new OnnxNet(model).eval();
    const dependencies = channelDependencies(foreign, shape);
    const cut = randomCut(dependencies, seed);
    expect(cut.length).toBeGreaterThan(0);
    setChannels(
      foreign,
      cut.map((c) => [c, undefined]),
    );
    const narrow = cutChannels(foreign, dependencies, cut);
    await expectEqual(narrow, foreign);
    await expectEqual(new OnnxNet(narrow.toOnnx()).eval(), foreign);
  });

  test.for(seeds.slice(0, 6))("equal filters, merged: the same outputs (%i)", async (seed) => {
    const net: Net = randomize(new RandomNet(seed), seed);
    const dependencies = channelDependencies(net, shape);
    const clusters = new Map<ChannelGroup, Clusters>(
      dependencies.groups
        .filter(({ unmergeable }) => unmergeable === undefined)
        .map((group) => [group, evenClusters(group.channels.length, Math.ceil(group.channels.length / 2))]),
    );
    setChannels(
      net,
      [...clusters].flatMap(([{ channels }, sets]) =>
        sets.flatMap(([first, ...rest]) => rest.map((i) => [channels[i], channels[first]] as const)),
      ),
    );
    // What makes channels of others takes equal inputs, but each of its own weights: equal rows are still equal.
    const narrow = mergeChannels(net, dependencies, clusters);
    expect(countMacs(narrow, shape)).toBeLessThan(countMacs(net, shape));
    await expectEqual(narrow, net);
  });
});

class Small extends Module {
  readonly conv1 = new ConvBnRelu(3, 8, { kernelSize: 3, padding: 1 });
  readonly conv2 = new ConvBnRelu(8, 6, { kernelSize: 3, padding: 1 });
  readonly linear = new Linear(6 * 64, 4);
  forward(x: Value): Value {
    return this.linear.forward(flatten(this.conv2.forward(this.conv1.forward(x))));
  }
}

describe("dependencies", () => {
  test("a channel of a map before a linear layer is as many neighbouring columns as it has pixels", () => {
    const { groups, fixed } = channelDependencies(new Small().eval(), shape);
    const [first, second] = groups;
    expect(groups.map(({ name, channels }) => [name, channels.length])).toEqual([
      ["conv1.conv.weight", 8],
      ["conv2.conv.weight", 6],
    ]);
    expect(first.axes.map(({ key, axis, role }) => `${key} ${axis} ${role}`)).toEqual([
      "conv1.conv.weight 0 makes",
      "conv1.bn.weight 0 carries",
      "conv1.bn.bias 0 carries",
      "conv1.bn.running_mean 0 carries",
      "conv1.bn.running_var 0 carries",
      "conv2.conv.weight 1 takes",
    ]);
    const columns = second.axes.findIndex(({ key }) => key === "linear.weight");
    expect(second.channels[2].positions[columns]).toEqual(Array.from({ length: 64 }, (_, i) => 128 + i));
    expect(fixed).toEqual([{ key: "linear.weight", count: 4, reason: "they are the network's output" }]);
  });

  test("what is added up goes together", () => {
    const net: Net = createModel("ResNet-56-base").eval();
    const { groups } = channelDependencies(net, [1, 3, 32, 32]);
    const made = groups.map(({ axes }) => axes.filter(({ role }) => role === "makes").length);
    expect(Math.max(...made)).toBeGreaterThan(1);
    expect(made.filter((n) => n === 1).length).toBeGreaterThan(0);
  });

  test.for<[string, (x: Value) => Value, string]>([
    ["a mean over channels", (x) => sub(x, reduceMean(x, 1, { keepDims: true })), "reduceMean"],
    ["the output", (x) => x, "they are the network's output"],
  ])("%s keeps them, and says why", ([, after, reason]) => {
    class Mixed extends Module {
      readonly conv = new ConvBn(3, 8, { kernelSize: 1 });
      forward(x: Value): Value {
        return after(this.conv.forward(x));
      }
    }
    const dependencies = channelDependencies(new Mixed().eval(), shape);
    expect(dependencies.groups).toEqual([]);
    expect(dependencies.fixed[0]).toMatchObject({ key: "conv.conv.weight", count: 8 });
    expect(dependencies.fixed[0].reason).toContain(reason);
    expect(() => groupOf(dependencies, "conv.conv")).toThrow(`the 8 channels of conv.conv cannot be cut: `);
    expect(() => chooseChannels(dependencies, { importance: byChance(), flops: 0.5 })).toThrow(
      "no channels that can be cut",
    );
  });

  test("a layer that keeps its width as a number of its own is named", () => {
    class Own extends Small {
      override forward(x: Value): Value {
        const y = this.conv2.forward(this.conv1.forward(x));
        return this.linear.forward(flatten(relu(y), 1 as never));
      }
    }
    const dependencies = channelDependencies(new Small().eval(), shape);
    const { channels } = groupOf(dependencies, "conv1.conv");
    expect(() => cutChannels<Net>(new Own().initialize(1).eval(), dependencies, channels.slice(1))).toThrow(
      "as it keeps a number of channels of its own",
    );
    expect(() => cutChannels<Net>(new Small().initialize(1).eval(), dependencies, channels)).toThrow(
      "all 8 channels on axis 0 of conv1.conv.weight would go",
    );
    expect(() => groupOf(dependencies, "conv3")).toThrow("there is no layer conv3 whose channels can be cut");
  });
});

describe("what is chosen", () => {
  const net: Net = randomize(new Small(), 3);
  const dependencies = channelDependencies(net, shape);

  test.for([byL1(net), byChance(7)])("as few channels as the target asks for", (importance) => {
    const cut = chooseChannels(dependencies, { importance, flops: 0.5 });
    expect(dependencies.macs(cut)).toBeLessThanOrEqual(0.5 * dependencies.macs());
    expect(dependencies.macs(cut.slice(0, -1))).toBeGreaterThan(0.5 * dependencies.macs());
  });

  test("by L1, the smallest filters go first", () => {
    const small = randomize(new Small(), 3);
    const { weight } = small.conv1.conv;
    const tiny = [2, 5];
    weight.set(weight.data.map((v, i) => (tiny.includes(Math.floor(i / 27)) ? 1e-3 * v : v)));
    const cut = chooseChannels(dependencies, { importance: byL1(small), flops: 0.7, layers: ["conv1.conv"] });
    expect(
      cut
        .slice(0, 2)
        .map(({ index }) => index)
        .sort(),
    ).toEqual(tiny);
  });

  test("layers by pattern; one that fits none is told of those that there are", () => {
    const cut = chooseChannels(dependencies, { importance: byL1(net), flops: 0.3, layers: ["conv*.conv"] });
    expect(new Set(cut.map(({ group }) => group.name)).size).toBe(2);
    expect(() => chooseChannels(dependencies, { importance: byL1(net), flops: 0.7, layers: ["stage*"] })).toThrow(
      /"stage\*" fits no layer whose channels can be cut\. There are conv/,
    );
  });

  test("a target out of reach says what can be reached", () => {
    expect(() => chooseChannels(dependencies, { importance: byChance(), flops: 0.001 })).toThrow(
      /0\.001 of the multiply-adds cannot be reached: with all channels gone that may go, 0\.\d+ is left/,
    );
    expect(() => chooseChannels(dependencies, { importance: byChance(), flops: 1.5 })).toThrow("got 1.5");
  });
});

describe("ResRep", () => {
  test("compactors start as nothing, and merge with their filters and those that follow", async () => {
    const net: Net = randomize(new Small(), 4);
    const compacted = withCompactors(net, ["conv1", "conv2"]);
    compacted.initialize();
    await expectEqual(compacted, net);
    expect(compactorKeys(compacted)).toEqual(["conv1.compactor.pwc.weight", "conv2.compactor.pwc.weight"]);
    const random = rng(1, "q");
    const [first] = compactorKeys(compacted);
    const q = new Map(compacted.state()).get(first)!;
    q.set(q.data.map((_, i) => ([1, 4].includes(Math.floor(i / 8)) ? 1e-9 : random.normal())));
    const { net: pruned, removed } = mergeCompactors(compacted, shape);
    expect([...removed]).toEqual([
      ["conv1", [1, 4]],
      ["conv2", []],
    ]);
    expect(pruned.stateDict().get("conv1.conv.weight")!.shape).toEqual([6, 3, 3, 3]);
    await expectEqual(pruned, compacted);
    const cost = costOfCompactors(compacted, shape);
    expect(cost([8, 6])).toBe(countMacs(net, shape));
    expect(cost([6, 6])).toBe(countMacs(pruned, shape));
  });

  test("a layer whose rows have all vanished keeps the largest; without compactors there is nothing to merge", () => {
    const compacted = withCompactors<Net>(randomize(new Small(), 4), ["conv1"]).initialize();
    const q = new Map(compacted.state()).get("conv1.compactor.pwc.weight")!;
    q.set(q.data.map((_, i) => (i === 20 ? 2e-9 : 0)));
    expect(mergeCompactors(compacted, shape).removed.get("conv1")).toEqual([0, 1, 3, 4, 5, 6, 7]);
    expect(() => mergeCompactors<Net>(new Small().eval(), shape)).toThrow("the network has no compactors");
    expect(() => withCompactors<Net>(new Small(), ["conv9"])).toThrow("conv9 is no convolution");
  });
});

describe("clusters", () => {
  test.for([
    [16, 10],
    [7, 7],
    [5, 1],
    [9, 4],
  ])("%i filters in %i: each once, none empty, in the order of their first", ([filters, count]) => {
    const random = rng(filters, "filters");
    const values = Float64Array.from({ length: filters * 6 }, () => random.normal());
    const equal = Tensor.full("float32", [filters, 6], 1);
    for (const clusters of [
      evenClusters(filters, count),
      kMeansClusters(Tensor.float32([filters, 2, 3, 1], values), count),
      kMeansClusters(equal, count),
    ]) {
      expect(clusters.length).toBe(count);
      expect(clusters.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: filters }, (_, i) => i));
      expect(clusters.map(([first]) => first)).toEqual(clusters.map(([first]) => first).sort((a, b) => a - b));
      expect(clusters.every((set) => set.length > 0)).toBe(true);
    }
    const sizes = evenClusters(filters, count).map((set) => set.length);
    expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
  });

  test("k-means finds filters that are near to one another", () => {
    const random = rng(2, "noise");
    const centre = [0, 1, 2, 0, 1, 2, 2];
    const values = centre.flatMap((c) => Array.from({ length: 4 }, (_, i) => 10 * c * (i + 1) + 0.1 * random.normal()));
    expect(kMeansClusters(Tensor.float32([7, 4], values), 3)).toEqual([
      [0, 3],
      [1, 4],
      [2, 5, 6],
    ]);
    expect(() => evenClusters(3, 4)).toThrow("from 1 to the number of filters, 3, got 4");
  });

  test("all that is made of a group's channels shares its clusters", () => {
    const group = groupOf(channelDependencies(new Small().eval(), shape), "conv1.conv");
    const clusters = evenClusters(8, 3);
    const byKey = clustersByKey(group, clusters);
    expect([...byKey.keys()].slice(0, 3)).toEqual(["conv1.conv.weight", "conv1.bn.weight", "conv1.bn.bias"]);
    expect([...byKey.values()].every((c) => JSON.stringify(c) === JSON.stringify(clusters))).toBe(true);
  });
});

test("GSM's end: the largest weights of all layers together stay", () => {
  const net = randomize(new Small(), 6);
  const all = [net.conv1.conv.weight, net.conv2.conv.weight, net.linear.weight];
  const sparse = keepLargest(net, 0.1);
  const kept = [sparse.conv1.conv.weight, sparse.conv2.conv.weight, sparse.linear.weight];
  const values = all.flatMap((p) => [...p.data.toFloat64()].map(Math.abs)).sort((a, b) => b - a);
  const left = kept.flatMap((p) => [...p.data.toFloat64()].filter((v) => v !== 0).map(Math.abs));
  expect(left.length).toBe(Math.ceil(0.1 * values.length));
  expect(Math.min(...left)).toBe(values[left.length - 1]);
  expect(sparse.conv1.bn!.bias.data.data).toEqual(net.conv1.bn!.bias.data.data);
  expect(() => keepLargest(net, 0)).toThrow("must be above 0 and at most 1, got 0");
});
