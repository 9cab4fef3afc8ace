import { describe, expect, test } from "vitest";
import { ConvBn } from "../../src/blocks/index.ts";
import { globalAvgPool, type Value } from "../../src/graph/index.ts";
import { type Equivalence, judge, top1, verifyEquivalence } from "../../src/inference/index.ts";
import { Linear, Module, type Outputs } from "../../src/nn/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { randomTensor, withRandomState } from "../reparam/support.ts";
import { inputShape, small } from "./nets.ts";

/** Adds to the first value of a parameter. */
function damage(model: Module, key: string, by: number): void {
  const p = new Map(model.state()).get(key)!;
  const values = p.data.toFloat64().slice();
  values[0] += by;
  p.set(Tensor.of(p.dtype, p.shape, values));
}

/** Two heads: classes of the picture, and of its pixels. */
class TwoHeads extends Module {
  readonly stem = new ConvBn(3, 4, { kernelSize: 3, padding: 1 });
  readonly pixels = new ConvBn(4, 5, { kernelSize: 1 });
  readonly linear = new Linear(4, 3);

  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(this.stem.forward(x)));
  }

  both(x: Value) {
    return { output: this.forward(x), pixels: this.pixels.forward(this.stem.forward(x)) };
  }
}

describe("several outputs, and classes of pixels", () => {
  const model = withRandomState(new TwoHeads()).eval();
  const shape = [3, 6, 7];
  const outputs = (net: Module, x: Value) => (net as TwoHeads).both(x);

  test("each output is compared under its name, and one that is wrong fails", async () => {
    const deploy = convertToDeploy(model);
    const equal = await verifyEquivalence(model, deploy, { inputShape: shape, outputs });
    expect(equal.outputs?.map(({ path }) => path)).toEqual(["pixels"]);
    expect(judge(equal, 1e-4)).toEqual({ passed: true, differs: null });
    damage(deploy, "pixels.conv.bias", 0.5);
    const wrong = await verifyEquivalence(model, deploy, { inputShape: shape, outputs });
    expect([wrong.maxRel < 1e-4, wrong.outputs![0].maxRel > 1e-3]).toEqual([true, true]);
    expect(judge(wrong, 1e-4)).toEqual({ passed: false, differs: "pixels" });
    expect((await verifyEquivalence(model, deploy, { inputShape: shape })).outputs).toBeUndefined();
  });

  test("an output that only one of them has is an error", async () => {
    let calls = 0;
    const once = (net: Module, x: Value): Outputs => {
      const { output, pixels } = outputs(net, x);
      return calls++ ? { output } : { output, pixels };
    };
    await expect(verifyEquivalence(model, model, { inputShape: shape, outputs: once })).rejects.toThrow(
      /the second model has no output "pixels"/,
    );
  });

  test("pixels are counted where the network tells their classes", async () => {
    const dense = (net: Module, x: Value) => ({ output: (net as TwoHeads).both(x).pixels });
    const deploy = convertToDeploy(model);
    const equal = await verifyEquivalence(model, deploy, { inputShape: shape, samples: 3, outputs: dense });
    expect(equal.top1).toEqual({ agree: 3 * 42, total: 3 * 42, of: "pixels" });
    damage(deploy, "pixels.conv.bias", 100);
    const { top1: found, disagreements } = await verifyEquivalence(model, deploy, {
      ...{ inputShape: shape, samples: 3, outputs: dense },
    });
    expect(found.agree).toBe(3 * 42 - disagreements.length);
    expect(disagreements.every(({ classes }) => classes[1] === 0)).toBe(true);
    expect(disagreements.length).toBeGreaterThan(50);
  });
});

