import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { run } from "../../src/cli/commands/quantize.ts";
import type { Io } from "../../src/cli/io.ts";
import { commands } from "../../src/cli/table.ts";
import {
  blockwise,
  CalibrationStatistics,
  calibrationStatistics,
  compileModel,
  createModel,
  type Feeds,
  inspectQuantized,
  openCheckpointFile,
  openOnnx,
  type QuantizationTargetName,
  quantizationReport,
  quantizeFile,
  quantizeOnnx,
  quantizeWeights,
  quantizeWeightsFile,
  raiseOpset,
  reportPage,
  rng,
  saveCheckpointFile,
  saveOnnx,
  splitOutliers,
  Tensor,
} from "../../src/node.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import { Builder, operatorsOf } from "../convert/onnx-models.ts";
import { relativeError } from "../reparam/support.ts";

const random = rng(7, "choices");
const feeds: readonly Feeds[] = Array.from({ length: 4 }, () => ({
  x: Tensor.float32(
    [4, 3, 8, 8],
    Float64Array.from({ length: 768 }, () => random.normal()),
  ),
}));

/** Three convolutions, of which the second has large weights on a small input that spoil the scale of all others, and a classifier. */
function network(): OnnxModel {
  const b = new Builder(3, [4, 3, 8, 8]);
  const own = rng(11, "weights");
  let [i, k] = [0, 0];
  const small = b.constant([8, 3, 3, 3], () => own.normal() * (i++ < 27 ? 0.002 : 0.5));
  const first = b.node("Relu", [b.node("Conv", ["x", small], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] })]);
  const large = b.constant([8, 8, 1, 1], () => own.normal() * (k++ % 8 === 0 ? 90 : 0.3));
  const second = b.node("Relu", [b.node("Conv", [first, large], { kernel_shape: [1, 1] })]);
  const third = b.conv(second, [8, 8], [3, 3], { bias: true });
  const flat = b.node("Flatten", [b.node("GlobalAveragePool", [third])], { axis: 1 });
  return b.model([b.node("Gemm", [flat, b.constant([10, 8]), b.constant([10])], { transB: 1 })], 2);
}

async function outputOf(model: OnnxModel, input: Feeds): Promise<Tensor> {
  await using program = await compileModel(model, { threads: 1 });
  return Object.values(await program.run(input))[0];
}

describe("layers that stay in float", () => {
  const options = { calibrator: "minmax" } as const;

  test("so many of those that cost the outputs most, each measured alone", async () => {
    const none = await quantizeOnnx(network(), feeds, options);
    const { kept, sensitivity, sqnr, layers } = await quantizeOnnx(network(), feeds, { ...options, keepFloat: 2 });
    expect(sensitivity).toHaveLength(4);
    const noises = sensitivity!.map((s) => s.sqnr);
    expect(noises).toEqual(noises.toSorted((a, b) => a - b));
    expect(kept.map(({ name, reason }) => [name, reason])).toEqual(
      expect.arrayContaining(sensitivity!.slice(0, 2).map(({ layer }) => [layer, "costs the outputs most"])),
    );
    expect(layers).toHaveLength(2);
    expect(sqnr).toBeGreaterThan(none.sqnr);
  });

  test("auto keeps as few as the budget takes, none where it is kept anyway", async () => {
    const lenient = await quantizeOnnx(network(), feeds, { ...options, keepFloat: "auto", budget: 0.99 });
    expect(lenient.kept).toEqual([]);
    const { agreement } = await quantizeOnnx(network(), feeds, options);
    expect(agreement).toBeLessThan(1);
    const strict = await quantizeOnnx(network(), feeds, { ...options, keepFloat: "auto", budget: 0 });
    expect(strict.agreement === 1 || strict.kept.length === 3).toBe(true);
    expect(strict.kept.length).toBeGreaterThan(0);
  });

  test.each([
    [{ keepFloat: 0 }, /`keepFloat` must be names of layers, a number of them from 1, or auto, got 0/],
    [{ keepFloat: "auto", budget: 1 }, /the budget is a share of the inputs from 0 to below 1, got 1/],
  ] as const)("%j is refused", async (wrong, message) => {
    await expect(quantizeOnnx(network(), feeds, { ...options, ...wrong })).rejects.toThrow(message);
  });
});

