import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { imagenetPreprocessing, writeMetadata } from "../../src/index.ts";
import {
  compileModel,
  gradientReport,
  Learner,
  mixesPictures,
  OnnxNet,
  oneHotTargets,
  onnxTrainable,
  openClassifier,
  saveOnnx,
  sgd,
} from "../../src/node.ts";
import type { OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import { type DType, rng, Tensor } from "../../src/tensor/index.ts";
import { difference } from "../graph/harness.ts";

/* Networks [N, 3, 8, 8] → 4 classes as other exporters write them. */
const folder = mkdtempSync(join(tmpdir(), "repmlp-foreign-"));
afterAll(() => rmSync(folder, { recursive: true }));

const random = (shape: readonly number[], seed = 1): Tensor => {
  const stream = rng(seed, "x");
  const length = shape.reduce((a, b) => a * b, 1);
  return Tensor.float32(
    shape,
    Float32Array.from({ length }, () => stream.normal()),
  );
};
const node = (opType: string, inputs: string[], output: string, attrs: OnnxNode["attrs"] = {}): OnnxNode => ({
  ...{ opType, inputs, outputs: [output], attrs },
  name: `/${output}`,
});
const constantNode = (name: string, value: Tensor): OnnxNode => node("Constant", [], name, { value });

const image = [3, 8, 8];
const weights: Readonly<Record<string, Tensor>> = {
  cw: random([6, 3, 3, 3], 1),
  cb: random([6], 2),
  hw: random([4, 6], 3),
  hb: random([4], 4),
};
const layers = [
  node("Conv", ["x", "cw", "cb"], "c"),
  node("Relu", ["c"], "r"),
  node("GlobalAveragePool", ["r"], "g"),
  node("Flatten", ["g"], "f"),
];
const head = node("Gemm", ["f", "hw", "hb"], "y", { transB: 1 });

const modelOf = (
  nodes: readonly OnnxNode[],
  initializers: Readonly<Record<string, Tensor>> = weights,
  more: Partial<OnnxModel> = {},
): OnnxModel => ({
  ...{ nodes, initializers: new Map(Object.entries(initializers)), opset: 17 },
  inputs: [{ name: "x", dtype: "float32", shape: ["n", ...image] }],
  outputs: [{ name: "y", dtype: "float32", shape: ["n", 4] }],
  ...more,
});
const plain = modelOf([...layers, head]);

async function logits(model: OnnxModel, x: Tensor): Promise<Tensor> {
  const program = await compileModel(model);
  try {
    return (await program.run({ x: x.cast(model.inputs[0].dtype) })).y.cast("float32");
  } finally {
    await program.dispose();
  }
}

/** The loss of one step, and of the next. */
async function twoSteps(net: OnnxNet): Promise<readonly [number, number]> {
  const learner = new Learner(net, { optimizer: sgd({}) });
  const [x, targets] = [random([4, ...image], 7), oneHotTargets([0, 1, 2, 3], 4)];
  const first = await learner.train(x, targets, 0.1);
  const second = await learner.train(x, targets, 0.1);
  await learner.sync();
  await learner.dispose();
  return [first.loss, second.loss];
}

describe("a model in training mode is refused", () => {
  const statistics = { s: random([6], 5), b: random([6], 6), m: random([6], 7), v: Tensor.full("float32", [6], 1.5) };
  const norm = (outputs: readonly string[], attrs: OnnxNode["attrs"] = {}): OnnxNode => ({
    ...node("BatchNormalization", ["r", "s", "b", "m", "v"], "d", attrs),
    outputs,
  });
  const [pool, ...rest] = [node("GlobalAveragePool", ["d"], "g"), ...layers.slice(3), head];
  const withNorm = (opset: number, outputs: readonly string[], attrs?: OnnxNode["attrs"]): OnnxModel =>
    modelOf([...layers.slice(0, 2), norm(outputs, attrs), pool, ...rest], { ...weights, ...statistics }, { opset });
  const five = ["d", "m1", "v1", "m2", "v2"];

  test.each<[string, OnnxModel]>([
    ["operator set 7, five outputs", withNorm(7, five)],
    ["operator set 8, five outputs", withNorm(8, five)],
    ["operator set 9, three outputs", withNorm(9, five.slice(0, 3))],
    ["operator set 13, five outputs", withNorm(13, five)],
    ["operator set 14, the attribute", withNorm(14, ["d"], { training_mode: 1 })],
    ["operator set 15, the attribute", withNorm(15, five.slice(0, 3), { training_mode: 1 })],
  ])("batch norm: %s", (_, model) => {
    expect(() => new OnnxNet(model)).toThrow(/BatchNormalization node "\/d": it uses the statistics of the batch/);
  });

  test.each<[string, OnnxModel]>([
    ["operator set 8, one output", withNorm(8, ["d"])],
    ["operator set 17", withNorm(17, ["d"], { training_mode: 0 })],
  ])("batch norm in evaluation mode is not: %s", async (_, model) => {
    const x = random([3, ...image], 8);
    expect(difference(await logits(new OnnxNet(model).toOnnx(), x), await logits(model, x))).toBe(0);
  });

  test("outputs that are left out are none", () => {
    expect(new OnnxNet(withNorm(9, ["d", "", "", "", ""])).classes).toBe(4);
  });

  const dropped = (opset: number, inputs: readonly string[], values: Readonly<Record<string, Tensor>>): OnnxModel =>
    modelOf(
      [...layers, node("Dropout", ["f", ...inputs], "k"), { ...head, inputs: ["k", "hw", "hb"] }],
      { ...weights, ...values },
      { opset },
    );
  const [on, off] = [1, 0].map((v) => Tensor.of("bool", [], [v]));
  const half = Tensor.scalar(0.5);

  test.each<[string, OnnxModel]>([
    ["with a ratio", dropped(13, ["p", "t"], { p: half, t: on })],
    ["with the usual ratio", dropped(12, ["", "t"], { t: on })],
  ])("Dropout: %s", (_, model) => {
    expect(() => new OnnxNet(model)).toThrow(/Dropout node "\/k": it drops values at random.*evaluation mode/);
  });

  test.each<[string, OnnxModel]>([
    ["off", dropped(13, ["p", "t"], { p: half, t: off })],
    ["no mode", dropped(17, ["p"], { p: half })],
    ["nothing to drop", dropped(13, ["p", "t"], { p: Tensor.scalar(0), t: on })],
    ["operator set 11", dropped(11, [], {})],
  ])("Dropout that does nothing is not: %s", (_, model) => {
    expect(new OnnxNet(model).classes).toBe(4);
  });
});

describe("weights in Constant nodes", () => {
  const asNodes = (names: readonly string[]): OnnxModel =>
    modelOf(
      [...names.map((name) => constantNode(name, weights[name])), ...layers, head],
      Object.fromEntries(Object.entries(weights).filter(([name]) => !names.includes(name))),
    );

  test.each([[["cw"]], [["hb"]], [["cw", "cb"]], [["cw", "cb", "hw", "hb"]]])(
    "%j are trained and written again",
    async (names) => {
      const model = asNodes(names);
      const net = new OnnxNet(model, {});
      expect([...net.parameters()].map(([key]) => key).sort()).toEqual(["cb", "cw", "hb", "hw"]);
      expect(net.headKeys).toEqual(["hw", "hb"]);
      const x = random([3, ...image], 8);
      expect(difference(await logits(net.toOnnx(), x), await logits(model, x))).toBe(0);
      const [first, second] = await twoSteps(net);
      expect(second).toBeLessThan(first);
      const written = net.toOnnx();
      for (const name of ["cw", "cb", "hw", "hb"])
        expect(difference(written.initializers.get(name)!.readSync(), weights[name]), name).toBeGreaterThan(0);
      expect(new OnnxNet(model, { numClasses: 7 }).classes).toBe(7);
    },
  );

  const half = weights.hw.cast("float16");
  test.each<[string, OnnxNode[], string[]]>([
    ["by Identity", [constantNode("k", weights.hw), node("Identity", ["k"], "hw")], ["hw"]],
    ["by Reshape", [constantNode("k", weights.hw.reshape([24])), node("Reshape", ["k", "to"], "hw")], ["k"]],
    ["by Cast", [constantNode("k", half), node("Cast", ["k"], "hw", { to: 1 })], ["k"]],
    [
      "by Transpose and Unsqueeze and Squeeze",
      [
        constantNode("k", random([6, 4], 5)),
        node("Transpose", ["k"], "t", { perm: [1, 0] }),
        node("Unsqueeze", ["t", "zero"], "u"),
        node("Squeeze", ["u", "zero"], "hw"),
      ],
      ["k"],
    ],
  ])("also where they come %s", async (_, nodes, keys) => {
    const { hw: __, ...others } = weights;
    const sizes = { to: Tensor.of("int64", [2], [4, 6]), zero: Tensor.of("int64", [1], [0]) };
    const model = modelOf([...nodes, ...layers, head], { ...others, ...sizes });
    const net = new OnnxNet(model);
    expect([...net.parameters()].map(([key]) => key)).toEqual(expect.arrayContaining(keys));
    expect(gradientReport(net, { inputShape: [2, ...image] }).unreached).toEqual([]);
    const [first, second] = await twoSteps(net);
    expect(second).toBeLessThan(first);
  });

  test("scales and biases per channel behind a layer are weights, other numbers are named", () => {
    const model = modelOf(
      [
        constantNode("mean", Tensor.float32([1, 3, 1, 1], [0.4, 0.5, 0.6])),
        node("Sub", ["x", "mean"], "z"),
        { ...layers[0], inputs: ["z", "cw"] },
        constantNode("scale", random([6, 1, 1], 5)),
        node("Mul", ["c", "scale"], "e"),
        constantNode("bias", random([1, 6, 1, 1], 6)),
        node("Add", ["e", "bias"], "d"),
        constantNode("place", random([1, 6, 6, 6], 7)),
        node("Add", ["d", "place"], "q"),
        constantNode("three", Tensor.float32([1], [3])),
        node("Div", ["q", "three"], "w"),
        node("Relu", ["w"], "r"),
        ...layers.slice(2),
        head,
      ],
      { cw: weights.cw, hw: weights.hw, hb: weights.hb },
    );
    const net = new OnnxNet(model);
    expect([...net.parameters()].map(([key]) => key).sort()).toEqual(["bias", "cw", "hb", "hw", "scale"]);
    expect(net.remarks).toEqual(["numbers in Constant nodes are not trained: mean, place"]);
  });
});

describe("types", () => {
  const cast = (dtype: DType): Record<string, Tensor> =>
    Object.fromEntries(Object.entries(weights).map(([name, t]) => [name, t.cast(dtype)]));
  const inType = (dtype: DType): OnnxModel =>
    modelOf([...layers, head], cast(dtype), {
      inputs: [{ name: "x", dtype, shape: ["n", ...image] }],
      outputs: [{ name: "y", dtype, shape: ["n", 4] }],
    });
  const doubleHead = [
    node("Cast", ["f"], "fd", { to: 11 }),
    { ...head, inputs: ["fd", "hw", "hb"], outputs: ["yd"] },
    node("Cast", ["yd"], "y", { to: 1 }),
  ];
  const { hw, hb, ...others } = weights;

  test.each<[string, OnnxModel, readonly string[]]>([
    ["float16 throughout", inType("float16"), []],
    ["float64 throughout", inType("float64"), ["what the file has in float64 is computed in float32"]],
    [
      "a head in float64",
      modelOf([...layers, ...doubleHead], { ...others, hw: hw.cast("float64"), hb: hb.cast("float64") }),
      ["what the file has in float64 is computed in float32"],
    ],
    [
      "sizes computed in float64",
      modelOf([
        ...layers,
        node("Shape", ["f"], "n"),
        node("Cast", ["n"], "nd", { to: 11 }),
        node("Cast", ["nd"], "ni", { to: 7 }),
        node("Reshape", ["f", "ni"], "h"),
        { ...head, inputs: ["h", "hw", "hb"] },
      ]),
      [],
    ],
  ])("%s: trained and written in its own", async (_, model, remarks) => {
    const net = new OnnxNet(model);
    expect(net.remarks).toEqual(remarks);
    const [first, second] = await twoSteps(net);
    expect(second).toBeLessThan(first);
    const written = net.toOnnx();
    for (const [name, { dtype }] of model.initializers) expect(written.initializers.get(name)?.dtype, name).toBe(dtype);
    expect(written.nodes).toEqual(model.nodes);
  });

  test.each<[string, OnnxModel]>([
    ["float16", inType("float16")],
    ["float32", plain],
    ["Softmax at its end", modelOf([...layers, { ...head, name: "/l", outputs: ["l"] }, node("Softmax", ["l"], "y")])],
    ["Sigmoid at its end", modelOf([...layers, { ...head, name: "/l", outputs: ["l"] }, node("Sigmoid", ["l"], "y")])],
  ])("a written file predicts logits: %s", async (name, model) => {
    const path = join(folder, `${name}.onnx`);
    const preprocessing = { ...imagenetPreprocessing(8), inputSize: [3, 8, 8] as const };
    await saveOnnx(path, { ...model, metadata: writeMetadata({ preprocessing }) });
    const classifier = await openClassifier(path);
    const compiled = await classifier.compile({ batchSize: 2 });
    const x = random([3, ...image], 8);
    const y = await compiled.run(x);
    await compiled.dispose();
    classifier.close();
    expect(y.dtype).toBe("float32");
    expect(difference(y, await logits(plain, x))).toBeLessThan(name === "float16" ? 5e-3 : 1e-6);
  });
});

describe("pictures of a batch", () => {
  const centred = (middle: readonly OnnxNode[]): OnnxModel =>
    modelOf([...layers, ...middle, { ...head, inputs: ["k", "hw", "hb"] }]);
  const mixing: Readonly<Record<string, OnnxModel>> = {
    "the mean of the batch is subtracted": centred([
      node("ReduceMean", ["f"], "m", { axes: [0], keepdims: 1 }),
      node("Sub", ["f", "m"], "k"),
    ]),
    "a softmax over the batch": centred([node("Softmax", ["f"], "s", { axis: 0 }), node("Mul", ["f", "s"], "k")]),
    "attention between pictures": centred([
      node("Transpose", ["f"], "t", { perm: [1, 0] }),
      node("MatMul", ["f", "t"], "s"),
      node("Softmax", ["s"], "a", { axis: 1 }),
      node("MatMul", ["a", "f"], "k"),
    ]),
    "divided by the number of pictures": centred([
      node("Shape", ["f"], "n", { start: 0, end: 1 }),
      node("Cast", ["n"], "d", { to: 1 }),
      node("Div", ["f", "d"], "k"),
    ]),
  };
  const apart: Readonly<Record<string, OnnxModel>> = {
    plain,
    "a mean over channels": centred([
      node("ReduceMean", ["f"], "m", { axes: [1], keepdims: 1 }),
      node("Sub", ["f", "m"], "k"),
    ]),
  };

  test.each(Object.entries(mixing))("mixed, and said so: %s", async (name, model) => {
    expect(await mixesPictures(new OnnxNet(model).eval(), image)).toBe(true);
    const path = join(folder, `${name}.onnx`);
    await saveOnnx(path, model);
    const { remarks, ok } = await onnxTrainable(path);
    expect([remarks, ok]).toEqual([[expect.stringContaining("mixes the pictures of a batch")], true]);
  });

  test.each(Object.entries(apart))("apart: %s", async (_, model) => {
    expect(await mixesPictures(new OnnxNet(model).eval(), image)).toBe(false);
  });
});
