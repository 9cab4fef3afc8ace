import { create, toBinary } from "@bufbuild/protobuf";
import {
  AttributeProto_AttributeType,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  ModelProtoSchema,
} from "onnx-buf";
import { describe, expect, test } from "vitest";
import { RepmlpError } from "../../src/errors.ts";
import { decodeOnnx, encodeOnnx, encodeOnnxExternal, floatAttr, intsAttr } from "../../src/onnx/index.ts";
import { rng, Tensor } from "../../src/tensor/index.ts";
import { gemmRelu, plain } from "./models.ts";

type ModelInit = Extract<Parameters<typeof create<typeof ModelProtoSchema>>[1], { $typeName?: never }>;
type GraphInit = Extract<NonNullable<ModelInit["graph"]>, { $typeName?: never }>;

/** A file written straight from the generated types, so that it can hold what our encoder would not write. */
const file = (graph: GraphInit, rest: ModelInit = {}): Uint8Array<ArrayBuffer> =>
  toBinary(ModelProtoSchema, create(ModelProtoSchema, { opsetImport: [{ version: 17n }], graph, ...rest }));

function failure(bytes: Uint8Array<ArrayBuffer>): string {
  try {
    decodeOnnx(bytes, { name: "m.onnx" });
  } catch (error) {
    expect(error).toBeInstanceOf(RepmlpError);
    expect((error as RepmlpError).kind).toBe("file");
    return `${(error as RepmlpError).code} | ${(error as RepmlpError).message}`;
  }
  throw new Error("decoded without an error");
}

const weight = (init: NonNullable<GraphInit["initializer"]>[number]): GraphInit => ({
  initializer: [{ name: "w", ...init }],
});
const ascii = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);
const outside = (location: string, more: Record<string, string> = {}): GraphInit =>
  weight({
    dataType: DataType.FLOAT,
    dims: [2n],
    dataLocation: DataLocation.EXTERNAL,
    externalData: Object.entries({ location, ...more }).map(([key, value]) => ({ key, value })),
  });

