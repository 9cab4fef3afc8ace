import { beforeAll, describe, expect, test } from "vitest";
import type { Pair, Value } from "../../src/graph/index.ts";
import { Parameter } from "../../src/nn/index.ts";
import {
  graphAlgebra,
  HostAlgebra,
  type KernelAlgebra,
  type NamedTensors,
  normAfter,
  normBefore,
  parallel,
} from "../../src/reparam/index.ts";
import { compile } from "../../src/runtime/index.ts";
import { type Shape, Tensor } from "../../src/tensor/index.ts";
import { convolve, distance, normal, perChannel, sum } from "./convolution.ts";
import "./support.ts";

/*
 * Each operation is held to what it means for pictures: a convolution by its result must give what the textbook
 * convolution by its operands gives. Host and graph compute it from the same expression.
 */

type Tensors = Readonly<Record<string, Tensor>>;

/** What an operation is to fulfil. */
interface Law {
  readonly name: string;
  readonly tensors: Readonly<Record<string, Shape>>;
  readonly build: <T>(k: KernelAlgebra<T>, t: NamedTensors<T>) => T;
  /** What the result does to a picture, and what it should. */
  readonly holds: (result: Tensor, t: Tensors) => readonly [actual: Tensor, expected: Tensor];
}

const value = (t: Tensor, i: number): number => t.toFloat64()[i];
const picture = (channels: number, size: Pair = [7, 6]): Tensor => normal([channels, ...size], "picture");

/** Channels, outputs, groups and kernel: with and without groups, depthwise, C < O, C > O, not square, even. */
const kinds = [
  { c: 3, o: 2, groups: 1, size: [3, 3] },
  { c: 2, o: 5, groups: 1, size: [1, 1] },
  { c: 4, o: 6, groups: 2, size: [3, 1] },
  { c: 6, o: 4, groups: 2, size: [1, 5] },
  { c: 4, o: 4, groups: 4, size: [5, 3] },
  { c: 3, o: 6, groups: 3, size: [2, 4] },
] as const satisfies readonly { c: number; o: number; groups: number; size: Pair }[];

const perKind = (make: (kind: (typeof kinds)[number] & { readonly w: Shape }) => Law): Law[] =>
  kinds.map((kind) => {
    const { c, o, groups, size } = kind;
    const law = make({ ...kind, w: [o, c / groups, ...size] });
    return { ...law, name: `${law.name}: ${c} to ${o} channels in ${groups} groups, ${size.join(" x ")}` };
  });

