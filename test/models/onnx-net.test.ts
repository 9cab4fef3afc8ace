import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { grad, input, targets } from "../../src/graph/index.ts";
import {
  adamW,
  compileModel,
  gradientReport,
  Learner,
  memoryStore,
  mustHaveGradients,
  OnnxNet,
  oneHotTargets,
  Predictor,
  sampleDataset,
  sgd,
  Trainer,
} from "../../src/node.ts";
import { decodeOnnx, encodeOnnx, type OnnxModel, type OnnxNode } from "../../src/onnx/index.ts";
import { rng, Tensor } from "../../src/tensor/index.ts";
import { difference, evaluate, readFixture } from "../graph/harness.ts";

/** Exported by PyTorch: a CNN with batch norms and 5 classes; `cnn` for batches of 2, `cnn-13` for any. */
const load = (name: string): OnnxModel =>
  decodeOnnx(new Uint8Array(readFileSync(new URL(`../fixtures/graph/onnx/${name}.onnx`, import.meta.url))));
const stored = (name: string): ReadonlyMap<string, Tensor> =>
  readFixture(readFileSync(new URL(`../fixtures/graph/onnx/${name}.safetensors`, import.meta.url)));

const imageShape = [3, 17, 19] as const;
const random = (shape: readonly number[], seed = 1): Tensor => {
  const stream = rng(seed, "x");
  const size = shape.reduce((a, b) => a * b, 1);
  return Tensor.float32(
    shape,
    Float32Array.from({ length: size }, () => stream.normal()),
  );
};

/** What ONNX Runtime makes of a written model. */
async function ran(model: OnnxModel, x: Tensor, name = model.outputs[0].name): Promise<Tensor> {
  const program = await compileModel(decodeOnnx(encodeOnnx(model)));
  try {
    return (await program.run({ [model.inputs[0].name]: x }))[name];
  } finally {
    await program.dispose();
  }
}

async function predicted(net: OnnxNet, x: Tensor): Promise<Tensor> {
  const predictor = await Predictor.create(net.eval(), { inputShape: x.shape.slice(1), batchSize: x.shape[0] });
  try {
    return await predictor.run(x);
  } finally {
    await predictor.dispose();
  }
}

describe.each(["cnn", "cnn-13"])("%s as a network", (name) => {
  const model = load(name);
  const fixture = stored(name);

  test("its weights are the parameters under PyTorch's names, running statistics are buffers", () => {
    const net = new OnnxNet(model);
    const trained = [...net.parameters()].map(([key]) => key);
    const wanted = [...fixture.keys()].flatMap((key) => (key.startsWith("grad/") ? [key.slice(5)] : []));
    expect(trained.sort()).toEqual(wanted.filter((key) => key !== "x").sort());
    const buffers = [...net.state()].map(([key]) => key).filter((key) => !trained.includes(key));
    expect(buffers).toEqual(["bn1.running_mean", "bn1.running_var", "bn2.running_mean", "bn2.running_var"]);
  });

  test("output and gradients are PyTorch's, at its batch size", async () => {
    const net = new OnnxNet(model);
    const x = fixture.get("in/x")!;
    expect(difference(await predicted(net, x), fixture.get("out")!)).toBeLessThan(3e-6);
    const leaf = input("x", x.shape);
    const keys = [...net.parameters()].map(([key]) => key);
    const dout = input("dout", fixture.get("dout")!.shape);
    const slopes = grad(
      net.forward(leaf),
      [...net.parameters()].map(([, p]) => p.value),
      dout,
    );
    const outputs = Object.fromEntries(slopes.map((g, i) => [`grad:${keys[i]}`, g]));
    const names = new Map([...net.state()].map(([key, p]) => [p, key]));
    const made = await evaluate({ outputs }, targets.inference, { names }, { x, dout: fixture.get("dout")! });
    for (const key of keys)
      expect(difference(made[`grad:${key}`], fixture.get(`grad/${key}`)!), key).toBeLessThan(2e-5);
  });

  test("any batch size gives each picture the same", async () => {
    const net = new OnnxNet(model);
    const x = random([5, ...imageShape]);
    const all = await predicted(net, x);
    const one = await predicted(net, Tensor.float32([1, ...imageShape], (x.data as Float32Array).slice(-3 * 17 * 19)));
    expect(difference(one, Tensor.float32([1, 5], (all.data as Float32Array).slice(-5)))).toBeLessThan(1e-6);
  });
});

