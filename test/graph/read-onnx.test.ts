import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { RepmlpError } from "../../src/errors.ts";
import { constant, grad, lower, type ReadOnnxOptions, readOnnx, targets, type Value } from "../../src/graph/index.ts";
import { decodeOnnx, encodeOnnx, type OnnxModel, type OnnxNode } from "../../src/onnx/index.ts";
import { isFloating, Tensor } from "../../src/tensor/index.ts";
import { difference, evaluate, feedOf, feedsFor, makeLeaves, program, readFixture, specOf } from "./harness.ts";
import { type OpCase, opCases } from "./op-cases.ts";

const folder = new URL("../fixtures/graph/onnx/", import.meta.url);
const exported = readdirSync(folder)
  .filter((file) => file.endsWith(".onnx"))
  .map((file) => file.slice(0, -".onnx".length));

/** A file that PyTorch exported, and what PyTorch computed with the model. */
function load(name: string): { readonly model: OnnxModel; readonly stored: ReadonlyMap<string, Tensor> } {
  return {
    model: decodeOnnx(new Uint8Array(readFileSync(new URL(`${name}.onnx`, folder)))),
    stored: readFixture(readFileSync(new URL(`${name}.safetensors`, folder))),
  };
}

/** Entries under a prefix, without it. */
const under = (stored: ReadonlyMap<string, Tensor>, prefix: string): Record<string, Tensor> =>
  Object.fromEntries(
    [...stored].flatMap(([key, t]) => (key.startsWith(prefix) ? [[key.slice(prefix.length), t]] : [])),
  );

describe.each(exported)("exported by PyTorch: %s", (name) => {
  const { model, stored } = load(name);
  const feeds = under(stored, "in/");
  const inputShapes = Object.fromEntries(Object.entries(feeds).map(([key, t]) => [key, t.shape]));
  const gradients = under(stored, "grad/");

  test.each(Object.entries(targets))("output and all gradients, %s", async (_, target) => {
    const { inputs, outputs, parameters, names } = readOnnx(model, { inputShapes });
    const out = outputs.get("out")!;
    const wrt = Object.keys(gradients);
    expect(wrt.length).toBeGreaterThan(9);
    const made = grad(
      out,
      wrt.map((key) => inputs.get(key) ?? parameters.get(key)!.value),
      constant(stored.get("dout")!),
    );
    const graph = { outputs: { "y:out": out, ...Object.fromEntries(made.map((g, i) => [`grad:${wrt[i]}`, g])) } };
    const weights = Object.fromEntries([...parameters].map(([key, p]) => [key, p.source().readSync()]));
    const results = await evaluate(graph, target, { names }, { ...feeds, ...weights });
    expect(difference(results["y:out"], stored.get("out")!)).toBeLessThan(3e-6);
    for (const key of wrt) expect(difference(results[`grad:${key}`], gradients[key]), key).toBeLessThan(2e-5);
  });
});

test("running statistics are parameters, numbers of formulas are constants", () => {
  const { parameters } = readOnnx(load("cnn").model);
  expect([...parameters.keys()]).toContain("bn1.running_mean");
  expect([...parameters.values()].filter(({ shape }) => shape.length === 0)).toEqual([]);
  const none = readOnnx(load("cnn").model, { trainable: () => false });
  expect(none.parameters.size).toBe(0);
});

test("nodes keep their names as layer paths", () => {
  const { outputs } = readOnnx(load("cnn").model);
  const { model } = lower({ outputs: Object.fromEntries(outputs) }, { target: targets.inference });
  expect(model.nodes[0].name).toMatch(/^\/stem\/Conv\/Conv_\d+$/);
});

// --- our own models ------------------------------------------------------------------------------------------------

/** What the forward of a network in evaluation mode is never written with: gradients, statistics of a batch, pruning. */
const onlyInTraining = [
  ...["scatterAdd", "maxPool2dGrad", "maxPool2dPick"],
  ...["pointwiseNorm", "centreChannels", "normGradient", "zeroSum"],
  "kthLargest",
];

