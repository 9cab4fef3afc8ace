import { describe, expect, it } from "vitest";
import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import type { Tensor } from "../../src/tensor/index.ts";
import { Builder, difference, operatorsOf } from "./onnx-models.ts";

/** The output of a small network whose input is `x`, six channels of 9 × 8 pixels. */
type Network = (b: Builder) => string;

const same = { pads: [1, 1, 1, 1] };

/** Networks that become one node: by name, what is built, and what is left. */
const merging: readonly [string, Network, Record<string, number>][] = [
  ["a norm after a convolution", (b) => b.norm(b.conv("x", [6, 4], [3, 3], same), 4), { Conv: 1 }],
  ["a norm before one without padding", (b) => b.conv(b.norm("x", 6), [6, 4], [3, 3]), { Conv: 1 }],
  [
    "a scale before one with padding",
    (b) => b.conv(b.node("Mul", ["x", b.constant([6, 1, 1])]), [6, 4], [3, 3], same),
    { Conv: 1 },
  ],
  [
    "numbers after a convolution",
    (b) => {
      const scaled = b.node("Mul", [b.conv("x", [6, 4], [3, 3], { ...same, bias: true }), b.constant([])]);
      const shifted = b.node("Sub", [b.constant([4, 1, 1]), scaled]);
      return b.node("Div", [shifted, b.constant([1, 4, 1, 1], () => 2)]);
    },
    { Conv: 1 },
  ],
  [
    "RepVGG",
    (b) => {
      const sum = b.node("Add", [b.norm(b.conv("x", [6, 6], [3, 3], same), 6), b.norm(b.conv("x", [6, 6], [1, 1]), 6)]);
      return b.node("Add", [sum, b.norm("x", 6)]);
    },
    { Conv: 1 },
  ],
  [
    "kernels of other sizes, with a stride",
    (b) =>
      b.node("Sum", [
        b.conv("x", [6, 4], [5, 5], { pads: [2, 2, 2, 2], strides: [2, 2] }),
        b.conv("x", [6, 4], [1, 3], { pads: [0, 1, 0, 1], strides: [2, 2], bias: true }),
        b.conv("x", [6, 4], [3, 1], { pads: [1, 0, 1, 0], strides: [2, 2] }),
        b.conv("x", [6, 4], [3, 3], { pads: [2, 2, 2, 2], strides: [2, 2], dilations: [2, 2] }),
      ]),
    { Conv: 1 },
  ],
  [
    "even kernels, whose padding differs",
    (b) => b.node("Add", [b.conv("x", [6, 4], [2, 2], { pads: [1, 0, 0, 1] }), b.conv("x", [6, 4], [3, 3], same)]),
    { Conv: 1 },
  ],
  [
    "groups",
    (b) =>
      b.node("Add", [
        b.conv("x", [6, 6], [3, 3], { ...same, group: 2 }),
        b.conv("x", [6, 6], [3, 3], { ...same, group: 6, bias: true }),
      ]),
    { Conv: 1 },
  ],
  [
    "a residual around a depthwise convolution",
    (b) => b.node("Add", ["x", b.conv("x", [6, 6], [3, 3], { ...same, group: 6 })]),
    { Conv: 1 },
  ],
  ["a difference", (b) => b.node("Sub", ["x", b.conv("x", [6, 6], [3, 3], same)]), { Conv: 1 }],
  ["1 × 1 and then k × k", (b) => b.conv(b.conv("x", [6, 12], [1, 1]), [12, 4], [3, 3], same), { Conv: 1 }],
  [
    "k × k and then 1 × 1",
    (b) => b.conv(b.conv("x", [6, 12], [3, 3], { ...same, bias: true }), [12, 4], [1, 1], { bias: true }),
    { Conv: 1 },
  ],
  [
    "a bottleneck without activations",
    (b) => {
      const wide = b.conv(b.conv("x", [6, 24], [1, 1], { bias: true }), [24, 24], [3, 3]);
      return b.conv(wide, [24, 6], [1, 1], { bias: true });
    },
    { Conv: 1 },
  ],
  [
    "padding with what zeros become",
    (b) => {
      const one = b.node("Conv", ["x", b.constant([4, 6, 1, 1]), b.constant([4], () => 0.25)]);
      const padded = b.node("Pad", [one, b.ints([0, 0, 1, 1, 0, 0, 1, 1]), b.constant([], () => 0.25)]);
      return b.node("Add", [b.conv(padded, [4, 5], [3, 3]), b.conv("x", [6, 5], [3, 3], same)]);
    },
    { Conv: 1 },
  ],
  [
    "padding of the input",
    (b) => b.conv(b.node("Pad", ["x", b.ints([0, 0, 1, 0, 0, 0, 1, 2])]), [6, 4], [3, 3]),
    { Conv: 1 },
  ],
  [
    "average pooling beside a convolution",
    (b) => {
      const pooled = b.node("AveragePool", ["x"], { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 });
      return b.node("Add", [b.norm(pooled, 6), b.conv("x", [6, 6], [3, 3], same)]);
    },
    { Conv: 1 },
  ],
  [
    "outputs side by side, and 1 × 1 behind them",
    (b) => {
      const branch = b.conv("x", [6, 6], [3, 3], same);
      const cat = b.node("Concat", [branch, b.norm(branch, 6), b.conv("x", [6, 6], [1, 1])], { axis: 1 });
      return b.conv(cat, [18, 6], [1, 1], { bias: true });
    },
    { Conv: 1 },
  ],
  [
    "outputs side by side",
    (b) => {
      const branches = [b.conv("x", [6, 4], [3, 3], same), b.conv("x", [6, 2], [3, 3], { ...same, bias: true })];
      return b.node("Concat", branches, { axis: -3 });
    },
    { Conv: 1 },
  ],
  [
    "a crop before a branch",
    (b) => {
      const cut = b.node("Slice", ["x", b.ints([1]), b.ints([-1]), b.ints([3])]);
      return b.node("Add", [b.conv("x", [6, 4], [3, 3]), b.conv(cut, [6, 4], [3, 1])]);
    },
    { Conv: 1 },
  ],
  [
    "a norm after a transposed convolution",
    (b) => b.norm(b.node("ConvTranspose", ["x", b.constant([6, 2, 3, 3])], { group: 2, strides: [2, 2] }), 4),
    { ConvTranspose: 1 },
  ],
  [
    "a norm after automatic padding",
    (b) => b.norm(b.node("Conv", ["x", b.constant([4, 6, 3, 3])], { auto_pad: "SAME_UPPER", strides: [2, 2] }), 4),
    { Conv: 1 },
  ],
  [
    "a layer scale on the last axis",
    (b) => {
      const layer = b.node("Add", [b.node("MatMul", ["x", b.constant([8, 5])]), b.constant([5])]);
      return b.node("Mul", [layer, b.constant([5])]);
    },
    { MatMul: 1, Add: 1 },
  ],
  [
    "a product in two steps beside one in one",
    (b) => {
      const low = b.node("MatMul", [b.node("MatMul", ["x", b.constant([8, 2])]), b.constant([2, 8])]);
      return b.node("Add", [b.node("MatMul", ["x", b.constant([8, 8])]), low]);
    },
    { MatMul: 1 },
  ],
  [
    "a norm through global pooling and flattening",
    (b) => {
      const flat = b.node("Flatten", [b.node("GlobalAveragePool", [b.norm("x", 6)])]);
      return b.node("Gemm", [flat, b.constant([6, 5]), b.constant([5])], { alpha: { float: 0.5 } });
    },
    { GlobalAveragePool: 1, Flatten: 1, Gemm: 1 },
  ],
  [
    "a norm before all pixels are connected",
    (b) => b.node("Gemm", [b.node("Flatten", [b.norm("x", 6)]), b.constant([5, 6 * 72])], { transB: 1 }),
    { Flatten: 1, Gemm: 1 },
  ],
  [
    "a convolution beside a layer over all pixels",
    (b) => {
      const flat = b.node("Reshape", ["x", b.ints([-1, 432, 1, 1])]);
      const layer = b.node("Conv", [flat, b.constant([432, 216, 1, 1])], { group: 2 });
      const norm = b.norm(b.node("Reshape", [layer, b.ints([-1, 432])]), 432);
      const conv = b.norm(b.conv("x", [6, 6], [3, 3], { ...same, group: 2 }), 6);
      return b.node("Add", [b.node("Reshape", [norm, b.ints([2, 6, 9, 8])]), conv]);
    },
    { Conv: 1, Reshape: 3 },
  ],
];