/** Two classes that the mean of the first channel tells apart. */
const twoClasses = sampleDataset({
  length: 32,
  classes: ["dark", "bright"],
  imageShape: [...imageShape],
  sample: (i) => {
    const image = random([...imageShape], i).data as Float32Array<ArrayBuffer>;
    for (let p = 0; p < 17 * 19; p++) image[p] += i % 2 ? 1 : -1;
    return { image, label: i % 2 };
  },
});

describe("fine-tuning", () => {
  test("a trainer with a new head lowers the loss, frozen weights stay, and ONNX Runtime agrees on what is written", async () => {
    const model = load("cnn-13");
    const net = new OnnxNet(model, { numClasses: 2 });
    expect(net.headKeys).toEqual(["fc2.weight", "fc2.bias"]);
    const store = memoryStore();
    const trainer = new Trainer(net, {
      ...{ data: { train: twoClasses, validation: twoClasses }, epochs: 9, batchSize: 16, lr: 0.03, store },
      optimizer: adamW({}),
      group: (key) => ({ frozen: key.startsWith("stem.") }),
    });
    const { history, best } = await trainer.run();
    expect(history[8].trainLoss).toBeLessThan(0.6 * history[0].trainLoss);
    expect(best).toBeGreaterThan(0.9);

    const written = net.toOnnx({ labels: '["dark","bright"]' });
    const x = random([4, ...imageShape]);
    expect(difference(await ran(written, x), await predicted(net, x))).toBeLessThan(2e-6);

    const same = ({ nodes, opset, name, inputs, producer }: OnnxModel): unknown => [
      nodes,
      opset,
      name,
      inputs,
      producer,
    ];
    expect(same(written)).toEqual(same(model));
    expect(written.metadata).toEqual({ ...model.metadata, labels: '["dark","bright"]' });
    expect(written.outputs[0].shape).toEqual([model.outputs[0].shape![0], 2]);
    const changed = [...written.initializers].flatMap(([key, source]) => {
      const before = model.initializers.get(key)!.readSync();
      return source.shape.join() === before.shape.join() && difference(source.readSync(), before) === 0 ? [] : [key];
    });
    expect(changed.filter((key) => /stem|running/.test(key))).toEqual([]);
    expect(changed).toContain("bn1.weight");
    expect(await store.load("best")).toBeDefined();
    // The last checkpoint belongs to the same network, made anew from the file.
    const again = new OnnxNet(model, { numClasses: 2 });
    again.loadStateDict(net.stateDict());
    expect(difference(await predicted(again, x), await predicted(net, x))).toBe(0);
  });

  test("batch norms with the statistics of the batch do what PyTorch's training mode does", async () => {
    const { running, loss } = JSON.parse(
      readFileSync(new URL("../fixtures/graph/onnx/cnn-13-batch-norm.json", import.meta.url), "utf8"),
    );
    const net = new OnnxNet(load("cnn-13"), { batchNorm: "batch" });
    const x = stored("cnn-13").get("in/x")!;
    const learner = new Learner(net, { optimizer: sgd({}) });
    const step = await learner.train(x, oneHotTargets([0, 1, 2], 5), 0.1);
    await learner.sync();
    await learner.dispose();
    expect(Math.abs(step.loss / loss - 1)).toBeLessThan(1e-5);
    const state = net.stateDict();
    for (const [key, values] of Object.entries<number[]>(running))
      expect(difference(state.get(key)!.readSync(), Tensor.float32([8], values)), key).toBeLessThan(1e-5);
  });
});

// --- small models by hand -------------------------------------------------------------------------------------------