const laws: Law[] = [
  ...perKind(({ c, o, groups, w }) => ({
    name: "scaleOutputs scales what comes out",
    tensors: { w, s: [o] },
    build: (k, { w, s }) => k.scaleOutputs(w, s),
    holds: (result, { w, s }) => [
      convolve(picture(c), result, { groups }),
      perChannel(convolve(picture(c), w, { groups }), (v, ch) => v * value(s, ch)),
    ],
  })),
  ...perKind(({ c, groups, w }) => ({
    name: "scaleInputs scales what goes in",
    tensors: { w, s: [c] },
    build: (k, { w, s }) => k.scaleInputs(w, s, groups),
    holds: (result, { w, s }) => [
      convolve(picture(c), result, { groups }),
      convolve(
        perChannel(picture(c), (v, ch) => v * value(s, ch)),
        w,
        { groups },
      ),
    ],
  })),
  ...perKind(({ c, o, groups, w }) => ({
    name: "shiftInputs is what a shift of the inputs adds to the bias",
    tensors: { w, t: [c], b: [o] },
    build: (k, { w, t, b }) => k.shiftInputs(w, t, b, groups),
    holds: (result, { w, t, b }) => [
      perChannel(convolve(picture(c), w, { groups }), (v, ch) => v + value(result, ch)),
      perChannel(
        convolve(
          perChannel(picture(c), (v, ch) => v + value(t, ch)),
          w,
          { groups },
        ),
        (v, ch) => v + value(b, ch),
      ),
    ],
  })),
  ...perKind(({ c, groups, w }) => ({
    name: "add and times",
    tensors: { w, v: w, u: w },
    build: (k, { w, v, u }) => k.add(w, k.times(v, -0.5), u),
    holds: (result, { w, v, u }) => {
      const [a, b, d] = [w, v, u].map((t) => convolve(picture(c), t, { groups }));
      return [
        convolve(picture(c), result, { groups }),
        sum(
          sum(
            a,
            b.map((x) => -0.5 * x),
          ),
          d,
        ),
      ];
    },
  })),
  ...perKind(({ c, groups, w, size }) => ({
    name: "padKernel needs that much more padding of the picture",
    tensors: { w },
    build: (k, { w }) => k.padKernel(w, [size[0] + 4, size[1] + 2]),
    holds: (result, { w }) => [
      convolve(picture(c), result, { groups, padding: [2, 1] }),
      convolve(picture(c), w, { groups }),
    ],
  })),
  ...perKind(({ c, groups, w, size }) => ({
    name: "padKernel off the middle moves the picture",
    tensors: { w },
    build: (k, { w }) => k.padKernel(w, [size[0] + 1, size[1] + 2], [1, 0]),
    holds: (result, { w }) => {
      const [o, rows, columns] = convolve(picture(c), result, { groups }).shape;
      const whole = convolve(picture(c), w, { groups }).toFloat64();
      const [, , width] = convolve(picture(c), w, { groups }).shape;
      const moved = Float64Array.from({ length: o * rows * columns }, (_, i) => {
        const [f, y, x] = [Math.floor(i / (rows * columns)), Math.floor(i / columns) % rows, i % columns];
        return whole[(f * (rows + 1) + y + 1) * width + x];
      });
      return [convolve(picture(c), result, { groups }), Tensor.of("float64", [o, rows, columns], moved)];
    },
  })),
  ...perKind(({ c, groups, w }) => ({
    name: "dilate makes an ordinary kernel of a dilated one",
    tensors: { w },
    build: (k, { w }) => k.dilate(w, [3, 2]),
    holds: (result, { w }) => [
      convolve(picture(c, [13, 9]), result, { groups }),
      convolve(picture(c, [13, 9]), w, { groups, dilation: [3, 2] }),
    ],
  })),
  ...perKind(({ c, o, groups, size }) => ({
    name: "pointwiseThen is one convolution after the other",
    tensors: { first: [2 * o, c / groups, 1, 1], second: [o, (2 * o) / groups, ...size] },
    build: (k, { first, second }) => k.pointwiseThen(first, second, groups),
    holds: (result, { first, second }) => [
      convolve(picture(c), result, { groups, padding: [1, 2], stride: 2 }),
      convolve(convolve(picture(c), first, { groups }), second, { groups, padding: [1, 2], stride: 2 }),
    ],
  })),
  ...perKind(({ c, o, groups, size }) => ({
    name: "thenPointwise is one convolution after the other",
    tensors: { first: [2 * o, c / groups, ...size], second: [o, (2 * o) / groups, 1, 1] },
    build: (k, { first, second }) => k.thenPointwise(first, second, groups),
    holds: (result, { first, second }) => [
      convolve(picture(c), result, { groups, padding: [1, 2], stride: 2 }),
      convolve(convolve(picture(c), first, { groups, padding: [1, 2], stride: 2 }), second, { groups }),
    ],
  })),
  ...[1, 2, 4].map(
    (groups): Law => ({
      name: `identityKernel passes pictures on: 4 channels in ${groups} groups`,
      tensors: { w: [4, 4 / groups, 3, 5] },
      build: (k, { w }) => k.add(k.times(w, 0), k.identityKernel([3, 5], 4, groups)),
      holds: (result) => [convolve(picture(4), result, { groups, padding: [1, 2] }), picture(4)],
    }),
  ),
  ...[1, 2, 4].map(
    (groups): Law => ({
      name: `poolKernel takes averages: 4 channels in ${groups} groups`,
      tensors: { w: [4, 4 / groups, 2, 3] },
      build: (k, { w }) => k.add(k.times(w, 0), k.poolKernel([2, 3], 4, groups)),
      holds: (result) => {
        const x = picture(4).toFloat64();
        const averages = Float64Array.from({ length: 4 * 6 * 4 }, (_, i) => {
          const at = Math.floor(i / 24) * 42 + (Math.floor(i / 4) % 6) * 6 + (i % 4);
          return [0, 1, 2, 6, 7, 8].reduce((total, step) => total + x[at + step], 0) / 6;
        });
        return [convolve(picture(4), result, { groups }), Tensor.of("float64", [4, 6, 4], averages)];
      },
    }),
  ),
  {
    name: "concatOutputs puts outputs side by side",
    tensors: { w: [2, 3, 3, 2], v: [5, 3, 3, 2] },
    build: (k, { w, v }) => k.concatOutputs(w, v, w),
    holds: (result, { w, v }) => {
      const parts = [w, v, w].map((t) => convolve(picture(3), t));
      const joined = parts.flatMap((t) => [...t.toFloat64()]);
      return [convolve(picture(3), result), Tensor.of("float64", [9, ...parts[0].shape.slice(1)], joined)];
    },
  },
  ...[
    { c: 3, o: 2, groups: 1, size: [3, 3], map: [4, 3] },
    { c: 4, o: 4, groups: 2, size: [5, 1], map: [3, 2] },
    { c: 2, o: 4, groups: 2, size: [7, 7], map: [2, 3] },
    { c: 3, o: 3, groups: 3, size: [1, 1], map: [2, 2] },
  ].map(
    ({ c, o, groups, size, map: [h, w] }): Law => ({
      name: `convToFc connects pixels as the convolution does: ${size.join(" x ")} on ${h} x ${w}, ${groups} groups`,
      tensors: { w: [o, c / groups, ...size] },
      build: (k, { w: kernel }) => k.convToFc(kernel, [h, w]),
      holds: (result, { w: kernel }) => {
        const x = picture(c, [h, w]);
        const padding = [(size[0] - 1) / 2, (size[1] - 1) / 2] as const;
        return [
          convolve(x.reshape([c * h * w, 1, 1]), result, { groups }),
          convolve(x, kernel, { groups, padding }).reshape([o * h * w, 1, 1]),
        ];
      },
    }),
  ),
  {
    name: "repeatOutputs repeats, channel outermost",
    tensors: { b: [3] },
    build: (k, { b }) => k.repeatOutputs(b, 4),
    holds: (result, { b }) => [
      result,
      Tensor.of(
        "float64",
        [12],
        [0, 1, 2].flatMap((i) => Array(4).fill(value(b, i))),
      ),
    ],
  },
  {
    name: "operations of operations, where one tensor is used by rows and as a whole",
    tensors: { w: [4, 4, 1, 1], v: [4, 4, 3, 3], s: [4] },
    build: (k, { w, v, s }) => {
      const scaled = k.scaleInputs(k.times(w, 2), s, 1);
      const deep = k.pointwiseThen(scaled, k.scaleOutputs(v, k.shiftInputs(scaled, s)));
      return k.add(deep, k.padKernel(k.concatOutputs(scaled), 3));
    },
    holds: (result, { w, v, s }) => {
      const scaled = w.map((x, i) => 2 * x * value(s, i % 4));
      const factor = [0, 1, 2, 3].map((o) =>
        [0, 1, 2, 3].reduce((total, i) => total + value(scaled, 4 * o + i) * value(s, i), 0),
      );
      const x = picture(4);
      const deep = convolve(convolve(x, scaled), v, { padding: [1, 1] });
      return [
        convolve(x, result, { padding: [1, 1] }),
        sum(
          perChannel(deep, (y, ch) => y * factor[ch]),
          convolve(x, scaled),
        ),
      ];
    },
  },
];

