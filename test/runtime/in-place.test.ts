import { describe, expect, test } from "vitest";
import { mul, sub } from "../../src/graph/index.ts";
import { createModel, type Net, nn } from "../../src/index.ts";
import type { OnnxNode } from "../../src/onnx/index.ts";
import { writtenInPlace } from "../../src/runtime/in-place.ts";
import { lowerStep } from "../../src/runtime/index.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { oneHotTargets } from "../../src/tasks/index.ts";
import { adamW, Learner, type Optimizer, sgd, trainStep } from "../../src/training/index.ts";
import { normals } from "./small-step.ts";

registerNode();

/** `out = Op(a, b)` */
function parse(line: string): OnnxNode {
  const [, output, opType, inputs] = /^(\S+) = (\w+)\((.*)\)$/.exec(line)!;
  return { opType, inputs: inputs.split(", "), outputs: [output], name: output, attrs: {} };
}

/** Which of the inputs `w` and `m` are written in place by the outputs `W` and `M`. */
function overwritten(lines: readonly string[], outputs: readonly string[] = ["W", "M"]): string[] {
  const infos = outputs.map((name) => ({ name, dtype: "float32" as const, shape: [1] }));
  const pairs = [["w", "W"] as const, ["m", "M"] as const].filter(([, output]) => outputs.includes(output));
  return [...writtenInPlace({ nodes: lines.map(parse), outputs: infos }, pairs)];
}

describe("an input is overwritten where every other reader comes before the writer", () => {
  const cases: readonly [name: string, nodes: readonly string[], inPlace: readonly string[]][] = [
    ["the writer is the only reader", ["W = Sub(w, x)"], ["w"]],
    ["the readers lead to the writer", ["y = MatMul(x, w)", "g = MatMul(y, x)", "W = Sub(w, g)"], ["w"]],
    ["a reader does not lead to the writer", ["g = MatMul(x, x)", "W = Sub(w, g)", "y = MatMul(x, w)"], []],
    ["it does by way of a size", ["y = MatMul(x, w)", "s = Size(y)", "g = Mul(x, s)", "W = Sub(w, g)"], ["w"]],
    ["a view is read later", ["v = Reshape(w, s)", "W = Sub(w, x)", "y = MatMul(x, v)"], []],
    ["a view is read before", ["v = Reshape(w, s)", "y = MatMul(x, v)", "W = Sub(w, y)"], ["w"]],
    ["the writer reads a view", ["v = Reshape(w, s)", "W = Sub(v, x)"], ["w"]],
    ["the writer reads values of other places", ["W = MatMul(w, x)"], []],
    ["the writer goes over its result twice", ["W = Max(x, y, w)"], []],
    ["two states, one read by the other's writer", ["M = Add(m, x)", "W = Sub(w, M)"], ["w", "m"]],
    ["two states, the old one read by the other's writer", ["M = Add(m, x)", "W = Sub(w, m)"], ["w"]],
    ["each needs the other's old value", ["M = Add(m, w)", "W = Sub(w, m)"], []],
  ];
  test.each(cases)("%s", (_, nodes, inPlace) => {
    const outputs = ["W", "M"].filter((name) => nodes.some((line) => line.startsWith(`${name} =`)));
    expect(overwritten(nodes, outputs)).toEqual(inPlace);
  });

  test("a view of it is an output", () => {
    expect(overwritten(["v = Reshape(w, s)", "W = Sub(w, x)"], ["W", "v"])).toEqual([]);
  });
});

const networks: readonly [name: string, make: () => Net, inputShape: readonly number[]][] = [
  ["a pure MLP", () => createModel("RepMLP-CIFAR10-pure-MLP", { channels: [4, 8, 8] }), [4, 3, 32, 32]],
  [
    "a bottleneck network",
    () =>
      createModel("RepMLP-Res50-bottleneck-224", {
        numBlocks: [1, 1, 1, 1],
        channels: [16, 32, 64, 128],
        stemChannels: 8,
        numClasses: 5,
      }),
    [2, 3, 224, 224],
  ],
  ["one layer twice", () => new Twice(), [3, 4, 6, 6]],
];

/** A convolution that is applied two times, so that its weights are read backwards by a product with each input. */
class Twice extends nn.Module implements Net {
  readonly stem = new nn.Conv2d(4, 4, { kernelSize: 1 });
  readonly conv = new nn.Conv2d(4, 4, { kernelSize: 3, padding: 1 });
  readonly bn = new nn.BatchNorm2d(4);
  readonly head = new nn.Linear(4, 3);
  private readonly pool = new nn.GlobalAvgPool();
  forward(x: Parameters<Net["forward"]>[0]): ReturnType<Net["forward"]> {
    const once = this.bn.forward(this.conv.forward(this.stem.forward(x)));
    return this.head.forward(this.pool.forward(this.conv.forward(once)));
  }
}

/** Two 1×1 convolutions: the second one's weights are read backwards for the first one's gradient, not for their own. */
class Chain extends nn.Module implements Net {
  readonly stem = new nn.Conv2d(4, 4, { kernelSize: 1 });
  readonly conv = new nn.Conv2d(4, 4, { kernelSize: 1 });
  readonly head = new nn.Linear(4, 3);
  private readonly pool = new nn.GlobalAvgPool();
  private readonly act = new nn.ReLU();
  forward(x: Parameters<Net["forward"]>[0]): ReturnType<Net["forward"]> {
    const y = this.conv.forward(this.act.forward(this.stem.forward(x)));
    return this.head.forward(this.pool.forward(this.act.forward(y)));
  }
}

const optimizers = [
  sgd({ momentum: 0.9, weightDecay: 1e-4 }),
  sgd({ momentum: 0.9, nesterov: true }),
  sgd(),
  adamW(),
].map((optimizer) => [`${optimizer.name} ${JSON.stringify(optimizer.settings)}`, optimizer] as const);

describe.each(networks)("the training step of %s", (_, make, inputShape) => {
  test.each(optimizers)("overwrites its whole state: %s", (__, optimizer) => {
    const model = make().initialize(1).train() as Net;
    const { changed, inPlace } = lowerStep(trainStep(model, { optimizer, inputShape, ema: { decay: 0.9 } }));
    expect(changed.filter((name) => !inPlace.has(name))).toEqual([]);
    expect(changed.length).toBeGreaterThan(model.stateDict().size);
  });
});

test("an update that waits for nothing keeps two buffers, with the same result", async () => {
  /** Gradient descent that does not use the scalars which make it wait. */
  const impatient: Optimizer = {
    ...sgd(),
    apply: ({ parameters, gradients }) => ({
      parameters: parameters.map(({ value }, i) => sub(value, mul(gradients[i], 0.1))),
    }),
  };
  const inputShape = [3, 4, 6, 6];
  const { changed, inPlace } = lowerStep(
    trainStep(new Chain().initialize(1).train(), { optimizer: impatient, inputShape }),
  );
  expect(changed.filter((name) => !inPlace.has(name))).toContain("conv.weight");
  const trained = async (optimizer: Optimizer): Promise<Record<string, number[]>> => {
    const model = new Chain().initialize(1);
    const learner = new Learner(model, { optimizer, threads: 1 });
    for (let step = 0; step < 3; step++)
      await learner.train(normals(inputShape, 3, "images"), oneHotTargets([0, 1, 2], 3), 0.1);
    await learner.sync();
    await learner.dispose();
    return Object.fromEntries([...model.stateDict()].map(([key, t]) => [key, Array.from(t.readSync().data, Number)]));
  };
  expect(await trained(impatient)).toEqual(await trained(sgd()));
});
