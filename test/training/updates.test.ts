import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type LearnerOptions, Module, nn, oneHotTargets, ops, rng, sgd, Tensor, type Value } from "../../src/node.ts";
import { Learner } from "../../src/training/index.ts";

interface Run {
  readonly losses: readonly number[];
  readonly norms: readonly number[];
  readonly state: Readonly<Record<string, readonly number[]>>;
  readonly ema: Readonly<Record<string, readonly number[]>>;
}

/** Made with PyTorch by make-fixtures.py. */
const torch = JSON.parse(
  readFileSync(new URL("../fixtures/training/updates.json", import.meta.url), "utf8"),
) as Readonly<{
  start: Run["state"];
  images: readonly (readonly number[])[];
  labels: readonly (readonly number[])[];
  clipNorm: Run;
  clipValue: Run;
}>;

class Net extends Module {
  readonly conv = new nn.Conv2d(1, 2, { kernelSize: 3, bias: false });
  readonly norm = new nn.BatchNorm2d(2);
  readonly linear = new nn.Linear(2, 3);
  forward(x: Value): Value {
    return this.linear.forward(ops.globalAvgPool(ops.relu(this.norm.forward(this.conv.forward(x)))));
  }
}

const started = (): Net => {
  const net = new Net();
  const shapes = new Map([...net.state()].map(([key, p]) => [key, p.shape]));
  net.loadStateDict(
    new Map(Object.entries(torch.start).map(([key, v]) => [key, Tensor.float32(shapes.get(key)!, [...v])])),
  );
  return net;
};

const valuesOf = (net: Module): Record<string, number[]> =>
  Object.fromEntries([...net.stateDict()].map(([key, t]) => [key, [...t.readSync().toFloat64()]]));

const expectClose = (own: Module, expected: Run["state"]): void => {
  const values = valuesOf(own);
  for (const [key, list] of Object.entries(expected))
    for (const [i, v] of list.entries()) expect(values[key][i], `${key}[${i}]`).toBeCloseTo(v, 5);
};

describe("clipping and averaging as in PyTorch", () => {
  test.for([
    ["clipNorm", 0.4],
    ["clipValue", 0.1],
  ] as const)("%s %f: losses, norms, weights and their average after three steps", async ([name, limit]) => {
    const net = started();
    const optimizer = sgd({ momentum: 0.9, weightDecay: 0.01 });
    const learner = new Learner(net, { optimizer, [name]: limit, gradientNorm: true, ema: { decay: 0.9 } });
    for (const [i, values] of torch.images.entries()) {
      const images = Tensor.float32([6, 1, 4, 4], [...values]);
      const { loss, gradientNorm } = await learner.train(images, oneHotTargets(torch.labels[i], 3), 0.5);
      expect(loss).toBeCloseTo(torch[name].losses[i], 5);
      expect(gradientNorm).toBeCloseTo(torch[name].norms[i], 5);
    }
    const averaged = await learner.averaged();
    expectClose(net, torch[name].state);
    expectClose(averaged, torch[name].ema);
    // A counter has no average.
    expect(valuesOf(averaged)["norm.num_batches_tracked"]).toEqual([3]);
    await learner.dispose();
  });

  test("the limit is between the norms of the recorded steps", () => {
    expect(Math.max(...torch.clipNorm.norms)).toBeGreaterThan(0.4);
    expect(Math.min(...torch.clipNorm.norms)).toBeLessThan(0.4);
  });

  test("the norm is that of the gradients returned; frozen parameters do not count", async () => {
    const optimizer = sgd();
    const group = (key: string) => (key.startsWith("conv") ? { frozen: true } : undefined);
    const net = started();
    const learner = new Learner(net, {
      optimizer,
      group,
      gradientNorm: true,
      returnGradients: true,
      ema: { decay: 0.5 },
    });
    const images = Tensor.float32([6, 1, 4, 4], [...torch.images[0]]);
    const { outputs, gradientNorm } = await learner.train(images, oneHotTargets(torch.labels[0], 3), 0.5);
    const gradients = Object.entries(outputs).filter(([name]) => name.startsWith("grad:"));
    expect(gradients.map(([name]) => name)).not.toContain("grad:conv.weight");
    const squares = gradients.flatMap(([, t]) => [...t.toFloat64()].map((v) => v * v));
    expect(gradientNorm).toBeCloseTo(Math.sqrt(squares.reduce((a, b) => a + b, 0)), 6);
    // What is frozen is its own average, to the bit.
    expect(valuesOf(await learner.averaged())["conv.weight"]).toEqual(valuesOf(started())["conv.weight"]);
    await learner.dispose();
  });

  test("the average's warm-up keeps min(decay, (1 + t) / (10 + t)) at step t", async () => {
    const net = started();
    const learner = new Learner(net, { optimizer: sgd(), ema: { decay: 0.24, warmup: true } });
    const bias = (m: Module): number => valuesOf(m)["linear.bias"][0];
    let expected = bias(net);
    for (const [i, kept] of [2 / 11, 0.24, 0.24].entries()) {
      const images = Tensor.float32([6, 1, 4, 4], [...torch.images[i]]);
      await learner.train(images, oneHotTargets(torch.labels[i], 3), 0.5);
      const averaged = await learner.averaged();
      expected = kept * expected + (1 - kept) * bias(net);
      expect(bias(averaged)).toBeCloseTo(expected, 6);
    }
    await learner.dispose();
  });

  test.for<[Partial<LearnerOptions>, string]>([
    [{ clipNorm: 0 }, "clipNorm must be a positive number, got 0"],
    [{ clipValue: Number.NaN }, "clipValue must be a positive number, got NaN"],
    [{ clipNorm: 1, clipValue: 2 }, "clipNorm (1) and clipValue (2) exclude each other"],
    [{ ema: { decay: 1 } }, "ema: decay must be at least 0 and below 1, got 1"],
    [{ accumulate: 1.5 }, "accumulate must be a positive integer, got 1.5"],
  ])("%j is refused", async ([options, message]) => {
    const compile = async () => new Learner(new Net(), { optimizer: sgd(), ...options }).compile([6, 1, 4, 4]);
    await expect(compile()).rejects.toThrow(message);
  });
});

