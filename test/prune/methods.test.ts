import { describe, expect, test } from "vitest";
import { ConvBn, ConvBnRelu, RepVGGBlock } from "../../src/blocks/index.ts";
import { add, globalAvgPool, relu, type Value } from "../../src/graph/index.ts";
import { Conv2d, countMacs, Linear, Module, type Net, type Parameter } from "../../src/nn/index.ts";
import { createModel, memoryStore, OnnxNet, Predictor, sampleDataset, Trainer } from "../../src/node.ts";
import type { OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import {
  Ablation,
  aofp,
  channelDependencies,
  compactorKeys,
  compensated,
  cutChannels,
  endHalf,
  foldCompactors,
  keepZeros,
  type PruneSettings,
  pruningOf,
  ticketOf,
  withCompactors,
  zerosOf,
} from "../../src/prune/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { rng, Tensor } from "../../src/tensor/index.ts";
import { chain, Learner, sgd } from "../../src/training/index.ts";
import { randomize } from "./random-networks.ts";

const image = [3, 6, 6] as const;

/** Each class is a shade, with noise. */
const data = (length: number) =>
  sampleDataset({
    length,
    classes: ["dark", "grey", "light"],
    imageShape: image,
    sample: (index) => {
      const random = rng(index, "shade");
      return {
        image: Float32Array.from({ length: 108 }, () => (index % 3) - 1 + 0.5 * random.normal()),
        label: index % 3,
      };
    },
  });

class Residual extends Module {
  readonly conv1 = new ConvBnRelu(8, 8, { kernelSize: 3, padding: 1 });
  readonly conv2 = new ConvBn(8, 8, { kernelSize: 3, padding: 1 });
  forward(x: Value): Value {
    return relu(add(this.conv2.forward(this.conv1.forward(x)), x));
  }
}

class Small extends Module {
  readonly stem = new ConvBnRelu(3, 8, { kernelSize: 3, padding: 1 });
  readonly block1 = new Residual();
  readonly block2 = new Residual();
  readonly linear = new Linear(8, 3);
  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(this.block2.forward(this.block1.forward(this.stem.forward(x)))));
  }
}

class Branched extends Module {
  readonly stem = new RepVGGBlock({ inChannels: 3, outChannels: 6 });
  readonly block = new RepVGGBlock({ inChannels: 6, outChannels: 6 });
  readonly linear = new Linear(6, 3);
  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(this.block.forward(this.stem.forward(x))));
  }
}

async function outputOf(net: Net): Promise<Float64Array> {
  const random = rng(9, "pictures");
  const x = Tensor.float32(
    [4, ...image],
    Float64Array.from({ length: 432 }, () => random.normal()),
  );
  const predictor = await Predictor.create(net.eval(), { inputShape: image, batchSize: 4 });
  const y = (await predictor.run(x)).toFloat64();
  await predictor.dispose();
  return y;
}

async function distance(a: Net, b: Net): Promise<number> {
  const [x, y] = [await outputOf(a), await outputOf(b)];
  const scale = x.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  return x.reduce((m, v, i) => Math.max(m, Math.abs(v - y[i])), 0) / scale;
}

const context = (net: Net) => ({ net, inputShape: [1, ...image], stepsPerEpoch: 4, seed: 3 });

/** Settings that do in 100 steps what takes an epoch of thousands. */
const quick: readonly PruneSettings[] = [
  { method: "resrep", flops: 0.6, lasso: 0.2, momentum: 0.9, fromEpoch: 0.5, every: 1, granularity: 4 },
  { method: "csgd", flops: 0.6, strength: 10 },
  { method: "csgd", flops: 0.6, strength: 10, clusters: "even", layers: ["block*.conv1.conv"] },
  { method: "aofp", flops: 0.6, damage: 1e9, stepsPerHalf: 2, from: 2 },
];

