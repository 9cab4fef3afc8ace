import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readInputs, readNpy } from "../../src/convert/node/onnx-inputs.ts";
import { convertOnnxBytes, mergeOnnx, onnxReport } from "../../src/convert/onnx/index.ts";
import { convertOnnxFile, openOnnx, saveOnnx } from "../../src/node.ts";
import { decodeOnnx, encodeOnnx, type OnnxModel } from "../../src/onnx/index.ts";
import { ProtoWriter, WireType } from "../../src/onnx/protobuf.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { fuzz } from "./fuzzing.ts";
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
    expect(onnxReport(["a.onnx", "b.onnx"], result)).toContain("<svg");
  });

  it("takes the second size of a recurrent layer's state for the batch", async () => {
    const b = new Builder(1, ["n", 6, "h", "w"]);
    const pooled = b.node("Reshape", [
      b.node("GlobalAveragePool", [b.norm(b.conv("x", [6, 4], [3, 3]), 4)]),
      b.ints([1, -1, 4]),
    ]);
    const model = b.model([b.node("Add", [pooled, "state"])], 3);
    const state = { name: "state", dtype: "float32" as const, shape: [1, "m", 4] };
    const { proof } = await convertOnnxBytes(encodeOnnx({ ...model, inputs: [...model.inputs, state] }));
    expect(proof?.sizes.map((s) => s.state)).toEqual([
      [1, 1, 4],
      [1, 2, 4],
    ]);
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

  it("comes to the same in memory, where a page has it", async () => {
    const { file, counts, proof } = await convertOnnxBytes(new Uint8Array(readFileSync(load)));
    expect(counts.map((c) => c.nodes)).toEqual([2, 1]);
    expect(proof?.passed).toBe(true);
    expect(Buffer.from(file).equals(readFileSync(save))).toBe(true);
  });

  it("compares half precision by its own rounding", async () => {
    const model = normed();
    const half = (t: TensorSource): Tensor => t.readSync().cast("float16");
    const initializers = new Map([...model.initializers].map(([name, t]) => [name, half(t)]));
    const [inputs, outputs] = [model.inputs, model.outputs].map((list) =>
      list.map((value) => ({ ...value, dtype: "float16" as const })),
    );
    await saveOnnx(join(folder, "half.onnx"), { ...model, inputs, outputs, initializers });
    const { proof, tolerance } = await convertOnnxFile(join(folder, "half.onnx"), join(folder, "half-merged.onnx"));
    expect(tolerance).toBe(2e-2);
    expect(proof!.maxRel).toBeGreaterThan(1e-5);
    expect(proof!.maxRel).toBeLessThan(5e-3);
    const written = [...(await openOnnx(join(folder, "half-merged.onnx"))).initializers.values()];
    expect(new Set(written.map((w) => w.dtype))).toEqual(new Set(["float16"]));
  });

  it("maps large weights and finds them again, whether they lie in the file or in another", async () => {
    const b = new Builder(1, [1, 1024, 2, 2]);
    let i = 0;
    const weight = b.constant([1100, 1024, 1, 1], () => ((i++ * 7919) % 1009) / 10_000 - 0.05);
    const large = b.model([b.norm(b.node("Conv", ["x", weight]), 1100)]);
    for (const external of [false, true]) {
      const [from, to] = [join(folder, `large-${external}.onnx`), join(folder, `large-${external}-merged.onnx`)];
      await saveOnnx(from, large, { external });
      const { proof, bytes } = await convertOnnxFile(from, to);
      expect(bytes[0]).toBeGreaterThan(2 ** 22);
      expect(proof?.maxRel).toBeLessThan(1e-5);
      expect(proof?.maxRel).toBeGreaterThan(0);
    }
  });

  it("puts weights beyond what one file holds into another", async () => {
    const b = new Builder();
    const model = b.model([b.conv("x", [6, 64], [3, 3])]);
    const [one, two] = [join(folder, "one.onnx"), join(folder, "two.onnx")];
    expect((await saveOnnx(one, model)).paths).toHaveLength(1);
    expect((await saveOnnx(two, model, { singleFileBytes: 10_000 })).paths).toEqual([two, `${two}_data`]);
    const weights = [one, two].map(async (path) => [...(await openOnnx(path)).initializers.values()][0].readSync());
    const [first, second] = await Promise.all(weights);
    expect(second).toEqual(first);
    const { paths } = await convertOnnxFile(two, join(folder, "three.onnx")).catch((error) => ({
      paths: [error.code],
    }));
    expect(paths).toEqual(["convert-onnx/nothing"]);
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

describe("pictures to compare on", () => {
  const pictures = join(folder, "pictures");
  const input = (shape: readonly (number | string)[]) => ({
    inputs: [{ name: "x", dtype: "float32" as const, shape }],
  });

  beforeAll(async () => {
    mkdirSync(pictures);
    writeFileSync(join(pictures, "notes.txt"), "no picture");
    for (let i = 0; i < 9; i++) {
      const create = { width: 20 + i, height: 16, channels: 3 as const, background: { r: 255, g: 20 * i, b: 0 } };
      await sharp({ create })
        .png()
        .toFile(join(pictures, `${i}.png`));
    }
  });

  it("are the first eight by name, resized and normalised", async () => {
    const feeds = await readInputs([pictures], input(["n", 3, "h", "w"]));
    expect(feeds.map(({ x }) => x.shape)).toEqual(new Array(8).fill([1, 3, 224, 224]));
    const pixel = (i: number, c: number): number => Number(feeds[i].x.data[c * 224 * 224]);
    // A pixel of the colour (255, 20 i, 0), by the mean and deviation of ImageNet's pictures.
    for (const i of [0, 5]) {
      expect(pixel(i, 0)).toBeCloseTo((1 - 0.485) / 0.229, 4);
      expect(pixel(i, 1)).toBeCloseTo(((20 * i) / 255 - 0.456) / 0.224, 4);
      expect(pixel(i, 2)).toBeCloseTo(-0.406 / 0.225, 4);
    }
  });

  it.each([
    [
      [2, 3, 8, 10],
      [2, 3, 8, 10],
    ],
    [
      ["n", 1, 6, 6],
      [1, 1, 6, 6],
    ],
  ])("have the size that a file fixes: %j", async (shape, expected) => {
    const [{ x }] = await readInputs([pictures], input(shape));
    expect(x.shape).toEqual(expected);
  });

  it.each([
    ["four channels", [pictures], input([1, 4, 8, 8]), /models of one input \[N, 3, H, W\] or \[N, 1, H, W\]/],
    ["no pictures", [folder], input([1, 3, 8, 8]), undefined],
    [
      "two inputs",
      [pictures],
      { inputs: [...input([1, 3, 8, 8]).inputs, { name: "y", dtype: "float32" as const }] },
      /models of one input/,
    ],
  ])("are refused: %s", async (_, paths, model, message) => {
    const empty = join(folder, "empty");
    mkdirSync(empty, { recursive: true });
    const given = message ? paths : [empty];
    await expect(readInputs(given, model)).rejects.toThrow(message ?? /there are no pictures in/);
  });

  it("are what both models are run on", async () => {
    const b = new Builder();
    const model = { ...b.model([b.norm(b.conv("x", [3, 4], [3, 3]), 4)]), ...input([1, 3, 12, 12]) };
    await saveOnnx(join(folder, "rgb.onnx"), model);
    const inputs = (m: OnnxModel) => readInputs([pictures], m);
    const { proof } = await convertOnnxFile(join(folder, "rgb.onnx"), join(folder, "rgb-merged.onnx"), { inputs });
    expect(proof?.sizes).toEqual(new Array(8).fill({ x: [1, 3, 12, 12] }));
    expect(proof?.passed).toBe(true);
  });
});

describe("a report", () => {
  it("draws what changed, with sizes, speed and reasons, and escapes names", async () => {
    const b = new Builder();
    const branches = [b.norm(b.conv("x", [6, 6], [3, 3], { pads: [1, 1, 1, 1] }), 6), b.norm("x", 6)];
    const first = b.node("Relu", [b.node("Add", branches)]);
    const named = b.model([b.norm(b.node("Relu", [b.norm(b.conv(first, [6, 6], [1, 1]), 6)]), 6)]);
    const nodes = named.nodes.map((n) => ({ ...n, name: `<${n.name}>` }));
    const conversion = await convertOnnxBytes(encodeOnnx({ ...named, nodes }));
    const html = onnxReport(["a<b.onnx", "merged.onnx"], conversion);
    expect(html).not.toMatch(/<(Conv|Batch|Relu|Add)|a<b/);
    const rows = [...html.matchAll(/<tr>(.*?)<\/tr>/g)].map((m) => m[1].replace(/<\/?t[hd][^>]*>/g, "|"));
    const row = (what: string): string | undefined => rows.find((r) => r.startsWith(`|${what}|`));
    expect(row("nodes")).toBe(`|nodes||${nodes.length}||5|`);
    expect(row("– BatchNormalization")).toBe("|– BatchNormalization||4||1|");
    expect(row("multiply-adds")).toBe(
      `|multiply-adds||${(2 * 72 * 6 * (54 + 6)).toLocaleString("en-US")}||${(2 * 72 * 6 * (54 + 6)).toLocaleString("en-US")}|`,
    );
    expect(row("one run")).toMatch(/^\|one run\|\|[\d.]+ ms\|\|[\d.]+ ms\|$/);
    expect(row("size")).toMatch(/B\|\|/);
    // Two changed parts, each before and after; what did not change is not drawn.
    expect(html.match(/<svg/g)).toHaveLength(4);
    expect(html.match(/>Relu</g)).toBeNull();
    expect(html).toMatch(/Relu &lt;Relu\d+&gt; is not linear/);
  });

  it("draws parts that look alike once", async () => {
    const b = new Builder();
    const unit = (x: string): string => b.node("Relu", [b.norm(b.conv(x, [6, 6], [1, 1]), 6)]);
    const html = onnxReport(["a.onnx", "b.onnx"], await convertOnnxBytes(encodeOnnx(b.model([unit(unit(unit("x")))]))));
    expect(html).toContain("<h2>3 merges</h2>");
    expect(html.match(/<svg/g)).toHaveLength(2);
    expect(html).toContain("and 2 parts of the same form");
  });
});

describe("a hostile file", () => {
  /** A few bytes that ask for more numbers than any memory holds. */
  const hostile: readonly (readonly [string, (b: Builder) => string])[] = [
    [
      "an expanded value",
      (b) => b.node("Expand", [b.node("GlobalAveragePool", ["x"]), b.ints([1, 6, 65_536, 65_536])]),
    ],
    ["a constant of any shape", (b) => b.node("Add", ["x", b.node("ConstantOfShape", [b.ints([2 ** 20, 2 ** 20])])])],
    ["padding without end", (b) => b.node("Pad", ["x", b.ints([0, 0, 2 ** 30, 0, 0, 0, 2 ** 30, 0])])],
    ["a convolution that pads", (b) => b.conv("x", [6, 4], [3, 3], { pads: [2 ** 24, 2 ** 24, 2 ** 24, 2 ** 24] })],
    [
      "outer products, one after the other",
      (b) => {
        const column = b.node("Reshape", ["x", b.ints([-1, 1])]);
        const square = b.node("MatMul", [column, b.node("Reshape", ["x", b.ints([1, -1])])]);
        const [tall, wide] = [
          b.node("Reshape", [square, b.ints([-1, 1])]),
          b.node("Reshape", [square, b.ints([1, -1])]),
        ];
        return b.node("Mul", [tall, wide]);
      },
    ],
  ];

  it.each(hostile)("is refused in milliseconds: %s", async (_, network) => {
    const b = new Builder();
    const output = network(b);
    const bytes = encodeOnnx(b.model([b.norm(b.conv("x", [6, 4], [1, 1]), 4), output]));
    expect(bytes.length).toBeLessThan(13_000);
    const start = performance.now();
    await expect(convertOnnxBytes(bytes)).rejects.toMatchObject({ code: "convert-onnx/size", kind: "file" });
    expect(performance.now() - start).toBeLessThan(250);
  });

  it.each(hostile)("with open sizes is refused before it is run: %s", async (_, network) => {
    const b = new Builder(1, ["n", 6, "h", "w"]);
    const output = network(b);
    const bytes = encodeOnnx(b.model([b.norm(b.conv("x", [6, 4], [1, 1]), 4), output]));
    await expect(convertOnnxBytes(bytes)).rejects.toMatchObject({ code: "convert-onnx/size" });
  });

  it("is refused where an input is larger than what is made at random", async () => {
    const b = new Builder(1, [1, 6, 65_536, 65_536]);
    const bytes = encodeOnnx(
      b.model([
        b.node("MaxPool", [b.norm(b.conv("x", [6, 4], [1, 1], { strides: [4096, 4096] }), 4)], {
          kernel_shape: [2, 2],
        }),
      ]),
    );
    const start = performance.now();
    await expect(convertOnnxBytes(bytes)).rejects.toMatchObject({ code: "convert-onnx/inputs" });
    expect(performance.now() - start).toBeLessThan(250);
  });

  it("among 400 damaged ones is refused by name, or merged, within a second", () => {
    for (const { seed, milliseconds, crash } of fuzz(400, 2)) {
      expect(crash, seed).toBeUndefined();
      expect(milliseconds, seed).toBeLessThan(1000);
    }
  });
});