/** The inference model of a case; all inputs but the first are parameters. */
function ownModel({ op, name, inputs, build }: OpCase): { model: OnnxModel; feeds: Record<string, Tensor> } {
  const feeds = Object.fromEntries(
    Object.entries(inputs).map(([key, s]) => [key, feedOf(`${op} ${name} ${key}`, specOf(s), "float32")]),
  );
  const [, ...parameters] = Object.keys(feeds).filter((key) => isFloating(feeds[key].dtype));
  const { values, names } = makeLeaves(feeds, { dtype: "float32", parameters });
  const built = [build(values)].flat() as Value[];
  const outputs = Object.fromEntries(built.map((v, i) => [`y:${i}`, v]));
  return { model: lower({ outputs }, { target: targets.inference, names }).model, feeds };
}

/** Networks in integers are for a runtime to run: they are refused by the names of their nodes. */
const inIntegers = "fakeQuantize, stored as integers";

describe("models of this library are read back", () => {
  const cases = opCases.filter(
    ({ op, name }) =>
      !onlyInTraining.includes(op) && !/batch norm|Train/.test(`${op} ${name}`) && `${op}, ${name}` !== inIntegers,
  );

  test(`${inIntegers}: refused`, () => {
    const { model } = ownModel(opCases.find(({ op, name }) => `${op}, ${name}` === inIntegers) as OpCase);
    expect(() => readOnnx(decodeOnnx(encodeOnnx(model)))).toThrow(
      /^read-onnx: no op for QuantizeLinear node "QuantizeLinear_\d+", DequantizeLinear node "DequantizeLinear_\d+"\./,
    );
  });

  test.each(cases)("$op, $name", async (testCase) => {
    const { model, feeds } = ownModel(testCase);
    const { inputs, outputs, names } = readOnnx(decodeOnnx(encodeOnnx(model)));
    expect([...inputs.keys()]).toEqual(model.inputs.map((i) => i.name));
    const again = lower({ outputs: Object.fromEntries(outputs) }, { target: targets.inference, names }).model;
    await using first = await program(model);
    await using second = await program(again);
    const [expected, actual] = [await first.run(feedsFor(model, feeds)), await second.run(feedsFor(again, feeds))];
    for (const [key, value] of Object.entries(expected)) {
      expect(actual[key].dtype).toBe(value.dtype);
      expect(difference(actual[key], value)).toBeLessThan(1e-6);
    }
  });
});

// --- what does not fit ---------------------------------------------------------------------------------------------

const chain = (nodes: readonly Partial<OnnxNode>[], more: Partial<OnnxModel> = {}): OnnxModel => ({
  nodes: nodes.map((n, i) => ({ opType: "Relu", name: `n${i}`, inputs: ["x"], outputs: ["y"], attrs: {}, ...n })),
  inputs: [{ name: "x", dtype: "float32", shape: [2, 3] }],
  outputs: [{ name: "y", dtype: "float32" }],
  initializers: new Map(),
  opset: 17,
  ...more,
});

const open = (...shape: (number | string)[]): Partial<OnnxModel> => ({
  inputs: [{ name: "x", dtype: "float32", shape }],
});

