import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { Comparison } from "../../src/inference/index.ts";
import {
  type CalibratorName,
  calibrators,
  compileModel,
  createModel,
  exportOnnx,
  type Feeds,
  openClassifier,
  openOnnx,
  type QuantizationTargetName,
  quantizeFile,
  quantizeOnnx,
  rng,
  runTest,
  saveCheckpointFile,
  saveOnnx,
  Tensor,
} from "../../src/node.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import { Builder, operatorsOf } from "../convert/onnx-models.ts";
import { quantizable } from "./support.ts";

const inputShape = [4, 3, 12, 12] as const;
const random = rng(5, "calibration");
const feeds: readonly Feeds[] = Array.from({ length: 4 }, () => ({
  x: Tensor.float32(
    inputShape,
    Float64Array.from({ length: 4 * 3 * 12 * 12 }, () => random.normal()),
  ),
}));

const network = (options: { readonly opset?: number } = {}): OnnxModel => quantizable(inputShape, options);

async function outputOf(model: OnnxModel, input: Feeds): Promise<Tensor> {
  await using program = await compileModel(model, { threads: 1 });
  return Object.values(await program.run(input))[0];
}

const integersOf = ({ initializers }: OnnxModel, dtype: string): Tensor[] =>
  [...initializers].flatMap(([name, t]) => (t.dtype === dtype && !/zero_point/.test(name) ? [t.readSync()] : []));

