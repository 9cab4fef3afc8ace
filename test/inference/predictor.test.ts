import { describe, expect, test } from "vitest";
import { evaluate, nn, Predictor, rankOf, rowLoss, sampleDataset, Tensor } from "../../src/node.ts";

test.for<[readonly number[], number, number]>([
  [[1, 3, 2], 1, 0],
  [[1, 3, 2], 0, 2],
  // Equal values: the lower class number comes first.
  [[2, 2, 2], 0, 0],
  [[2, 2, 2], 2, 2],
  // What is not a number is never right.
  [[Number.NaN, 1, 0], 0, 2],
  [[Number.NaN, 1, 0], 1, 1],
])("rank in %j of class %i is %i", ([logits, label, rank]) => {
  expect(rankOf(logits, label)).toBe(rank);
});

test("cross entropy of large logits neither overflows nor loses digits", () => {
  expect(rowLoss([1000, 998], 1)).toBeCloseTo(2 + Math.log1p(Math.exp(-2)), 12);
  expect(rowLoss([0, 0, 0, 0], 2)).toBeCloseTo(Math.log(4), 12);
});

/** A network that returns its 4 inputs. */
function passing(): nn.Sequential {
  const net = new nn.Sequential(new nn.Flatten());
  net.eval();
  return net;
}

const data = (classes: number) =>
  sampleDataset({
    length: 7,
    classes: Array.from({ length: classes }, String),
    imageShape: [1, 2, 2],
    // The first four are right, the others have the true class second.
    sample: (i) => ({
      image: Float32Array.from({ length: 4 }, (_, c) => (c === i % 4 ? 2 : 0) + (i > 3 && c === (i + 1) % 4 ? 3 : 0)),
      label: i % 4,
    }),
  });

describe("evaluate", () => {
  test("counts over batches of which the last is not full", async () => {
    const progress: number[] = [];
    const result = await evaluate(passing(), data(4), { batchSize: 3, onBatch: (done) => progress.push(done) });
    expect(result).toMatchObject({ total: 7, top1: 4, top5: 7 });
    const [right, wrong] = [Math.log(Math.exp(2) + 3) - 2, Math.log(Math.exp(2) + Math.exp(3) + 2) - 2];
    expect(result.lossSum).toBeCloseTo(4 * right + 3 * wrong, 5);
    expect(progress).toEqual([3, 6, 7]);
  });

  test("refuses data with more classes than outputs", async () => {
    await expect(evaluate(passing(), data(5))).rejects.toThrow("the network has 4 outputs, the data 5 classes");
  });
});

describe("predictor", () => {
  test("takes any number of pictures, also none", async () => {
    const predictor = await Predictor.create(passing(), { inputShape: [1, 2, 2], batchSize: 3 });
    for (const count of [1, 3, 4, 0]) {
      const values = Array.from({ length: 4 * count }, (_, i) => i / 3);
      const out = await predictor.run(Tensor.float32([count, 1, 2, 2], values));
      expect([...out.data]).toEqual([...Float32Array.from(values)]);
    }
    await predictor.dispose();
  });

  test("refuses pictures of another shape, and networks in training mode", async () => {
    const predictor = await Predictor.create(passing(), { inputShape: [1, 2, 2] });
    await expect(predictor.run(Tensor.zeros("float32", [2, 1, 4, 1]))).rejects.toThrow(
      "predict: expected float32 pictures [N, 1, 2, 2], got float32 [2, 1, 4, 1]",
    );
    await predictor.dispose();
    const training = Predictor.create(new nn.Sequential(new nn.Flatten()), { inputShape: [1, 2, 2] });
    await expect(training).rejects.toThrow("predict: the model is in training mode");
  });
});