const misfits: Readonly<Record<string, () => unknown>> = {
  "unknown operators": () =>
    readOnnx(
      chain([
        { opType: "NonZero", outputs: ["a"] },
        { opType: "FusedConv", domain: "com.microsoft", inputs: ["a"] },
      ]),
    ),
  "unknown operator set": () => readOnnx(chain([{}], { opset: 6 })),
  "open sizes": () => readOnnx(chain([{}], open("batch", 3, "height", ""))),
  "a batch that leaves a size open": () => readOnnx(chain([{}], open("batch", 3, "height")), { batch: 2 }),
  "no rank": () => readOnnx(chain([{}], { inputs: [{ name: "x", dtype: "float32" }] })),
  "a shape that does not fit": () => readOnnx(chain([{}], open("batch", 3)), { inputShapes: { x: [2, 4] } }),
  "a shape that depends on what is fed": () => readOnnx(chain([{ opType: "Reshape", inputs: ["x", "x"] }])),
  "a tensor that nobody makes": () => readOnnx(chain([{ inputs: ["z"] }])),
  "an output that nobody makes": () => readOnnx(chain([], {})),
  "a missing input": () => readOnnx(chain([{ opType: "Add" }])),
  "an attribute of the wrong kind": () => readOnnx(chain([{ opType: "Elu", attrs: { alpha: "much" } }])),
  "an axis that is not there": () => readOnnx(chain([{ opType: "Softmax", attrs: { axis: 5 } }])),
  "sizes that do not fit": () =>
    readOnnx(
      chain([{ opType: "MatMul", name: "/head/MatMul", inputs: ["x", "w"] }], {
        initializers: new Map([["w", Tensor.float32([4, 2], [1, 2, 3, 4, 5, 6, 7, 8])]]),
      }),
    ),
  "a model in training mode": () =>
    readOnnx(chain([{ opType: "BatchNormalization", inputs: ["x", "x", "x", "x", "x"], attrs: { training_mode: 1 } }])),
  "indices of a pool": () =>
    readOnnx(
      chain([{ opType: "MaxPool", outputs: ["p", "y"], attrs: { kernel_shape: [2, 2] } }], {
        ...open(1, 1, 4, 4),
        outputs: [{ name: "y", dtype: "int64" }],
      }),
    ),
  "three spatial axes": () => readOnnx(chain([{ opType: "Conv", inputs: ["x", "x"] }], open(1, 1, 4, 4, 4))),
  "an equation with dots": () => readOnnx(chain([{ opType: "Einsum", attrs: { equation: "...i->i" } }])),
};

test("messages name the node and what to do", () => {
  const messages = Object.entries(misfits).map(([name, make]) => {
    try {
      make();
    } catch (error) {
      if (error instanceof RepmlpError) return `${name}\n  ${error.code} (${error.kind}): ${error.message}`;
      throw error;
    }
    return `${name}\n  no error`;
  });
  expect(`\n${messages.join("\n")}\n`).toMatchInlineSnapshot(`
    "
    unknown operators
      read-onnx/op (file): read-onnx: no op for NonZero node "n0", com.microsoft.FusedConv node "n1". Replace it before exporting, or have the exporter decompose it.
    unknown operator set
      read-onnx/opset (file): read-onnx: operator set 6 is not supported, only 7 to 22. Convert the model.
    open sizes
      read-onnx/shape (usage): read-onnx: input "x" has open sizes: [batch, 3, height, ?]. Pass inputShapes: { "x": [...] }, or dims or batch.
    a batch that leaves a size open
      read-onnx/shape (usage): read-onnx: input "x" has open sizes: [batch, 3, height]. Pass inputShapes: { "x": [...] }, or dims or batch.
    no rank
      read-onnx/shape (usage): read-onnx: input "x" has no shape in the file. Pass inputShapes: { "x": [...] }.
    a shape that does not fit
      read-onnx/shape (usage): read-onnx: input "x" is [batch, 3] in the file, which [2, 4] does not fit.
    a shape that depends on what is fed
      read-onnx/dynamic (file): read-onnx: Reshape node "n0": input "x" must be constant, but depends on what is fed. Export the model with fixed shapes, or fold its constants first.
    a tensor that nobody makes
      read-onnx/input (file): read-onnx: Relu node "n0": it reads "z" before any node makes it. The file is damaged.
    an output that nobody makes
      read-onnx/output (file): read-onnx: no node makes the output "y". The file is damaged.
    a missing input
      read-onnx/input (file): read-onnx: Add node "n0": input 1 is missing. The file is damaged.
    an attribute of the wrong kind
      onnx/attribute (file): onnx: attribute "alpha" of Elu node "n0" must be a float, but is string much. Check the exporter of the file.
    an axis that is not there
      read-onnx/axis (file): read-onnx: Softmax node "n0": axis 5 is outside a tensor of rank 2. The file is damaged.
    sizes that do not fit
      matmul/shape (shape): matmul (layer /head/MatMul): [2, 3] float32 times [4, 2] float32; the last axis of a must equal the last but one of b
    a model in training mode
      read-onnx/training (file): read-onnx: BatchNormalization node "n0": it uses the statistics of the batch. Export the model in evaluation mode.
    indices of a pool
      read-onnx/output (file): read-onnx: MaxPool node "n0": its output "y" (the indices) is used, which is not supported.
    three spatial axes
      read-onnx/rank (file): read-onnx: Conv node "n0": an input of rank 5 is not supported, only [N, C, W] and [N, C, H, W].
    an equation with dots
      read-onnx/einsum (file): read-onnx: Einsum node "n0": the equation ...i->i is not supported: name the output, and each axis once per operand.
    "
  `);
});