/** Trains by a method; stopped after some steps and resumed, where that is asked for. */
async function pruned(
  net: Net,
  settings: PruneSettings,
  { epochs = 25, lr = 0.05, stopAt }: { epochs?: number; lr?: number; stopAt?: number } = {},
) {
  const store = memoryStore();
  const run = async (resume: boolean) => {
    const pruning = pruningOf(context(net), settings);
    const { rule, group } = pruning;
    const stop = new AbortController();
    const shares: number[] = [];
    await new Trainer(pruning.net, {
      ...{ data: { train: data(48) }, epochs, batchSize: 12, lr, seed: 5, threads: 1, store, resume, group },
      optimizer: chain(...(rule ? [rule] : []), sgd({ momentum: 0.9 })),
      signal: stop.signal,
      onEvent: (event) => {
        if (event.type !== "step") return;
        shares.push(pruning.share() ?? 1);
        if (!resume && event.step === stopAt) stop.abort();
      },
    }).run();
    return { pruning, shares };
  };
  const first = await run(false);
  return stopAt === undefined ? first : await run(true);
}

describe("each method trains, cuts to the target, and loses nothing by the cut", () => {
  test.for(quick)("%o", async (settings) => {
    const net: Net = randomize(new Small(), 2);
    const { pruning, shares } = await pruned(net, settings);
    const narrow = await pruning.finish();
    const target = "flops" in settings ? settings.flops! : 1;
    const whole = countMacs(new Small(), [1, ...image]);
    expect(countMacs(narrow, [1, ...image]) / whole).toBeLessThanOrEqual(target);
    expect(await distance(pruning.net, narrow)).toBeLessThan(settings.method === "aofp" ? 2e-5 : 1e-2);
    // Whole filters miss the target by less than one filter of each layer.
    if (settings.method === "csgd" && !settings.layers)
      expect(countMacs(narrow, [1, ...image]) / whole).toBeGreaterThan(target - 0.04);
    if (settings.method !== "csgd") {
      expect(shares.at(-1)).toBeLessThanOrEqual(target);
      expect(new Set(shares).size).toBeGreaterThan(1);
    }
    // What is left is an ordinary network.
    expect([...narrow.state()].map(([key]) => key)).toEqual([...new Small().state()].map(([key]) => key));
    expect(await distance(narrow, convertToDeploy(narrow))).toBeLessThan(2e-5);
  });

  test.for(quick.filter(({ method }) => method !== "csgd"))("stopped and resumed, to the bit: %o", async (settings) => {
    const whole = await pruned(randomize(new Small(), 2), settings, { epochs: 5 });
    const resumed = await pruned(randomize(new Small(), 2), settings, { epochs: 5, stopAt: 13 });
    const [a, b] = await Promise.all([whole, resumed].map(async ({ pruning }) => (await pruning.finish()).stateDict()));
    for (const [key, value] of a) expect(b.get(key)!.readSync().data, key).toEqual(value.readSync().data);
  });

  test("with branches: the same layers of all of them go", async () => {
    const net: Net = randomize(new Branched(), 4);
    for (const settings of [quick[1], quick[3]]) {
      const { pruning } = await pruned(net, settings, { epochs: 5 });
      const narrow = await pruning.finish();
      expect(await distance(narrow, convertToDeploy(narrow))).toBeLessThan(2e-5);
      expect(countMacs(narrow, [1, ...image])).toBeLessThanOrEqual(0.6 * countMacs(new Branched(), [1, ...image]));
    }
  });
});