const weights = (...entries: readonly (readonly [string, readonly number[]])[]): Map<string, Tensor> =>
  new Map(entries.map(([name, shape], i) => [name, random(shape, i + 1)]));

/** A chain of nodes from `x` `[N, 2, 4, 4]` to `y`; each takes what the one before made, and its own inputs. */
function chain(
  nodes: readonly (Partial<OnnxNode> & { readonly opType: string })[],
  initializers: ReadonlyMap<string, Tensor>,
  more: Partial<OnnxModel> = {},
): OnnxModel {
  const made = nodes.map((node, i): OnnxNode => {
    const from = i ? `t${i - 1}` : "x";
    return {
      ...{ name: `/${i}/${node.opType}`, attrs: {}, ...node },
      inputs: [from, ...(node.inputs ?? [])],
      outputs: [i === nodes.length - 1 ? "y" : `t${i}`],
    };
  });
  return {
    nodes: made,
    initializers,
    inputs: [{ name: "x", dtype: "float32", shape: ["n", 2, 4, 4] }],
    outputs: [{ name: "y", dtype: "float32" }],
    opset: 17,
    ...more,
  };
}

const target = (...shape: number[]): Tensor => Tensor.of("int64", [shape.length], shape);

/** Ends of classifiers as exporters write them, with 5 classes. */
const heads: Readonly<Record<string, OnnxModel>> = {
  "Gemm, weights as rows, Softmax": chain(
    [
      { opType: "Flatten" },
      { opType: "Gemm", inputs: ["w", "b"], attrs: { transB: 1 } },
      { opType: "Softmax", attrs: { axis: 1 } },
    ],
    weights(["w", [5, 32]], ["b", [5]]),
  ),
  "MatMul and Add": chain(
    [{ opType: "Flatten" }, { opType: "MatMul", inputs: ["w"] }, { opType: "Add", inputs: ["b"] }],
    weights(["w", [32, 5]], ["b", [5]]),
  ),
  "Conv, pooling, a Reshape that states the sizes": chain(
    [
      { opType: "Conv", inputs: ["w", "b"] },
      { opType: "Relu" },
      { opType: "GlobalAveragePool" },
      { opType: "Reshape", inputs: ["s"] },
    ],
    new Map([...weights(["w", [5, 2, 1, 1]], ["b", [5]]), ["s", target(1, 5)]]),
    {
      inputs: [{ name: "x", dtype: "float32", shape: [1, 2, 4, 4] }],
      outputs: [{ name: "y", dtype: "float32", shape: [1, 5] }],
    },
  ),
};

describe.each(Object.entries(heads))("head: %s", (_, model) => {
  test("is found, and replaced for another number of classes", async () => {
    const net = new OnnxNet(model, { numClasses: 3 });
    expect(net.headKeys).toEqual(["w", "b"]);
    const x = random([2, 2, 4, 4]);
    const logits = await predicted(net, x);
    expect(logits.shape).toEqual([2, 3]);
    const written = net.toOnnx();
    const one = Tensor.float32([1, 2, 4, 4], (x.data as Float32Array).slice(0, 32));
    const row = [...(await ran(written, one)).data].map(Number);
    const wanted = [...logits.data.slice(0, 3)].map(Number);
    const isSoftmax = net.output !== "y";
    const total = wanted.reduce((sum, v) => sum + Math.exp(v), 0);
    expect(row.length).toBe(3);
    for (const [i, v] of wanted.entries()) expect(row[i]).toBeCloseTo(isSoftmax ? Math.exp(v) / total : v, 5);
    // Uniform within 1/√features, as PyTorch's layers start.
    const bound =
      1 /
      Math.sqrt(
        net
          .stateDict()
          .get("w")!
          .shape.reduce((a, b) => a * b, 1) / 3,
      );
    for (const key of ["w", "b"])
      for (const v of net.stateDict().get(key)!.readSync().toFloat64()) expect(Math.abs(v)).toBeLessThan(bound);
  });
});