test("a few bytes cannot ask for any amount of memory", () => {
  const huge = Tensor.of("int64", [1], [1e12]);
  const initializers = new Map([
    ["huge", huge],
    ["zero", Tensor.scalar(0, "int64")],
    ["limit", huge.reshape([])],
    ["one", Tensor.scalar(1, "int64")],
    ["pads", Tensor.of("int64", [4], [0, 1e12, 0, 0])],
    ["sizes", Tensor.of("int64", [2], [2, 1e12])],
  ]);
  const read =
    (...nodes: Partial<OnnxNode>[]) =>
    () =>
      readOnnx(chain(nodes, { initializers }));
  expect(read({ opType: "Range", inputs: ["zero", "limit", "one"] })).toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: read-onnx: Range node "n0": 1000000000000 numbers are more than 4194304. The file is damaged.]`,
  );
  expect(read({ opType: "Pad", inputs: ["x", "pads"], attrs: { mode: "edge" } })).toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: read-onnx: Pad node "n0": 1000000000003 positions are more than 4194304. The file is damaged.]`,
  );
  expect(read({ opType: "Resize", inputs: ["x", "", "", "sizes"] })).toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: read-onnx: Resize node "n0": 1000000000000 pixels are more than 4194304. The file is damaged.]`,
  );
  expect(
    read({ opType: "GroupNormalization", inputs: ["x", "x", "x"], attrs: { num_groups: 2 } }),
  ).toThrowErrorMatchingInlineSnapshot(`[RepmlpError: reshape (layer n0): [2, 3] has 6 values, [2, 2, 1.5] needs 6]`);
});

test("open sizes come from a batch, from their names or from whole shapes", () => {
  const model = chain([{}], open("batch", 3, "height"));
  const shapeOf = (options: ReadOnnxOptions) => readOnnx(model, options).outputs.get("y")!.shape;
  expect(shapeOf({ batch: 4, dims: { height: 5 } })).toEqual([4, 3, 5]);
  expect(shapeOf({ dims: { batch: 2, height: 5 } })).toEqual([2, 3, 5]);
  expect(shapeOf({ inputShapes: { x: [1, 3, 2] } })).toEqual([1, 3, 2]);
});

test("what no output needs may be unknown", () => {
  const model = chain([{ opType: "NonZero", outputs: ["a"] }, { opType: "Exp" }]);
  expect([...readOnnx(model).outputs.keys()]).toEqual(["y"]);
});

test("half precision is read as float32", async () => {
  const w = Tensor.of("float16", [3], [0.1, 2, -0.5]);
  const half: Partial<OnnxModel> = {
    inputs: [{ name: "x", dtype: "float16", shape: [2, 3] }],
    initializers: new Map([["w", w]]),
  };
  const model = chain(
    [
      { opType: "Mul", inputs: ["x", "w"], outputs: ["a"] },
      { opType: "Cast", inputs: ["a"], attrs: { to: 10 } },
    ],
    half,
  );
  const { outputs, parameters, names, inputs } = readOnnx(model);
  expect([inputs.get("x")!.dtype, parameters.get("w")!.dtype]).toEqual(["float32", "float32"]);
  const x = Tensor.float32([2, 3], [1, 2, 3, 4, 5, 6]);
  const { y } = await evaluate({ outputs: Object.fromEntries(outputs) }, targets.inference, { names }, { x });
  expect([...y.data].slice(0, 3)).toEqual([...w.toFloat64()].map((v, i) => Math.fround(v * (i + 1))));
});
