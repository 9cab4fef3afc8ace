import { describe, expect, test } from "vitest";
import { RepMLP } from "../../src/blocks/index.ts";
import {
  BatchNorm2d,
  Conv2d,
  ConvTranspose2d,
  type Initializer,
  kaimingNormal,
  kaimingUniform,
  Linear,
  Module,
  orthogonal,
} from "../../src/nn/index.ts";
import { rng, type Shape } from "../../src/tensor/index.ts";

const draw = (init: Initializer, shape: Shape, seed = 0): number[] => Array.from(init(shape, rng(seed, "weight")));
const mean = (v: readonly number[]): number => v.reduce((a, b) => a + b, 0) / v.length;
const variance = (v: readonly number[]): number => {
  const m = mean(v);
  return mean(v.map((x) => (x - m) ** 2));
};
const valuesOf = (model: Module): Record<string, number[]> =>
  Object.fromEntries([...model.stateDict()].map(([key, t]) => [key, [...t.readSync().toFloat64()]]));

/** Uniform in ±bound: the bound is nearly reached on both sides, the variance is bound² / 3. */
function expectUniform(values: readonly number[], bound: number): void {
  expect(Math.max(...values)).toBeLessThanOrEqual(bound);
  expect(Math.min(...values)).toBeGreaterThanOrEqual(-bound);
  expect(Math.max(...values) - Math.min(...values)).toBeGreaterThan(1.9 * bound);
  expect(Math.abs(variance(values) / (bound ** 2 / 3) - 1)).toBeLessThan(0.1);
}

describe("initial values are PyTorch's, in distribution", () => {
  test.for([
    { name: "Conv2d", layer: () => new Conv2d(16, 400, { kernelSize: [3, 5], groups: 2 }), fanIn: 8 * 15 },
    { name: "Linear", layer: () => new Linear(60, 500), fanIn: 60 },
    // PyTorch counts a transposed convolution's inputs by its weight's second axis.
    { name: "ConvTranspose2d", layer: () => new ConvTranspose2d(5, 400, { kernelSize: 3 }), fanIn: 400 * 9 },
  ])("$name: weights and biases uniform in ±1/sqrt(fan-in)", ({ layer, fanIn }) => {
    const { weight, bias } = valuesOf(layer());
    expectUniform(weight, 1 / Math.sqrt(fanIn));
    expectUniform(bias, 1 / Math.sqrt(fanIn));
  });

  test("BatchNorm: weight 1, bias 0, mean 0, variance 1, no batches", () => {
    expect(valuesOf(new BatchNorm2d(2))).toEqual({
      weight: [1, 1],
      bias: [0, 0],
      running_mean: [0, 0],
      running_var: [1, 1],
      num_batches_tracked: [0],
    });
  });

  test("kaimingUniform with a: ±sqrt(6 / ((1 + a²) fan-in))", () => {
    expectUniform(draw(kaimingUniform(0), [50, 20, 3, 3]), Math.sqrt(6 / 180));
    expectUniform(draw(kaimingUniform(2), [50, 180]), Math.sqrt(6 / 5 / 180));
  });

  test.for([
    { mode: "fanIn", fan: 20 * 9 },
    { mode: "fanOut", fan: 50 * 9 },
  ] as const)("kaimingNormal($mode): variance 2 / fan", ({ mode, fan }) => {
    const values = draw(kaimingNormal(mode), [50, 20, 3, 3]);
    expect(mean(values)).toBeCloseTo(0, 2);
    expect(Math.abs((variance(values) * fan) / 2 - 1)).toBeLessThan(0.05);
  });

  const gram = (v: readonly number[], count: number, at: (i: number, k: number) => number): number => {
    const length = v.length / count;
    let worst = 0;
    for (let i = 0; i < count; i++)
      for (let j = 0; j <= i; j++) {
        let dot = 0;
        for (let k = 0; k < length; k++) dot += v[at(i, k)] * v[at(j, k)];
        worst = Math.max(worst, Math.abs(dot - (i === j ? 1 : 0)));
      }
    return worst;
  };
  test.for([
    { name: "rows", shape: [5, 11], by: "rows" },
    { name: "rows, with more axes", shape: [9, 4, 3, 1], by: "rows" },
    { name: "columns", shape: [11, 5], by: "columns" },
    { name: "columns, as in FC3", shape: [66, 23, 1, 1], by: "columns" },
    { name: "both of a square", shape: [17, 17], by: "columns" },
    { name: "one row", shape: [1, 6], by: "rows" },
  ])("orthogonal: orthonormal $name", ({ shape: [rows, ...rest], by }) => {
    const columns = rest.reduce((a, b) => a * b, 1);
    const v = draw(orthogonal, [rows, ...rest]);
    expect(v).toHaveLength(rows * columns);
    const byRow = (i: number, k: number): number => i * columns + k;
    const byColumn = (i: number, k: number): number => k * columns + i;
    expect(by === "rows" ? gram(v, rows, byRow) : gram(v, columns, byColumn)).toBeLessThan(1e-12);
  });

  test("orthogonal: any direction is as likely as any other", () => {
    const first = Array.from({ length: 400 }, (_, seed) => draw(orthogonal, [4, 3], seed)[0]);
    expect(mean(first)).toBeCloseTo(0, 1);
    // A unit vector of length 4 has entries of variance 1/4.
    expect(Math.abs(variance(first) * 4 - 1)).toBeLessThan(0.15);
  });

  test("RepMLP: FC3 is orthogonal, everything else PyTorch's default", () => {
    const values = valuesOf(
      new RepMLP({ inChannels: 8, height: 8, width: 4, partition: 4, groups: 2, reparamConvKernels: [3] }),
    );
    const columns = 4 * 16;
    expect(gram(values["fc3.weight"], columns, (i, k) => k * columns + i)).toBeLessThan(1e-5);
    expectUniform(values["fc1_fc2.fc1.weight"], 1 / Math.sqrt(16));
    expectUniform(values["repconv3.conv.weight"], 1 / Math.sqrt(36));
  });
});

