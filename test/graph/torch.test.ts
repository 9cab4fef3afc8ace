import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  abs,
  adaptiveAvgPool2d,
  adaptiveMaxPool2d,
  add,
  asChannelShape,
  avgPool2d,
  batchNorm,
  batchNormTrain,
  clip,
  conv2d,
  convTranspose2d,
  cos,
  crossEntropy,
  div,
  elu,
  erf,
  exp,
  gelu,
  grad,
  hardSigmoid,
  hardSwish,
  leakyRelu,
  linear,
  log,
  logSoftmax,
  matmul,
  maximum,
  maxPool2d,
  minimum,
  mul,
  pow,
  reciprocal,
  reduceMax,
  relu,
  relu6,
  resize2d,
  round,
  sigmoid,
  silu,
  sin,
  softmax,
  softplus,
  sqrt,
  tanh,
  targets,
  type Value,
} from "../../src/graph/index.ts";
import { isFloating, Tensor } from "../../src/tensor/index.ts";
import { difference, evaluate, makeLeaves, readFixture } from "./harness.ts";

type Values = Readonly<Record<string, Value>>;

const conv =
  (options: Parameters<typeof conv2d>[2]) =>
  ({ x, w }: Values): Value =>
    conv2d(x, w, options);
const turned =
  (options: Parameters<typeof convTranspose2d>[2]) =>
  ({ x, w }: Values): Value =>
    convTranspose2d(x, w, options);
const biased =
  (f: (values: Values) => Value) =>
  (values: Values): Value =>
    add(f(values), asChannelShape(values.b, 4));
const unary =
  (f: (x: Value) => Value) =>
  ({ x }: Values): Value =>
    f(x);
const max = (options: Parameters<typeof maxPool2d>[1]) => unary((x) => maxPool2d(x, options));
const avg = (options: Parameters<typeof avgPool2d>[1]) => unary((x) => avgPool2d(x, options));

/** The functions of make-fixtures.py, built from our ops. */
const functions: Readonly<Record<string, (values: Values) => Value>> = {
  "conv 3x3": biased(conv({ padding: 1 })),
  "conv 3x3 stride 2": conv({ stride: 2, padding: 1 }),
  "conv stride 2, 16 channels": conv({ stride: 2, padding: 1 }),
  "conv 2x3 stride [1, 3]": conv({ stride: [1, 3], padding: [1, 0] }),
  "conv dilated": conv({ padding: [2, 3], dilation: [2, 3] }),
  "conv dilated stride": conv({ padding: 1, stride: [2, 3], dilation: [3, 2] }),
  "conv groups": conv({ padding: 1, groups: 2 }),
  "conv depthwise": conv({ padding: 2, groups: 3 }),
  "conv depthwise stride 2": conv({ padding: 1, stride: 2, groups: 3 }),
  "conv 1x1": conv({}),
  "conv 1x1 stride 2": conv({ stride: 2 }),
  "conv on pixels, groups": conv({ groups: 3 }),
  "conv 130 channels": conv({ padding: 1 }),
  "transposed 2x2": biased(turned({ stride: 2 })),
  "transposed output padding": turned({ stride: 2, padding: 1, outputPadding: 1 }),
  "transposed [1, 0] output padding": turned({ stride: [2, 3], padding: [1, 0], outputPadding: [1, 0] }),
  "transposed groups": turned({ stride: 2, padding: 1, groups: 2 }),
  "transposed dilated": turned({ padding: 1, dilation: [2, 1] }),
  "transposed wide output padding": turned({ dilation: 3, padding: 1, outputPadding: 2 }),
  "max pool 2x2": max({ kernelSize: 2 }),
  "max pool 3x3 stride 2": max({ kernelSize: 3, stride: 2, padding: 1 }),
  "max pool 3x3 stride 1": max({ kernelSize: 3, stride: 1, padding: 1 }),
  "max pool [2, 3]": max({ kernelSize: [2, 3], stride: [1, 2], padding: [1, 0] }),
  "max pool ties": max({ kernelSize: 3, stride: 2, padding: 1 }),
  "avg pool 2x2": avg({ kernelSize: 2 }),
  "avg pool padded": avg({ kernelSize: 3, stride: 2, padding: 1 }),
  "avg pool padding not counted": avg({ kernelSize: 3, stride: 2, padding: 1, countIncludePad: false }),
  "avg pool [2, 3] stride [1, 2]": avg({ kernelSize: [2, 3], stride: [1, 2], padding: [1, 1] }),
  "adaptive avg [3, 4]": unary((x) => adaptiveAvgPool2d(x, [3, 4])),
  "adaptive avg 1": unary((x) => adaptiveAvgPool2d(x, 1)),
  "adaptive avg [9, 10]": unary((x) => adaptiveAvgPool2d(x, [9, 10])),
  "adaptive max [3, 4]": unary((x) => adaptiveMaxPool2d(x, [3, 4])),
  "adaptive max [7, 3]": unary((x) => adaptiveMaxPool2d(x, [7, 3])),
  ...Object.fromEntries(
    (
      [
        [11, 13],
        [4, 5],
        [14, 18],
        [1, 2],
      ] as const
    ).flatMap(([h, w]) => [
      [`nearest [${h}, ${w}]`, unary((x) => resize2d(x, [h, w]))],
      ...[true, false].map((alignCorners) => [
        `bilinear [${h}, ${w}] ${alignCorners ? "aligned" : "plain"}`,
        unary((x) => resize2d(x, [h, w], { mode: "bilinear", alignCorners })),
      ]),
    ]),
  ),
  gelu: unary(gelu),
  "gelu tanh": unary((x) => gelu(x, { approximate: "tanh" })),
  hardswish: unary(hardSwish),
  hardsigmoid: unary(hardSigmoid),
  relu6: unary(relu6),
  silu: unary(silu),
  "leaky relu": unary((x) => leakyRelu(x, 0.2)),
  elu: unary((x) => elu(x, 0.7)),
  softplus: unary(softplus),
  "softplus far": unary(softplus),
  relu: unary(relu),
  sigmoid: unary(sigmoid),
  tanh: unary(tanh),
  erf: unary(erf),
  exp: unary(exp),
  abs: unary(abs),
  sin: unary(sin),
  cos: unary(cos),
  round: unary(round),
  clamp: unary((x) => clip(x, -1, 2)),
  log: unary(log),
  sqrt: unary(sqrt),
  reciprocal: unary(reciprocal),
  pow: ({ a, b }) => pow(a, b),
  div: ({ a, b }) => div(a, b),
  "maximum ties": ({ a, b }) => maximum(a, b),
  "minimum ties": ({ a, b }) => minimum(a, b),
  "amax ties": ({ x }) => reduceMax(x, 1),
  "log softmax": ({ x }) => logSoftmax(mul(x, 8), 1),
  "softmax channels": ({ x }) => softmax(x),
  "cross entropy": ({ x, t }) => crossEntropy(x, t),
  "cross entropy smoothed": ({ x, t }) => crossEntropy(x, t, { labelSmoothing: 0.1 }),
  "cross entropy soft": ({ x, t }) => crossEntropy(x, t),
  "cross entropy soft smoothed": ({ x, t }) => crossEntropy(x, t, { labelSmoothing: 0.2 }),
  "batch norm": ({ x, w, b, m, v }) => batchNorm(x, w, b, m, v, 1e-3),
  "batch norm training": ({ x, w, b }) => batchNormTrain(add(mul(x, 3), 1), w, b).y,
  "batch norm training rows": ({ x, w, b }) => batchNormTrain(x, w, b).y,
  "batch norm conv relu": ({ x, w, g, b }) => relu(batchNormTrain(conv2d(x, w, { padding: 1 }), g, b).y),
  linear: ({ x, w, b }) => linear(x, w, b),
  matmul: ({ a, b }) => matmul(a, b),
};

