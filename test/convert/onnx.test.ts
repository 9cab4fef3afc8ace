import { describe, expect, it } from "vitest";
import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import type { Tensor } from "../../src/tensor/index.ts";
import { Builder, difference, operatorsOf } from "./onnx-models.ts";
import { merging, same } from "./onnx-networks.ts";

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