describe("a quantized model", () => {
  const limits = { portable: 64, vnni: 127, arm: 127 } as const;

  test.each(Object.keys(limits) as QuantizationTargetName[])("for %s has weights in its range", async (target) => {
    const { model, layers, kept, notes } = await quantizeOnnx(network(), feeds, { target, calibrator: "minmax" });
    expect({ layers: layers.length, kept, notes }).toEqual({ layers: 5, kept: [], notes: [] });
    expect(operatorsOf(model)).toMatchObject({ Conv: 4, Gemm: 1, Add: 1 });
    expect(operatorsOf(model).BatchNormalization).toBeUndefined();
    const weights = integersOf(model, "int8");
    expect(weights).toHaveLength(5);
    for (const weight of weights) expect(Math.max(...weight.toFloat64().map(Math.abs))).toBe(limits[target]);
    const zeros = [...model.initializers].filter(([name]) => name.endsWith(".zero_point"));
    for (const [, { dtype }] of zeros) expect(dtype).toBe(target === "arm" ? "int8" : "uint8");
  });

  test.each([...(Object.keys(calibrators) as CalibratorName[]), "auto"] as const)(
    "by %s says nearly what the float model says, on data it was not calibrated with",
    async (calibrator) => {
      const { model, sqnr, tensors } = await quantizeOnnx(network(), feeds.slice(1), { calibrator });
      const [exact, made] = await Promise.all([outputOf(network(), feeds[0]), outputOf(model, feeds[0])]);
      const { maxRel } = new Comparison().add(exact.toFloat64(), made.toFloat64());
      expect(maxRel).toBeLessThan(0.1);
      expect(sqnr).toBeGreaterThan(25);
      if (calibrator !== "auto") expect(new Set(tensors.map((t) => t.calibrator))).toEqual(new Set([calibrator]));
    },
  );

  test("auto is no worse than each calibrator on the sample it looks at", async () => {
    const auto = await quantizeOnnx(network(), feeds, { calibrator: "auto", target: "arm" });
    for (const calibrator of Object.keys(calibrators) as CalibratorName[]) {
      const { sqnr } = await quantizeOnnx(network(), feeds, { calibrator, target: "arm" });
      // The choice is made on rounded weights of the first ranges, and without int32 biases.
      expect(auto.sqnr).toBeGreaterThan(sqnr - 0.5);
    }
  });

  test("pooling and flattening keep the scale of what they read", async () => {
    const { model, tensors } = await quantizeOnnx(network(), feeds, { calibrator: "minmax" });
    const makerOf = new Map(model.nodes.map((node) => [node.outputs[0], node]));
    const scaleOf = new Map(
      model.nodes.filter(({ opType }) => opType === "QuantizeLinear").map(({ inputs }) => [inputs[0], inputs[1]]),
    );
    const pool = model.nodes.find(({ opType }) => opType === "MaxPool")!;
    const read = makerOf.get(makerOf.get(pool.inputs[0])!.inputs[0])!.inputs[0];
    expect(scaleOf.get(pool.outputs[0])).toBe(scaleOf.get(read));
    expect(tensors.some(({ name }) => name === pool.outputs[0])).toBe(false);
  });

  test("keeps in float what is asked for", async () => {
    const source = network();
    const [first] = source.nodes.filter(({ opType }) => opType === "Gemm");
    const { kept, model } = await quantizeOnnx(source, feeds, { calibrator: "minmax", keepFloat: [first.name] });
    expect(kept).toEqual([{ name: first.name, operator: "Gemm", reason: "asked for" }]);
    expect(integersOf(model, "int8")).toHaveLength(4);
  });

  test("equalisation changes the ranges, not what the model says", async () => {
    const plain = await quantizeOnnx(network(), feeds, { calibrator: "minmax" });
    const even = await quantizeOnnx(network(), feeds, { calibrator: "minmax", equalize: true });
    expect(even.tensors.map(({ max }) => max)).not.toEqual(plain.tensors.map(({ max }) => max));
    expect(even.sqnr).toBeGreaterThan(25);
  });

  test("a corrected bias brings the mean of the outputs nearer", async () => {
    const b = new Builder(9, [...inputShape]);
    const conv = b.conv("x", [3, 8], [1, 1], { bias: true });
    const source = b.model([
      b.node("Conv", [b.node("Relu", [conv]), b.constant([4, 8, 1, 1], () => 0.3), b.constant([4])]),
    ]);
    const meanError = async (biasCorrection: boolean): Promise<number> => {
      const { model } = await quantizeOnnx(source, feeds, { calibrator: "minmax", biasCorrection });
      let sum = 0;
      for (const feed of feeds) {
        const [exact, made] = [await outputOf(source, feed), await outputOf(model, feed)].map((t) => t.toFloat64());
        for (const [i, v] of exact.entries()) sum += made[i] - v;
      }
      return Math.abs(sum);
    };
    expect(await meanError(true)).toBeLessThan(await meanError(false));
  });

  test("one scale for a whole weight is the largest of its channels", async () => {
    const { model } = await quantizeOnnx(network(), feeds, { calibrator: "minmax", perChannel: false });
    const scales = [...model.initializers].filter(([name]) => name.endsWith(".weight_scale"));
    expect(scales).toHaveLength(5);
    for (const [, source] of scales) expect(new Set(source.readSync().toFloat64()).size).toBe(1);
  });

  test("a channel without weights keeps its bias", async () => {
    const b = new Builder(4, [...inputShape]);
    let i = 0;
    const weight = b.constant([4, 3, 1, 1], () => (i++ < 3 ? 0 : 0.5));
    const source = b.model([b.node("Conv", ["x", weight, b.constant([4], () => 0.123)])]);
    const { model } = await quantizeOnnx(source, feeds, { calibrator: "minmax" });
    const [int32] = integersOf(model, "int32");
    const scale = [...model.initializers].find(([name]) => name.endsWith(".bias_scale"))![1].readSync();
    expect(int32.toFloat64()[0] * scale.toFloat64()[0]).toBeCloseTo(0.123, 6);
  });
});