describe("what each operation means", () => {
  const given = laws.map((law) =>
    Object.fromEntries(Object.entries(law.tensors).map(([key, shape]) => [key, normal(shape, `${law.name} ${key}`)])),
  );
  const results: { readonly host: Tensor; readonly graph: Tensor }[] = [];

  beforeAll(async () => {
    const host = new HostAlgebra();
    const graph = graphAlgebra({ dtype: "float64" });
    const outputs: Record<string, Value> = {};
    const onHost: Tensor[] = [];
    for (const [i, { build }] of laws.entries()) {
      const parameters = Object.entries(given[i]).map(([key, t]) => [key, Parameter.from(t)] as const);
      const named = <T>(k: KernelAlgebra<T>): NamedTensors<T> =>
        Object.fromEntries(parameters.map(([key, p]) => [key, k.of(p)]));
      outputs[`y${i}`] = build(graph, named(graph));
      onHost.push(build(host, named(host)).source().readSync());
    }
    await using program = await compile({ outputs }, { threads: 1 });
    const inGraph = await program.run({});
    for (const [i, tensor] of onHost.entries()) results.push({ host: tensor, graph: inGraph[`y${i}`] });
  });

  test.for(laws.map(({ name }, i) => ({ name, i })))("$name", ({ i }) => {
    const { host, graph } = results[i];
    const [actual, expected] = laws[i].holds(host, given[i]);
    expect(distance(actual, expected), "host").toBeLessThan(1e-12);
    expect(distance(graph, host), "graph and host").toBeLessThan(1e-12);
  });
});

