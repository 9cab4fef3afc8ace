import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { insertBatchNorms, NormedConv, withFc3BatchNorm } from "../../src/blocks/index.ts";
import { reachable, type Value } from "../../src/graph/index.ts";
import { Predictor } from "../../src/inference/index.ts";
import { type Net, Sequential } from "../../src/nn/index.ts";
import * as library from "../../src/node.ts";
import {
  calibrateQuantizedNet,
  convertToDeploy,
  exportQuantized,
  folderStore,
  nn,
  type QuantizationAwareOptions,
  QuantizedNet,
  startInsertedNorms,
  Tensor,
  Trainer,
} from "../../src/node.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import { compileStep } from "../../src/runtime/index.ts";
import { trainStep } from "../../src/training/train-step.ts";
import { configsByBlock } from "../reparam/configurations.ts";
import { randomTensor, relativeError, withRandomState } from "../reparam/support.ts";
import { base, SmallNet } from "../training/support.ts";

/** Two blocks of the family, a depthwise convolution with pooling, and a classifier. */
const convNet = (): Sequential =>
  new Sequential(
    new library.RepVGGBlock({ inChannels: 1, outChannels: 6 }),
    new library.QARepVGGBlock({ inChannels: 6, outChannels: 6 }),
    new nn.MaxPool2d({ kernelSize: 2, stride: 2 }),
    new library.ConvBnRelu(6, 6, { kernelSize: 3, padding: 1, groups: 6 }),
    new nn.GlobalAvgPool(),
    new nn.Linear(6, 3),
  );

const nets: readonly (readonly [name: string, make: () => Net])[] = [
  ["convolutions", convNet],
  ["RepMLP", () => new SmallNet()],
];
const inputShape = [1, 4, 4];

/** Weights of an int8 model as floats, by the names of what they came from. */
function storedWeights({ initializers }: OnnxModel): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  for (const [name, source] of initializers) {
    const [, weight] = /^(.*)\.int8$/.exec(name) ?? [];
    if (weight === undefined) continue;
    const scales = initializers.get(`${weight}.weight_scale`)!.readSync().toFloat64();
    const rows = source.shape[0];
    const perRow = source.readSync().size / rows;
    const values = source
      .readSync()
      .toFloat64()
      .map((q, i) => Math.fround(q * scales[Math.floor(i / perRow)]));
    found.set(weight, Tensor.float32([rows, perRow], values));
  }
  return found;
}

/** What a training step without a learning rate computes with, by the layer of the convolution. */
async function kernelsOfStep(net: QuantizedNet): Promise<Tensor[]> {
  const shape = [12, ...inputShape];
  const graph = trainStep(net.train(), { inputShape: shape, optimizer: library.sgd({ momentum: 0 }) });
  const kernels: Record<string, Value> = {};
  for (const { op, inputs } of reachable([graph.outputs.output]))
    if (op.name === "conv2d" || op.name === "linear") kernels[`kernel:${Object.keys(kernels).length}`] = inputs[1];
  const program = await compileStep({ ...graph, outputs: { ...graph.outputs, ...kernels } }, { threads: 1 });
  const { images, labels } = await base.data.train.batch(Array.from({ length: 12 }, (_, i) => i));
  const made = await program.step({
    input: images,
    targets: library.oneHotTargets(labels, 3),
    "scalar:lr": Tensor.float32([1], [0]),
  });
  await program.dispose();
  return Object.keys(kernels).map((name) => made[name]);
}

const trained = async (
  net: Net,
  options: Partial<QuantizationAwareOptions> = {},
  epochs = 3,
): Promise<QuantizedNet> => {
  const quantized = new QuantizedNet(net, { inputShape, ...options });
  quantized.initialize(3);
  await calibrateQuantizedNet(quantized, [(await base.data.train.batch([0, 1, 2, 3, 4, 5])).images]);
  await new Trainer(quantized, { ...base, epochs, lr: 0.05 }).run();
  return quantized;
};