describe("a batch in parts", () => {
  /** No batch norm: nothing in it sees the size of a part. */
  class Plain extends Module {
    readonly conv = new nn.Conv2d(1, 4, { kernelSize: 3 });
    readonly linear = new nn.Linear(4, 3);
    forward(x: Value): Value {
      return this.linear.forward(ops.globalAvgPool(ops.relu(this.conv.forward(x))));
    }
  }
  const batch = (count: number, step: number) => {
    const random = rng(step, "parts");
    const images = Tensor.float32(
      [count, 1, 4, 4],
      Float64Array.from({ length: count * 16 }, () => random.normal()),
    );
    return {
      images,
      targets: oneHotTargets(
        Int32Array.from({ length: count }, () => random.below(3)),
        3,
      ),
    };
  };
  const trained = async (count: number, options: Partial<LearnerOptions>) => {
    const net = new Plain().initialize(3);
    const learner = new Learner(net, {
      optimizer: sgd({ momentum: 0.9, weightDecay: 0.01 }),
      gradientNorm: true,
      ...options,
    });
    const results = [];
    for (let step = 0; step < 3; step++) {
      const { images, targets } = batch(count, step);
      results.push(await learner.train(images, targets, 0.3));
    }
    await learner.sync();
    await learner.dispose();
    return { net, results, steps: learner.step };
  };

  // 32 = 4 × 8; 30 = 8 + 8 + 8 + 6; 5 pictures make but three parts of 2, 2 and 1.
  test.for([32, 30, 5])("of %i pictures in four parts gives what the whole batch gives", async (count) => {
    const whole = await trained(count, { clipNorm: 0.2 });
    const parts = await trained(count, { clipNorm: 0.2, accumulate: 4 });
    expect(parts.steps).toBe(3);
    for (const [i, { loss, gradientNorm, output }] of parts.results.entries()) {
      expect(loss).toBeCloseTo(whole.results[i].loss, 6);
      expect(gradientNorm).toBeCloseTo(whole.results[i].gradientNorm!, 6);
      expect(output.shape).toEqual([count, 3]);
      for (const [j, v] of output.toFloat64().entries())
        expect(v).toBeCloseTo(whole.results[i].output.toFloat64()[j], 6);
    }
    expectClose(parts.net, valuesOf(whole.net));
  });

  test("of sizes of one's own", async () => {
    const { images, targets } = batch(8, 0);
    const whole = new Plain().initialize(3);
    const one = new Learner(whole, { optimizer: sgd() });
    await one.train(images, targets, 0.3);
    await one.sync();
    await one.dispose();
    const net = new Plain().initialize(3);
    const learner = new Learner(net, { optimizer: sgd() });
    for (const [from, to] of [
      [0, 3],
      [3, 8],
    ]) {
      const part = (t: Tensor): Tensor => {
        const row = t.size / 8;
        return Tensor.float32([to - from, ...t.shape.slice(1)], [...t.toFloat64().slice(from * row, to * row)]);
      };
      await learner.accumulate(part(images), part(targets));
    }
    await learner.update(0.3);
    await learner.sync();
    expectClose(net, valuesOf(whole));
    await expect(learner.update(0.3)).rejects.toThrow("update() without gradients");
    await learner.dispose();
  });
});
