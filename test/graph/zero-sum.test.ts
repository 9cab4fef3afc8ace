import { describe, expect, test } from "vitest";
import {
  add,
  asChannelShape,
  batchNormTrain,
  conv2d,
  grad,
  input,
  linear,
  lower,
  targets,
  type Value,
} from "../../src/graph/index.ts";
import { isFloating, type Shape, Tensor } from "../../src/tensor/index.ts";
import { feedOf, feedsFor, program } from "./harness.ts";

type Values = Readonly<Record<string, Value>>;

interface Case {
  readonly name: string;
  readonly inputs: Readonly<Record<string, Shape>>;
  readonly build: (values: Values) => Value;
  /** Whose gradient is looked at. */
  readonly of: string;
}

const norm = (x: Value, { g, b }: Values): Value => batchNormTrain(x, g, b).y;

/** Gradients in a precision, with inputs far from 0, where sums of products cancel most. */
async function gradientOf({ inputs, build, of }: Case, dtype: "float32" | "float64"): Promise<Float64Array> {
  const values = Object.fromEntries(Object.entries(inputs).map(([name, shape]) => [name, input(name, shape, dtype)]));
  const y = build(values);
  const [gradient] = grad(y, [values[of]], input("dy", y.shape, dtype));
  const { model } = lower({ outputs: { gradient } }, { target: targets.cpuTraining });
  await using compiled = await program(model);
  const feeds = Object.fromEntries(
    Object.entries({ ...inputs, dy: y.shape }).map(([name, shape]) => {
      // Drawn in float32, so that both precisions compute with the same numbers.
      const drawn = feedOf(name, { shape, range: name === "x" ? [2, 4] : [0.5, 1.5] }, "float32");
      return [name, Tensor.of(dtype, shape, drawn.toFloat64())];
    }),
  );
  const result = (await compiled.run(feedsFor(model, feeds))).gradient;
  expect(isFloating(result.dtype)).toBe(true);
  return result.toFloat64();
}

const vectors = (c: number): Record<string, Shape> => ({ g: [c], b: [c] });
const images = [8, 6, 14, 14];

describe("a bias in front of a batch norm by the batch's statistics has no gradient", () => {
  const cases: readonly Case[] = [
    {
      ...{ name: "of a 3×3 convolution", of: "t", inputs: { x: images, w: [4, 6, 3, 3], t: [4], ...vectors(4) } },
      build: (v) => norm(add(conv2d(v.x, v.w, { padding: 1 }), asChannelShape(v.t, 4)), v),
    },
    {
      ...{ name: "of a linear layer", of: "t", inputs: { x: [64, 6], w: [4, 6], t: [4], ...vectors(4) } },
      build: (v) => norm(linear(v.x, v.w, v.t), v),
    },
    {
      ...{ name: "of a norm in a sum", of: "t", inputs: { x: images, s: [6], t: [6], ...vectors(6) } },
      build: (v) => norm(add(norm(v.x, { g: v.s, b: v.t }), v.x), v),
    },
    {
      ...{ name: "of a norm before a 1×1 convolution", of: "t" },
      inputs: { x: images, s: [6], t: [6], w: [4, 6, 1, 1], ...vectors(4) },
      build: (v) => norm(conv2d(norm(v.x, { g: v.s, b: v.t }), v.w), v),
    },
  ];
  test.each(cases)("$name", async (c) => {
    expect(Math.max(...(await gradientOf(c, "float32")).map(Math.abs))).toBe(0);
  });

  test("but for one that padding cuts", async () => {
    const cut = await gradientOf(
      {
        ...{ name: "", of: "t", inputs: { x: images, s: [6], t: [6], w: [4, 6, 3, 3], ...vectors(4) } },
        build: (v) => norm(conv2d(norm(v.x, { g: v.s, b: v.t }), v.w, { padding: 1 }), v),
      },
      "float32",
    );
    expect(Math.min(...cut.map(Math.abs))).toBeGreaterThan(1e-3);
  });
});

describe("a factor per channel in front of a batch norm has the small gradient that eps leaves, not rounding", () => {
  const scale = (name: string, shape: Shape, w: Shape, options: Parameters<typeof conv2d>[2]): Case => ({
    ...{ name, of: "w", inputs: { x: shape, w, ...vectors(w[0]) } },
    build: (v) => norm(conv2d(v.x, v.w, options), v),
  });
  const cases = [
    scale("few values", [2, 6, 6, 6], [6, 1, 1, 1], { groups: 6 }),
    scale("many values", [8, 6, 28, 28], [6, 1, 1, 1], { groups: 6 }),
    scale("stride 2", images, [6, 1, 1, 1], { groups: 6, stride: 2 }),
    scale("two outputs per channel", images, [12, 1, 1, 1], { groups: 6 }),
    scale("one channel", [4, 1, 9, 9], [3, 1, 1, 1], {}),
  ];
  test.each(cases)("$name", async (c) => {
    const [actual, exact] = [await gradientOf(c, "float32"), await gradientOf(c, "float64")];
    const largest = Math.max(...exact.map(Math.abs));
    expect(largest).toBeGreaterThan(0);
    for (const [i, v] of actual.entries()) expect(Math.abs(v - exact[i]) / largest).toBeLessThan(5e-4);
  });
});