/** A batch norm that would show any mistake: no mean is 0, no variance 1; one weight is negative, one 0. */
const norm = (channels: number, { affine = true, eps = 1e-3 } = {}) => {
  const of = (name: string, change: (v: number, i: number) => number): Parameter =>
    Parameter.from(normal([channels], name).map(change));
  return {
    ...(affine ? { weight: of("gamma", (v, i) => (i ? v : 0)), bias: of("beta", (v) => v) } : {}),
    runningMean: of("mean", (v) => v),
    runningVar: of("variance", (v, i) => (i === 1 ? 0 : v * v + 0.1)),
    eps,
  };
};

/** A norm as its definition has it. */
const normalize =
  ({ weight, bias, runningMean, runningVar, eps }: ReturnType<typeof norm>) =>
  (x: number, c: number): number =>
    ((x - value(runningMean.data, c)) / Math.sqrt(value(runningVar.data, c) + eps)) *
      (weight ? value(weight.data, c) : 1) +
    (bias ? value(bias.data, c) : 0);

describe.each([
  { affine: true, eps: 1e-5 },
  { affine: true, eps: 0.1 },
  { affine: false, eps: 1e-3 },
])("a batch norm, affine $affine, eps $eps", (options) => {
  const bn = norm(4, options);
  const conv = { weight: normal([4, 2, 3, 3], "w"), bias: normal([4], "b") };
  const parameters = { weight: Parameter.from(conv.weight), bias: Parameter.from(conv.bias) };

  const both = async (
    build: <T>(k: KernelAlgebra<T>, layer: { weight: T; bias: T }) => { weight: T; bias: T },
  ): Promise<{ weight: Tensor; bias: Tensor }[]> => {
    const layer = <T>(k: KernelAlgebra<T>) => ({ weight: k.of(parameters.weight), bias: k.of(parameters.bias) });
    const [host, graph] = [new HostAlgebra(), graphAlgebra({ dtype: "float64" })];
    const { weight, bias } = build(host, layer(host));
    await using program = await compile({ outputs: build(graph, layer(graph)) }, { threads: 1 });
    const inGraph = await program.run({});
    return [
      { weight: weight.source().readSync(), bias: bias.source().readSync() },
      { weight: inGraph.weight, bias: inGraph.bias },
    ];
  };
  const layerOn = (x: Tensor, { weight, bias }: { weight: Tensor; bias: Tensor }): Tensor =>
    perChannel(convolve(x, weight, { groups: 2 }), (v, ch) => v + value(bias, ch));

  test("after a convolution goes into it", async () => {
    for (const merged of await both((k, layer) => normAfter(k, layer, bn)))
      expect(distance(layerOn(picture(4), merged), perChannel(layerOn(picture(4), conv), normalize(bn)))).toBeLessThan(
        1e-12,
      );
  });

  test("and where there was no bias", async () => {
    const plain = perChannel(convolve(picture(4), conv.weight, { groups: 2 }), normalize(bn));
    for (const merged of await both((k, { weight }) => normAfter(k, { weight }, bn)))
      expect(distance(layerOn(picture(4), merged), plain)).toBeLessThan(1e-12);
  });

  test("before a convolution goes into it", async () => {
    for (const merged of await both((k, layer) => normBefore(k, bn, layer, 2)))
      expect(distance(layerOn(picture(4), merged), layerOn(perChannel(picture(4), normalize(bn)), conv))).toBeLessThan(
        1e-12,
      );
  });
});

test("a batch norm of pooled channels goes into a fully connected layer of several columns per channel", () => {
  const bn = norm(2);
  const [w, x] = [normal([3, 8], "w"), normal([8], "x")];
  const k = new HostAlgebra();
  const merged = normBefore(k, bn, { weight: k.of(Parameter.from(w)) });
  const dot = (matrix: Tensor, v: Float64Array, r: number): number =>
    v.reduce((total, value_, i) => total + value_ * value(matrix, 8 * r + i), 0);
  const normalized = x.toFloat64().map((v, i) => normalize(bn)(v, Math.floor(i / 4)));
  const [weight, bias] = [merged.weight, merged.bias].map((t) => t.source().readSync());
  for (const r of [0, 1, 2])
    expect(dot(weight, x.toFloat64(), r) + value(bias, r)).toBeCloseTo(dot(w, normalized, r), 12);
});

