import { describe, expect, test } from "vitest";
import { withGradients } from "../../scripts/conformance/given-gradients.ts";
import { add, div, maximum, mul, reduceSum, reshape, sqrt, type Value } from "../../src/graph/index.ts";
import { Module, memoryStore, type Net, nn, oneHotTargets, rng, Tensor } from "../../src/node.ts";
import { globalSparse } from "../../src/prune/index.ts";
import {
  adamW,
  chain,
  flat,
  forEachParameter,
  Learner,
  multiplyGradients,
  type ParameterGroup,
  repSgd,
  type StateTensor,
  sgd,
  stateName,
  type UpdateRule,
} from "../../src/training/index.ts";
import { bytesOf, type SmallNet, toyData, train } from "./support.ts";

function expectNear(found: Tensor, expected: Tensor, share = 2e-6): void {
  const [a, b] = [found.toFloat64(), expected.toFloat64()];
  expect(a.length).toBe(b.length);
  const scale = b.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  for (const [i, v] of b.entries()) expect(Math.abs(a[i] - v), `[${i}]: ${a[i]}, ${v}`).toBeLessThan(share * scale);
}

/** Layers that are only kept, for updates with given gradients. */
abstract class Layers extends Module implements Net {
  forward(x: Value): Value {
    return x;
  }
}

/** As ResRep does it: rows that the host has masked get the gradient of their norm alone. */
const shrinkRows = (key: string, strength: number): UpdateRule => ({
  name: "shrinkRows",
  settings: { strength },
  state({ parameters }) {
    const [rows] = parameters.find((p) => p.key === key)!.shape;
    const mask: StateTensor = {
      name: stateName("mask", key),
      dtype: "float32",
      shape: [rows],
      source: () => Tensor.float32([rows], new Float64Array(rows).fill(1)),
    };
    return [mask];
  },
  apply({ parameters, gradients, state }) {
    return {
      gradients: parameters.map((p, i) => {
        if (p.key !== key) return gradients[i];
        const rows = [p.shape[0], -1];
        const q = reshape(p.value, rows);
        // A row of zeros has no direction.
        const norm = maximum(sqrt(reduceSum(mul(q, q), 1, { keepDims: true })), 1e-30);
        const kept = mul(reshape(gradients[i], rows), reshape(state[stateName("mask", key)], [p.shape[0], 1]));
        return flat(add(kept, mul(div(q, norm), strength)));
      }),
    };
  },
});

