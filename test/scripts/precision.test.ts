import { describe, expect, test } from "vitest";
import "../../src/node.ts";
import { cases, type Entry, measureCase, readRecording } from "../../scripts/precision/measure.ts";
import type { Build } from "../../scripts/precision/ops.ts";
import {
  add,
  channelSum,
  concat,
  constant,
  conv2d,
  div,
  matmul,
  mul,
  reduceSum,
  relu,
  reshape,
  sqrt,
  sub,
  transpose,
} from "../../src/graph/index.ts";
import { sizeOf, Tensor } from "../../src/tensor/index.ts";

const recording = readRecording();
const named = (name: string) => cases.find((c) => c.name === name)!;
const failures = (entries: readonly Entry[]) =>
  entries.filter((e) => e.failure).map((e) => `${e.condition}, ${e.tensor}: ${JSON.stringify(e.ours)}, ${e.allowed}`);

describe("float32 is at most twice as far from float64 as PyTorch's, and 5e-6 of the largest value", () => {
  test.each(cases)("$name", async (testCase) => {
    const entries = await measureCase(testCase, recording);
    expect(entries.length).toBeGreaterThan(10);
    expect(failures(entries)).toEqual([]);
  });
});

/** Variance of a 1×1 convolution's output from second moments that are not centred, as E[x xᵀ] − m mᵀ. */
const uncentred: Build = ({ x, w, weight, bias }) => {
  const [n, c, h, width] = x.shape;
  const o = w.shape[0];
  const positions = n * h * width;
  const matrix = reshape(w, [o, c]);
  const rows = reshape(transpose(x, [1, 0, 2, 3]), [c, positions]);
  const m = reshape(div(channelSum(x), positions), [c, 1]);
  const covariance = sub(div(matmul(rows, transpose(rows, [1, 0])), positions), matmul(m, transpose(m, [1, 0])));
  const variance = relu(reduceSum(mul(matmul(matrix, covariance), matrix), 1));
  const mean = matmul(matrix, m);
  const scale = reshape(div(weight, sqrt(add(variance, 1e-5))), [o, 1]);
  const shift = sub(reshape(bias, [o, 1]), mul(scale, mean));
  const ones = constant(Tensor.full(x.dtype, [n, 1, h, width], 1));
  const folded = reshape(concat([mul(matrix, scale), shift], 1), [o, c + 1, 1, 1]);
  const count = sizeOf([n, h, width]);
  return {
    y: conv2d(concat([x, ones], 1), folded),
    mean: reshape(mean, [o]),
    variance: mul(variance, count / (count - 1)),
  };
};

test("the report finds what is not centred", async () => {
  const entries = await measureCase(named("1x1 convolution and batch norm in one"), recording, { build: uncentred });
  const failed = (condition: string) => entries.filter((e) => e.condition === condition && e.failure);
  expect(failed("offset 0").map((e) => e.tensor)).toEqual([]);
  for (const offset of [100, 1000, 10000])
    expect(failed(`offset ${offset}`).map((e) => e.tensor)).toEqual(expect.arrayContaining(["y", "variance"]));
});

test("a value that is not a number fails", async () => {
  const broken: Build = ({ x, weight, bias }) => ({ y: mul(x, 0 / 0), mean: weight, variance: bias });
  const entries = await measureCase(named("batch norm in training"), recording, { build: broken });
  expect(entries.filter((e) => e.tensor === "y").every((e) => e.failure)).toBe(true);
});
