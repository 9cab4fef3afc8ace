import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readInputs, readNpy } from "../../src/convert/node/onnx-inputs.ts";
import { onnxReport } from "../../src/convert/node/onnx-report.ts";
import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import { convertOnnxFile, openOnnx, saveOnnx } from "../../src/node.ts";
import { decodeOnnx, encodeOnnx, type OnnxModel } from "../../src/onnx/index.ts";
import { ProtoWriter, WireType } from "../../src/onnx/protobuf.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { Builder, operatorsOf } from "./onnx-models.ts";

const folder = mkdtempSync(join(tmpdir(), "convert-onnx-"));
afterAll(() => rmSync(folder, { recursive: true }));

const normed = (): OnnxModel => {
  const b = new Builder();
  return { ...b.model([b.norm(b.conv("x", [6, 4], [3, 3]), 4)]), metadata: { author: "somebody" } };
};

/** A field of a message, as bytes. */
const field = (number: number, content: Uint8Array): Uint8Array<ArrayBuffer> =>
  new ProtoWriter().tag(number, WireType.LengthDelimited).bytes(content).finish();
const join2 = (...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.concat(parts));
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

/** The file with further fields in its graph; the last of two messages of one field is read as more of the first. */
function withinGraph(model: OnnxModel, more: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = encodeOnnx(model);
  // The graph is the last field of what is written here: its length is found from the end.
  const [GRAPH] = [7];
  for (let at = 0; at < bytes.length; at++) {
    if (bytes[at] !== ((GRAPH << 3) | WireType.LengthDelimited)) continue;
    let [length, i, shift] = [0, at + 1, 0];
    for (; bytes[i] > 127; i++, shift += 7) length |= (bytes[i] & 127) << shift;
    length |= bytes[i] << shift;
    if (i + 1 + length === bytes.length)
      return join2(bytes.subarray(0, at), field(GRAPH, join2(bytes.subarray(i + 1), more)));
  }
  throw new Error("no graph");
}

/** An If node whose branches give `name` of the graph around them. */
function ifNode(name: string, output: string): Uint8Array<ArrayBuffer> {
  const info = field(12, field(1, utf8("inner")));
  const inner = field(1, join2(field(1, utf8(name)), field(2, utf8("inner")), field(4, utf8("Relu"))));
  const graph = join2(inner, field(2, utf8("branch")), info);
  const attribute = (key: string): Uint8Array =>
    field(5, join2(field(1, utf8(key)), field(6, graph), new ProtoWriter().tag(20, WireType.Varint).int32(5).finish()));
  const node = join2(
    field(1, utf8("condition")),
    field(2, utf8(output)),
    field(4, utf8("If")),
    attribute("then_branch"),
    attribute("else_branch"),
  );
  return field(1, node);
}

describe("a file that is merged", () => {
  it("keeps what is not read of it: documentation, functions, other operator sets", () => {
    const doc = field(6, utf8("what it is for"));
    const fn = field(25, join2(field(1, utf8("Mine")), field(10, utf8("my.domain"))));
    const bytes = join2(doc, encodeOnnx(normed()), fn);
    const { model } = mergeOnnx(decodeOnnx(bytes, { keep: true }));
    const written = encodeOnnx(model);
    expect(Buffer.from(written).includes(Buffer.from(doc))).toBe(true);
    expect(Buffer.from(written).includes(Buffer.from(fn))).toBe(true);
    expect(decodeOnnx(written, { keep: true })).toMatchObject({ metadata: { author: "somebody" }, opset: 17 });
    expect(operatorsOf(model)).toEqual({ Conv: 1 });
  });

  it("says the same in as many bytes where nothing is merged", () => {
    const b = new Builder();
    const bytes = encodeOnnx(b.model([b.node("Relu", [b.conv("x", [6, 4], [3, 3])])]));
    const written = encodeOnnx(decodeOnnx(bytes, { keep: true }));
    expect(written.length).toBe(bytes.length);
    expect(encodeOnnx(decodeOnnx(written))).toEqual(bytes);
  });

  it("leaves alone what a sub-graph reads", () => {
    const b = new Builder();
    const conv = b.conv("x", [6, 4], [3, 3]);
    const model = b.model([b.norm(conv, 4)]);
    const condition = new Map<string, TensorSource>([...model.initializers, ["condition", Tensor.of("bool", [], [1])]]);
    const bytes = withinGraph({ ...model, initializers: condition }, ifNode(conv, "of_if"));
    const { merges, kept } = mergeOnnx(decodeOnnx(bytes, { keep: true }));
    expect(merges).toEqual([]);
    expect(kept.map((k) => k.reason)).toContain(`"${conv}" is read by If of_if, too`);
  });

  it("takes no weights for constant that can be fed", () => {
    const model = normed();
    const [weight, ...others] = [...model.initializers].filter(([, t]) => t.shape.length);
    const asInput = ([name, t]: typeof weight) => ({ name, dtype: t.dtype, shape: t.shape });
    const bytes = (listed: readonly (typeof weight)[]): Uint8Array<ArrayBuffer> =>
      encodeOnnx({ ...model, inputs: [...model.inputs, ...listed.map(asInput)] });
    expect(mergeOnnx(decodeOnnx(bytes([weight]), { keep: true })).merges).toEqual([]);
    // All are listed, as old exporters did: it means nothing.
    expect(mergeOnnx(decodeOnnx(bytes([weight, ...others]), { keep: true })).merges).toHaveLength(1);
  });

  it("is refused where a function stands for a standard operator", () => {
    const bytes = join2(encodeOnnx(normed()), field(25, field(1, utf8("Conv"))));
    expect(() => decodeOnnx(bytes, { keep: true })).toThrow(expect.objectContaining({ code: "onnx/functions" }));
  });
});

