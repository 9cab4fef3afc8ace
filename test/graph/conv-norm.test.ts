import { describe, expect, test } from "vitest";
import {
  batchNormTrain,
  conv2d,
  grad,
  input,
  mul,
  pointwiseNormTrain,
  reduceSum,
  targets,
  type Value,
} from "../../src/graph/index.ts";
import { nn } from "../../src/index.ts";
import type { Shape } from "../../src/tensor/index.ts";
import { difference, evaluate, type FloatDType, feedOf } from "./harness.ts";

const shapes: Readonly<Record<string, Shape>> = {
  x: [5, 4, 7, 3],
  w: [9, 4, 1, 1],
  weight: [9],
  bias: [9],
  dy: [5, 9, 7, 3],
};

/** Output, statistics and all gradients of a 1×1 convolution with its norm, in one or the other way. */
function graphBy(together: boolean, dtype: FloatDType): Readonly<Record<string, Value>> {
  const { x, w, weight, bias, dy } = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [name, input(name, shape, dtype)]),
  );
  const { y, mean, variance } = together
    ? pointwiseNormTrain(x, w, weight, bias)
    : batchNormTrain(conv2d(x, w), weight, bias);
  const gradients = grad(reduceSum(mul(y, dy)), [x, w, weight, bias]);
  return { y, mean, variance, ...Object.fromEntries(gradients.map((g, i) => [`gradient ${i}`, g])) };
}

describe("a 1×1 convolution trained in one with its batch norm", () => {
  test.each([
    { dtype: "float64", tolerance: 1e-12 },
    { dtype: "float32", tolerance: 1e-5 },
  ] as const)("is the convolution and then the norm, gradients too, in $dtype", async ({ dtype, tolerance }) => {
    // Far from zero mean, where a variance from sums of squares is at its worst.
    const range = { x: [0.5, 2.5], weight: [0.3, 2] } as const;
    const feeds = Object.fromEntries(
      Object.entries(shapes).map(([name, shape]) => [
        name,
        feedOf(name, { shape, ...(name in range && { range: range[name as keyof typeof range] }) }, dtype),
      ]),
    );
    const by = (way: boolean) =>
      evaluate({ outputs: graphBy(way, dtype) }, targets.cpuTraining, { names: new Map() }, feeds);
    const [apart, together] = [await by(false), await by(true)];
    for (const [name, expected] of Object.entries(apart))
      expect(difference(together[name], expected), name).toBeLessThan(tolerance);
  });

  test("is used where it saves more than it adds", () => {
    const convolution = (channels: number, outputs: number) =>
      new nn.Conv2d(channels, outputs, { kernelSize: 1, bias: false });
    const opsOf = (conv: nn.Conv2d, shape: Shape): string => {
      const bn = new nn.BatchNorm2d(conv.weight.shape[0]);
      return nn.traceModel(
        new (class extends nn.Module {
          readonly conv = conv;
          readonly bn = bn;
          forward(x: Value): Value {
            return this.bn.afterConv(this.conv, x);
          }
        })().train(),
        shape,
      ).output.node.op.name;
    };
    expect(opsOf(convolution(64, 256), [8, 64, 28, 28])).toBe("pointwiseNorm");
    expect(opsOf(convolution(256, 64), [8, 256, 28, 28])).toBe("batchNormTrain");
    expect(opsOf(convolution(4, 8), [2, 4, 3, 3])).toBe("batchNormTrain");
  });
});
