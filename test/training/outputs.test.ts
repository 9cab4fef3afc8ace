import { describe, expect, test } from "vitest";
import { input, type Value } from "../../src/graph/index.ts";
import { Linear, Module, type MultiOutputNet, type Outputs, traceNet } from "../../src/nn/index.ts";
import { compile } from "../../src/runtime/index.ts";
import { oneHotTargets } from "../../src/tasks/classification.ts";
import { classification } from "../../src/tasks/index.ts";
import { Learner } from "../../src/training/index.ts";
import { sgd } from "../../src/training/transforms/index.ts";
import { randomTensor } from "../reparam/support.ts";

/** A network with two further heads. */
class Heads extends Module implements MultiOutputNet {
  readonly outputWeights = { near: 0.5, far: 0.25 };
  readonly main = new Linear(4, 3);
  readonly near = new Linear(4, 3);
  readonly far = new Linear(4, 3);

  forward(x: Value): Value {
    return this.main.forward(x);
  }

  trainingOutputs(x: Value): Outputs {
    return { output: this.forward(x), near: this.near.forward(x), far: this.far.forward(x) };
  }
}

const shape = [5, 4];
const targets = oneHotTargets([0, 1, 2, 1, 0], 3);

async function lossOf(net: Heads, weights?: Readonly<Record<string, number>>): Promise<number> {
  const task = classification({ ...(weights && { outputWeights: weights }) });
  const { result } = traceNet(
    net,
    () => task.loss(net, { images: input("input", shape), input: (name, s) => input(name, s) }),
    ({ loss }) => [loss],
  );
  await using program = await compile({ outputs: { loss: result.loss } });
  const { loss } = await program.run({ input: randomTensor(shape, "x"), targets });
  return Number(loss.data[0]);
}

describe("a network with further outputs in training", () => {
  const net = new Heads().initialize(1).train();

  test("its loss is the main one's, and the others' as much as the network says or the task is told", async () => {
    const only = (name: string) => lossOf(net, { near: 0, far: 0, ...(name !== "main" && { [name]: 1 }) });
    const main = await only("main");
    const [near, far] = [(await only("near")) - main, (await only("far")) - main];
    expect(Math.min(near, far)).toBeGreaterThan(0.1);
    expect(await lossOf(net)).toBeCloseTo(main + 0.5 * near + 0.25 * far, 5);
    expect(await lossOf(net, { far: 2 })).toBeCloseTo(main + 0.5 * near + 2 * far, 5);
  });

  test("a step trains every head, and counts by the main one", async () => {
    const before = net.stateDict();
    const learner = new Learner(net, { optimizer: sgd() });
    const { outputs } = await learner.train(randomTensor(shape, "x"), { targets }, 0.1, 0);
    await learner.sync();
    await learner.dispose();
    expect(Object.keys(outputs)).toEqual(["loss", "output"]);
    for (const [key, value] of net.stateDict())
      expect([key, value.readSync().data]).not.toEqual([key, before.get(key)?.readSync().data]);
  });

  test("a weight of an output that there is not, or that is no number, is refused", async () => {
    await expect(lossOf(net, { nar: 1 })).rejects.toThrow(
      'outputWeights names "nar", but in training the network has the further outputs near, far.',
    );
    await expect(lossOf(net, { near: -1 })).rejects.toThrow('the weight of the output "near" must be a number from 0');
  });
});