describe("convertOnnxFile", () => {
  const [load, save] = [join(folder, "a.onnx"), join(folder, "b.onnx")];
  beforeAll(() =>
    saveOnnx(load, { ...normed(), inputs: [{ name: "x", dtype: "float32", shape: ["n", 6, "h", "w"] }] }),
  );

  it("compares on two sizes where they are open, and leaves nothing but the file", async () => {
    const before = readdirSync(folder).length;
    const result = await convertOnnxFile(load, save);
    expect(result.proof).toMatchObject({ passed: true, sizes: [{ x: [1, 6, 64, 64] }, { x: [2, 6, 96, 96] }] });
    expect(result.counts.map((c) => c.nodes)).toEqual([2, 1]);
    expect(readdirSync(folder).length).toBe(before + 1);
    expect((await openOnnx(save)).inputs[0].shape).toEqual(["n", 6, "h", "w"]);
    expect(onnxReport(load, save, result)).toContain("<svg");
  });

  it("writes nothing where a rule is wrong, unless it is forced to", async () => {
    const wrong = {
      name: "wrong",
      operators: ["BatchNormalization"],
      read: (_: unknown, node: { inputs: readonly string[] }) => ({
        inputs: [node.inputs[0]],
        nodes: [node],
        cost: 0,
        apply: ([x]: readonly unknown[]) => x,
      }),
    };
    const { onnxRules } = await import("../../src/convert/onnx/index.ts");
    const rules = [...onnxRules, wrong] as unknown as typeof onnxRules;
    const other = join(folder, "wrong.onnx");
    await expect(convertOnnxFile(load, other, { rules })).rejects.toMatchObject({ code: "convert-onnx/differs" });
    expect(readdirSync(folder)).not.toContain("wrong.onnx");
    await convertOnnxFile(load, other, { rules, force: true });
    expect(readdirSync(folder)).toContain("wrong.onnx");
  });

  it("leaves weights in another file there", async () => {
    const b = new Builder();
    const large = b.model([b.norm(b.conv("x", [6, 64], [3, 3]), 64)]);
    await saveOnnx(join(folder, "out.onnx"), large, { external: true });
    const { paths } = await convertOnnxFile(join(folder, "out.onnx"), join(folder, "merged.onnx"));
    expect(paths).toEqual(["merged.onnx", "merged.onnx_data"].map((name) => join(folder, name)));
  });

  it("says where there is nothing to merge", async () => {
    await expect(convertOnnxFile(save, join(folder, "c.onnx"))).rejects.toMatchObject({ code: "convert-onnx/nothing" });
  });

  it("reads arrays of NumPy", async () => {
    const header = `${"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }".padEnd(117)}\n`;
    const bytes = join2(
      new Uint8Array([0x93, ...utf8("NUMPY"), 1, 0, header.length, 0]),
      utf8(header),
      new Uint8Array(new Float32Array([3, 4]).buffer),
    );
    const path = join(folder, "x.npy");
    writeFileSync(path, bytes);
    expect(readNpy(path)).toEqual(Tensor.float32([1, 2], [3, 4]));
    await expect(readInputs([path, path], await openOnnx(load))).rejects.toThrow(/takes 1 inputs \(x\), got 2 files/);
    writeFileSync(path, readFileSync(path).subarray(0, 130));
    expect(() => readNpy(path)).toThrow(expect.objectContaining({ code: "convert-onnx/npy" }));
  });
});
