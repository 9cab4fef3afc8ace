import { describe, expect, test } from "vitest";
import { DataLoader, Module, nn, ops, preciseBatchNorm, Tensor, type Value } from "../../src/node.ts";
import { bytesOf, SmallNet, toyData } from "./support.ts";

/** Its batch norm sees 2·x + 1, so that the statistics can be computed from the pictures. */
class Scaled extends Module {
  readonly scale = new nn.Conv2d(1, 1, { kernelSize: 1 });
  readonly norm: nn.BatchNorm2d;
  readonly linear = new nn.Linear(1, 3);
  constructor(private readonly uses = 1) {
    super();
    this.norm = new nn.BatchNorm2d(1, { momentum: 0.3 });
    this.scale.weight.set(Tensor.float32([1, 1, 1, 1], [2]));
    this.scale.bias!.set(Tensor.float32([1], [1]));
  }
  forward(x: Value): Value {
    let y = this.scale.forward(x);
    for (let i = 0; i < this.uses; i++) y = this.norm.forward(y);
    return this.linear.forward(ops.globalAvgPool(y));
  }
}

const data = toyData(50);

describe("precise batch norm", () => {
  // Of 50 pictures, 4 batches of 12 make an epoch.
  test.for([
    [3, 3],
    [9, 4],
  ])(
    "averages the mean and the unbiased variance of %i batches: of %i, as an epoch has no more",
    async ([batches, used]) => {
      const net = new Scaled().eval();
      expect(await preciseBatchNorm(net, data, { batches, batchSize: 12, seed: 5, threads: 1 })).toBe(used);
      const expected = { mean: 0, variance: 0 };
      let left = used;
      for await (const { images } of new DataLoader(data, { batchSize: 12, shuffle: true, seed: 5, dropLast: true })) {
        if (left-- === 0) break;
        const seen = images.toFloat64().map((v) => 2 * v + 1);
        const mean = seen.reduce((a, b) => a + b, 0) / seen.length;
        expected.mean += mean / used;
        expected.variance += seen.reduce((a, b) => a + (b - mean) ** 2, 0) / (seen.length - 1) / used;
      }
      expect(net.norm.runningMean.data.toFloat64()[0]).toBeCloseTo(expected.mean, 6);
      expect(net.norm.runningVar.data.toFloat64()[0]).toBeCloseTo(expected.variance, 6);
      expect(net.training).toBe(false);
    },
  );

  test("gives the same to the bit each time, whatever the statistics were, and changes nothing else", async () => {
    const net = new SmallNet().initialize(1);
    const entries = (keep: (key: string) => boolean): string =>
      bytesOf(net)
        .split("\n")
        .filter((line) => keep(line))
        .join("\n");
    const isStatistic = (line: string): boolean => /\.running_(mean|var) /.test(line);
    const [before, others] = [bytesOf(net), entries((line) => !isStatistic(line))];
    await preciseBatchNorm(net, data, { batches: 2, batchSize: 12, threads: 1 });
    const first = bytesOf(net);
    expect(first).not.toBe(before);
    expect(entries((line) => !isStatistic(line))).toBe(others);
    expect(net.training).toBe(true);
    for (const [, m] of net.modules())
      if (m instanceof nn.BatchNorm) m.runningMean.set(Tensor.full("float32", m.runningMean.shape, 9));
    await preciseBatchNorm(net, data, { batches: 2, batchSize: 12, threads: 1 });
    expect(bytesOf(net)).toBe(first);
  });

  test("a network without batch norm is left as it is", async () => {
    const net = new nn.Sequential(new nn.Flatten(), new nn.Linear(16, 3));
    expect(await preciseBatchNorm(net, data, { batches: 1 })).toBe(0);
  });

  test("a layer used twice, and no batches, are refused", async () => {
    await expect(preciseBatchNorm(new Scaled(2), data)).rejects.toThrow("is used several times in one pass");
    await expect(preciseBatchNorm(new Scaled(), data, { batches: 0 })).rejects.toThrow("positive integer, got 0");
  });
});