describe("what cannot be quantized is an error that says why", () => {
  const changed = (change: (model: OnnxModel) => Partial<OnnxModel>): OnnxModel => {
    const model = network();
    return { ...model, ...change(model) };
  };
  const withNode = (opType: string, attrs: OnnxModel["nodes"][number]["attrs"] = {}): OnnxModel =>
    changed(({ nodes }) => ({
      nodes: [...nodes, { opType, inputs: [nodes[0].outputs[0]], outputs: ["more"], name: "more", attrs }],
    }));
  test.each<[string, () => OnnxModel, string]>([
    ["a quantized model", () => withNode("QuantizeLinear"), "is quantized already (QuantizeLinear more)"],
    ["control flow", () => withNode("If"), "If more decides at run time"],
    ["training mode", () => withNode("BatchNormalization", { training_mode: 1 }), "is in training mode"],
    ["an old operator set", () => network({ opset: 12 }), "operator set 12 has no scale per channel"],
    ["no layers", () => new Builder().model(["x"]), "there is nothing to quantize"],
  ])("%s", async (_, model, message) => {
    await expect(quantizeOnnx(model(), feeds, { name: "net.onnx" })).rejects.toThrow(`net.onnx: `);
    await expect(quantizeOnnx(model(), feeds)).rejects.toThrow(message);
  });

  test("no data", () => expect(quantizeOnnx(network(), [])).rejects.toThrow("there is no calibration data"));

  test("a name that no layer has", () =>
    expect(quantizeOnnx(network(), feeds, { keepFloat: ["Gem"] })).rejects.toThrow(
      /is called "Gem"; near are .* Give the name of a node, its output or its weight/,
    ));

  test("activations that are NaN, by the name of the value", async () => {
    const b = new Builder(2, [...inputShape]);
    const log = b.node("Log", ["x"]);
    const model = b.model([b.conv(log, [3, 4], [1, 1])]);
    await expect(quantizeOnnx(model, feeds)).rejects.toThrow(`the value "${log}" holds NaN`);
  });

  test("activations that never change are noted", async () => {
    const b = new Builder(2, [...inputShape]);
    const dead = b.node("Relu", [b.node("Sub", [b.node("Sub", ["x", "x"]), b.constant([1], () => 1)])]);
    const { notes } = await quantizeOnnx(b.model([b.conv(dead, [3, 4], [1, 1])]), feeds, { calibrator: "mse" });
    expect(notes[0]).toBe(`${dead} (0) has one value on all calibration data: a dead layer, or too little data`);
  });
});

