import { mkdtemp, readdir, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkExport } from "../../src/export/check.ts";
import { exportOnnx, onnxWeights, openBatch } from "../../src/export/index.ts";
import { expand, type Value } from "../../src/graph/index.ts";
import { Predictor, randomInputs, readMetadata } from "../../src/inference/index.ts";
import { openOnnx, saveOnnx } from "../../src/inference/node/index.ts";
import { Module, type Net } from "../../src/nn/index.ts";
import type { OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import { deployForm } from "../../src/reparam/index.ts";
import { compileModel } from "../../src/runtime/index.ts";
import { type Shape, Tensor } from "../../src/tensor/index.ts";
import "../../src/node.ts";
import { smallMixer, smallResnet } from "./nets.ts";

const mlp = smallMixer();
const light = smallResnet("light");
const bottleneck = smallResnet("bottleneck");
const GREY: Shape = [1, 28, 28];
const RGB: Shape = [3, 32, 32];

/** Logits of a static graph of the network itself, made for this batch size. */
async function staticLogits(net: Net, inputs: Tensor): Promise<Float32Array> {
  const predictor = await Predictor.create(net, { inputShape: inputs.shape.slice(1), batchSize: inputs.shape[0] });
  const { data } = await predictor.run(inputs);
  await predictor.dispose();
  return data as Float32Array;
}

function largestDifference(a: Float32Array, b: Float32Array): { difference: number; scale: number } {
  expect(a.length).toBe(b.length);
  let difference = 0;
  let scale = 0;
  for (const [i, v] of a.entries()) {
    difference = Math.max(difference, Math.abs(v - b[i]));
    scale = Math.max(scale, Math.abs(b[i]));
  }
  return { difference, scale };
}

describe("one graph for every batch size", () => {
  test.for([
    { name: "pure MLP", net: mlp, shape: GREY },
    { name: "light blocks", net: light, shape: RGB },
    { name: "bottleneck blocks", net: bottleneck, shape: RGB },
    { name: "light blocks, branches kept", net: light, shape: RGB, keepBranches: true },
  ])("$name: equals the static graphs at 1, 4 and 7", async ({ net, shape, keepBranches = false }) => {
    const { model, left } = await exportOnnx(net, { inputShape: shape, keepBranches, check: false });
    expect(left > 0).toBe(keepBranches);
    expect(model.inputs).toEqual([{ name: "pixel_values", dtype: "float32", shape: ["batch", ...shape] }]);
    expect(model.outputs[0]).toMatchObject({ name: "logits", dtype: "float32", shape: ["batch", expect.any(Number)] });
    const program = await compileModel(model);
    for (const batch of [1, 4, 7]) {
      const inputs = randomInputs(shape, batch, batch);
      const { logits } = await program.run({ pixel_values: inputs });
      const { difference, scale } = largestDifference(logits.data as Float32Array, await staticLogits(net, inputs));
      expect(difference / scale, `batch ${batch}`).toBeLessThan(1e-5);
    }
    await program.dispose();
  });

  test("sizes that depend on the batch are named", async () => {
    const { model } = await exportOnnx(mlp, { inputShape: GREY, check: false });
    const open = new Set(model.valueInfo!.flatMap(({ shape }) => shape!.filter((d) => typeof d === "string")));
    expect([...open].every((d) => /^(\d+\*)?batch$/.test(`${d}`))).toBe(true);
    // 16 and 4 partitions per picture.
    expect([...open]).toEqual(expect.arrayContaining(["batch", "4*batch", "16*batch"]));
  });

  test("a graph that depends on it otherwise is refused by name", async () => {
    class Spread extends Module {
      forward(x: Value): Value {
        return expand(x, [x.shape[0], x.shape[0]]);
      }
    }
    const net = new Spread().eval();
    await expect(exportOnnx(net, { inputShape: [1], check: false })).rejects.toThrow(
      /the batch size cannot be left open: constant input 1 of Expand node \S+ depends on the batch size/,
    );
    const fixed = await exportOnnx(net, { inputShape: [1], batch: 3, check: false });
    expect(fixed.model.outputs[0].shape).toEqual([3, 3]);
  });

  test("of several open sizes in one reshape, one may be inferred", () => {
    const at = (batch: number, target: readonly number[]): OnnxModel => ({
      nodes: [{ opType: "Reshape", inputs: ["x", "s"], outputs: ["y"], name: "r", attrs: {} }],
      inputs: [{ name: "x", dtype: "float32", shape: [batch, 6, batch] }],
      outputs: [{ name: "y", dtype: "float32", shape: target }],
      initializers: new Map([["s", Tensor.of("int64", [target.length], target)]]),
      opset: 17,
    });
    const opened = openBatch({ model: at(5, [5, 2, 15]), batch: 5 }, { model: at(7, [7, 2, 21]), batch: 7 });
    const [, target] = opened.nodes[0].inputs;
    expect([...opened.initializers.get(target)!.readSync().data]).toEqual([0n, 2n, -1n]);
    expect(opened.outputs[0].shape).toEqual(["batch", 2, "3*batch"]);
  });
});

describe("what is written", () => {
  test.for([18, 20, 23])("operator set %i runs and is checked", async (opset) => {
    const { model, check } = await exportOnnx(light, { inputShape: RGB, opset });
    expect(model.opset).toBe(opset);
    expect(check!.batches).toEqual([1, 2]);
    expect(check!.maxAbsDiff / check!.scale).toBeLessThan(1e-5);
  });

  test.for([16, 24, 17.5])("operator set %d is refused", async (opset) => {
    await expect(exportOnnx(mlp, { inputShape: GREY, opset })).rejects.toThrow(
      `export: opset must be 17 to 23, got ${opset}`,
    );
  });

  test("float16 inside, float32 at both ends", async () => {
    const { model, check } = await exportOnnx(bottleneck, { inputShape: RGB, dtype: "float16" });
    expect([model.inputs[0].dtype, model.outputs[0].dtype]).toEqual(["float32", "float32"]);
    const types = new Set([...model.initializers.values()].map(({ dtype }) => dtype));
    expect(types).toEqual(new Set(["float16", "int64"]));
    expect(check!.maxAbsDiff / check!.scale).toBeLessThan(5e-3);
  });

  test("parameters keep their names, blocks are merged and counted", async () => {
    const { model, blocks, left } = await exportOnnx(light, { inputShape: RGB, check: false });
    expect(left).toBe(0);
    expect(blocks.filter(({ merged, block }) => merged && block === "RepMLP")).toHaveLength(2);
    // FC3 is written group by group, as rows of the parameter, and so is a convolution on a single pixel; their biases
    // are added afterwards.
    const keys = [...deployForm(light).state()].map(([key]) => key);
    const plain = keys.filter((key) => !key.includes(".fc3.") && key !== "stage4.0.conv3.conv.bias");
    expect([...model.initializers.keys()]).toEqual(expect.arrayContaining(plain));
    const isBiased = ({ opType, inputs }: OnnxNode): boolean => opType !== "Conv" || inputs.length === 3;
    expect(model.nodes.every(isBiased)).toBe(true);
    expect([...model.initializers.keys()].filter((name) => name.includes("fc3.weight[")).length).toBeGreaterThan(1);
    expect(model.nodes.some(({ opType }) => opType === "BatchNormalization")).toBe(false);
  });

  test("the weights of a written file make a checkpoint again", async () => {
    const { model } = await exportOnnx(mlp, { inputShape: GREY, check: false });
    const deploy = deployForm(mlp);
    const shapes = new Map([...deploy.state()].map(([key, { shape }]) => [key, shape]));
    const weights = onnxWeights(model, shapes);
    expect([...weights.keys()]).toEqual([...shapes.keys()]);
    for (const [key, p] of deploy.state()) {
      expect(weights.get(key)!.shape).toEqual(p.shape);
      expect(weights.get(key)!.readSync().data).toEqual(p.source().readSync().data);
    }
    deploy.loadStateDict(weights);
  });

  test("of a parameter in pieces with a gap nothing is made up", () => {
    const rows = Tensor.zeros("float32", [2, 3]);
    const initializers = new Map([
      ["w[0:2]", rows],
      ["w[3:5]_1", rows],
      ["v[0:2]_7", rows],
      ["v[2:4]", rows],
    ]);
    expect([...onnxWeights({ initializers })].map(([key, { shape }]) => [key, shape])).toEqual([["v", [4, 3]]]);
  });

  test("a merged network has nothing left to merge", async () => {
    const { blocks, left } = await exportOnnx(deployForm(mlp), { inputShape: GREY, check: false });
    expect(left).toBe(0);
    expect(blocks.every(({ merged }) => !merged)).toBe(true);
  });

  test("training mode is refused", async () => {
    await expect(exportOnnx(smallMixer().train(), { inputShape: GREY })).rejects.toThrow(/Call model\.eval\(\) first/);
  });

  test("a graph that computes something else is noticed", async () => {
    const { model } = await exportOnnx(mlp, { inputShape: GREY, check: false });
    const name = "fc1.conv.weight";
    const weight = model.initializers.get(name)!.readSync();
    const wrong = Tensor.float32(
      weight.shape,
      Float32Array.from(weight.data as Float32Array, (v) => v * 1.01),
    );
    const graph = { ...model, initializers: new Map(model.initializers).set(name, wrong) };
    await expect(checkExport(mlp, graph, { inputShape: GREY, batch: "dynamic", dtype: "float32" })).rejects.toThrow(
      /export: the exported model differs from the network by \S+ with logits up to/,
    );
  });
});

describe("files", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "repmlp-export-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const preprocessing = {
    inputSize: [1, 28, 28] as const,
    resize: 28,
    cropMode: "center" as const,
    interpolation: "bilinear" as const,
    mean: [0.28604],
    std: [0.35302],
  };

  test.for([
    { external: false, files: ["whole.onnx"] },
    { external: true, files: ["apart.onnx", "apart.onnx_data"] },
  ])("external $external: runs from its path, says what it is", async ({ external, files }) => {
    const labels = Array.from({ length: 10 }, (_, i) => `Klasse ${i}, "${i}"`);
    const source = { name: "mixer.pth", sha256: "ab".repeat(32) };
    const { model, check } = await exportOnnx(mlp, {
      inputShape: GREY,
      metadata: { arch: "RepMLP-Mixer-28", preprocessing, labels, source, extra: { note: "ü" } },
    });
    const path = join(folder, files[0]);
    const saved = await saveOnnx(path, model, { external });
    expect(saved.paths).toEqual(files.map((file) => join(folder, file)));
    expect(await readdir(folder)).toEqual(expect.arrayContaining(files));
    const inputs = randomInputs(GREY, 3);
    const session = await InferenceSession.create(path);
    const feed = new OrtTensor("float32", inputs.data as Float32Array, inputs.shape);
    const { logits } = await session.run({ pixel_values: feed });
    const { difference, scale } = largestDifference(logits.data as Float32Array, await staticLogits(mlp, inputs));
    expect(difference / scale).toBeLessThan(1e-5);
    const again = await openOnnx(path);
    expect(readMetadata(again, path)).toEqual({
      arch: "RepMLP-Mixer-28",
      form: "deploy",
      dtype: "float32",
      preprocessing,
      labels,
      source,
      checkMaxAbsDiff: Number(check!.maxAbsDiff.toExponential(3)),
      extra: { note: "ü" },
    });
    expect([...again.initializers.get("fc0.conv.weight")!.readSync().data]).toEqual([
      ...model.initializers.get("fc0.conv.weight")!.readSync().data,
    ]);
  });

  test("weights that are cut short are noticed on opening", async () => {
    const { model } = await exportOnnx(mlp, { inputShape: GREY, check: false });
    const path = join(folder, "cut.onnx");
    const [, data] = (await saveOnnx(path, model, { external: true })).paths;
    await truncate(data, 1000);
    await expect(openOnnx(path)).rejects.toThrow(/cut\.onnx_data: is 1000 bytes long, .* expects \d+ at \d+/);
  });

  test.for([
    ["preprocessing", '{"inputSize":[1,28]}'],
    ["labels", "[1,2]"],
    ["labels", "{"],
  ])("unusable metadata %s is refused", ([key, value]) => {
    expect(() => readMetadata({ metadata: { [key]: value } }, "m.onnx")).toThrow(
      `m.onnx: the metadata "${key}" is not usable`,
    );
  });
});
