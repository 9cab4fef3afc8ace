import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { ModelProtoSchema } from "onnx-buf";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import { RepmlpError } from "../../src/errors.ts";
import {
  decodeOnnx,
  encodeOnnx,
  encodeOnnxChunks,
  encodeOnnxExternal,
  encodeOnnxStream,
  onnxByteLength,
} from "../../src/onnx/index.ts";
import { derived, Tensor, type TensorSource, tensorBytes } from "../../src/tensor/index.ts";
import { gemmRelu, model, plain } from "./models.ts";

describe("decode(encode(model))", () => {
  test("is the model, for any dtype, attribute and shape", () => {
    fc.assert(
      fc.property(model, (m) => {
        expect(plain(decodeOnnx(encodeOnnx(m)))).toEqual(plain(m));
      }),
      { numRuns: 300 },
    );
  });

  test("minimal models get the defaults that ONNX requires", () => {
    const decoded = decodeOnnx(
      encodeOnnx({
        nodes: [{ opType: "QLinearAdd", name: "", inputs: [], outputs: [], attrs: {}, domain: "com.microsoft" }],
        inputs: [],
        outputs: [],
        initializers: new Map(),
        opset: 21,
      }),
    );
    expect(decoded).toMatchObject({
      name: "graph",
      opset: 21,
      domains: { "com.microsoft": 1 },
      producer: { name: "repmlp" },
    });
    expect(decoded).not.toHaveProperty("metadata");
  });

  test.for([
    [13, 8n],
    [18, 8n],
    [19, 9n],
    [20, 9n],
    [21, 10n],
  ] as const)("operator set %i is written with IR version %i", ([opset, irVersion]) => {
    expect(fromBinary(ModelProtoSchema, encodeOnnx({ ...gemmRelu(), opset })).irVersion).toBe(irVersion);
  });
});

describe("attributes", () => {
  const written = (value: Parameters<typeof attrsOf>[0]) => decodeOnnx(encodeOnnx(attrsOf(value))).nodes[0].attrs.a;
  const attrsOf = (
    value: number | bigint | readonly number[] | readonly bigint[] | { float: number } | { unsupported: string },
  ) => ({
    ...gemmRelu(),
    nodes: [{ opType: "Op", name: "op", inputs: [], outputs: [], attrs: { a: value } }],
  });

  test.for([
    { name: "a plain integer is INT", value: 1, read: 1 },
    { name: "a plain fraction is FLOAT", value: 0.5, read: { float: 0.5 } },
    { name: "an explicit float stays FLOAT", value: { float: 1 }, read: { float: 1 } },
    { name: "a small bigint is a number", value: -7n, read: -7 },
    { name: "mixed numbers are FLOATS", value: [1, 0.5], read: { floats: [1, 0.5] } },
    { name: "an empty list is INTS", value: [], read: [] },
    { name: "infinity is FLOAT", value: Number.NEGATIVE_INFINITY, read: { float: Number.NEGATIVE_INFINITY } },
  ])("$name", ({ value, read }) => expect(written(value)).toEqual(read));

  test.for([
    { value: 2n ** 63n, message: /op", attribute "a": 9223372036854775808 does not fit in 64 bits/ },
    { value: { float: 1e39 }, message: /1e\+39 exceeds float32/ },
    { value: { unsupported: "graph" }, message: /a graph cannot be written/ },
  ])("$value is refused", ({ value, message }) => expect(() => written(value)).toThrow(message));
});

const run = async (file: Uint8Array | string): Promise<number[]> => {
  const session = await (typeof file === "string" ? InferenceSession.create(file) : InferenceSession.create(file));
  const { y } = await session.run({ x: new OrtTensor("float32", [1, 1, -1, 2], [2, 2]) });
  await session.release();
  return Array.from(y.data as Float32Array);
};

test("ONNX Runtime computes the known answer", async () => {
  expect(await run(encodeOnnx(gemmRelu()))).toEqual([0, 7, 9.5, 0, 8, 9.5]);
});

test("ONNX Runtime reads external data written by the offsets", async () => {
  const folder = await mkdtemp(join(tmpdir(), "repmlp-onnx-"));
  const { model, external, totalBytes } = encodeOnnxExternal(gemmRelu(), { location: "w.bin", threshold: 1 });
  const data = new Uint8Array(totalBytes);
  for (const { source, offset } of external) data.set(tensorBytes(source.readSync()), offset);
  await writeFile(join(folder, "w.bin"), data);
  await writeFile(join(folder, "m.onnx"), model);
  expect(external).toHaveLength(2);
  expect(await run(join(folder, "m.onnx"))).toEqual([0, 7, 9.5, 0, 8, 9.5]);
  await rm(folder, { recursive: true });
});

describe("streams", () => {
  test("chunks and stream are the same bytes, one initializer at a time", async () => {
    const m = gemmRelu();
    const whole = encodeOnnx(m);
    const chunks = [...encodeOnnxChunks(m)];
    expect(Buffer.concat(chunks)).toEqual(Buffer.from(whole));
    expect(chunks).toContainEqual(tensorBytes(m.initializers.get("w") as Tensor));
    const streamed: Uint8Array[] = [];
    for await (const chunk of encodeOnnxStream(m)) streamed.push(chunk);
    expect(Buffer.concat(streamed)).toEqual(Buffer.from(whole));
    expect(onnxByteLength(m)).toBe(whole.byteLength);
  });

  test("a source that is not what it announced is refused", () => {
    const w = derived("float32", [2, 3], [], () => Tensor.zeros("float32", [7]));
    const m = { ...gemmRelu(), initializers: new Map<string, TensorSource>([["w", w]]) };
    expect(() => encodeOnnx(m)).toThrow(/announced as float32 \[2, 3\] was read as float32 \[7\]/);
  });

  test.for([
    { gb: 3, shape: [3, 250_000_000] },
    { gb: 6, shape: [6, 250_000_000] },
  ])("$gb GB are refused before anything is read, and fit outside", ({ gb, shape }) => {
    const never = (): never => {
      throw new Error("read");
    };
    const huge: TensorSource = { dtype: "float32", shape, read: never, readSync: never };
    const m = { ...gemmRelu(), initializers: new Map([["w", huge]]) };
    const refusal = new RegExp(`needs ${gb}\\.00 GB, .* Write it with external data`);
    expect(() => encodeOnnx(m)).toThrow(refusal);
    expect(() => encodeOnnxChunks(m)).toThrow(RepmlpError);
    expect(encodeOnnxExternal(m, { location: "w.bin" }).totalBytes).toBe(gb * 1e9);
  });
});