describe("groups", () => {
  class Pair extends Layers {
    readonly a = new nn.Linear(3, 2);
    readonly b = new nn.Linear(2, 2, { bias: false });
  }
  const random = rng(1, "groups");
  const normal = (...shape: number[]): Tensor =>
    Tensor.float32(
      shape,
      Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => random.normal()),
    );
  const shapes = { "a.weight": [2, 3], "a.bias": [2], "b.weight": [2, 2] };
  const start = new Map(Object.entries(shapes).map(([key, shape]) => [key, normal(...shape)]));
  const steps = [0, 1, 2].map(() =>
    Object.fromEntries(Object.entries(shapes).map(([key, shape]) => [key, normal(...shape)])),
  );
  const settings: Readonly<Record<string, ParameterGroup>> = {
    "a.weight": { momentum: 0.5, weightDecay: 0.2 },
    "a.bias": { momentum: 0, lrScale: 2, weightDecay: 0 },
    "b.weight": {},
  };

  test("differ in rate, momentum and decay, as by PyTorch's formula in double precision", async () => {
    const net = new Pair();
    net.loadStateDict(start);
    const rule = sgd({ momentum: 0.9, nesterov: true, weightDecay: 0.01 });
    const results = await withGradients(net, rule, steps, { group: (key) => settings[key] });
    for (const [key, w] of start) {
      const { momentum = 0.9, weightDecay = 0.01, lrScale = 1 } = settings[key];
      const expected = w.toFloat64().slice();
      const v = new Float64Array(expected.length);
      for (const step of steps)
        for (const [i, g] of step[key].toFloat64().entries()) {
          const d = g + weightDecay * expected[i];
          v[i] = momentum * v[i] + d;
          expected[i] -= 0.1 * lrScale * (d + momentum * v[i]);
        }
      expectNear(results[2].state.get(key)!, Tensor.of("float64", w.shape, expected), 1e-6);
    }
    // A parameter without momentum keeps none.
    expect([...results[2].state.keys()].filter((name) => name.includes("momentum"))).toEqual([
      "optimizer.momentum:a.weight",
      "optimizer.momentum:b.weight",
    ]);
  });

  test.for<[string, UpdateRule, string]>([
    ["a momentum for Adam", adamW(), "adam: the group of a.weight sets a momentum, which Adam has not"],
    [
      "multipliers for what is not there",
      multiplyGradients(new Map([["a.wieght", normal(2, 3)]])),
      'there is no trained parameter "a.wieght". Did you mean a.weight',
    ],
    [
      "multipliers of another shape",
      repSgd(new Map([["b.weight", normal(4)]])),
      "the factors of b.weight are float32 [4], the parameter is float32 [2, 2]",
    ],
    ["one name for two things", chain(sgd({ momentum: 0.9 }), sgd({ momentum: 0.9 })), 'two rules have a state "mo'],
    [
      "state that was not named",
      { name: "mine", settings: {}, apply: ({ gradients }) => ({ state: { "hidden:a": gradients[0] } }) },
      'mine: changes the state "hidden:a", which it has not named',
    ],
  ])("%s: refused", async ([, rule, message]) => {
    const net = new Pair();
    net.loadStateDict(start);
    await expect(withGradients(net, rule, steps, { group: (key) => settings[key] })).rejects.toThrow(message);
  });

  test("two rules with one scalar name for different numbers are refused", () => {
    const rule = (value: number): UpdateRule =>
      forEachParameter({ name: "x", settings: {}, scalars: { x: () => value }, apply: () => ({}) });
    expect(() => chain(rule(1), rule(2))).toThrow('two rules have a scalar "x"');
  });
});