test("parallel convolutions become one, each kernel in the middle of the largest", () => {
  const k = new HostAlgebra();
  const sizes: readonly Pair[] = [
    [3, 3],
    [1, 5],
    [1, 1],
  ];
  const weights = sizes.map((size) => normal([2, 3, ...size], size.join()));
  const biases = sizes.map((size) => normal([2], `bias ${size}`));
  const merged = parallel(
    k,
    weights.map((w, i) => ({ weight: k.of(Parameter.from(w)), bias: k.of(Parameter.from(biases[i])) })),
  );
  const [weight, bias] = [merged.weight, merged.bias].map((t) => t.source().readSync());
  expect(weight.shape).toEqual([2, 3, 3, 5]);
  const expected = weights
    .map((w, i) =>
      perChannel(
        convolve(picture(3), w, { padding: [(sizes[i][0] - 1) / 2, (sizes[i][1] - 1) / 2] }),
        (v, ch) => v + value(biases[i], ch),
      ),
    )
    .reduce(sum);
  const actual = perChannel(convolve(picture(3), weight, { padding: [1, 2] }), (v, ch) => v + value(bias, ch));
  expect(distance(actual, expected)).toBeLessThan(1e-12);
});

describe("a convolution as a fully connected matrix", () => {
  const cases = [
    { name: "one channel, 3 x 3", c: 1, o: 1, k: 3, size: [4, 4] },
    { name: "C = O, unequal sides", c: 4, o: 4, groups: 2, k: 3, size: [5, 3] },
    { name: "C < O", c: 2, o: 6, groups: 2, k: 3, size: [3, 4] },
    { name: "C > O", c: 6, o: 3, groups: 3, k: 5, size: [4, 3] },
    { name: "depthwise", c: 3, o: 3, groups: 3, k: 5, size: [6, 5] },
    { name: "kernel much larger than the partition", c: 1, o: 2, k: 11, size: [1, 2] },
  ] as const;
  const onHost = (kernel: Tensor, size: Pair): Tensor => {
    const k = new HostAlgebra();
    return k
      .convToFc(k.of(Parameter.from(kernel)), size)
      .source()
      .readSync();
  };
  /** The paper's definition: convolve the identity, one copy per group side by side; `[n][O·h·w]`, n = C/g·h·w. */
  const convolvedIdentity = (kernel: Tensor, groups: number, size: Pair): Float64Array[] => {
    const n = kernel.shape[1] * size[0] * size[1];
    const r = (kernel.shape[2] - 1) / 2;
    return Array.from({ length: n }, (_, i) => {
      const unit = Tensor.zeros("float64", [groups * kernel.shape[1], ...size]);
      for (let g = 0; g < groups; g++) unit.data[g * n + i] = 1;
      return convolve(unit, kernel, { groups, padding: [r, r] }).toFloat64();
    });
  };

  test.for(cases)("equals the convolved identity to the bit: $name", ({ c, o, k, size, ...rest }) => {
    const groups = "groups" in rest ? rest.groups : 1;
    const kernel = normal([o, c / groups, k, k], "kernel");
    const images = convolvedIdentity(kernel, groups, size);
    const fc = onHost(kernel, size);
    expect(fc.shape).toEqual([o * size[0] * size[1], images.length, 1, 1]);
    expect(fc.data).toEqual(
      Float64Array.from({ length: fc.size }, (_, i) => images[i % images.length][Math.floor(i / images.length)]),
    );
  });

  test.for(cases)("is added to weights where it is not zero, to the bit: $name", ({ c, o, k, size, ...rest }) => {
    const perGroup = c / ("groups" in rest ? rest.groups : 1);
    const area = size[0] * size[1];
    const kernel = Parameter.from(normal([o, perGroup, k, k], "kernel").cast("float32"));
    const fc3 = Parameter.from(normal([o * area, perGroup * area, 1, 1], "fc3").cast("float32"));
    const scale = Parameter.from(normal([o * area], "scale").cast("float32"));
    const algebra = new HostAlgebra();
    const [w, s, local] = [algebra.of(fc3), algebra.of(scale), algebra.convToFc(algebra.of(kernel), size)];
    const sparse = algebra.add(algebra.scaleOutputs(w, s), local);
    // Times 1 hides that the weights are a parameter's: no way around adding all of the zeros.
    const plain = algebra.add(algebra.scaleOutputs(algebra.times(w, 1), s), local);
    expect(sparse.source().readSync()).toEqual(plain.source().readSync());
  });

  /** What the original code does: it views the convolved identity with C and O swapped before it transposes. */
  const original = (kernel: Tensor, groups: number, size: Pair): number[] => {
    const flat = convolvedIdentity(kernel, groups, size).flatMap((r) => [...r]);
    const [o, cPerGroup] = kernel.shape;
    const [a, b] = [(o * size[0] * size[1]) / groups, cPerGroup * groups * size[0] * size[1]];
    return Array.from({ length: a * b }, (_, i) => flat[(i % a) * b + Math.floor(i / a)]);
  };

  test.for([
    { c: 4, o: 4, groups: 2, agrees: true },
    { c: 2, o: 6, groups: 2, agrees: false },
    { c: 6, o: 4, groups: 1, agrees: false },
  ])("the original's reshape agrees only for C = O: C $c, O $o", ({ c, o, groups, agrees }) => {
    const kernel = normal([o, c / groups, 3, 3], "kernel");
    const own = onHost(kernel, [3, 2]);
    expect(original(kernel, groups, [3, 2]).every((v, i) => v === own.data[i])).toBe(agrees);
  });
});

