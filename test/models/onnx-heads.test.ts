import { describe, expect, test } from "vitest";
import { compileModel, OnnxNet } from "../../src/node.ts";
import { decodeOnnx, encodeOnnx, type OnnxModel, type OnnxNode } from "../../src/onnx/index.ts";
import { rng, Tensor } from "../../src/tensor/index.ts";

/*
 * Ends of classifiers with 4 classes, on features [N, 6, 2, 2]. Everything that depends on the number of classes must be
 * replaced, or be refused by name.
 */
const random = (shape: readonly number[], seed: number): Tensor => {
  const stream = rng(seed, "w");
  const length = shape.reduce((a, b) => a * b, 1);
  return Tensor.float32(
    shape,
    Float32Array.from({ length }, () => stream.normal()),
  );
};
const ints = (...values: number[]): Tensor => Tensor.of("int64", [values.length], values);
type Part = readonly [opType: string, inputs: readonly string[], output: string, attrs?: OnnxNode["attrs"]];

/** Numbers are shapes of random weights. */
type Weights = Readonly<Record<string, readonly number[] | Tensor>>;

function modelOf(parts: readonly Part[], weights: Weights, more: Partial<OnnxModel> = {}): OnnxModel {
  return {
    nodes: parts.map(([opType, inputs, output, attrs = {}]) => ({
      ...{ opType, inputs, outputs: [output], attrs },
      name: `/${output}`,
    })),
    initializers: new Map(
      Object.entries(weights).map(([name, w], i) => [name, w instanceof Tensor ? w : random(w, i + 1)]),
    ),
    inputs: [{ name: "x", dtype: "float32", shape: ["n", 6, 2, 2] }],
    outputs: [{ name: "y", dtype: "float32", shape: ["n", 4] }],
    opset: 17,
    ...more,
  };
}

const features: readonly Part[] = [
  ["Conv", ["x", "cw"], "c"],
  ["GlobalAveragePool", ["c"], "g"],
  ["Flatten", ["g"], "f"],
];
const rows = { transB: 1 };
const cw = [6, 6, 1, 1];
const gemm = (name: string, output: string): Part => ["Gemm", ["f", `${name}w`, `${name}b`], output, rows];

interface HeadCase {
  readonly parts: readonly Part[];
  readonly weights: Weights;
  /** Keys of the head. */
  readonly head: readonly string[];
  readonly more?: Partial<OnnxModel>;
}