describe("kernels with a large middle", () => {
  /** As merged blocks are: the middle of each channel is some twenty times as large as the rest. */
  function merged({ middle = 3, strides = [1, 1] } = {}): OnnxModel {
    const b = new Builder(8, [4, 3, 8, 8]);
    const own = rng(12, "merged");
    let i = 0;
    const weight = b.constant([8, 3, 3, 3], () => own.normal() * (i++ % 9 === 4 ? middle : 0.1));
    const first = b.node("Conv", ["x", weight, b.constant([8])], {
      ...{ kernel_shape: [3, 3], pads: [1, 1, 1, 1], strides },
    });
    return b.model([b.conv(b.node("Relu", [first]), [8, 4], [3, 3])]);
  }

  test.each([
    [1, 1],
    [2, 2],
  ])("are split, which computes the same and is better stored: strides %i, %i", async (...strides) => {
    const source = merged({ strides });
    const { model, split } = splitOutliers(source, { qmin: -64, qmax: 64 });
    expect(split).toHaveLength(1);
    expect(operatorsOf(model)).toMatchObject({ Conv: 3, Add: 1 });
    expect(relativeError(await outputOf(source, feeds[0]), await outputOf(model, feeds[0]))).toBeLessThan(1e-6);
    const result = await quantizeOnnx(source, feeds, { calibrator: "mse", splitOutliers: true });
    expect(result.notes[0]).toContain(`split by their outliers: ${split[0]}`);
    expect(result.layers).toHaveLength(3);
    expect(result.sqnr).toBeGreaterThan(20);
  });

  test("ordinary ones stay", () => {
    expect(splitOutliers(merged({ middle: 0.1 }), { qmin: -64, qmax: 64 }).split).toEqual([]);
  });
});

describe("models of old operator sets", () => {
  /** Every operator whose attributes became inputs. */
  function old(): OnnxModel {
    const b = new Builder(14, [4, 3, 8, 8], 10);
    const padded = b.node("Pad", ["x"], { pads: [0, 0, 1, 1, 0, 0, 1, 1], value: { float: 0.5 } });
    const clipped = b.node("Clip", [b.conv(padded, [3, 4], [3, 3])], { min: { float: 0 }, max: { float: 6 } });
    const pooled = b.node("Dropout", [b.node("GlobalAveragePool", [clipped])], { ratio: { float: 0.5 } });
    const wide = b.node("Unsqueeze", [b.node("Squeeze", [pooled], { axes: [2, 3] })], { axes: [1] });
    const summed = b.node("ReduceSum", [wide], { axes: [1], keepdims: 0 });
    return b.model(
      [b.node("Softmax", [b.node("Gemm", [summed, b.constant([4, 5]), b.constant([5])])], { axis: 1 })],
      2,
    );
  }

  test("are raised, compute the same, and are quantized", async () => {
    const raised = raiseOpset(old(), "old.onnx");
    expect(raised.opset).toBe(13);
    expect((await outputOf(raised, feeds[0])).data).toEqual((await outputOf(old(), feeds[0])).data);
    await expect(quantizeOnnx(old(), feeds)).rejects.toThrow("repmlp quantize --raise-opset");
    const { layers, sqnr } = await quantizeOnnx(old(), feeds, { calibrator: "minmax", raiseOpset: true });
    expect(layers).toHaveLength(2);
    expect(sqnr).toBeGreaterThan(20);
  });

  test.each([
    ["an older set", (m: OnnxModel) => ({ ...m, opset: 8 }), "old.onnx: operator set 8 is too old to be raised"],
    [
      "an operator that changed",
      (m: OnnxModel) => ({ ...m, nodes: m.nodes.map((n) => (n.opType === "Pad" ? { ...n, opType: "Upsample" } : n)) }),
      "means something else in operator set 13",
    ],
    [
      "a softmax over several axes",
      (m: OnnxModel) => ({ ...m, nodes: m.nodes.map((n) => (n.opType === "Softmax" ? { ...n, attrs: {} } : n)) }),
      "goes over several axes at once",
    ],
  ] as const)("%s is refused", (_, change, message) => {
    expect(() => raiseOpset(change(old()), "old.onnx")).toThrow(message);
  });
});