describe("AOFP", () => {
  const infinite = Number.POSITIVE_INFINITY;
  test.for([
    ["half of them did little", [0, 1, 2, 3, 5], [0, 1, 2, 3], [0.5, 0.001, 0.002, infinite], [1, 2], [0, 3, 5]],
    ["the search is halved", [0, 1, 2, 3], [0, 1, 2, 3], [0.5, 0.1, 0.05, 0.3], [], [1, 2]],
    ["and begins again where one would be left", [0, 1, 2, 3], [1, 2], [9, 0.1, 0.05, 9], [], [0, 1, 2, 3]],
    ["one alone is not ablated", [4], [4], [9, 9, 9, 9, infinite], [], [4]],
  ] as const)("%s", ([, left, search, damage, prune, next]) => {
    expect(endHalf(left, search, damage, 0.01)).toEqual({ prune, search: next });
  });

  /** Two 1×1 layers and a sum, so that all can be computed by hand. */
  class Pointwise extends Module {
    readonly conv1 = new ConvBnRelu(3, 4, { kernelSize: 1 });
    readonly conv2 = new ConvBnRelu(4, 3, { kernelSize: 1 });
    forward(x: Value): Value {
      return globalAvgPool(this.conv2.forward(this.conv1.forward(x)));
    }
  }

  const [n, pixels] = [5, 4];

  /** Convolution, norm by the batch, ReLU: rows are channels, columns samples and pixels. */
  function layer(x: readonly number[][], { conv, bn }: ConvBn): number[][] {
    const [w, gamma, beta] = [conv.weight, bn!.weight, bn!.bias].map((p) => p.data.toFloat64());
    return Array.from(gamma, (g, o) => {
      const y = x[0].map((_, at) => x.reduce((sum, row, c) => sum + w[o * x.length + c] * row[at], 0));
      const mean = y.reduce((a, b) => a + b) / y.length;
      const variance = y.reduce((a, v) => a + (v - mean) ** 2, 0) / y.length;
      return y.map((v) => Math.max(0, (g * (v - mean)) / Math.sqrt(variance + 1e-5) + beta[o]));
    });
  }

  test("the damage is that of the next layer's output; statistics are those of the whole pass", async () => {
    const net = randomize(new Pointwise(), 7);
    const random = rng(1, "x");
    const images = Tensor.float32(
      [n, 3, 2, 2],
      Float64Array.from({ length: n * 12 }, () => random.normal()),
    );
    const targets = Tensor.float32(
      [n, 3],
      Float64Array.from({ length: n * 3 }, (_, i) => Number(i % 3 === 0)),
    );
    const dependencies = channelDependencies(net, [1, 3, 2, 2]);
    const x = [0, 1, 2].map((c) =>
      Array.from(
        { length: n * pixels },
        (_, at) => images.toFloat64()[(Math.floor(at / pixels) * 3 + c) * pixels + (at % pixels)],
      ),
    );
    const hidden = layer(x, net.conv1);
    const zeroed = (...gone: readonly number[]): number[][] =>
      hidden.map((row, c) => row.map((v) => (gone.includes(c) ? 0 : v)));
    const [whole, without] = [zeroed(0), zeroed(0, 1, 3)].map((h) => layer(h, net.conv2).flat());
    const squares = (values: readonly number[]): number => values.reduce((sum, v) => sum + v * v, 0);
    const expected = squares(whole.map((v, i) => v - without[i])) / squares(whole);

    const trained = async (model: Net, ablated: boolean) => {
      const learner = new Learner(model, { optimizer: sgd({ momentum: 0 }), threads: 1 });
      const mask = (...values: readonly number[]): Tensor => Tensor.float32([4], values);
      if (ablated)
        await learner.writeState(
          new Map([
            ["aofp.0.base", mask(0, 1, 1, 1)],
            ["aofp.0.ablated", mask(0, 1, 0, 1)],
          ]),
        );
      await learner.train(images, targets, 0.1);
      const keys = [
        "conv1.bn.running_mean",
        "conv2.bn.running_var",
        ...(ablated ? ["aofp.0.account", "aofp.0.count"] : []),
      ];
      const state = await learner.readState(keys);
      await learner.dispose();
      return [...state.values()].map((t) => [...t.toFloat64()]);
    };
    const ablation = new Ablation(net, dependencies.groups.slice(0, 1));
    const [mean, variance, account, count] = await trained(ablation, true);
    expect(count).toEqual([0, 1, 0, 1]);
    for (const [c, value] of account.entries()) expect(value).toBeCloseTo(count[c] * expected, 4);
    // The same network whose second layer has no weights for the pruned channel, without any ablation.
    const plain = randomize(new Pointwise(), 7);
    const { weight } = plain.conv2.conv;
    weight.set(weight.data.map((v, i) => (i % 4 === 0 ? 0 : v)));
    const [plainMean, plainVariance] = await trained(plain, false);
    for (const [a, b] of [
      [mean, plainMean],
      [variance, plainVariance],
    ])
      for (const [i, value] of a.entries()) expect(value).toBeCloseTo(b[i], 5);
  });

  test("options that cannot be", () => {
    const dependencies = channelDependencies(new Small().eval(), [1, ...image]);
    expect(() => aofp({ dependencies, groups: dependencies.groups, target: 0.5, stepsPerHalf: 0 })).toThrow(
      "stepsPerHalf must be a whole number from 1, got 0",
    );
  });
});