const replaced: Readonly<Record<string, HeadCase>> = {
  "two heads, averaged": {
    parts: [...features, gemm("a", "p"), gemm("b", "q"), ["Add", ["p", "q"], "s"], ["Div", ["s", "two"], "y"]],
    weights: { cw, aw: [4, 6], ab: [4], bw: [4, 6], bb: [4], two: Tensor.scalar(2) },
    head: ["aw", "ab", "bw", "bb"],
  },
  "two heads, one with weights as columns, by Mean": {
    parts: [...features, gemm("a", "p"), ["MatMul", ["f", "bw"], "q"], ["Mean", ["p", "q"], "y"]],
    weights: { cw, aw: [4, 6], ab: [4], bw: [6, 4] },
    head: ["aw", "ab", "bw"],
  },
  "three heads by Sum, one a convolution": {
    parts: [
      ...features,
      gemm("a", "p"),
      gemm("b", "q"),
      ["Conv", ["g", "kw", "kb"], "k"],
      ["Flatten", ["k"], "r"],
      ["Sum", ["p", "q", "r"], "y"],
    ],
    weights: { cw, aw: [4, 6], ab: [4], bw: [4, 6], bb: [4], kw: [4, 6, 1, 1], kb: [4] },
    head: ["aw", "ab", "bw", "bb", "kw", "kb"],
  },
  "a scale per class": {
    parts: [...features, gemm("a", "p"), ["Mul", ["p", "s"], "y"]],
    weights: { cw, aw: [4, 6], ab: [4], s: [4] },
    head: ["aw", "ab", "s"],
  },
  "a bias of two axes, and a scale for all": {
    parts: [...features, ["MatMul", ["f", "w"], "p"], ["Add", ["b", "p"], "q"], ["Mul", ["q", "t"], "y"]],
    weights: { cw, w: [6, 4], b: [1, 4], t: Tensor.scalar(0.5) },
    head: ["w", "b"],
  },
  "a batch norm": {
    parts: [...features, gemm("a", "p"), ["BatchNormalization", ["p", "s", "b", "m", "v"], "y"]],
    weights: { cw, aw: [4, 6], ab: [4], s: [4], b: [4], m: [4], v: Tensor.full("float32", [4], 1.5) },
    head: ["aw", "ab", "s", "b", "m", "v"],
  },
  "a convolution with batch norm and ReLU, pooled": {
    parts: [
      ["Conv", ["x", "w"], "c"],
      ["BatchNormalization", ["c", "s", "b", "m", "v"], "d"],
      ["Relu", ["d"], "r"],
      ["ReduceMean", ["r"], "y", { axes: [2, 3], keepdims: 0 }],
    ],
    weights: { w: [4, 6, 1, 1], s: [4], b: [4], m: [4], v: Tensor.full("float32", [4], 1.5) },
    head: ["w", "s", "b", "m", "v"],
  },
  "an affine layer, a layer norm and a PRelu": {
    parts: [
      ...features,
      ["MatMul", ["f", "w"], "p"],
      ["LayerNormalization", ["p", "s", "b"], "q"],
      ["PRelu", ["q", "l"], "r"],
      ["Sub", ["r", "o"], "y"],
    ],
    weights: { cw, w: [6, 4], s: [4], b: [4], l: [4], o: [4] },
    head: ["w", "s", "b", "l", "o"],
  },
  "a cosine classifier: the weight is normalized and turned": {
    parts: [
      ...features,
      ["ReduceL2", ["w"], "n", { axes: [1], keepdims: 1 }],
      ["Div", ["w", "n"], "u"],
      ["Transpose", ["u"], "t", { perm: [1, 0] }],
      ["MatMul", ["f", "t"], "y"],
    ],
    weights: { cw, w: [4, 6] },
    head: ["w"],
  },
  "Einsum, with a Reshape that states the classes": {
    parts: [...features, ["Einsum", ["f", "w"], "p", { equation: "nf,cf->nc" }], ["Reshape", ["p", "to"], "y"]],
    weights: { cw, w: [4, 6], to: ints(-1, 4) },
    head: ["w"],
  },
  "a head for two crops: Transpose and mean over the other axis": {
    parts: [
      ["Conv", ["x", "cw"], "c"],
      ["Reshape", ["c", "to"], "t"],
      ["Transpose", ["t"], "u", { perm: [0, 2, 1] }],
      ["MatMul", ["u", "w"], "p"],
      ["ReduceMean", ["p"], "y", { axes: [1], keepdims: 0 }],
    ],
    weights: { cw, w: [6, 4], to: ints(0, 6, 4) },
    head: ["w"],
  },
  "probabilities as a second output": {
    parts: [...features, gemm("a", "y"), ["Softmax", ["y"], "p"]],
    weights: { cw, aw: [4, 6], ab: [4] },
    head: ["aw", "ab"],
    more: {
      outputs: [
        { name: "y", dtype: "float32", shape: ["n", 4] },
        { name: "p", dtype: "float32", shape: ["n", 4] },
      ],
    },
  },
};

const output = { output: "y" };

describe.each(Object.entries(replaced))("head: %s", (_, { parts, weights, head, more }) => {
  const model = modelOf(parts, weights, more);

  test.each([3, 4, 5, 7])(
    "is new for %i classes in all its tensors, and ONNX Runtime runs what is written",
    async (classes) => {
      const net = new OnnxNet(model, { ...output, numClasses: classes });
      expect([net.classes, net.headKeys]).toEqual([classes, head]);
      // Nothing of the old head is left, also where the number of classes stays.
      net.initialize(1);
      const state = net.stateDict();
      for (const key of head)
        expect([...state.get(key)!.readSync().data], key).not.toEqual([
          ...model.initializers.get(key)!.readSync().data,
        ]);
      const written = decodeOnnx(encodeOnnx(net.toOnnx()));
      const program = await compileModel(written);
      const results = await program.run({ x: random([2, 6, 2, 2], 9) });
      await program.dispose();
      for (const { name } of written.outputs) expect(results[name].shape).toEqual([2, classes]);
      expect([...results.y.data].every((v) => Number.isFinite(v))).toBe(true);
    },
  );

  test("is named without being replaced", () => {
    const net = new OnnxNet(model, output);
    expect(net.headKeys).toEqual(head);
    for (const [key, source] of net.stateDict())
      expect([...source.readSync().data], key).toEqual([...model.initializers.get(key)!.readSync().data]);
  });
});