describe.each(nets)("training with fake quantization: %s", (_, make) => {
  test.each([
    { activations: "average", weights: "largest", target: "portable" },
    { activations: "learned", weights: "learned", target: "vnni" },
  ] as const)("the file holds the kernels of the last step, bit for bit: $activations, $weights", async (options) => {
    const net = await trained(make(), options);
    const { model, layers, sqnr } = await exportQuantized(net);
    const stored = [...storedWeights(model).values()];
    const kernels = await kernelsOfStep(net);
    // Grouped layers lie in the file in parts; here all have one group, or are convolutions.
    expect(layers.length).toBe(kernels.length);
    for (const kernel of kernels) {
      const differences = stored
        .filter((w) => w.size === kernel.size)
        .map((w) => w.toFloat64().filter((v, i) => v !== kernel.data[i]).length);
      expect(Math.min(...differences)).toBe(0);
    }
    expect(sqnr).toBeGreaterThan(25);
  });
});

test("what is merged in floats is near what was trained, and the branches have learned", async () => {
  const net = convNet();
  const before = new Map([...withRandomState(net, 1).state()].map(([key, p]) => [key, p.data.clone()]));
  const quantized = new QuantizedNet(net, { inputShape, target: "vnni" });
  const { history } = await new Trainer(quantized, { ...base, epochs: 6, lr: 0.05 }).run();
  expect(history.at(-1)!.trainLoss).toBeLessThan(history[0].trainLoss);
  for (const key of ["0.rbr_1x1.conv.weight", "1.rbr_dense.bn.weight"])
    expect(net.stateDict().get(key)!.readSync().data).not.toEqual(before.get(key)!.data);
  const { images } = await base.data.validation.batch([0, 1, 2, 3, 4, 5]);
  // Ranges of so short a run lag behind.
  await calibrateQuantizedNet(quantized, [images]);
  const run = async (model: Net): Promise<Tensor> => {
    const predictor = await Predictor.create(model.eval(), { inputShape, batchSize: 6 });
    return predictor.run(images).finally(() => predictor.dispose());
  };
  expect(relativeError(await run(convertToDeploy(net.eval())), await run(quantized))).toBeLessThan(0.1);
});

test("batch norms and ranges stay from their shares of the run on", async () => {
  const net = new QuantizedNet(convNet(), { inputShape, freezeBatchNorm: 0.25, freezeObservers: 0.5 });
  const key = { norm: "0.rbr_dense.bn.running_mean", range: "quantize.activations.0.max" };
  const seen: number[][] = [];
  const own = new Map(net.state());
  for (const [share, epochs] of [
    [0.2, 1],
    [0.4, 1],
    [0.9, 1],
  ] as const) {
    Object.assign(net, { atProgress: (_: number) => QuantizedNet.prototype.atProgress.call(net, share) });
    await new Trainer(net, { ...base, epochs }).run();
    seen.push([key.norm, key.range].map((name) => Number(own.get(name)!.data.data[0])));
  }
  const [[normA, rangeA], [normB, rangeB], [normC, rangeC]] = seen;
  expect(normA).not.toBe(0);
  expect(normB).toBe(normA);
  expect(rangeB).not.toBe(rangeA);
  expect([normC, rangeC]).toEqual([normB, rangeB]);
});

test("a run that is stopped and resumed gives the same bits, across a change of stage", async () => {
  const run = async (stopAt?: number) => {
    const folder = mkdtempSync(join(tmpdir(), "qat-"));
    const store = folderStore(folder);
    const begin = (signal?: AbortSignal, resume = false) => {
      const net = new QuantizedNet(convNet(), { inputShape });
      return { net, trainer: new Trainer(net, { ...base, store, resume, ...(signal && { signal }), onEvent }) };
    };
    const stop = new AbortController();
    const onEvent: library.TrainingCallback = (event) => {
      if (event.type === "step" && event.step === stopAt) stop.abort();
    };
    const first = begin(stop.signal);
    await first.trainer.run();
    if (stopAt === undefined) return first.net;
    const second = begin(undefined, true);
    await second.trainer.run();
    return second.net;
  };
  const [whole, resumed] = [await run(), await run(4)];
  for (const [key, p] of whole.state()) expect(resumed.stateDict().get(key)!.readSync().data, key).toEqual(p.data.data);
});