const fixture = readFixture(readFileSync(new URL("../fixtures/graph/torch-ops.safetensors", import.meta.url)));

/** Statistics are not differentiated in PyTorch's batch norm. */
const withoutGradient: Readonly<Record<string, readonly string[]>> = { "batch norm": ["m", "v"] };

test("the table has the cases of the fixture", () => {
  const cases = new Set([...fixture.keys()].map((key) => key.slice(0, key.indexOf("/"))));
  expect(Object.keys(functions).sort()).toEqual([...cases].sort());
});

test.each(Object.keys(functions))("equals PyTorch: %s", async (name) => {
  const stored = (key: string): Tensor => fixture.get(`${name}/${key}`)!;
  const keys = [...fixture.keys()].filter((k) => k.startsWith(`${name}/`)).map((k) => k.slice(name.length + 1));
  const inputs = keys.filter((k) => !/^(d?y|d.)$/.test(k));
  const feeds = Object.fromEntries([...inputs, "dy"].map((key) => [key, stored(key)]));
  const trained = inputs.filter((k) => isFloating(feeds[k].dtype) && !withoutGradient[name]?.includes(k));
  for (const [targetName, target] of Object.entries(targets))
    for (const batchLast of targetName === "cpuTraining" ? [[], inputs.slice(0, 1)] : [[]]) {
      const leaves = makeLeaves(feeds, { dtype: "float32", parameters: inputs.slice(1), batchLast });
      const y = functions[name](leaves.values);
      const gradients = grad(
        y,
        trained.map((k) => leaves.values[k]),
        leaves.values.dy,
      );
      const outputs = { "out:y": y, ...Object.fromEntries(gradients.map((g, i) => [`out:d${trained[i]}`, g])) };
      const results = await evaluate({ outputs }, target, leaves, feeds);
      for (const key of ["y", ...trained.map((k) => `d${k}`)])
        expect(difference(results[`out:${key}`], stored(key)), `${targetName}, ${key}`).toBeLessThan(3e-6);
    }
});

test("nearest sampling takes PyTorch's pixels at every size", async () => {
  const rounded: Record<string, Record<string, number>> = JSON.parse(
    readFileSync(new URL("../fixtures/graph/torch-nearest.json", import.meta.url), "utf8"),
  );
  for (const from of [1, 2, 3, 7, 12, 23, 47, 61]) {
    const x = Tensor.float32(
      [1, 1, 1, from],
      Array.from({ length: from }, (_, i) => i),
    );
    const leaves = makeLeaves({ x }, { dtype: "float32" });
    const sizes = Array.from({ length: 128 }, (_, i) => i + 1);
    const outputs = Object.fromEntries(sizes.map((to) => [`${to}`, resize2d(leaves.values.x, [1, to])]));
    const results = await evaluate({ outputs }, targets.inference, leaves, { x });
    for (const to of sizes) {
      const expected = Array.from({ length: to }, (_, o) => Math.floor((o * from) / to));
      for (const [o, s] of Object.entries(rounded[`${from} ${to}`] ?? {})) expected[Number(o)] = s;
      expect([...results[to].data], `${from} to ${to}`).toEqual(expected);
    }
  }
});
