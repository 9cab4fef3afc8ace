import { describe, expect, test } from "vitest";
import { decodeOnnx, encodeOnnx, type OnnxModel, onnxSkeleton } from "../../src/onnx/index.ts";
import { Tensor } from "../../src/tensor/index.ts";

const ramp = (...shape: number[]): Tensor =>
  Tensor.float32(
    shape,
    Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => i / 7),
  );

const model: OnnxModel = {
  nodes: [
    {
      opType: "Gemm",
      name: "first",
      inputs: ["x", "large"],
      outputs: ["y"],
      attrs: { transB: 1, alpha: { float: 2 } },
    },
    { opType: "Add", name: "second", inputs: ["y", "small"], outputs: ["z"], attrs: {} },
    { opType: "Mul", name: "third", inputs: ["z", "odd"], outputs: ["out"], attrs: {} },
  ],
  inputs: [{ name: "x", dtype: "float32", shape: [1, 300] }],
  outputs: [{ name: "out", dtype: "float32", shape: [1, 20] }],
  initializers: new Map([
    ["large", ramp(20, 300)],
    ["small", ramp(20)],
    ["odd", ramp(257, 20)],
  ]),
  opset: 17,
  metadata: { arch: "none" },
};
const bytes = encodeOnnx(model);

const fileOf = (content: Uint8Array<ArrayBuffer>) => ({
  size: content.length,
  readSync: (offset: number, length: number) => content.slice(offset, offset + length),
});
const external = (content: Uint8Array<ArrayBuffer>) => (location: string, offset: number, length: number) => {
  expect(location).toBe("./");
  const readSync = () => content.slice(offset, offset + length);
  return { readSync, read: async () => readSync() };
};
const values = ({ initializers, ...rest }: OnnxModel) => ({
  ...rest,
  initializers: new Map([...initializers].map(([name, source]) => [name, source.readSync()])),
});

describe("an ONNX file without its large values", () => {
  test("is the same model, with values read from where they are", () => {
    const skeleton = onnxSkeleton(fileOf(bytes), "./");
    expect(skeleton!.length).toBeLessThan(1000);
    expect(values(decodeOnnx(skeleton!, { external: external(bytes) }))).toEqual(values(decodeOnnx(bytes)));
  });

  test.for([
    { name: "nothing", content: new Uint8Array(0) },
    { name: "a web page", content: new TextEncoder().encode("<!doctype html><html><body>404</body></html>") },
    { name: "two graphs", content: new Uint8Array([...bytes, ...bytes]) },
  ])("is not made of $name", ({ content }) => {
    expect(onnxSkeleton(fileOf(content), "./")).toBeUndefined();
  });

  test("is not made of a file cut short, wherever", () => {
    for (let length = 1; length < bytes.length; length += 97) {
      const cut = bytes.slice(0, length);
      const skeleton = onnxSkeleton(fileOf(cut), "./");
      // Between two fields it is still a message; what it lacks, the reader tells.
      if (skeleton) expect(skeleton.length).toBeLessThanOrEqual(length);
    }
    expect(onnxSkeleton(fileOf(bytes.slice(0, -1)), "./")).toBeUndefined();
  });
});