test("every block of the family is trained by its equivalent kernel, and exported", { timeout: 120_000 }, async () => {
  for (const [name, [config]] of Object.entries(configsByBlock)) {
    const [, ...shape] = config.shape;
    const block = withRandomState(config.build(), 2).eval();
    let net: QuantizedNet;
    try {
      net = new QuantizedNet(block, { inputShape: shape, target: "vnni" });
    } catch (error) {
      // Blocks whose convolutions are all computed otherwise.
      expect((error as Error).message, name).toMatch(/no convolution and no fully connected/);
      continue;
    }
    const images = randomTensor([3, ...shape], name);
    await calibrateQuantizedNet(net, [images], { threads: 1 });
    const { sqnr } = await exportQuantized(net, { compareOn: images, compile: { threads: 1 } });
    expect(sqnr, name).toBeGreaterThan(20);
  }
});

describe("batch norms inserted into a merged network", () => {
  const cases: readonly (readonly [string, () => Net, (merged: Net) => Net, number])[] = [
    ["behind each convolution", convNet, insertBatchNorms, 3],
    ["behind FC3 alone", () => new SmallNet(), withFc3BatchNorm, 1],
    ["behind FC3 as behind any convolution", () => new SmallNet(), insertBatchNorms, 1],
  ];
  test.each(cases)("%s change no output, know their inputs, and are merged again", async (_, make, insert, count) => {
    const merged = convertToDeploy(withRandomState(make(), 4).eval());
    const tunable = insert(merged);
    const { images } = await base.data.train.batch(Array.from({ length: 24 }, (_, i) => i));
    expect(await startInsertedNorms(tunable, [images, images])).toBe(count);
    expect(await startInsertedNorms(tunable, [images])).toBe(0);
    const run = async (model: Net): Promise<Tensor> => {
      const predictor = await Predictor.create(model.eval(), { inputShape, batchSize: 24 });
      return predictor.run(images).finally(() => predictor.dispose());
    };
    const exact = await run(merged);
    expect(relativeError(exact, await run(tunable))).toBeLessThan(1e-5);
    expect(relativeError(exact, await run(convertToDeploy(tunable)))).toBeLessThan(1e-5);
    expect([...convertToDeploy(tunable).stateDict().keys()]).toEqual([...merged.stateDict().keys()]);
    const norms = [...tunable.modules()].flatMap(([, m]) => (m instanceof NormedConv ? [m.bn] : []));
    for (const { runningVar } of norms) expect(runningVar.data.data[0]).not.toBe(1);
    const quantized = await trained(tunable, { target: "vnni" }, 2);
    const { sqnr } = await exportQuantized(quantized);
    expect(sqnr).toBeGreaterThan(20);
  });
});

describe("what cannot be trained so is an error that says why", () => {
  const small = (options: Partial<QuantizationAwareOptions>): QuantizedNet =>
    new QuantizedNet(convNet(), { inputShape, ...options });
  test.each([
    ["a pattern that fits nothing", () => small({ keepFloat: ["head.*"] }), /keepFloat "head.\*" fits no parameter/],
    ["a share above 1", () => small({ freezeObservers: 2 }), /freezeObservers is a share of the run/],
    ["nothing left", () => small({ keepFloat: ["*"] }), /no convolution and no fully connected layer/],
    ["nothing merged", () => insertBatchNorms(convNet()), /no merged convolution/],
  ])("%s", (_, make, message) => {
    expect(make).toThrow(message);
  });

  test("nothing seen", async () => {
    await expect(exportQuantized(small({}).eval())).rejects.toThrow(/nothing has been seen of the activation/);
  });

  test("no calibration data", async () => {
    await expect(calibrateQuantizedNet(small({}), [])).rejects.toThrow(/no calibration data/);
  });
});