test("compactors are taken into convolutions and norms: the same outputs, in training form", async () => {
  const net = randomize(withCompactors<Net>(randomize(new Small(), 2), ["block1.conv1", "stem"]), 8);
  const folded = foldCompactors(net);
  expect(compactorKeys(net).length).toBe(2);
  expect(compactorKeys(folded)).toEqual([]);
  expect(await distance(net, folded)).toBeLessThan(2e-5);
  // A row of zeros stays one.
  const q = new Map(net.state()).get("stem.compactor.pwc.weight")!;
  q.set(q.data.map((v, i) => (i < 8 ? 0 : v)));
  expect(await distance(net, foldCompactors(net))).toBeLessThan(2e-5);
});

describe("a depthwise layer makes a constant of a channel that is zero", () => {
  /** Expands, depthwise, projects; what is after the pointwise convolution takes the constant. */
  class Inverted extends Module {
    readonly expand = new ConvBnRelu(3, 6, { kernelSize: 1 });
    readonly depthwise = new ConvBnRelu(6, 6, { kernelSize: 3, padding: 1, groups: 6 });
    readonly project: Net;
    constructor(normed: boolean, kernelSize = 1) {
      super();
      const padding = (kernelSize - 1) / 2;
      this.project = normed ? new ConvBn(6, 4, { kernelSize, padding }) : new Conv2d(6, 4, { kernelSize, padding });
    }
    forward(x: Value): Value {
      return globalAvgPool(this.project.forward(this.depthwise.forward(this.expand.forward(x))));
    }
  }

  /** Filters of the first layer, with its norm's numbers, and nothing of the depthwise one. */
  function silenced(net: Inverted): Inverted {
    for (const { weight } of [net.expand.conv, net.expand.bn!]) silence(weight);
    silence(net.expand.bn!.bias);
    const { bias } = net.depthwise.bn!;
    // One that the activation lets through, one that it does not.
    bias.set(Tensor.float32([6], [2, -5, 3, 1, 1, 1]));
    return net;
  }
  const silence = (p: Parameter): void => p.set(p.data.map((v, i) => (Math.floor(i / (p.data.size / 6)) < 3 ? 0 : v)));

  test.for([true, false])("which the layer after it is told of (batch norm: %s)", async (normed) => {
    const net: Net & Inverted = silenced(randomize(new Inverted(normed), 3));
    const dependencies = channelDependencies(net, [1, ...image]);
    const cut = dependencies.groups[0].channels.slice(0, 3);
    const { net: told, left } = await compensated<Net>(net, dependencies, cut);
    expect(left).toEqual([]);
    expect(await distance(net, cutChannels(told, dependencies, cut))).toBeLessThan(2e-5);
    expect(await distance(net, cutChannels<Net>(net, dependencies, cut))).toBeGreaterThan(1e-2);
  });

  test("or which cannot be told of it, for its padding", async () => {
    const net: Net = silenced(randomize(new Inverted(true, 3), 3));
    const dependencies = channelDependencies(net, [1, ...image]);
    const { left } = await compensated(net, dependencies, dependencies.groups[0].channels.slice(0, 3));
    expect(left).toEqual(["project.conv.weight"]);
  });
});

