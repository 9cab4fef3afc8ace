import { describe, expect, test } from "vitest";
import { createModel, type Net, nn } from "../../src/index.ts";
import { lowerStep } from "../../src/runtime/index.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { oneHotTargets } from "../../src/tasks/index.ts";
import type { Tensor } from "../../src/tensor/index.ts";
import { Learner, sgd, trainStep } from "../../src/training/index.ts";
import { difference } from "../graph/harness.ts";
import { normals } from "../runtime/small-step.ts";

registerNode();

/** Blocks with dropout in them, whose masks must be the same when they are computed again. */
class Dropping extends nn.Module implements Net {
  readonly blocks = new nn.Sequential(
    ...[0, 1, 2].map(
      () =>
        new nn.Sequential(
          new nn.Conv2d(4, 4, { kernelSize: 3, padding: 1 }),
          new nn.BatchNorm2d(4),
          new nn.ReLU(),
          new nn.Dropout(0.4),
        ),
    ),
  );
  readonly pool = new nn.GlobalAvgPool();
  readonly head = new nn.Linear(4, 3);
  forward(x: Parameters<Net["forward"]>[0]): ReturnType<Net["forward"]> {
    return this.head.forward(this.pool.forward(this.blocks.forward(x)));
  }
}

const networks: readonly [name: string, make: () => Net, inputShape: readonly number[], classes: number][] = [
  ["a pure MLP", () => createModel("RepMLP-CIFAR10-pure-MLP", { channels: [4, 8, 8] }), [6, 3, 32, 32], 10],
  [
    "a network of bottlenecks",
    () =>
      createModel("ResNet-50-base-224", {
        numBlocks: [2, 1, 1, 1],
        channels: [16, 32, 32, 32],
        stemChannels: 8,
        numClasses: 3,
      }),
    [4, 3, 32, 32],
    3,
  ],
  ["blocks with dropout", () => new Dropping(), [5, 4, 6, 6], 3],
];

describe.each(networks)("%s with gradient checkpointing", (_, make, inputShape, classes) => {
  const images = normals(inputShape, 7, "images");
  const targets = oneHotTargets(
    Array.from({ length: inputShape[0] }, (__, i) => i % classes),
    classes,
  );

  async function trained(gradCheckpointing: boolean): Promise<{ losses: number[]; values: Map<string, Tensor> }> {
    const model = make().initialize(1);
    const learner = new Learner(model, { optimizer: sgd({ momentum: 0.9 }), gradCheckpointing, threads: 1 });
    const losses: number[] = [];
    for (let step = 0; step < 3; step++) losses.push((await learner.train(images, targets, 0.05, step)).loss);
    await learner.sync();
    await learner.dispose();
    return { losses, values: new Map([...model.stateDict()].map(([key, t]) => [key, t.readSync()])) };
  }

  test("has the losses, weights and statistics of training without", async () => {
    const [usual, checkpointed] = [await trained(false), await trained(true)];
    for (const [i, loss] of usual.losses.entries()) expect(checkpointed.losses[i]).toBeCloseTo(loss, 5);
    for (const [key, tensor] of usual.values)
      expect(difference(checkpointed.values.get(key)!, tensor), key).toBeLessThan(1e-4);
  });

  test("computes blocks again, and still overwrites its state", () => {
    const lowered = (gradCheckpointing: boolean) => {
      const options = { optimizer: sgd({ momentum: 0.9 }), inputShape, gradCheckpointing };
      return lowerStep(trainStep(make().initialize(1).train() as Net, options));
    };
    const products = ({ lowered: { model } }: ReturnType<typeof lowered>) =>
      model.nodes.filter(({ opType }) => /^(MatMul|Gemm|Conv)$/.test(opType)).length;
    expect(products(lowered(true))).toBeGreaterThan(products(lowered(false)));
    const { changed, inPlace } = lowered(true);
    expect(changed.filter((name) => !inPlace.has(name))).toEqual([]);
  });
});