describe("what does not fit is named, on the host and in the graph alike", () => {
  const wrong: Readonly<
    Record<string, readonly [<T>(k: KernelAlgebra<T>, of: (...shape: number[]) => T) => T, string]>
  > = {
    "add: shapes [2, 3] and [3, 2] differ": [(k, of) => k.add(of(2, 3), of(3, 2)), "merge/shape"],
    "scaleOutputs: weights [2, 3] have 2 outputs, got [3] values": [
      (k, of) => k.scaleOutputs(of(2, 3), of(3)),
      "merge/shape",
    ],
    "scaleInputs: weights [4, 3] in 2 groups do not take [5] input channels": [
      (k, of) => k.scaleInputs(of(4, 3), of(5), 2),
      "merge/shape",
    ],
    "a kernel of [2, 2] has no place in the middle of one of [3, 3]. Say where it stands.": [
      (k, of) => k.padKernel(of(1, 1, 2, 2), 3),
      "merge/kernel",
    ],
    "a kernel of [3, 3] at [1, 1] does not fit into one of [3, 3]": [
      (k, of) => k.padKernel(of(1, 1, 3, 3), 3, [1, 1]),
      "merge/kernel",
    ],
    "padKernel takes a kernel [O, C/g, h, w], got [2, 3]": [(k, of) => k.padKernel(of(2, 3), 3), "merge/kernel"],
    "dilate takes positive integers, got [0, 1]": [(k, of) => k.dilate(of(1, 1, 3, 3), [0, 1]), "merge/kernel"],
    "a 1 × 1 kernel [4, 2, 1, 1] and then [2, 3, 3, 3] in 1 groups do not fit": [
      (k, of) => k.pointwiseThen(of(4, 2, 1, 1), of(2, 3, 3, 3)),
      "merge/shape",
    ],
    "a kernel [4, 2, 3, 3] and then a 1 × 1 one [2, 3, 1, 1] in 1 groups do not fit": [
      (k, of) => k.thenPointwise(of(4, 2, 3, 3), of(2, 3, 1, 1)),
      "merge/shape",
    ],
    "kernels must be odd, so that they have a middle, got [2, 3]": [(k) => k.identityKernel([2, 3], 4), "merge/kernel"],
    "poolKernel: 3 groups do not divide 4 channels": [(k) => k.poolKernel(2, 4, 3), "merge/shape"],
    "concatOutputs (without outputs): shapes [3] and [2] differ": [
      (k, of) => k.concatOutputs(of(2, 3), of(2, 2)),
      "merge/shape",
    ],
    "kernels must be odd, so that they have a middle, got [1, 1, 2, 2]": [
      (k, of) => k.convToFc(of(1, 1, 2, 2), [3, 3]),
      "merge/kernel",
    ],
  };
  test.for(Object.entries(wrong))("%s", ([message, [build, code]]) => {
    const refuses = <T>(k: KernelAlgebra<T>): void => {
      const of = (...shape: number[]): T => k.of(Parameter.from(Tensor.zeros("float32", shape)));
      expect(() => build(k, of)).toThrow(expect.objectContaining({ code, message: `merge: ${message}` }));
    };
    refuses(new HostAlgebra());
    refuses(graphAlgebra());
  });
});
