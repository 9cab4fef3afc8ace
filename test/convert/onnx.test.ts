import { describe, expect, it } from "vitest";
import { type LinearRule, mergeOnnx, onnxRules } from "../../src/convert/onnx/index.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import type { Tensor } from "../../src/tensor/index.ts";
import { withConstantNodes } from "./onnx-interpreter.ts";
import { Builder, difference, operatorsOf } from "./onnx-models.ts";
import { bordered, merging, same } from "./onnx-networks.ts";

describe("mergeOnnx", () => {
  it.each(merging)("merges %s", async (_, network, left) => {
    const b = new Builder();
    const model = b.model([network(b)], "Gemm" in left ? 2 : 4);
    const { model: merged } = mergeOnnx(model);
    expect(operatorsOf(merged)).toEqual(left);
    expect(merged.outputs).toEqual(model.outputs);
    expect(await difference(model, merged)).toBeLessThan(2e-6);
  });

  it.each(merging)("merges weights in Constant nodes: %s", (_, network, left) => {
    const b = new Builder();
    const { model: merged } = mergeOnnx(withConstantNodes(b.model([network(b)])));
    const { Constant, ...others } = operatorsOf(merged);
    expect(others).toEqual(left);
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

  const more: typeof staying = [
    [
      "strides that differ",
      (b) =>
        b.model([
          b.node("Add", [b.conv("x", [6, 4], [3, 3], { ...same, strides: [2, 2] }), b.conv("x", [6, 4], [5, 5])]),
        ]),
      /their strides differ: 2 and 1/,
    ],
    [
      "what a non-linearity parts",
      (b) => b.model([b.norm(b.node("Relu", [b.conv("x", [6, 4], [3, 3])]), 4)]),
      /Relu Relu\d+ is not linear/,
    ],
    [
      "weights that are computed of the input",
      (b) => {
        const weight = b.node("Mul", [b.node("GlobalAveragePool", ["x"]), b.constant([4, 6, 3, 3])]);
        return b.model([b.norm(b.node("Conv", ["x", weight]), 4)]);
      },
      /its weight "v\d+" is not constant/,
    ],
    [
      "a norm of which a number is fed",
      (b) => {
        const list = [1, 0, 0].map((v) => b.constant([6], () => v));
        const fed = b.node("Reshape", [
          b.node("Slice", ["x", b.ints([0, 0, 0]), b.ints([1, 1, 1]), b.ints([0, 2, 3])]),
          b.ints([6]),
        ]);
        return b.model([b.node("BatchNormalization", [b.conv("x", [6, 6], [1, 1]), ...list, fed])]);
      },
      /its variance "v\d+" is not constant/,
    ],
    [
      "large weights that others read, too",
      (b) => {
        const weight = b.constant([32, 6, 5, 5]);
        return b.model([1, 2].map(() => b.norm(b.node("Conv", ["x", weight]), 32)));
      },
      /its weight "w0" is shared with 1 others, and copies would make the file larger by 4800 values/,
    ],
    [
      "a division of a number by what is fed",
      (b) => b.model([b.node("Div", [b.constant([4, 1, 1]), b.conv("x", [6, 4], [1, 1])])]),
      /divides by what is fed/,
    ],
    [
      "a matrix that is transposed",
      (b) => {
        const flat = b.node("Flatten", ["x"]);
        const first = b.node("Gemm", [flat, b.constant([2, 5])], { transA: 1 });
        return b.model([b.node("Gemm", [first, b.constant([5, 3])])], 2);
      },
      /its input is transposed/,
    ],
    [
      "a bias with another number for every row",
      (b) => {
        const flat = b.node("Flatten", ["x"]);
        return b.model([b.norm(b.node("Gemm", [flat, b.constant([432, 5]), b.constant([2, 5])]), 5)], 2);
      },
      /its bias is not a constant with a number per output/,
    ],
    [
      "padding with what is there",
      (b) =>
        b.model([b.conv(b.node("Pad", ["x", b.ints([0, 0, 1, 1, 0, 0, 1, 1])], { mode: "reflect" }), [6, 4], [3, 3])]),
      /does not pad with a constant/,
    ],
    [
      "every other pixel",
      (b) => {
        const cut = b.node("Slice", ["x", b.ints([0]), b.ints([9]), b.ints([2]), b.ints([2])]);
        return b.model([b.conv(cut, [6, 4], [3, 3])]);
      },
      /leaves out pixels in between/,
    ],
    [
      "pooling whose last window reaches beyond the picture",
      (b) => {
        const attrs = { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 };
        return b.model([b.conv(b.node("AveragePool", ["x"], attrs), [6, 4], [1, 1])]);
      },
      /last window may reach beyond/,
    ],
    [
      "a transposed convolution before one of more than one pixel",
      (b) => b.model([b.conv(b.node("ConvTranspose", ["x", b.constant([6, 4, 2, 2])]), [4, 2], [3, 3])]),
      /only a 1×1 convolution can follow/,
    ],
    [
      "a bias before a transposed convolution",
      (b) =>
        b.model([b.node("ConvTranspose", [b.conv("x", [6, 4], [1, 1], { bias: true }), b.constant([4, 3, 3, 3])])]),
      /only a 1×1 convolution without bias can come before/,
    ],
    [
      "transposed convolutions that move otherwise",
      (b) => {
        const weight = (): string => b.constant([6, 4, 3, 3]);
        const pads = [1, 1, 1, 1];
        return b.model([
          b.node("Add", [
            b.node("ConvTranspose", ["x", weight()], { pads }),
            b.node("ConvTranspose", ["x", weight()], { pads, output_padding: [0, 0] }),
          ]),
        ]);
      },
      /their sizes, strides or padding differ/,
    ],
    [
      "what leaves out values while it trains",
      (b) => {
        const training = b.constant([], () => 1);
        return b.model([b.node("Dropout", [b.conv("x", [6, 4], [1, 1]), b.constant([]), training])]);
      },
      /it is in training mode/,
    ],
    [
      "outputs of different strides side by side",
      (b) =>
        b.model([
          b.node("Concat", [b.conv("x", [6, 4], [3, 3], { ...same, strides: [2, 2] }), b.conv("x", [6, 4], [5, 5])], {
            axis: 1,
          }),
        ]),
      /their strides differ/,
    ],
    [
      "a norm after halves of which one has no layer",
      (b) => {
        const pooled = b.node("MaxPool", ["x"], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
        return b.model([b.norm(b.node("Concat", [b.conv("x", [6, 4], [1, 1]), pooled], { axis: 1 }), 10)]);
      },
      /is not made by a layer of its own that it could be merged into/,
    ],
    [
      "a shift before one of several inputs that are padded",
      (b) => {
        const inputs = [b.norm(b.node("Relu", ["x"]), 6), "x"];
        return b.model([b.conv(b.node("Concat", inputs, { axis: 1 }), [12, 4], [3, 3], same)]);
      },
      /padding stands before a bias/,
    ],
    [
      "scales of zero before padding",
      (b) => {
        const scaled = b.node("Mul", [b.node("Relu", ["x"]), b.constant([], () => 0)]);
        return b.model([b.conv(b.node("Add", [scaled, b.constant([6, 1, 1])]), [6, 4], [3, 3], same)]);
      },
      /scaled by zero/,
    ],
    [
      "a convolution beside a layer over all pixels, padded as the runtime will find",
      (b) => {
        const wide = b.node("Gemm", [b.node("Flatten", ["x"]), b.constant([432, 432])]);
        const conv = b.node("Conv", ["x", b.constant([6, 6, 3, 3])], { auto_pad: "SAME_UPPER" });
        return b.model([b.node("Add", [b.node("Reshape", [wide, b.ints([2, 6, 9, 8])]), conv])]);
      },
      /not known to give one pixel in the place of each/,
    ],
    [
      "a convolution across the groups of a layer over all pixels",
      (b) => {
        const flat = b.node("Reshape", ["x", b.ints([2, 432, 1, 1])]);
        const layer = b.node("Conv", [flat, b.constant([432, 216, 1, 1])], { group: 2 });
        const branches = [b.node("Reshape", [layer, b.ints([2, 6, 9, 8])]), b.conv("x", [6, 6], [3, 3], same)];
        return b.model([b.node("Add", branches)]);
      },
      /its layer has groups that the convolution lies across/,
    ],
    [
      "numbers of columns before all pixels are connected",
      (b) => {
        const shifted = b.node("Sub", ["x", b.constant([1, 1, 1, 8])]);
        return b.model([b.node("Gemm", [b.node("Flatten", [shifted]), b.constant([432, 3])])], 2);
      },
      /^$/,
    ],
    [
      "a border that is added inside, too",
      (b) => {
        const one = b.node("Conv", ["x", b.constant([4, 6, 1, 1]), b.constant([4], () => 0.25)]);
        const padded = b.node("Pad", [one, b.ints([0, 0, 1, 1, 0, 0, 1, 1])]);
        return b.model([b.conv(b.node("Add", [padded, bordered(b, 0.25)]), [4, 5], [3, 3])]);
      },
      /another number for every pixel/,
    ],
    [
      "a product of two activations",
      (b) => b.model([b.node("Mul", [b.node("MatMul", ["x", b.node("Softmax", ["x"])]), b.constant([])])]),
      /MatMul MatMul\d+ is not linear/,
    ],
    [
      "a product with more than a matrix",
      (b) => b.model([b.node("Mul", [b.node("MatMul", ["x", b.constant([6, 8, 8])]), b.constant([])])]),
      /its weight is no matrix/,
    ],
    [
      "a sum that repeats the channel of a branch",
      (b) => b.model([b.node("Add", ["x", b.conv("x", [6, 1], [3, 3], same)])]),
      /one passes its 6 channels on, another gives 1/,
    ],
    [
      "padding of channels",
      (b) => b.model([b.conv(b.node("Pad", ["x", b.ints([0, 1, 0, 0, 0, 1, 0, 0])]), [8, 4], [3, 3])]),
      /its pads are not known, or not of pixels/,
    ],
    [
      "shape arithmetic of open sizes",
      () => {
        const b = new Builder(1, ["n", 6, 9, 8]);
        const batch = b.node("Gather", [b.node("Shape", ["x"]), b.ints([0])]);
        const shape = b.node("Concat", [batch, b.ints([6, 72])], { axis: 0 });
        return b.model([b.node("Mul", [b.node("Reshape", ["x", shape]), b.constant([])])]);
      },
      /Reshape Reshape\d+ is not linear/,
    ],
    [
      "a formula whose numbers would make the file larger",
      (b) => {
        const many = b.node("Expand", [b.constant([1]), b.ints([2, 6, 9, 80])]);
        const wide = b.node("Concat", new Array(10).fill("x"), { axis: 3 });
        return b.model([b.node("Mul", [wide, many])]);
      },
      /another number for every pixel/,
    ],
    [
      "quantized parts",
      (b) => {
        const [scale, zero] = [b.constant([], () => 0.1), b.bytes([], () => 0)];
        const weight = b.node("DequantizeLinear", [b.bytes([4, 6, 3, 3], () => 3), scale, zero]);
        const x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["x", scale, zero]), scale, zero]);
        return b.model([b.norm(b.node("Conv", [x, weight]), 4)]);
      },
      /its weight "v\d+" is not constant/,
    ],
    [
      "operators of others",
      (b) => {
        const model = b.model([b.node("Mul", [b.conv(b.node("Mish", ["x"]), [6, 4], [3, 3]), b.constant([])])]);
        return { ...model, nodes: model.nodes.map((n) => (n.opType === "Conv" ? { ...n, domain: "com.example" } : n)) };
      },
      /com\.example\.Conv Conv\d+ is not linear/,
    ],
  ];

  it.each([...staying, ...more])("leaves %s", (_, build, reason) => {
    const model = build(new Builder());
    const { model: merged, merges, kept } = mergeOnnx(model);
    expect(merges).toEqual([]);
    expect(merged.nodes).toEqual(model.nodes);
    expect(kept.map((k) => k.reason).join("\n")).toMatch(reason);
    // Whoever is told the reason can find the node.
    const names = new Set(model.nodes.map((n) => n.name));
    for (const { name, operator } of kept) expect([...names], operator).toContain(name);
  });

  it.each([
    [
      9,
      (b: Builder) => b.node("Pad", ["x"], { pads: [0, 0, 1, 1, 0, 0, 1, 1] }),
      (b: Builder, v: string) => b.node("Slice", [v], { starts: [1], ends: [-1], axes: [3] }),
    ],
    [
      13,
      (b: Builder) => b.node("Pad", ["x", b.ints([0, 0, 1, 1, 0, 0, 1, 1])]),
      (b: Builder, v: string) => b.node("Slice", [v, b.ints([1]), b.ints([-1]), b.ints([3])]),
    ],
    [
      18,
      (b: Builder) => b.node("Pad", ["x", b.ints([1, 1, 1, 1]), "", b.ints([2, 3])]),
      (b: Builder, v: string) => b.node("Slice", [v, b.ints([1]), b.ints([-1]), b.ints([-1])]),
    ],
  ] as const)("reads operator set %i", async (opset, pad, crop) => {
    const b = new Builder(1, [2, 6, 9, 8], opset);
    const model = b.model([b.norm(b.conv(crop(b, pad(b)), [6, 4], [3, 3]), 4)]);
    const { model: merged } = mergeOnnx(model);
    expect(merged.opset).toBe(opset);
    expect(await difference(model, merged)).toBeLessThan(2e-6);
    // A crop of what was padded is only padding where nothing of the picture is cut off.
    expect(operatorsOf(merged)).toEqual({ Conv: 1 });
  });

  it("copies small weights that others read, too", async () => {
    const b = new Builder();
    const weight = b.constant([4, 6, 3, 3]);
    const model = b.model([1, 2].map(() => b.norm(b.node("Conv", ["x", weight]), 4)));
    const { model: merged } = mergeOnnx(model);
    expect(operatorsOf(merged)).toEqual({ Conv: 2 });
    expect(await difference(model, merged)).toBeLessThan(2e-6);
  });

  it("takes a rule of one's own beside its own", () => {
    const b = new Builder();
    const network = b.norm(b.node("Conv", [b.node("Mish", ["x"]), b.constant([4, 6, 1, 1])]), 4);
    // Where every input is known to be far above zero.
    const mish: LinearRule = {
      name: "Mish of large numbers",
      operators: ["Mish"],
      read: (_, node) => ({ inputs: [node.inputs[0]], nodes: [node], cost: 0, apply: ([x]) => x }),
    };
    const { model, merges } = mergeOnnx(b.model([network]), { rules: [...onnxRules, mish] });
    expect(operatorsOf(model)).toEqual({ Conv: 1 });
    expect(merges[0].nodes.map((n) => n.rule)).toEqual(["Mish of large numbers", "convolution", "batch norm"]);
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