describe("messages", () => {
  test.for([
    { name: "empty", bytes: new Uint8Array(0), want: "onnx/no-graph | m.onnx: the file is empty." },
    { name: "web page", bytes: ascii("<!DOCTYPE html><p>404"), want: /onnx\/not-protobuf .* It is a web page/ },
    {
      name: "LFS pointer",
      bytes: ascii("version https://git-lfs.github.com/spec/v1"),
      want: /It is a Git LFS pointer/,
    },
    { name: "zip", bytes: ascii("PK\x03\x04\x14\x00archive/data.pkl"), want: /It is a zip archive/ },
    {
      name: "cut short",
      bytes: encodeOnnx(gemmRelu()).slice(0, 100),
      want: /onnx\/not-protobuf .* cut short \(100 bytes/,
    },
    {
      name: "string weights",
      bytes: file(weight({ dataType: DataType.STRING, dims: [1n], stringData: [ascii("a")] })),
      want: /onnx\/element-type \| m.onnx: initializer "w": element type STRING is not supported/,
    },
    { name: "unknown element type", bytes: file(weight({ dataType: 99 })), want: /element type number 99/ },
    {
      name: "sequence input",
      bytes: file({ input: [{ name: "s", type: { value: { case: "sequenceType", value: {} } } }] }),
      want: /onnx\/value-type \| m.onnx: input "s" is a sequence\. Only tensors/,
    },
    { name: "untyped output", bytes: file({ output: [{ name: "o" }] }), want: /output "o" is of unknown type/ },
    { name: "sparse weights", bytes: file({ sparseInitializer: [{}] }), want: /onnx\/sparse/ },
    { name: "functions", bytes: file({}, { functions: [{ name: "f" }] }), want: /onnx\/functions/ },
    { name: "no operator set", bytes: file({}, { opsetImport: [] }), want: /onnx\/opset .* is missing/ },
    { name: "node without operator", bytes: file({ node: [{ name: "n" }] }), want: /onnx\/node/ },
    {
      name: "repeated attribute",
      bytes: file({ node: [{ opType: "A", attribute: [{ name: "a" }, { name: "a" }] }] }),
      want: /onnx\/duplicate/,
    },
    {
      name: "repeated weight",
      bytes: file({ initializer: [1, 2].map(() => ({ name: "w", dataType: DataType.FLOAT, dims: [0n] })) }),
      want: /onnx\/duplicate \| m.onnx: initializer "w" occurs twice/,
    },
    {
      name: "too few bytes",
      bytes: file(weight({ dataType: DataType.FLOAT, dims: [2n, 3n], rawData: new Uint8Array(20) })),
      want: /onnx\/size .* float32 \[2, 3\] needs 24 bytes, but 20 are stored/,
    },
    {
      name: "too many values",
      bytes: file(weight({ dataType: DataType.FLOAT, dims: [2n], floatData: [1, 2, 3] })),
      want: /onnx\/size .* needs 2 values, but 3 are stored/,
    },
    {
      name: "huge shape",
      bytes: file(weight({ dataType: DataType.FLOAT, dims: [2n ** 40n, 2n ** 40n] })),
      want: /onnx\/dims .* impossible shape \[1099511627776, 1099511627776\]/,
    },
    { name: "negative size", bytes: file(weight({ dataType: DataType.FLOAT, dims: [-1n] })), want: /onnx\/dims/ },
    {
      name: "large shape without values",
      bytes: file(weight({ dataType: DataType.FLOAT, dims: [2n ** 40n] })),
      want: /onnx\/size/,
    },
    { name: "parent folder", bytes: file(outside("../w.bin")), want: /onnx\/external-location .* outside the folder/ },
    { name: "hidden parent folder", bytes: file(outside("a\\..\\..\\w.bin")), want: /onnx\/external-location/ },
    { name: "absolute path", bytes: file(outside("/etc/passwd")), want: /onnx\/external-location/ },
    { name: "drive", bytes: file(outside("C:\\w.bin")), want: /onnx\/external-location/ },
    { name: "address", bytes: file(outside("https://example.org/w")), want: /onnx\/external-location/ },
    { name: "no location", bytes: file(outside("")), want: /onnx\/external-location/ },
    {
      name: "wrong length",
      bytes: file(outside("w.bin", { length: "9" })),
      want: /onnx\/external-size .* needs 8 bytes, but the file states 9/,
    },
    {
      name: "negative offset",
      bytes: file(outside("w.bin", { offset: "-8" })),
      want: /external offset "-8" is not a number/,
    },
    {
      name: "offset beyond 2^53",
      bytes: file(outside("w.bin", { offset: "9007199254740990" })),
      want: /onnx\/external-size/,
    },
    {
      name: "data not given",
      bytes: file(outside("w.bin")),
      want: /onnx\/external-missing .* in the external file "w.bin"/,
    },
  ])("$name", ({ bytes, want }) => expect(failure(bytes)).toMatch(want));

  test("a flood of empty nodes is refused before it fills the memory", () => {
    // Field 7 of the model (the graph) with 2.5 million times field 1 (a node) of length 0.
    const length = 5_000_000;
    const frame = [0x3a, ...[0, 7, 14, 21].map((s) => ((length >> s) & 0x7f) | (s < 21 ? 0x80 : 0))];
    const flood = new Uint8Array(frame.length + length);
    flood.set(frame);
    for (let i = frame.length; i < flood.length; i += 2) flood[i] = 0x0a;
    expect(failure(flood)).toMatch(/onnx\/bomb \| m.onnx: more than 2000000 parts/);
  });
});

describe("what other writers put in files", () => {
  test.for([
    { dtype: "float32", init: { dataType: DataType.FLOAT, floatData: [1.5, -2] }, values: [1.5, -2] },
    { dtype: "float64", init: { dataType: DataType.DOUBLE, doubleData: [1.5, -2] }, values: [1.5, -2] },
    { dtype: "float16", init: { dataType: DataType.FLOAT16, int32Data: [0x3c00, 0xc000] }, values: [1, -2] },
    { dtype: "bfloat16", init: { dataType: DataType.BFLOAT16, int32Data: [0x3f80, 0xc000] }, values: [1, -2] },
    { dtype: "int8", init: { dataType: DataType.INT8, int32Data: [-128, 127] }, values: [-128, 127] },
    { dtype: "uint16", init: { dataType: DataType.UINT16, int32Data: [0, 65535] }, values: [0, 65535] },
    { dtype: "bool", init: { dataType: DataType.BOOL, int32Data: [1, 0] }, values: [1, 0] },
    { dtype: "int64", init: { dataType: DataType.INT64, int64Data: [-5n, 5n] }, values: [-5, 5] },
    {
      dtype: "uint32",
      init: { dataType: DataType.UINT32, uint64Data: [7n, 2n ** 32n - 1n] },
      values: [7, 2 ** 32 - 1],
    },
    { dtype: "uint64", init: { dataType: DataType.UINT64, uint64Data: [7n, 8n] }, values: [7, 8] },
  ])("$dtype values in typed fields", ({ dtype, init, values }) => {
    const tensor = decodeOnnx(file(weight({ ...init, dims: [2n] })))
      .initializers.get("w")!
      .readSync();
    expect([tensor.dtype, ...tensor.toFloat64()]).toEqual([dtype, ...values]);
  });

  test("sub-graphs are kept as unsupported attributes, which only fail when asked for", () => {
    const branch = { name: "then_branch", type: AttributeProto_AttributeType.GRAPH, g: {} };
    const [node] = decodeOnnx(file({ node: [{ opType: "If", name: "if", attribute: [branch] }] })).nodes;
    expect(node.attrs).toEqual({ then_branch: { unsupported: "graph" } });
    expect(() => intsAttr(node, "then_branch")).toThrow(
      'onnx: attribute "then_branch" of If node "if" must be a list of integers, but is graph.',
    );
    expect(() => floatAttr(node, "alpha")).toThrow("is missing");
    expect(floatAttr(node, "alpha", 0.5)).toBe(0.5);
  });

  test("initializers that are also listed as inputs, sizes of -1, unknown ranks, value types we lack", () => {
    const tensor = (name: string, dims?: bigint[], elemType = DataType.FLOAT) => ({
      name,
      type: {
        value: {
          case: "tensorType" as const,
          value: {
            elemType,
            ...(dims && { shape: { dim: dims.map((value) => ({ value: { case: "dimValue" as const, value } })) } }),
          },
        },
      },
    });
    const decoded = decodeOnnx(
      file({
        ...weight({ dataType: DataType.FLOAT, dims: [1n], floatData: [1] }),
        input: [tensor("x", [-1n, 3n]), tensor("w", [1n])],
        output: [tensor("y")],
        valueInfo: [tensor("s", [1n], DataType.STRING), { name: "untyped" }],
      }),
    );
    expect(decoded.inputs).toEqual([{ name: "x", dtype: "float32", shape: ["", 3] }]);
    expect(decoded.outputs).toEqual([{ name: "y", dtype: "float32" }]);
    expect(decoded).not.toHaveProperty("valueInfo");
  });
});

describe("external data", () => {
  const big = gemmRelu(Tensor.float32([2, 3], [1, 2, 3, 4, 5, 6]), Tensor.zeros("float32", [3, 2 ** 17]));

  test("goes out aligned and comes back the same", () => {
    const { model, external, totalBytes } = encodeOnnxExternal(big, { location: "data/w.bin", threshold: 8 });
    expect(external.map(({ name, offset, length }) => ({ name, offset, length }))).toEqual([
      { name: "w", offset: 0, length: 24 },
      { name: "b", offset: 4096, length: 3 * 2 ** 19 },
    ]);
    const data = new Uint8Array(totalBytes);
    for (const { source, offset } of external) data.set(new Uint8Array(source.readSync().data.buffer), offset);
    const opened = decodeOnnx(model, {
      external: (location, offset, length) => {
        expect(location).toBe("data/w.bin");
        const slice = data.slice(offset, offset + length);
        return { read: async () => slice, readSync: () => slice };
      },
    });
    expect(plain(opened)).toEqual(plain(big));
    expect(model.byteLength).toBeLessThan(500);
  });

  test("small and empty initializers stay inside", () => {
    const { external } = encodeOnnxExternal(big, { location: "w.bin" });
    expect(external.map(({ name }) => name)).toEqual(["b"]);
    expect(encodeOnnxExternal(gemmRelu(), { location: "w.bin" })).toMatchObject({ external: [], totalBytes: 0 });
    const none = gemmRelu(Tensor.zeros("float32", [0]));
    expect(encodeOnnxExternal(none, { location: "w.bin", threshold: 0 }).external.map(({ name }) => name)).toEqual([
      "b",
    ]);
  });

  test("a range that turns out short is noticed when it is read", () => {
    const { model } = encodeOnnxExternal(big, { location: "w.bin" });
    const short = new Uint8Array(7);
    const opened = decodeOnnx(model, { external: () => ({ read: async () => short, readSync: () => short }) });
    expect(() => opened.initializers.get("b")!.readSync()).toThrow(/needs 1572864 bytes, but 7 are stored/);
  });
});

test("3000 damaged files give a result or an error of kind file, nothing else", () => {
  const random = rng(11, "fuzz");
  const seeds = [
    encodeOnnx(gemmRelu()),
    encodeOnnxExternal(gemmRelu(), { location: "w.bin", threshold: 1 }).model,
    file({ ...weight({ dataType: DataType.INT64, dims: [3n], int64Data: [1n, -1n, 300n] }), node: [{ opType: "If" }] }),
  ];
  let refused = 0;
  for (let i = 0; i < 3000; i++) {
    const seed = seeds[i % seeds.length];
    const bytes = seed.slice(0, random.below(4) ? seed.length : random.below(seed.length));
    for (let n = 1 + random.below(6); n > 0; n--) bytes[random.below(bytes.length)] = random.below(256);
    try {
      const empty = new Uint8Array(0);
      const opened = decodeOnnx(bytes, { external: () => ({ read: async () => empty, readSync: () => empty }) });
      for (const source of opened.initializers.values()) source.readSync();
    } catch (error) {
      if (!(error instanceof RepmlpError && error.kind === "file")) throw error;
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(1000);
});
