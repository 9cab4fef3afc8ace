import { describe, expect, test } from "vitest";
import { globalAvgPool, relu, type Value } from "../../src/graph/index.ts";
import { BatchNorm2d, Conv2d, Dropout, Linear, Module, type Net } from "../../src/nn/index.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { oneHotTargets } from "../../src/tasks/index.ts";
import { rng, type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";
import { Learner, type StepResult, sgd } from "../../src/training/index.ts";

registerNode();

const SHAPE = [3, 2, 5, 4];
const picture = (name: string, shape: Shape = SHAPE): Tensor => {
  const random = rng(4, name);
  return Tensor.float32(
    shape,
    Float64Array.from({ length: sizeOf(shape) }, () => random.normal()),
  );
};
const targets = oneHotTargets([0, 2, 1], 3);
const valuesOf = (model: Module): Record<string, number[]> =>
  Object.fromEntries([...model.stateDict()].map(([key, t]) => [key, [...t.readSync().toFloat64()]]));

/** One layer pair used twice in a row, or two pairs with equal values. */
class Twice extends Module {
  readonly conv = new Conv2d(2, 2, { kernelSize: 3, padding: 1, bias: false });
  readonly norm = new BatchNorm2d(2);
  readonly conv2: Conv2d | undefined;
  readonly norm2: BatchNorm2d | undefined;
  readonly linear = new Linear(2, 3);

  constructor(separate: boolean) {
    super();
    this.conv2 = separate ? new Conv2d(2, 2, { kernelSize: 3, padding: 1, bias: false }) : undefined;
    this.norm2 = separate ? new BatchNorm2d(2) : undefined;
  }

  forward(x: Value): Value {
    const once = relu(this.norm.forward(this.conv.forward(x)));
    const twice = relu((this.norm2 ?? this.norm).forward((this.conv2 ?? this.conv).forward(once)));
    return this.linear.forward(globalAvgPool(twice));
  }
}

async function step(model: Net): Promise<StepResult> {
  const learner = new Learner(model, { optimizer: sgd(), returnGradients: true });
  const result = await learner.train(picture("a"), targets, 0.1);
  await learner.sync();
  await learner.dispose();
  return result;
}

describe("a layer used twice in one pass", () => {
  test("gets the sum of both gradients, and both updates of its statistics, one after the other", async () => {
    const [shared, separate] = [new Twice(false).initialize(2), new Twice(true).initialize(2)];
    separate.conv2!.weight.set(separate.conv.weight.data);
    const start = valuesOf(shared);
    const [a, b] = [await step(shared), await step(separate)];
    expect(a.loss).toBe(b.loss);
    const gradient = (r: StepResult, key: string): Float64Array => r.outputs[`grad:${key}`].toFloat64();
    for (const key of ["conv.weight", "norm.weight", "norm.bias"]) {
      const second = gradient(b, key.replace(".", "2."));
      const sum = gradient(b, key).map((v, i) => v + second[i]);
      for (const [i, v] of gradient(a, key).entries()) expect(v, key).toBeCloseTo(sum[i], 6);
    }
    const [after, apart] = [valuesOf(shared), valuesOf(separate)];
    for (const key of ["running_mean", "running_var"])
      for (const [i, v] of after[`norm.${key}`].entries()) {
        // r'' = 0.9 r' + 0.1 m₂, and the layer of its own has 0.9 r + 0.1 m₂.
        const once = apart[`norm.${key}`][i];
        const second = apart[`norm2.${key}`][i] - 0.9 * start[`norm.${key}`][i];
        expect(v, key).toBeCloseTo(0.9 * once + second, 6);
      }
    expect(after["norm.num_batches_tracked"]).toEqual([2]);
  });

  test("under two names is trained once and saved under both", async () => {
    class Alias extends Module {
      readonly first = new Linear(2, 2);
      readonly second = this.first;
      readonly head = new Linear(2, 3);
      forward(x: Value): Value {
        return this.head.forward(relu(this.second.forward(relu(this.first.forward(globalAvgPool(x))))));
      }
    }
    const model = new Alias().initialize(3);
    const before = valuesOf(model);
    const { outputs } = await step(model);
    expect(Object.keys(outputs).filter((name) => name.startsWith("grad:"))).toEqual(
      ["first.weight", "first.bias", "head.weight", "head.bias"].map((key) => `grad:${key}`),
    );
    const after = valuesOf(model);
    expect(after["second.weight"]).toEqual(after["first.weight"]);
    const gradient = outputs["grad:first.weight"].toFloat64();
    for (const [i, v] of after["first.weight"].entries())
      expect(v).toBeCloseTo(before["first.weight"][i] - 0.1 * gradient[i], 6);
  });
});

describe("state between steps", () => {
  /** Statistics, dropout and momentum: all kinds of state that a step leaves behind. */
  class Stateful extends Module {
    readonly conv = new Conv2d(2, 4, { kernelSize: 3 });
    readonly norm = new BatchNorm2d(4);
    readonly dropout = new Dropout(0.3);
    readonly linear = new Linear(4, 3);
    forward(x: Value): Value {
      return this.linear.forward(this.dropout.forward(globalAvgPool(relu(this.norm.forward(this.conv.forward(x))))));
    }
  }
  const optimizer = sgd({ momentum: 0.9, nesterov: true, weightDecay: 1e-2 });
  const batches = ["a", "b", "c", "d"].map((name) => picture(name));

  test("four steps in one session are bit for bit four steps in four sessions", async () => {
    const one = new Stateful().initialize(1);
    const learner = new Learner(one, { optimizer });
    const losses: number[] = [];
    for (const [i, batch] of batches.entries()) losses.push((await learner.train(batch, targets, 0.1, i)).loss);
    await learner.sync();
    const momentum = await learner.optimizerState();
    await learner.dispose();

    const four = new Stateful().initialize(1);
    const again: number[] = [];
    let state = new Map<string, Tensor>();
    for (const [i, batch] of batches.entries()) {
      const fresh = new Learner(four, { optimizer });
      fresh.restore(i, state);
      again.push((await fresh.train(batch, targets, 0.1, i)).loss);
      await fresh.sync();
      state = await fresh.optimizerState();
      await fresh.dispose();
    }
    expect(again).toEqual(losses);
    expect(valuesOf(four)).toEqual(valuesOf(one));
    expect(state).toEqual(momentum);
    expect(valuesOf(one)["norm.num_batches_tracked"]).toEqual([4]);
  });

  test("the model keeps its values until sync, and its tensors are never written into", async () => {
    const model = new Stateful().initialize(1);
    const tensors = [...model.state()].map(([, p]) => p.data);
    const before = valuesOf(model);
    const learner = new Learner(model, { optimizer });
    await learner.train(batches[0], targets, 0.1);
    await learner.train(batches[1], targets, 0.1);
    expect(valuesOf(model)).toEqual(before);
    await learner.sync();
    await learner.dispose();
    expect(valuesOf(model)).not.toEqual(before);
    expect(tensors.map((t) => [...t.toFloat64()])).toEqual(Object.values(before));
  });

  test("training mode normalises with the batch and moves the running statistics by a tenth", async () => {
    const model = new Stateful().initialize(1);
    model.norm.runningMean.set(Tensor.full("float32", [4], 100));
    const learner = new Learner(model, { optimizer: sgd() });
    const { output } = await learner.train(batches[0], targets, 0);
    await learner.sync();
    await learner.dispose();
    expect(Math.max(...output.toFloat64().map(Math.abs))).toBeLessThan(10);
    expect(valuesOf(model)["norm.running_mean"].every((v) => v > 89 && v < 91)).toBe(true);
  });
});