const refused: Readonly<Record<string, HeadCase & { readonly says: RegExp }>> = {
  "classes of two layers side by side": {
    parts: [...features, gemm("a", "p"), gemm("b", "q"), ["Concat", ["p", "q"], "y", { axis: 1 }]],
    weights: { cw, aw: [2, 6], ab: [2], bw: [2, 6], bb: [2] },
    head: [],
    says: /no head found that can be replaced: Concat node "\/y" lies between .* output "y".*`head`, one of \/q, \/p/,
  },
  "a part of the outputs": {
    parts: [...features, gemm("a", "p"), ["Slice", ["p", "from", "to", "axis"], "y"]],
    weights: { cw, aw: [5, 6], ab: [5], from: ints(0), to: ints(4), axis: ints(1) },
    head: [],
    says: /Slice node "\/y"/,
  },
  "a weight that is also used elsewhere": {
    parts: [...features, ["MatMul", ["f", "w"], "p"], ["MatMul", ["p", "v"], "q"], ["MatMul", ["q", "w"], "y"]],
    weights: { cw, w: [6, 4], v: [4, 6] },
    head: [],
    says: /the weight "w" \[6, 4\] of the head is also used by \/p/,
  },
  "integers per class": {
    parts: [...features, gemm("a", "p"), ["Where", ["mask", "p", "low"], "y"]],
    weights: { cw, aw: [4, 6], ab: [4], mask: Tensor.of("bool", [4], [1, 1, 1, 0]), low: Tensor.scalar(-9) },
    head: [],
    says: /"mask" \(bool\) states something for each class/,
  },
  "grouped convolution": {
    parts: [
      ["Conv", ["x", "cw"], "c"],
      ["Conv", ["c", "w"], "d", { group: 2 }],
      ["GlobalAveragePool", ["d"], "g"],
      ["Flatten", ["g"], "y"],
    ],
    weights: { cw, w: [4, 3, 1, 1] },
    head: [],
    says: /Conv node "\/d" lies between/,
  },
};

describe.each(Object.entries(refused))("no new head: %s", (_, { parts, weights, says }) => {
  const model = modelOf(parts, weights);
  test.each([4, 6])("is refused by name for %i classes, and trains as it is", (numClasses) => {
    expect(() => new OnnxNet(model, { numClasses })).toThrow(says);
    expect(new OnnxNet(model).classes).toBe(4);
  });
});

describe("outputs that are no logits", () => {
  const head = [...features, gemm("a", "p")];
  const weights = { cw, aw: [4, 6], ab: [4], bw: [4, 6], bb: [4], two: Tensor.scalar(2) };
  const ends: Readonly<Record<string, readonly [readonly Part[], string]>> = {
    Sigmoid: [[...head, ["Sigmoid", ["p"], "y"]], '`output` "p"'],
    "HardSigmoid, moved": [[...head, ["HardSigmoid", ["p"], "h"], ["Identity", ["h"], "y"]], '`output` "p"'],
    "two Softmaxes, averaged": [
      [
        ...head,
        gemm("b", "q"),
        ["Softmax", ["p"], "s"],
        ["Softmax", ["q"], "t"],
        ["Add", ["s", "t"], "u"],
        ["Div", ["u", "two"], "y"],
      ],
      "(`output`: one of p, q)",
    ],
    "a Sigmoid per pixel, averaged": [
      [
        ["Conv", ["x", "k"], "c"],
        ["Sigmoid", ["c"], "s"],
        ["GlobalAveragePool", ["s"], "g"],
        ["Flatten", ["g"], "y"],
      ],
      '`output` "c"',
    ],
  };

  test.each(Object.entries(ends))("%s is refused with the tensor to train on", (_, [parts, advice]) => {
    const model = modelOf(parts, { ...weights, k: [4, 6, 1, 1] });
    for (const options of [{}, { numClasses: 3 }]) {
      expect(() => new OnnxNet(model, options)).toThrow(advice);
      expect(() => new OnnxNet(model, options)).toThrow("numbers from 0 to 1");
    }
  });

  test("what goes in can be trained", () => {
    const net = new OnnxNet(modelOf(ends.Sigmoid[0], weights), { output: "p", numClasses: 3 });
    expect([net.output, net.classes, net.headKeys]).toEqual(["p", 3, ["aw", "ab"]]);
    expect(net.toOnnx().nodes.at(-1)?.opType).toBe("Sigmoid");
  });

  test.each<[string, Part[]]>([
    ["Softmax", [["Softmax", ["p"], "y"]]],
    [
      "Softmax, moved and cast",
      [
        ["Softmax", ["p"], "s"],
        ["Identity", ["s"], "t"],
        ["Cast", ["t"], "y", { to: 1 }],
      ],
    ],
  ])("%s is taken off", (_, end) => {
    expect(new OnnxNet(modelOf([...head, ...end], weights)).output).toBe("p");
  });

  test.each<[string, Part[]]>([
    [
      "a gate",
      [
        ["Sigmoid", ["q"], "s"],
        ["Mul", ["p", "s"], "y"],
      ],
    ],
    [
      "log probabilities",
      [
        ["Softmax", ["p"], "s"],
        ["Log", ["s"], "y"],
      ],
    ],
  ])("%s is none of them", (_, end) => {
    expect(new OnnxNet(modelOf([...head, gemm("b", "q"), ...end], weights)).output).toBe("y");
  });
});