describe("calibration statistics", () => {
  test("are used again, from a file, with the same result for any setting", async () => {
    const folder = mkdtempSync(join(tmpdir(), "repmlp-stats-"));
    const path = join(folder, "stats.safetensors");
    const statistics = await calibrationStatistics(network(), feeds);
    const { entries, metadata } = statistics.entries();
    await saveCheckpointFile(path, entries, { metadata });
    using file = await openCheckpointFile(path);
    const read = await CalibrationStatistics.read(file.entries, file.metadata, path);
    for (const calibrator of ["auto", "entropy"] as const) {
      const [fresh, again] = [
        await quantizeOnnx(network(), feeds, { calibrator, target: "vnni" }),
        await quantizeOnnx(network(), read, { calibrator, target: "vnni" }),
      ];
      expect({ ...again, statistics: 0, model: 0 }).toEqual({ ...fresh, statistics: 0, model: 0 });
      expect((await outputOf(again.model, feeds[0])).data).toEqual((await outputOf(fresh.model, feeds[0])).data);
    }
  });

  test("of another model, and other files, are refused", async () => {
    const b = new Builder(4, [4, 3, 8, 8]);
    const other = b.model([b.conv(b.node("Relu", ["x"]), [3, 4], [3, 3])]);
    const statistics = await calibrationStatistics(other, feeds);
    await expect(quantizeOnnx(network(), statistics, { name: "net.onnx" })).rejects.toThrow(
      /net\.onnx: the statistics say nothing of .* Calibrate anew/,
    );
    await expect(CalibrationStatistics.read(new Map(), {}, "w.safetensors")).rejects.toThrow(
      /w\.safetensors: holds no calibration statistics/,
    );
  });
});

test("weights in Constant nodes do not stay behind in float", async () => {
  const source = network();
  const nodes = [...source.initializers].map(([name, value]) => ({
    ...{ opType: "Constant", name: `${name}.node`, inputs: [], outputs: [name], attrs: { value: value.readSync() } },
  }));
  const inNodes: OnnxModel = { ...source, nodes: [...nodes, ...source.nodes], initializers: new Map() };
  const float = (model: OnnxModel): number =>
    model.nodes.filter(({ opType, attrs }) => opType === "Constant" && (attrs.value as Tensor).dtype === "float32")
      .length;
  expect(float(inNodes)).toBe(6);
  expect(float((await quantizeOnnx(inNodes, feeds, { calibrator: "minmax" })).model)).toBe(0);
  // Biases stay.
  expect(float(quantizeWeights(inNodes, { type: "int8" }).model)).toBe(2);
});

describe("weights alone in fewer bits", () => {
  /** Two fully connected layers whose inputs are no multiple of a block, one without a bias. */
  function perceptron(): OnnxModel {
    const b = new Builder(6, [4, 3, 8, 8]);
    const map = b.conv("x", [3, 5], [3, 3], { bias: true });
    const flat = b.node("Flatten", [map], { axis: 1 });
    const hidden = b.node("Relu", [b.node("Gemm", [flat, b.constant([20, 180]), b.constant([20])], { transB: 1 })]);
    return b.model([b.node("MatMul", [hidden, b.constant([20, 7])])], 2);
  }

  test.each([
    { type: "int8", bound: 0.02, operators: { MatMulNBits: 2, DequantizeLinear: 1 } },
    { type: "int4", bound: 0.25, operators: { MatMulNBits: 2, DequantizeLinear: 1 } },
    { type: "float16", bound: 2e-3, operators: { Cast: 3, Gemm: 1, MatMul: 1 } },
  ] as const)("$type", async ({ type, bound, operators }) => {
    const { model, layers, kept } = quantizeWeights(perceptron(), { type });
    expect(operatorsOf(model)).toMatchObject({ Conv: 1, ...operators });
    expect(kept).toEqual([]);
    expect(layers.every(({ sqnr }) => sqnr > { int8: 40, int4: 15, float16: 60 }[type])).toBe(true);
    const [exact, made] = [await outputOf(perceptron(), feeds[0]), await outputOf(model, feeds[0])];
    const error = relativeError(exact, made);
    expect(error).toBeLessThan(bound);
    expect(error).toBeGreaterThan(0);
  });

  test.each([4, 8] as const)("the operator computes what %i bits of a block stand for", async (bits) => {
    const values = Float64Array.from({ length: 5 * 37 }, () => random.normal());
    const weight = Tensor.float32([5, 37], values);
    const { integers, scales, zeroPoints, rounded } = blockwise(weight, bits, 16);
    const model: OnnxModel = {
      opset: 17,
      domains: { "com.microsoft": 1 },
      nodes: [
        {
          ...{ opType: "MatMulNBits", domain: "com.microsoft", name: "product", outputs: ["y"] },
          inputs: ["x", "b", "s", "z"],
          attrs: { K: 37, N: 5, bits, block_size: 16 },
        },
      ],
      inputs: [{ name: "x", dtype: "float32", shape: [37, 37] }],
      outputs: [{ name: "y", dtype: "float32", shape: [37, 5] }],
      initializers: new Map([
        ["b", integers],
        ["s", scales],
        ["z", zeroPoints],
      ]),
    };
    const identity = Tensor.float32(
      [37, 37],
      Float64Array.from({ length: 37 * 37 }, (_, i) => (i % 38 === 0 ? 1 : 0)),
    );
    const made = (await outputOf(model, { x: identity })).toFloat64();
    for (const [i, v] of made.entries())
      expect(v).toBeCloseTo(rounded.data[(i % 5) * 37 + Math.floor(i / 5)] as number, 6);
  });

  test.each([
    [{ type: "int4", blockSize: 24 }, /a block is a power of two from 16, got 24/],
    [{ type: "int4", keepFloat: ["nothing"] }, /no convolution or matrix product is called "nothing"/],
  ] as const)("%j is refused", (wrong, message) => {
    expect(() => quantizeWeights(perceptron(), wrong)).toThrow(message);
  });

  test("infinite weights are refused by name, large ones stay", () => {
    const change = (value: number): OnnxModel => {
      const model = perceptron();
      const [[name, first]] = model.initializers;
      const spoilt = first.readSync().map((v, i) => (i === 3 ? value : v));
      return { ...model, initializers: new Map(model.initializers).set(name, spoilt) };
    };
    expect(() => quantizeWeights(change(Number.POSITIVE_INFINITY), { type: "float16" })).toThrow(
      /holds NaN or an infinity/,
    );
    expect(quantizeWeights(change(1e6), { type: "float16" }).kept[0].reason).toBe("it has values beyond 65504");
  });
});