describe("initialize", () => {
  class Two extends Module {
    readonly a = new Linear(3, 4);
    readonly b = new Linear(4, 2);
  }
  class Three extends Module {
    readonly front = new Linear(9, 9);
    readonly a = new Linear(3, 4);
    readonly middle = new Linear(4, 4);
    readonly b = new Linear(4, 2);
  }

  test("gives the same values for the same seed, others for another", () => {
    const [first, again, other] = [0, 0, 1].map((seed) => valuesOf(new Two().initialize(seed)));
    expect(again).toEqual(first);
    for (const key of Object.keys(first)) expect(other[key], key).not.toEqual(first[key]);
  });

  test("draws per parameter path: a layer more does not change the others", () => {
    const [two, three] = [new Two(), new Three()].map((m) => valuesOf(m.initialize(7)));
    for (const key of Object.keys(two)) expect(three[key], key).toEqual(two[key]);
  });

  test("does not give equal layers equal values", () => {
    const three = valuesOf(new Three().initialize(7));
    expect(three["middle.weight"].slice(0, 4)).not.toEqual(three["b.weight"].slice(0, 4));
  });

  test("keeps what has values, unless all are asked for", () => {
    const model = new Two().initialize(1);
    const before = valuesOf(model);
    expect(valuesOf(model.initialize(2))).toEqual(before);
    expect(valuesOf(model.initialize(2, { all: true }))).toEqual(valuesOf(new Two().initialize(2)));
  });

  test("fills a shared parameter once, under its first name", () => {
    class Alias extends Two {
      readonly c = this.a;
    }
    const values = valuesOf(new Alias().initialize(3, { all: true }));
    expect(values["c.weight"]).toEqual(valuesOf(new Two().initialize(3))["a.weight"]);
  });

  test("values that were never asked for are not there", () => {
    expect(() => new Linear(3, 4).weight.data).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: parameter: a parameter of shape [4, 3] has no values yet. Call model.initialize(seed), or load a state dict.]`,
    );
  });

  test("an initializer must give as many values as the shape has", () => {
    const layer = new Conv2d(2, 2, { kernelSize: 1, init: () => [1, 2, 3] });
    expect(() => layer.initialize()).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: parameter: the initializer of weight gave 3 values for shape [2, 2, 1, 1]]`,
    );
  });
});