describe("mergeOnnx", () => {
  it.each(merging)("merges %s", async (_, network, left) => {
    const b = new Builder();
    const output = network(b);
    const isMatrix = b.model([output]).nodes.at(-1)!.opType === "Gemm";
    const model = b.model([output], isMatrix ? 2 : 4);
    const { model: merged } = mergeOnnx(model);
    expect(operatorsOf(merged)).toEqual(left);
    expect(merged.outputs).toEqual(model.outputs);
    expect(await difference(model, merged)).toBeLessThan(2e-6);
  });

  it.each(merging)("does not depend on the order of nodes: %s", (_, network) => {
    const b = new Builder();
    const model = b.model([network(b)]);
    const results = [model, { ...model, nodes: model.nodes.toReversed() }].map((m) => mergeOnnx(m).model);
    const [first, second] = results.map(({ initializers }) => initializers);
    expect(new Set(results[1].nodes.map((n) => n.name))).toEqual(new Set(results[0].nodes.map((n) => n.name)));
    for (const [name, source] of first) expect(second.get(name)!.readSync()).toEqual(source.readSync());
  });

  /** Networks that must stay as they are, and what is said of it. */
  const staying: readonly [string, (b: Builder) => OnnxModel, RegExp][] = [
    [
      "padding before a shift",
      (b) => b.model([b.conv(b.norm("x", 6), [6, 4], [3, 3], same)]),
      /padding stands before a bias/,
    ],
    [
      "a second reader of a branch",
      (b) => {
        const conv = b.conv("x", [6, 6], [3, 3], same);
        return b.model([b.node("Add", [b.norm(conv, 6), b.node("Relu", [conv])])]);
      },
      /is read by Relu/,
    ],
    [
      "an output inside a branch",
      (b) => {
        const conv = b.conv("x", [6, 6], [3, 3], same);
        return b.model([conv, b.norm(conv, 6)]);
      },
      /is an output of the model/,
    ],
    [
      "a padded convolution of more than one pixel",
      (b) => {
        const depthwise = { ...same, group: 6 };
        return b.model([b.conv(b.conv("x", [6, 6], [3, 3], depthwise), [6, 6], [3, 3], depthwise)]);
      },
      /pads what a convolution of more than one pixel gives/,
    ],
    [
      "padding with another value than zeros become",
      (b) => {
        const one = b.node("Conv", ["x", b.constant([4, 6, 1, 1]), b.constant([4], () => 0.25)]);
        const padded = b.node("Pad", [one, b.ints([0, 0, 1, 1, 0, 0, 1, 1]), b.constant([], () => 0.5)]);
        return b.model([b.node("Add", [b.conv(padded, [4, 5], [3, 3]), b.conv("x", [6, 5], [3, 3], same)])]);
      },
      /the border would differ/,
    ],
    [
      "outputs that are of one size by chance",
      (b) => {
        const [a, c] = [
          b.conv("x", [6, 4], [3, 3], { strides: [2, 2] }),
          b.conv("x", [6, 4], [2, 2], { strides: [2, 2] }),
        ];
        return b.model([b.node("Add", [a, b.node("Slice", [c, b.ints([0]), b.ints([3]), b.ints([3])])])]);
      },
      /outputs differ in size/,
    ],
    [
      "pooling that leaves out the padding",
      (b) => {
        const pooled = b.node("AveragePool", ["x"], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
        return b.model([b.node("Add", [pooled, b.conv("x", [6, 6], [3, 3], same)])]);
      },
      /counts only pixels inside the picture/,
    ],
    [
      "two small kernels that are cheaper apart",
      (b) => b.model([b.conv(b.conv("x", [6, 2], [1, 1]), [2, 12], [1, 1])]),
      /multiply-adds/,
    ],
    [
      "a sum that makes its input larger",
      (b) => b.model([b.node("Add", [b.conv("x", [6, 1], [1, 1]), b.constant([4, 1, 1])])]),
      /makes its input larger/,
    ],
    [
      "a number for every pixel",
      (b) => b.model([b.node("Mul", [b.conv("x", [6, 4], [1, 1]), b.constant([4, 9, 8])])]),
      /another number for every pixel/,
    ],
    [
      "statistics of the batch",
      (b) => {
        const conv = b.conv("x", [6, 4], [1, 1]);
        const list = [1, 0, 0, 1].map((v) => b.constant([4], () => v));
        return b.model([b.node("BatchNormalization", [conv, ...list], { training_mode: 1 })]);
      },
      /training mode/,
    ],
  ];

  it.each(staying)("leaves %s", (_, build, reason) => {
    const model = build(new Builder());
    const { model: merged, merges, kept } = mergeOnnx(model);
    expect(merges).toEqual([]);
    expect(merged.nodes).toEqual(model.nodes);
    expect(kept.map((k) => k.reason).join("\n")).toMatch(reason);
  });

  it("says what became of what", () => {
    const b = new Builder();
    const { merges } = mergeOnnx(b.model([b.norm(b.conv("x", [6, 4], [3, 3]), 4)]));
    expect(merges).toEqual([
      {
        into: "Conv1",
        input: "x",
        nodes: [
          { name: "Conv1", operator: "Conv", rule: "convolution" },
          { name: "BatchNormalization6", operator: "BatchNormalization", rule: "batch norm" },
        ],
      },
    ]);
  });

  it("rounds half precision once", () => {
    const b = new Builder();
    const model = b.model([b.norm(b.conv("x", [6, 4], [3, 3]), 4)]);
    const halves = new Map([...model.initializers].map(([name, t]) => [name, t.readSync().cast("float16")]));
    const exact = new Map([...halves].map(([name, t]) => [name, t.cast("float64")]));
    const weight = (initializers: OnnxModel["initializers"]): Tensor => {
      const merged = mergeOnnx({ ...model, initializers }).model.initializers.values();
      return [...merged].find((t) => t.shape.length === 4)!.readSync();
    };
    expect(weight(halves)).toEqual(weight(exact).cast("float16"));
  });
});