describe("what becomes of a file elsewhere", () => {
  test("7-bit weights saturate nowhere, 8-bit ones may; signed activations do not", async () => {
    const inspect = async (target: QuantizationTargetName) =>
      inspectQuantized((await quantizeOnnx(network(), feeds, { calibrator: "minmax", target })).model, feeds[0]);
    const [portable, vnni, arm] = [await inspect("portable"), await inspect("vnni"), await inspect("arm")];
    expect(portable.layers.map(({ operator }) => operator)).toEqual(["Conv", "Conv", "Conv", "Gemm"]);
    expect(portable.layers.map(({ largestWeight }) => largestWeight)).toEqual([64, 64, 64, 64]);
    expect(portable.maxAbsDiff).toBe(0);
    // Convolutions write integers, the classifier does not.
    expect(portable.layers.map(({ changed }) => changed)).toEqual([0, 0, 0, undefined]);
    for (const { layers, can } of [
      { layers: portable.layers, can: false },
      { layers: vnni.layers, can: true },
      { layers: arm.layers, can: false },
    ])
      expect(layers.some(({ maySaturate }) => maySaturate)).toBe(can);
  });

  test("a float model is refused", () =>
    expect(inspectQuantized(network(), feeds[0])).rejects.toThrow("no layer with integer weights"));
});

test("a report has every activation, the worst first, with its range", async () => {
  const result = await quantizeOnnx(network(), feeds, { calibrator: "minmax", target: "arm" });
  const report = await quantizationReport(result, { threads: 1 });
  const noises = report.tensors.map(({ sqnr }) => sqnr);
  expect(noises).toEqual(noises.toSorted((a, b) => a - b));
  expect(noises).toHaveLength(result.tensors.length);
  expect(noises.at(-1)).toBe(Number.POSITIVE_INFINITY);
  // All values are within the range of min-max, but for the half bin that a histogram does not tell.
  for (const { clipped } of report.tensors) expect(clipped).toBeLessThan(0.01);
  const page = reportPage(report, result, {
    ...{ title: "<net>", facts: [["target", "<arm>"]], bytes: [4_000_000, 1_000_000] },
    accuracy: { folder: "val", total: 200, float: 180, integers: 179 },
  });
  expect(page).toContain('180 (90.0 %)</td><td class="n">179 (89.5 %)</td><td class="n">−0.5 points');
  expect(page).toContain("× 0.25");
  expect(page).toContain("<h1>&lt;net&gt;</h1>");
  for (const { name } of result.tensors) expect(page).toContain(`<td>${name}</td>`);
  expect(page.match(/<svg/g)).toHaveLength(result.tensors.length);
});

