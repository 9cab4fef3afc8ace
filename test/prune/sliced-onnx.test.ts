import { describe, expect, test } from "vitest";
import type { Net } from "../../src/nn/index.ts";
import { OnnxNet } from "../../src/node.ts";
import type { OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import { channelDependencies, cutChannels } from "../../src/prune/index.ts";
import { rng, Tensor } from "../../src/tensor/index.ts";
import { expectEqual, setChannels, shape } from "./support.ts";

/*
 * Exporters state sizes: in a file the halves of a split and the groups of a shuffle are numbers. Each network here has one
 * way to say them, and its channels go on both sides.
 */

const node = (opType: string, inputs: string[], outputs: string[], attrs: OnnxNode["attrs"] = {}): OnnxNode => ({
  opType,
  inputs,
  outputs,
  name: `/${outputs[0]}`,
  attrs,
});

/** How halves of 12 channels are taken; names of the two are `a` and `b`. */
const halves: Readonly<Record<string, { readonly opset: number; readonly nodes: readonly OnnxNode[] }>> = {
  "Split, sizes as an attribute": {
    opset: 11,
    nodes: [node("Split", ["y"], ["a", "b"], { axis: 1, split: [6, 6] })],
  },
  "Split, sizes as an input": { opset: 13, nodes: [node("Split", ["y", "sizes"], ["a", "b"], { axis: -3 })] },
  "Split in equal parts": { opset: 13, nodes: [node("Split", ["y"], ["a", "b"], { axis: 1 })] },
  "Split in a number of parts": { opset: 18, nodes: [node("Split", ["y"], ["a", "b"], { axis: 1, num_outputs: 2 })] },
  "Slice as attributes": {
    opset: 9,
    nodes: [
      node("Slice", ["y"], ["a"], { axes: [1], starts: [0], ends: [6] }),
      node("Slice", ["y"], ["b"], { axes: [1], starts: [6], ends: [12] }),
    ],
  },
  "Slice of a stated part": {
    opset: 13,
    nodes: [node("Slice", ["y", "zero", "six", "one"], ["a"]), node("Slice", ["y", "minus six", "end", "one"], ["b"])],
  },
  "Slice at a computed place": {
    opset: 13,
    nodes: [
      node("Shape", ["y"], ["shape"]),
      node("Gather", ["shape", "one"], ["size"], { axis: 0 }),
      node("Div", ["size", "two"], ["half"]),
      node("Slice", ["y", "zero", "half", "one"], ["a"]),
      node("Slice", ["y", "half", "size", "one"], ["b"]),
    ],
  },
};

/** Convolution, shuffle of two groups (or none), halves of which one goes through a layer; both concatenated, then a head. */
function modelOf({ opset, nodes }: (typeof halves)[string], shuffled: boolean): OnnxModel {
  const random = rng(7, "weights");
  const floats = (...size: number[]): Tensor =>
    Tensor.float32(
      size,
      Float64Array.from({ length: size.reduce((n, d) => n * d, 1) }, () => 0.5 * random.normal()),
    );
  const ints = (...values: number[]): Tensor => Tensor.of("int64", [values.length], values);
  const initializers = {
    ...{ w1: floats(12, 3, 3, 3), w2: floats(6, 6, 1, 1), w3: floats(8, 12, 1, 1), fc: floats(5, 8), bias: floats(5) },
    ...{ sizes: ints(6, 6), zero: ints(0), one: ints(1), two: ints(2), six: ints(6), "minus six": ints(-6) },
    ...{ end: ints(2 ** 31 - 1), apart: ints(-1, 2, 6, 8, 8), together: ints(-1, 12, 8, 8) },
  };
  const shuffle = [
    node("Reshape", ["h", "apart"], ["groups"]),
    node("Transpose", ["groups"], ["turned"], { perm: [0, 2, 1, 3, 4] }),
    node("Reshape", ["turned", "together"], ["y"]),
  ];
  const all = [
    node("Conv", ["x", "w1"], [shuffled ? "h" : "y"], { pads: [1, 1, 1, 1] }),
    ...(shuffled ? shuffle : []),
    ...nodes,
    node("Conv", ["b", "w2"], ["c"]),
    node("Concat", ["a", "c"], ["d"], { axis: 1 }),
    node("Relu", ["d"], ["e"]),
    node("Conv", ["e", "w3"], ["f"]),
    node("GlobalAveragePool", ["f"], ["g"]),
    node("Flatten", ["g"], ["flat"]),
    node("Gemm", ["flat", "fc", "bias"], ["output"], { transB: 1 }),
  ];
  const used = new Set(all.flatMap(({ inputs }) => inputs));
  return {
    nodes: all,
    inputs: [{ name: "x", dtype: "float32", shape: ["batch", 3, 8, 8] }],
    outputs: [{ name: "output", dtype: "float32", shape: ["batch", 5] }],
    initializers: new Map(Object.entries(initializers).filter(([name]) => used.has(name))),
    opset,
  };
}

describe.each([true, false])("halves of channels (shuffled: %s)", (shuffled) => {
  const cuts: Readonly<Record<string, (group: number) => number>> = {
    "more of one half": (group) => (group % 2 ? 1 : 2),
    "one half alone": (group) => (group === 1 ? 1 : 99),
  };

  test.for(Object.keys(halves).flatMap((name) => Object.keys(cuts).map((how) => [name, how] as const)))(
    "%s: zero filters, cut (%s): the same outputs",
    async ([name, how]) => {
      const net: Net & OnnxNet = new OnnxNet(modelOf(halves[name], shuffled)).eval();
      const dependencies = channelDependencies(net, shape);
      const cut = dependencies.groups.flatMap(({ channels }, i) => channels.slice(cuts[how](i)));
      expect(new Set(cut.map(({ group }) => group.name))).toContain("w1");
      setChannels(
        net,
        cut.map((channel) => [channel, undefined]),
      );
      const narrow = cutChannels(net, dependencies, cut);
      await expectEqual(narrow, net);
      // The file by itself, as others read it.
      const written: Net = new OnnxNet(narrow.toOnnx()).eval();
      await expectEqual(written, net);
      expect(dependencies.macs(cut)).toBeLessThan(dependencies.macs());
    },
  );
});