describe("state between steps", () => {
  const images = Tensor.float32(
    [6, 1, 4, 4],
    Float64Array.from({ length: 96 }, (_, i) => Math.sin(i)),
  );
  const targets = oneHotTargets([0, 1, 2, 0, 1, 2], 3);
  class Net1 extends Module {
    readonly conv = new nn.Conv2d(1, 4, { kernelSize: 3, bias: false });
    readonly linear = new nn.Linear(16, 3);
    forward(x: Value): Value {
      return this.linear.forward(reshape(this.conv.forward(x), [x.shape[0], 16]));
    }
  }
  const learnerOf = (options: Partial<ConstructorParameters<typeof Learner>[1]> = {}) =>
    new Learner(new Net1().initialize(2), { optimizer: sgd({ momentum: 0.9 }), ...options });

  test("what is read, written back and gone on with is the run that was not touched", async () => {
    const [one, other] = [learnerOf(), learnerOf()];
    for (let step = 0; step < 4; step++) {
      await one.train(images, targets, 0.1);
      await other.train(images, targets, 0.1);
      const names = ["conv.weight", "optimizer.momentum:conv.weight", "linear.bias"];
      const state = await other.readState(names);
      await other.writeState(new Map([...state].map(([name, t]) => [name, Tensor.zeros(t.dtype, t.shape)])));
      expect([...(await other.readState(names)).values()].every((t) => t.data.every((v) => Number(v) === 0))).toBe(
        true,
      );
      await other.writeState(state);
    }
    for (const learner of [one, other]) await learner.sync();
    expect(bytesOf(other.model as Module)).toBe(bytesOf(one.model as Module));
    for (const learner of [one, other]) await learner.dispose();
  });

  test("written weights are trained from, by every batch size; written before the first step they count too", async () => {
    const learner = learnerOf({ optimizer: sgd() });
    const weight = Tensor.float32([4, 1, 3, 3], new Float64Array(36).fill(0.5));
    const momentum = "optimizer.momentum:conv.weight";
    await learner.writeState(new Map([["conv.weight", weight]]));
    await learner.train(images, targets, 1e-30);
    expect((await learner.readState(["conv.weight"])).get("conv.weight")!.data).toEqual(weight.data);
    const other = Tensor.float32([4, 1, 3, 3], new Float64Array(36).fill(-0.25));
    await learner.writeState(new Map([["conv.weight", other]]));
    const half = new Tensor("float32", [3, 1, 4, 4], (images.data as Float32Array<ArrayBuffer>).slice(0, 48));
    await learner.train(half, oneHotTargets([0, 1, 2], 3), 1e-30);
    await learner.sync();
    expect((learner.model as Net1).conv.weight.data.data).toEqual(other.data);
    await expect(learner.readState([momentum])).rejects.toThrow(`there is no state "${momentum}"`);
    await expect(learner.writeState(new Map([["conv.weight", Tensor.zeros("float32", [4])]]))).rejects.toThrow(
      "conv.weight is float32 [4, 1, 3, 3], the value to be written is float32 [4]",
    );
    await learner.dispose();
  });

  test("a rule's own outputs come with the step", async () => {
    const learner = learnerOf({ optimizer: chain(globalSparse({ share: 0.5 }), sgd()), returnGradients: true });
    const before = await learner.readState(["conv.weight", "linear.weight"]);
    const { outputs } = await learner.train(images, targets, 0.1);
    const importance = ["conv.weight", "linear.weight"].flatMap((key) => {
      const w = before.get(key)!.toFloat64();
      return [...outputs[`grad:${key}`].toFloat64()].map((g, i) => Math.abs(g * w[i]));
    });
    const sorted = importance.sort((a, b) => b - a);
    expect(outputs.gsmThreshold.toFloat64()[0]).toBeCloseTo(sorted[Math.floor(sorted.length / 2) - 1], 6);
    await learner.dispose();
  });

  /** Every third step, the host masks the row that is the smallest by then. */
  const maskSmallest = (key: string): UpdateRule => ({
    ...shrinkRows(key, 0.02),
    async afterStep(host) {
      if (host.step % 3) return;
      const weight = (await host.readState([key])).get(key)!;
      const [rows] = weight.shape;
      const values = weight.toFloat64();
      const norms = Array.from({ length: rows }, (_, r) =>
        Math.hypot(...values.subarray((r * values.length) / rows, ((r + 1) * values.length) / rows)),
      );
      const smallest = norms.indexOf(Math.min(...norms));
      const mask = Float64Array.from(norms, (_, r) => Number(r !== smallest));
      await host.writeState(new Map([[`optimizer.mask:${key}`, Tensor.float32([rows], mask)]]));
    },
  });

  test("a rule whose host works after every third step: stopped and resumed, the same weights to the bit", async () => {
    const options = { optimizer: chain(maskSmallest("head.weight"), sgd({ momentum: 0.9 })) };
    const store = memoryStore();
    const whole = await train({ ...options, store });
    const mask = (await store.load("last"))!.entries.get("optimizer.mask:head.weight")!.readSync();
    expect([...mask.toFloat64()].sort()).toEqual([0, 1, 1]);
    const parts = memoryStore();
    await train({ ...options, store: parts }, 4);
    const resumed = await train({ ...options, store: parts, resume: true });
    expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
    const plain = await train({ optimizer: sgd({ momentum: 0.9 }), data: { train: toyData(50) } });
    expect(bytesOf(plain.model as SmallNet)).not.toBe(bytesOf(whole.model));
  });
});