describe("files", () => {
  const folder = mkdtempSync(join(tmpdir(), "repmlp-quantize-"));
  const at = (...parts: string[]): string => join(folder, ...parts);
  /** Grey pictures of 28 x 28, in the format that needs no encoder. */
  const picture = (seed: number): Buffer => {
    const source = rng(seed, "picture");
    return Buffer.concat([
      Buffer.from("P5 28 28 255\n"),
      Buffer.from(Array.from({ length: 784 }, () => 256 * source.next())),
    ]);
  };

  beforeAll(async () => {
    for (const [c, name] of ["a", "b"].entries()) {
      mkdirSync(at("pictures", "val", name), { recursive: true });
      for (let i = 0; i < 10; i++) writeFileSync(at("pictures", "val", name, `${i}.pgm`), picture(10 * c + i));
    }
    writeFileSync(at("pictures", "val", "a", "broken.png"), "no picture");
    mkdirSync(at("none"));
    mkdirSync(at("broken"));
    writeFileSync(at("broken", "one.png"), "no picture");
    const net = createModel("RepMLP-Mixer-28", { numClasses: 2 }).initialize(3);
    await saveCheckpointFile(at("train.safetensors"), net.stateDict());
  });

  test("a training checkpoint becomes an int8 file that is tested and predicts like any other", async () => {
    const unreadable: string[] = [];
    const options = { calib: at("pictures"), calibrator: "mse", arch: "RepMLP-Mixer-28" } as const;
    const result = await quantizeFile(at("train.safetensors"), at("int8.onnx"), {
      ...options,
      onUnreadable: (error) => unreadable.push(error.message),
    });
    expect(result.samples).toBe(20);
    expect(result.unreadable).toHaveLength(1);
    expect(unreadable[0]).toContain("broken.png");
    expect(result.bytes[1]).toBeLessThan(0.5 * result.bytes[0]);
    const classifier = await openClassifier(at("int8.onnx"));
    expect(classifier).toMatchObject({ dtype: "int8", form: "deploy", classes: 2 });
    const test = { data: at("pictures"), form: "deploy", workers: 0 } as const;
    const record = await runTest({ ...test, weights: at("int8.onnx"), onUnreadable: () => {} });
    expect(record.counts.total).toBe(20);
    await expect(quantizeFile(at("int8.onnx"), at("twice.onnx"), options)).rejects.toThrow("is quantized already");
  });

  test("a report tests both models on labelled pictures", async () => {
    const settings = { calibrator: "minmax", arch: "RepMLP-Mixer-28", report: at("report.html") } as const;
    const tested = async (weights: string, form: "train" | "deploy"): Promise<number> => {
      const record = await runTest({ data: at("pictures"), form, workers: 0, weights, onUnreadable: () => {} });
      return record.counts.correct;
    };
    const val = at("pictures", "val");
    const asked = await quantizeFile(at("train.safetensors"), at("r.onnx"), { ...settings, calib: val, eval: val });
    expect(asked.accuracy).toEqual({
      ...{ folder: val, total: 20 },
      float: await tested(at("train.safetensors"), "train"),
      integers: await tested(at("r.onnx"), "deploy"),
    });
    expect(readFileSync(at("report.html"), "utf8")).toContain(`correct of 20 pictures of ${val}`);
    // Without class names in the file nothing says that the folders are its classes.
    const unnamed = await quantizeFile(at("train.safetensors"), at("r.onnx"), { ...settings, calib: val });
    expect(unnamed.accuracy).toBeUndefined();
    const labelled = await openOnnx(at("r.onnx"));
    expect(labelled.metadata?.labels).toBeUndefined();
    const net = createModel("RepMLP-Mixer-28", { numClasses: 2 }).initialize(1).eval();
    const labels = readdirSync(val).sort();
    const metadata = {
      labels,
      preprocessing: { inputSize: [1, 28, 28], resize: 28, mean: [0.5], std: [0.5] },
    } as const;
    const { model } = await exportOnnx(net, { inputShape: [1, 28, 28], metadata });
    await saveOnnx(at("named.onnx"), model);
    const { arch: _, ...rest } = settings;
    const named = await quantizeFile(at("named.onnx"), at("n.onnx"), { ...rest, calib: val });
    expect(named.accuracy?.total).toBe(20);
    await expect(
      quantizeFile(at("named.onnx"), at("n.onnx"), { ...rest, calib: val, eval: at("pictures") }),
    ).rejects.toThrow("is none of the 2 classes");
    const { report: __, ...without } = rest;
    await expect(quantizeFile(at("named.onnx"), at("n.onnx"), { ...without, calib: val, eval: val })).rejects.toThrow(
      "is for a report. Say where to write it with --report.",
    );
  });

  test.each([
    ["a folder without pictures", "none", "holds no pictures to calibrate with"],
    ["a folder that is not there", "nowhere", "the folder cannot be read"],
    ["pictures that cannot be read", "broken", "none of 1 pictures can be read"],
  ])("%s is an error", async (_, name, message) => {
    const options = { calib: at(name), arch: "RepMLP-Mixer-28" };
    await expect(quantizeFile(at("train.safetensors"), at("x.onnx"), options)).rejects.toThrow(message);
  });

  test("pictures that are all the same are told of, and a model in the place of statistics is refused", async () => {
    mkdirSync(at("alike"));
    for (let i = 0; i < 3; i++) writeFileSync(at("alike", `${i}.pgm`), picture(1));
    const options = { arch: "RepMLP-Mixer-28", calibrator: "minmax" } as const;
    const { notes } = await quantizeFile(at("train.safetensors"), at("x.onnx"), { ...options, calib: at("alike") });
    expect(notes[0]).toBe(`${at("alike")}: all 3 pictures are the same, which says nothing of others`);
    await expect(
      quantizeFile(at("train.safetensors"), at("y.onnx"), { ...options, stats: at("x.onnx") }),
    ).rejects.toThrow("x.onnx: is a model and holds no calibration statistics. Give what `saveStats` wrote.");
  });

  test("an ONNX file that does not say how pictures are prepared needs to be told", async () => {
    await saveOnnx(at("foreign.onnx"), network());
    const options = { calib: at("pictures"), calibrator: "minmax", keepFloat: [] } as const;
    await expect(quantizeFile(at("foreign.onnx"), at("y.onnx"), options)).rejects.toThrow(
      "does not say how pictures are prepared",
    );
    const normalization = { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] };
    const { samples, preprocessing } = await quantizeFile(at("foreign.onnx"), at("y.onnx"), {
      ...options,
      ...normalization,
    });
    // Four at a time, as its input says.
    expect(samples).toBe(20);
    expect(preprocessing).toEqual({ inputSize: [3, 12, 12], resize: 12, ...normalization });
    // A model that was read with all that its file says is no other.
    const kept = await openOnnx(at("foreign.onnx"), { keep: true });
    expect((await quantizeOnnx(kept, feeds, { calibrator: "minmax" })).layers).toHaveLength(5);
    expect((await openOnnx(at("y.onnx"))).metadata).toMatchObject({ dtype: "int8" });
  });
});
