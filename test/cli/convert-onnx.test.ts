import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { beforeAll, describe, expect, test } from "vitest";
import { saveOnnx } from "../../src/node.ts";
import { Builder } from "../convert/onnx-models.ts";
import { repmlp, tempFolder } from "./harness.ts";

const folder = tempFolder();
const at = (name: string): string => join(folder, name);

/** A block with a branch that merges and a norm that cannot. */
const block = (b: Builder): string => {
  const branches = [b.norm(b.conv("x", [3, 3], [3, 3], { pads: [1, 1, 1, 1] }), 3), b.norm("x", 3)];
  return b.norm(b.node("Relu", [b.node("Add", branches)]), 3);
};

beforeAll(async () => {
  const b = new Builder(1, ["n", 3, "h", "w"]);
  await saveOnnx(at("model.onnx"), b.model([block(b)]));
  mkdirSync(at("pictures"));
  const create = { width: 20, height: 16, channels: 3 as const, background: "orange" };
  await sharp({ create }).png().toFile(at("pictures/a.png"));
});

describe("repmlp convert model.onnx merged.onnx", () => {
  test("--explain and --report name what became of what, and what stays with its reason", async () => {
    const { code, stdout } = await repmlp([
      ...["convert", at("model.onnx"), at("merged.onnx"), "--explain"],
      ...["--inputs", at("pictures"), "--report", at("report.html")],
    ]);
    expect(code).toBe(0);
    for (const line of [
      /^Conv\d+ +BatchNormalization BatchNormalization\d+ \(batch norm\)\n +Conv Conv\d+ \(convolution\)$/m,
      /Add Add\d+ \(arithmetic\)/,
      /BatchNormalization BatchNormalization\d+ +Relu Relu\d+ is not linear/,
      /1 merges; 1 nodes were looked at and left/,
      /nodes +6 +3/,
      /largest difference on inputs of 1×3×224×224/,
    ])
      expect(stdout).toMatch(line);
    expect(readFileSync(at("report.html"), "utf8")).toMatch(/<svg[\s\S]*Relu Relu\d+ is not linear/);
  });

  test("--json gives numbers, and two sizes are compared where they are open", async () => {
    const { code, stdout } = await repmlp(["convert", at("model.onnx"), at("json.onnx"), "--json"]);
    expect(code).toBe(0);
    const { merges, kept, before, after, verification } = JSON.parse(stdout);
    expect([merges, kept, before.nodes, after.nodes]).toEqual([1, 1, 6, 3]);
    expect(verification.sizes).toEqual([{ x: [1, 3, 64, 64] }, { x: [2, 3, 96, 96] }]);
    expect(verification.maxRel).toBeLessThan(1e-5);
  });

  test("refuses by name and reason where nothing can be merged", async () => {
    const b = new Builder();
    const model = b.model([b.norm(b.node("Relu", [b.conv("x", [6, 4], [3, 3])]), 4)]);
    await saveOnnx(at("parted.onnx"), model);
    const { code, stderr } = await repmlp(["convert", at("parted.onnx"), at("never.onnx")]);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(
      /there is nothing to merge; 1 nodes were looked at, the first: BatchNormalization BatchNormalization\d+: Relu Relu\d+ is not linear/,
    );
    expect(existsSync(at("never.onnx"))).toBe(false);
  });

  test("--inputs takes an array of NumPy", async () => {
    const header = `${"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3, 7, 5), }".padEnd(117)}\n`;
    const values = Float64Array.from({ length: 210 }, (_, i) => Math.sin(i));
    const magic = Buffer.from([0x93, ...Buffer.from("NUMPY"), 1, 0, header.length, 0]);
    writeFileSync(at("x.npy"), Buffer.concat([magic, Buffer.from(header), Buffer.from(values.buffer)]));
    const { code, stdout } = await repmlp([
      ...["convert", at("model.onnx"), at("npy.onnx"), "--inputs", at("x.npy"), "--json"],
    ]);
    expect(code).toBe(0);
    const { verification } = JSON.parse(stdout);
    expect(verification.sizes).toEqual([{ x: [2, 3, 7, 5] }]);
    expect(verification.passed).toBe(true);
  });

  test("refuses arrays that are not the model's inputs", async () => {
    const { code, stderr } = await repmlp([
      "convert",
      at("model.onnx"),
      at("never.onnx"),
      "--inputs",
      at("model.onnx"),
    ]);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/model\.onnx: not a \.npy file\. Save it with numpy\.save\./);
  });
});