describe("verifyEquivalence", () => {
  test("finds two forms of one model equal, block by block in order of computation", async () => {
    const model = small();
    const { path, maxAbs, maxRel, blocks, top1, disagreements } = await verifyEquivalence(
      model,
      convertToDeploy(model),
      {
        inputShape,
        samples: 50,
      },
    );
    expect(blocks.map((b) => b.path)).toEqual(["stem", "rep0", "rep1"]);
    for (const rel of [maxRel, ...blocks.map((b) => b.maxRel)]) expect(rel).toBeLessThan(1e-5);
    expect(maxAbs).toBeGreaterThan(0);
    expect({ path, top1, disagreements }).toEqual({ path: "", top1: { agree: 50, total: 50 }, disagreements: [] });
  });

  test("shows in float64 that the rest is rounding", async () => {
    const model = small();
    const { maxRel } = await verifyEquivalence(model, convertToDeploy(model), { inputShape, dtype: "float64" });
    // The merged weights are kept in float32.
    expect(maxRel).toBeLessThan(1e-6);
  });

  test.for(["stem", "rep0", "rep1"])("the first block that differs is the one that is wrong: %s", async (block) => {
    const model = small();
    const deploy = convertToDeploy(model);
    damage(deploy, block === "stem" ? "stem.conv.bias" : `${block}.fc3.bias`, 0.5);
    const { blocks, maxRel } = await verifyEquivalence(model, deploy, { inputShape });
    expect(blocks.find((b) => b.maxRel > 1e-4)?.path).toBe(block);
    expect(maxRel).toBeGreaterThan(1e-4);
  });

  test("counts the inputs whose class changes, with how sure the model was", async () => {
    const model = small();
    const deploy = convertToDeploy(model);
    damage(deploy, "linear.bias", 100);
    const { top1: agreement, disagreements } = await verifyEquivalence(model, deploy, { inputShape, samples: 40 });
    expect(agreement.total).toBe(40);
    expect(agreement.agree).toBe(40 - disagreements.length);
    expect(disagreements.length).toBeGreaterThan(0);
    for (const { index, margin } of disagreements) {
      expect(index).toBeLessThan(40);
      expect(margin).toBeGreaterThanOrEqual(0);
    }
  });

  test("runs on given inputs, also when they do not fill the last batch", async () => {
    const model = small();
    const inputs = randomTensor([33, ...inputShape], "pictures");
    const { top1: agreement, maxRel } = await verifyEquivalence(model, convertToDeploy(model), { inputs });
    expect(agreement).toEqual({ agree: 33, total: 33 });
    expect(maxRel).toBeLessThan(1e-5);
  });

  test("does not pass over a value that is not a number", async () => {
    const model = withRandomState(new ConvBn(3, 2, { kernelSize: 1 })).eval();
    const inputs = randomTensor([4, 3, 2, 2], "pictures");
    (inputs.data as Float32Array)[1] = Number.NaN;
    const zeroed = convertToDeploy(model);
    zeroed.conv.weight.set(Tensor.zeros("float32", zeroed.conv.weight.shape));
    for (const other of [convertToDeploy(model), zeroed]) {
      const { maxAbs, blocks } = await verifyEquivalence(model, other, { inputs });
      expect([maxAbs, blocks[0].maxAbs]).toEqual([Number.NaN, Number.NaN]);
    }
  });

  test("changes neither model", async () => {
    const [model, other] = [small(), convertToDeploy(small())];
    const keys = [model, other].map((m) => [...m.state()].map(([key, p]) => [key, p.data]));
    await verifyEquivalence(model, other, { inputShape, dtype: "float64" });
    expect([model, other].map((m) => [...m.state()].map(([key, p]) => [key, p.data]))).toEqual(keys);
    expect([model.training, other.training]).toEqual([false, false]);
  });

  test("refuses training mode with the reason, also of a single layer", async () => {
    const [model, deploy] = [small(), convertToDeploy(small())];
    const refusal = (): Promise<Equivalence> => verifyEquivalence(model, deploy, { inputShape });
    model.train();
    await expect(refusal()).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: verify: the first model is in training mode, where batch norm uses batch statistics, so outputs cannot match. Call model.eval() first.]`,
    );
    model.eval();
    deploy.train();
    await expect(refusal()).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: verify: the second model is in training mode, where batch norm uses batch statistics, so outputs cannot match. Call model.eval() first.]`,
    );
    deploy.eval();
    model.rep0.fc3Bn!.train();
    await expect(refusal()).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: verify: rep0.fc3_bn of the first model is in training mode, where batch norm uses batch statistics, so outputs cannot match. Call model.eval() first.]`,
    );
  });

  test("refuses what cannot be compared", async () => {
    const model = small();
    await expect(verifyEquivalence(model, model)).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: verify: pass inputs, or inputShape for random ones]`,
    );
    const inputs = Tensor.zeros("float32", [0, ...inputShape]);
    await expect(verifyEquivalence(model, model, { inputs })).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: verify: there are no inputs to compare on, got [0, 3, 6, 5]]`,
    );
    const other = withRandomState(new Other()).eval();
    await expect(verifyEquivalence(model, other, { inputShape })).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: verify: the outputs are [8, 3] and [8, 4]; these are not two forms of one model]`,
    );
  });
});

/** Four classes instead of three. */
class Other extends Module {
  readonly linear = new Linear(3, 4);
  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(x));
  }
}

test("top1: the largest value and its lead over the second", () => {
  expect([top1([1, 5, 3]), top1([5, 1, 3]), top1([2, 2]), top1([-1, -2, -3])]).toEqual([
    { index: 1, margin: 2 },
    { index: 0, margin: 2 },
    { index: 0, margin: 0 },
    { index: 0, margin: 1 },
  ]);
});