describe("ResRep of an ONNX model", () => {
  /** Two convolutions, the second with a bias, both with or without batch norms, and a head. */
  function fileOf(normed: boolean): OnnxModel {
    const random = rng(4, "file");
    const tensors: [string, Tensor][] = [];
    const tensor = (name: string, size: readonly number[], value = (): number => 0.4 * random.normal()): string => {
      const count = size.reduce((n, d) => n * d, 1);
      tensors.push([name, Tensor.float32(size, Float64Array.from({ length: count }, value))]);
      return name;
    };
    const node = (opType: string, inputs: string[], output: string, attrs: OnnxNode["attrs"] = {}): OnnxNode => ({
      ...{ opType, inputs, outputs: [output], name: output, attrs },
    });
    const unit = (x: string, layer: string, size: readonly number[], bias: boolean): OnnxNode[] => {
      const [channels] = size;
      const conv = [x, tensor(`${layer}.weight`, size), ...(bias ? [tensor(`${layer}.bias`, [channels])] : [])];
      const numbers = ["gamma", "beta", "mean"].map((name) => tensor(`${layer}.${name}`, [channels]));
      const norm = [...numbers, tensor(`${layer}.var`, [channels], () => 0.5 + random.next())];
      if (!normed) for (const _ of norm) tensors.pop();
      return [
        node("Conv", conv, `${layer}.conv`, { pads: [1, 1, 1, 1] }),
        ...(normed ? [node("BatchNormalization", [`${layer}.conv`, ...norm], `${layer}.norm`)] : []),
        node("Relu", [`${layer}.${normed ? "norm" : "conv"}`], `${layer}.relu`),
      ];
    };
    return {
      nodes: [
        ...unit("x", "a", [8, 3, 3, 3], false),
        ...unit("a.relu", "b", [8, 8, 3, 3], true),
        node("GlobalAveragePool", ["b.relu"], "mean"),
        node("Flatten", ["mean"], "features"),
        node("Gemm", ["features", tensor("fc.weight", [3, 8]), tensor("fc.bias", [3])], "output", { transB: 1 }),
      ],
      inputs: [{ name: "x", dtype: "float32", shape: ["batch", ...image] }],
      outputs: [{ name: "output", dtype: "float32", shape: ["batch", 3] }],
      initializers: new Map(tensors),
      opset: 17,
    };
  }
  const netOf = (normed: boolean): Net & OnnxNet => new OnnxNet(fileOf(normed), { batchNorm: "batch" }).eval();

  test.for([true, false])("compactors are taken in: the same outputs (batch norms: %s)", async (normed) => {
    const net = netOf(normed);
    const places = [...net.compactorPlaces().values()];
    expect(places.map(({ weight, norm }) => [weight, norm !== undefined])).toEqual([
      ["a.weight", normed],
      ["b.weight", normed],
    ]);
    const compacted: Net & OnnxNet = net.withCompactors(["a.weight", "b.weight"]).initialize().eval();
    expect(compactorKeys(compacted)).toEqual(["a.compactor.pwc.weight", "b.compactor.pwc.weight"]);
    expect(await distance(net, compacted)).toBeLessThan(2e-5);
    const random = rng(3, "q");
    for (const key of compactorKeys(compacted)) {
      const q = new Map(compacted.state()).get(key)!;
      q.set(q.data.map(() => 0.5 * random.normal()));
    }
    expect(await distance(net, compacted)).toBeGreaterThan(1e-2);
    const folded: Net & OnnxNet = foldCompactors(compacted);
    expect([...folded.state()].map(([key]) => key)).toEqual([...net.state()].map(([key]) => key));
    expect(await distance(compacted, folded)).toBeLessThan(2e-5);
    const written: Net = new OnnxNet(compacted.toOnnx());
    expect(await distance(compacted, written)).toBeLessThan(2e-5);
    expect(() => net.withCompactors(["fc.weight"])).toThrow('"fc.weight" is no weight of a convolution');
  });

  test.for([true, false])("trains, cuts to the target, and loses nothing by it (batch norms: %s)", async (normed) => {
    const net = netOf(normed);
    const { pruning, shares } = await pruned(net, { ...quick[0], ...(!normed && { lasso: 0.6 }) } as PruneSettings, {
      ...(!normed && { lr: 0.015 }),
    });
    const narrow = await pruning.finish();
    expect(countMacs(narrow, [1, ...image]) / countMacs(net, [1, ...image])).toBeLessThanOrEqual(0.6);
    expect(await distance(pruning.net, narrow)).toBeLessThan(1e-2);
    expect(new Set(shares).size).toBeGreaterThan(1);
    expect(narrow).toBeInstanceOf(OnnxNet);
  });
});