describe("files", () => {
  const folder = mkdtempSync(join(tmpdir(), "repmlp-choices-"));
  const at = (...parts: string[]): string => join(folder, ...parts);

  test("statistics are saved and used; model folders get the names that others look for", async () => {
    mkdirSync(at("pictures"));
    for (let i = 0; i < 6; i++) {
      const source = rng(i, "picture");
      const pixels = Buffer.from(Array.from({ length: 3 * 64 }, () => 256 * source.next()));
      writeFileSync(at("pictures", `${i}.ppm`), Buffer.concat([Buffer.from("P6 8 8 255\n"), pixels]));
    }
    await saveOnnx(at("net.onnx"), network());
    const normalization = { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] };
    const calibrator = "minmax" as const;
    const first = await quantizeFile(at("net.onnx"), at("a.onnx"), {
      ...{
        ...normalization,
        calib: at("pictures"),
        calibrator,
        saveStats: at("stats.safetensors"),
        report: at("report.html"),
      },
    });
    expect(first.notes[0]).toBe("4 pictures say little about ranges; some hundred are better");
    expect(readFileSync(at("report.html"), "utf8")).toContain("<h1>a.onnx: integers beside floats</h1>");
    mkdirSync(at("hub"));
    const again = (): ReturnType<typeof quantizeFile> =>
      quantizeFile(at("net.onnx"), at("hub"), { ...normalization, stats: at("stats.safetensors"), calibrator });
    await expect(again()).rejects.toThrow(/is a folder without config\.json/);
    writeFileSync(at("hub", "config.json"), "{}");
    const second = await again();
    expect(second.paths).toEqual([at("hub", "onnx", "model_quantized.onnx")]);
    expect(second.tensors).toEqual(first.tensors);
    const names = { int8: "model_int8", int4: "model_q4", float16: "model_fp16" } as const;
    for (const [type, name] of Object.entries(names) as [keyof typeof names, string][]) {
      const { paths } = await quantizeWeightsFile(at("net.onnx"), at("hub"), { type });
      expect(paths).toEqual([at("hub", "onnx", `${name}.onnx`)]);
      expect((await openOnnx(paths[0])).metadata).toMatchObject({ dtype: type });
    }
    await expect(quantizeFile(at("net.onnx"), at("b.onnx"), normalization)).rejects.toThrow(/one of the two/);
  });

  test("every option of the command arrives", async () => {
    const results: unknown[] = [];
    const progress = () => ({ update: () => undefined, stop: () => undefined });
    const say = () => undefined;
    const io = { warn: say, note: say, progress, result: (value: unknown) => results.push(value) } as unknown as Io;
    const defaults = Object.fromEntries(
      Object.entries(commands.quantize.options).map(([key, option]) => [
        key,
        (option as { default?: unknown }).default,
      ]),
    );
    const given = {
      ...{ stats: at("stats.safetensors"), saveStats: at("again.safetensors"), report: at("page.html") },
      ...{ mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], calibrator: "minmax", target: "vnni", keepFloat: ["1"] },
      ...{ biasCorrection: false, perChannel: false },
    };
    const call = { args: { model: at("net.onnx"), out: at("cli.onnx") }, options: { ...defaults, ...given }, io };
    await run(call as unknown as Parameters<typeof run>[0]);
    expect(results[0]).toMatchObject({ target: "vnni", calibrator: "minmax", report: at("page.html") });
    expect((results[0] as { kept: unknown[] }).kept).toHaveLength(1);
    expect(readFileSync(at("page.html"), "utf8")).toContain("cli.onnx");
    using again = await openCheckpointFile(at("again.safetensors"));
    expect(again.entries.size).toBeGreaterThan(0);
    const { initializers } = await openOnnx(at("cli.onnx"));
    const [scale] = [...initializers].filter(([name]) => name.endsWith(".weight_scale"));
    expect(new Set(scale[1].readSync().toFloat64()).size).toBe(1);
  });

  test("a training checkpoint is merged before its weights are stored", async () => {
    const net = createModel("RepMLP-Mixer-28", { numClasses: 2 }).initialize(3);
    await saveCheckpointFile(at("train.safetensors"), net.stateDict());
    const options = { type: "int4", arch: "RepMLP-Mixer-28" } as const;
    const { layers, bytes } = await quantizeWeightsFile(at("train.safetensors"), at("q4.onnx"), options);
    expect(layers.some(({ bits }) => bits === 4)).toBe(true);
    expect(bytes[1]).toBeLessThan(0.4 * bytes[0]);
  });
});