test("weights that an exporter wrote once are separate again", () => {
  const model = chain(
    [
      { opType: "BatchNormalization", inputs: ["one", "zero", "zero", "var"] },
      { opType: "Flatten" },
      { opType: "MatMul", inputs: ["w"] },
    ],
    new Map([...weights(["w", [32, 5]], ["zero", [2]]), ["one", Tensor.full("float32", [2], 1)]]),
  );
  const identity: OnnxNode = { opType: "Identity", name: "id", inputs: ["one"], outputs: ["var"], attrs: {} };
  const net = new OnnxNet({ ...model, nodes: [identity, ...model.nodes] });
  expect([...net.parameters()].map(([key]) => key)).toEqual(["w", "zero", "one"]);
  expect([...net.state()].map(([key]) => key)).toContain("var");
  expect(net.toOnnx().nodes.map(({ opType }) => opType)).not.toContain("Identity");
});

describe("ops without a gradient", () => {
  const rounding = chain(
    [
      { opType: "Conv", inputs: ["early"] },
      { opType: "Round" },
      { opType: "Flatten" },
      { opType: "MatMul", inputs: ["late"] },
    ],
    weights(["early", [2, 2, 1, 1]], ["late", [32, 5]]),
  );
  const inputShape = [2, 2, 4, 4];

  test("are reported with their node and what they cut off", () => {
    expect(gradientReport(new OnnxNet(rounding), { inputShape })).toEqual({
      trained: ["late"],
      unreached: ["early"],
      gaps: [{ op: "round", path: "/1/Round", why: "zero" }],
    });
    expect(() => mustHaveGradients(new OnnxNet(rounding), { inputShape })).toThrow(
      "training: round (/1/Round) has a gradient of zero; early gets no gradient. Freeze what lies before",
    );
  });

  test("do not matter where nothing before them is trained", () => {
    const trained = (key: string): boolean => key === "late";
    expect(mustHaveGradients(new OnnxNet(rounding), { inputShape, trained }).trained).toEqual(["late"]);
  });
});

test.for<[string, () => unknown, string | RegExp]>([
  [
    "an operator that is not known",
    () => new OnnxNet(chain([{ opType: "NonZero" }], new Map())),
    /no op for NonZero node "\/0\/NonZero"/,
  ],
  [
    "two inputs",
    () => {
      const model = heads["MatMul and Add"];
      return new OnnxNet({ ...model, inputs: [...model.inputs, { name: "mask", dtype: "int64", shape: [1] }] });
    },
    'must take one input of pictures in a floating type, but takes "x" (float32 [n, 2, 4, 4]), "mask" (int64 [1])',
  ],
  [
    "several outputs",
    () => {
      const model = heads["MatMul and Add"];
      return new OnnxNet({ ...model, outputs: [...model.outputs, { name: "t0", dtype: "float32" }] });
    },
    "has 2 outputs, y, t0. Say which are the logits",
  ],
  [
    "an output that is not there",
    () => new OnnxNet(heads["MatMul and Add"], { output: "z" }),
    'there is no tensor "z"',
  ],
  [
    "an output that is no row of classes",
    () => new OnnxNet(chain([{ opType: "Conv", inputs: ["w"] }], weights(["w", [3, 2, 1, 1]]))),
    'output "y" must be [N, classes], but is [N, 3, 4, 4]',
  ],
  [
    "no head",
    () => new OnnxNet(chain([{ opType: "Flatten" }, { opType: "Tanh" }], weights(["w", [3]])), { numClasses: 3 }),
    'no head found that can be replaced: Flatten node "/0/Flatten" lies between the layers with weights and output "y". No layer of the file could be the head.',
  ],
  [
    "a head that is not there",
    () => new OnnxNet(heads["MatMul and Add"], { numClasses: 3, head: "fc" }),
    'there is no node or weight "fc". The file has /1/MatMul',
  ],
  [
    "nothing to train",
    () => new OnnxNet(chain([{ opType: "Flatten" }], new Map())),
    "no layer has a weight in the file, so there is nothing to train",
  ],
])("%s is refused", ([, make, message]) => {
  expect(make).toThrow(message);
});