test("a network with compactors is made again by name", () => {
  const net = createModel("CIFAR-ResNet-20", { compactors: ["layer1.0.conv1"] });
  expect(compactorKeys(net)).toEqual(["layer1.0.conv1.compactor.pwc.weight"]);
  expect(() => createModel("CIFAR-ResNet-20", { compactors: ["layer1.0.conv9"] })).toThrow(
    "Did you mean layer1.0.conv1",
  );
  expect(() => createModel("CIFAR-ResNet-20", { compactors: "all" as never })).toThrow("must be a list of paths");
});

test("single weights: GSM's zeros stay zero while training goes on, and make a ticket", async () => {
  const net: Net = randomize(new Small(), 2);
  const { pruning } = await pruned(net, { method: "gsm", share: 0.2 }, { epochs: 2 });
  const sparse = await pruning.finish();
  const zeros = zerosOf(sparse);
  const [all, zero] = Object.values(zeros).reduce(([a, z], l) => [a + l.weights, z + l.zeros], [0, 0]);
  expect(all - zero).toBe(Math.ceil(0.2 * all));
  await new Trainer(sparse, {
    ...{ data: { train: data(48) }, epochs: 1, batchSize: 12, lr: 0.1, threads: 1 },
    optimizer: chain(keepZeros(), sgd({ momentum: 0.9, weightDecay: 1e-2 })),
  }).run();
  expect(zerosOf(sparse)).toEqual(zeros);
  const ticket = ticketOf<Net>(randomize(new Small(), 5), sparse.stateDict());
  expect(zerosOf(ticket)).toEqual(zeros);
});

describe("what cannot be pruned is refused before training", () => {
  class Plain extends Module {
    readonly linear = new Linear(3, 3);
    forward(x: Value): Value {
      return this.linear.forward(globalAvgPool(x));
    }
  }
  const refused = (net: Net, settings: PruneSettings) => () => pruningOf(context(net.initialize(1)), settings);
  test.for<[PruneSettings, string]>([
    [
      { method: "resrep", flops: 0.01 },
      "0.01 of the multiply-adds cannot be reached: with all channels gone that may go, 0.",
    ],
    [{ method: "csgd", flops: 0.001 }, "is left. Ask for that or more"],
    [{ method: "aofp", flops: 1.5 }, "must be above 0 and at most 1, got 1.5"],
    [{ method: "l1", flops: 0.001 }, "cannot be reached"],
    [
      { method: "aofp", layers: ["block3.conv1"] },
      "there is no layer block3.conv1 whose channels can be cut. Did you mean ",
    ],
    [{ method: "csgd", layers: ["stage*"] }, '"stage*" fits no layer'],
    [{ method: "resrep", layers: ["stem.conv"] }, "Leave the layer out. Choose another method: l1 and random cut all"],
    [{ method: "gsm", share: 0 }, "must be above 0 and at most 1, got 0"],
    [{ method: "ticket" }, "Give its file with mask"],
  ])("%o", ([settings, message]) => {
    expect(refused(new Small(), settings)).toThrow(message);
  });

  test("blocks of branches by ResRep, with the methods that take them", () => {
    expect(refused(new Branched(), { method: "resrep" })).toThrow(
      /the network has no output of one convolution with a batch norm alone.* csgd and aofp what other layers take, in blocks/,
    );
  });

  test.for<PruneSettings>([{ method: "l1" }, { method: "resrep" }, { method: "csgd" }, { method: "aofp" }])(
    "no prunable layer: %o",
    (settings) => {
      expect(refused(new Plain(), settings)).toThrow(
        "the network has no channels that can be cut: of linear.weight, they are the network's output",
      );
    },
  );
});
