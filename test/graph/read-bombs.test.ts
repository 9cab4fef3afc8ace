import { describe, expect, test } from "vitest";
import { readOnnx } from "../../src/graph/index.ts";
import type { OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import { Tensor } from "../../src/tensor/index.ts";

const chain = (nodes: readonly Partial<OnnxNode>[], more: Partial<OnnxModel>): OnnxModel => ({
  nodes: nodes.map((n, i) => ({ opType: "Relu", name: `n${i}`, inputs: ["x"], outputs: ["y"], attrs: {}, ...n })),
  inputs: [{ name: "x", dtype: "float32", shape: [2, 3] }],
  outputs: [{ name: "y", dtype: "float32" }],
  initializers: new Map(),
  opset: 17,
  ...more,
});

describe("sizes that a small file asks for are bounded by the number of values, and the node is named", () => {
  const int64 = (...values: number[]): Tensor => Tensor.of("int64", [values.length], values);
  const initializers = new Map([
    ["1e12", int64(1e12)],
    ["4e9", int64(4e9)],
    ["-1", int64(-1)],
    ["0", int64(0)],
    ["-1e18", int64(-1e18)],
    ["1M", int64(1_000_000)],
    ["2^27", int64(2 ** 27)],
    ["one", Tensor.float32([1], [1])],
    ["pads", int64(0, 0, 0, 4e9)],
    ["times", int64(1e6, 1e6)],
    ["sizes", int64(4_000_000, 4_000_000)],
    ["negative", int64(-3, -1)],
    ["half", Tensor.float32([2], [4e6, 1])],
  ]);
  const node = (opType: string, inputs: string, output = "y", attrs: OnnxNode["attrs"] = {}): Partial<OnnxNode> => ({
    ...{ opType, inputs: inputs.split(" ").map((name) => (name === "_" ? "" : name)), outputs: [output], attrs },
  });
  const ones = (name: string, size: string): Partial<OnnxNode> => node("ConstantOfShape", size, name);
  const chainOf = (count: number, of: (from: string, to: string) => Partial<OnnxNode>): Partial<OnnxNode>[] =>
    Array.from({ length: count }, (_, i) => of(i ? `a${i}` : "x", i === count - 1 ? "y" : `a${i + 1}`));

  const bombs: Readonly<Record<string, readonly Partial<OnnxNode>[]>> = {
    "ConstantOfShape and a Slice with step -1": [ones("a", "4e9"), node("Slice", "a -1 -1e18 0 -1")],
    "ConstantOfShape alone": [ones("a", "1e12"), node("Add", "x a")],
    "Slice with step -1 of something fed and tiled": [node("Tile", "x times", "a"), node("Slice", "a -1 -1e18 0 -1")],
    "Slice with step -1 of less": [ones("a", "2^27"), node("Slice", "a -1 -1e18 0 -1")],
    Expand: [node("Expand", "one 4e9", "a"), node("Expand", "one times")],
    Tile: [node("Tile", "x times")],
    "Pad with a constant": [node("Pad", "x pads")],
    "Resize by sizes": [node("Resize", "x _ _ sizes", "y", { mode: "linear" })],
    "Resize by scales": [node("Resize", "x _ half", "y", { mode: "cubic" })],
    "a chain of doublings of something fed": chainOf(40, (from, to) =>
      node("Concat", `${from} ${from}`, to, { axis: 0 }),
    ),
    "a chain of doublings of a constant": [
      node("Concat", "one one", "a0", { axis: 0 }),
      ...Array.from({ length: 40 }, (_, i) => node("Concat", `a${i} a${i}`, `a${i + 1}`, { axis: 0 })),
      node("Add", "x a40"),
    ],
    "a shape made of a constant that is too large": [
      ones("a", "2^27"),
      node("Cast", "a", "b", { to: 7 }),
      node("Reshape", "x b"),
    ],
    "many nodes, each within bounds": [
      ...Array.from({ length: 20 }, (_, i) => [
        ones(`a${i}`, "1M"),
        node("Slice", `a${i} -1 -1e18 0 -1`, `b${i}`),
      ]).flat(),
      node("Sum", Array.from({ length: 20 }, (_, i) => `b${i}`).join(" "), "c"),
      node("ReduceSum", "c", "y"),
    ],
    "Gather with indices beyond bounds": [ones("a", "4e9"), node("Cast", "a", "b", { to: 7 }), node("Gather", "x b")],
  };
  test.for(Object.entries(bombs))("%s", ([, nodes]) => {
    expect(() => readOnnx(chain(nodes, { initializers }))).toThrowError(
      expect.objectContaining({
        code: "read-onnx/size",
        kind: "file",
        message: expect.stringMatching(/node "\w+".*(at most|more than) \d+/),
      }),
    );
  });

  test("negative sizes are no sizes", () => {
    expect(() => readOnnx(chain([node("Reshape", "x negative")], { initializers }))).toThrow(/reshape/);
    expect(() => readOnnx(chain([node("ConstantOfShape", "negative")], { initializers }))).toThrow(/expand/);
  });

  test("what models ask for is far below, and one file's reading does not count for the next", () => {
    const table = [ones("a", "1M"), node("Slice", "a -1 -1e18 0 -1", "b"), node("ReduceSum", "b")];
    for (let i = 0; i < 4; i++) expect(readOnnx(chain(table, { initializers })).outputs.size).toBe(1);
  });
});
