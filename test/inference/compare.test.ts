import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type BlockCase, builders } from "../../scripts/conformance/blocks.ts";
import { withPrefix } from "../../scripts/conformance/report.ts";
import {
  Comparison,
  coarsestType,
  compareWeights,
  type Equivalence,
  type FloatType,
  isWithin,
  judge,
  LogitsComparison,
  outputTolerances,
} from "../../src/inference/index.ts";
import { type Module, mapModules } from "../../src/nn/index.ts";
import { convertToDeploy, deployForm, openCheckpointFile } from "../../src/node.ts";
import { isFloating, Tensor } from "../../src/tensor/index.ts";
import { small } from "./nets.ts";

describe("a comparison of two lists of values", () => {
  test("keeps the largest difference, the scale of the first list and the squares, over several parts", () => {
    const found = new Comparison("rep0").add([1, -4], [1.5, -4]).add([2, 0, 9], [2, -0.25, 0], 2);
    expect({ ...found.result, scale: found.scale, squares: found.squares }).toEqual({
      ...{ path: "rep0", maxAbs: 0.5, maxRel: 0.125, scale: 4, squares: 0.3125 },
    });
  });

  const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
  test.for([
    { what: "NaN in the first", a: [nan, 1, 2], b: [0, 1, 2] },
    { what: "NaN in the second", a: [0, 1, 2], b: [nan, 1, 2] },
    { what: "NaN in both", a: [0, nan, 2], b: [0, nan, 2] },
    { what: "NaN at the end", a: [0, 1, 2], b: [5, 1, nan] },
    { what: "infinity in both", a: [0, inf, 2], b: [0, inf, 2] },
    { what: "infinity in one", a: [0, 1, 2], b: [0, inf, 2] },
    { what: "infinity in the first", a: [0, -inf, 2], b: [0, 1, 2] },
    { what: "values missing", a: [0, 1, 2], b: [0, 1] },
  ])("$what never passes, whatever comes after it", ({ a, b }) => {
    const found = new Comparison().add(a, b).add([1, 2], [1, 2.5]);
    expect(Number.isFinite(found.maxAbs)).toBe(false);
    for (const tolerance of [0, 1e-4, 1e30]) expect(isWithin(found, tolerance)).toBe(false);
  });

  test("nothing compared, and zeros, are equal", () => {
    expect([isWithin(new Comparison(), 0), isWithin(new Comparison().add([0, 0], [0, 0]), 0)]).toEqual([true, true]);
    expect(new Comparison().add([0, 0], [0, 1e-3]).maxRel).toBe(1e-3);
  });
});

test("logits: the rows whose class differs, with both classes and how sure the first network was", () => {
  const found = new LogitsComparison();
  const rows = (...values: number[]): Tensor => Tensor.float32([values.length / 2, 2], values);
  found.addRows(rows(1, 2, 5, 3), rows(1, 2, 5, 6));
  found.addRows(rows(4, 0, 1, 9), rows(0, 4, 9, 1), 1);
  expect([found.total, found.agree, found.maxAbs]).toEqual([3, 1, 4]);
  expect(found.disagreements).toEqual([
    { index: 1, classes: [0, 1], margin: 2 },
    { index: 2, classes: [0, 1], margin: 4 },
  ]);
});

describe("the verdict on two forms", () => {
  const found = (output: number, ...blocks: number[]): Equivalence => ({
    ...{ path: "", maxAbs: output, maxRel: output, top1: { agree: 1, total: 1 }, disagreements: [] },
    blocks: blocks.map((maxRel, i) => ({ path: `rep${i}`, maxAbs: maxRel, maxRel })),
  });
  test.for([
    { what: "equal but for rounding", given: found(1e-6, 1e-6, 2e-6), verdict: { passed: true, differs: null } },
    {
      what: "a block that hardly shows",
      given: found(5e-5, 2.7e-3, 1e-6),
      verdict: { passed: false, differs: "rep0" },
    },
    { what: "the first of several", given: found(1e-2, 1e-6, 1e-2, 1), verdict: { passed: false, differs: "rep1" } },
    { what: "only the end", given: found(1e-2, 1e-6), verdict: { passed: false, differs: null } },
    { what: "NaN in a block", given: found(1e-6, 1e-6, Number.NaN), verdict: { passed: false, differs: "rep1" } },
    { what: "NaN at the end", given: found(Number.NaN, 1e-6), verdict: { passed: false, differs: null } },
  ])("$what", ({ given, verdict }) => expect(judge(given, 1e-4)).toEqual(verdict));

  test("the coarsest type of the weights decides what is allowed; counters do not count", () => {
    const types = (...list: FloatType[]) => coarsestType([...list, "int64" as const].map((dtype) => ({ dtype })));
    expect(types("float64")).toBe("float64");
    expect(types("float32", "float64")).toBe("float32");
    expect(types("float16", "float32")).toBe("float16");
    expect(types("float32", "bfloat16", "float16")).toBe("bfloat16");
    const { float64, float32, float16, bfloat16 } = outputTolerances;
    expect([float64 <= float32, float32 < float16, float16 < bfloat16]).toEqual([true, true, true]);
  });
});

describe("merged weights", () => {
  const inType = <M extends Module>(model: M, type: FloatType): M =>
    mapModules(model, { parameter: (p) => (isFloating(p.dtype) ? p.to(type) : p) });

  test.for(["float64", "float32", "float16", "bfloat16"] as const)(
    "%s: rounding passes, one value off by 1 percent does not",
    {
      timeout: 60_000,
    },
    async (type) => {
      const model = small();
      const types = [type, type] as const;
      const training = inType(model, type);
      const deploy = convertToDeploy(training);
      expect(await compareWeights(training, deploy, { types })).toMatchObject({ differing: [] });
      const keys = ["rep1.fc3.weight", "rep0.fc1_fc2.fc2.weight", "stem.conv.weight", "rep1.fc3.bias", "linear.weight"];
      const damaged = convertToDeploy(training);
      const places = new Map<string, number>();
      for (const [key, p] of damaged.state()) {
        if (!keys.includes(key)) continue;
        const values = p.data.toFloat64().slice();
        // A middling value: the largest would be too easy.
        const order = [...values.keys()].sort((i, j) => Math.abs(values[i]) - Math.abs(values[j]));
        const at = order[Math.floor(order.length / 2)];
        values[at] *= 1.01;
        places.set(key, at);
        p.set(Tensor.of(p.dtype, p.shape, values));
      }
      const { differing } = await compareWeights(training, damaged, { types });
      expect(differing.map(({ key }) => key).sort()).toEqual([...keys].sort());
      for (const { key, index, expected, found } of differing) {
        const { shape } = new Map(damaged.state()).get(key)!;
        expect(index.reduce((at, i, axis) => at * shape[axis] + i, 0)).toBe(places.get(key));
        expect(found / expected).toBeCloseTo(1.01, type === "bfloat16" ? 1 : 2);
      }
    },
  );

  test("a tolerance of one's own is a share of the tensor's largest value", async () => {
    const model = small();
    const other = convertToDeploy(model);
    const bias = new Map(other.state()).get("linear.bias")!;
    bias.set(
      Tensor.of(
        "float32",
        bias.shape,
        bias.data.toFloat64().map((v) => v * 1.02),
      ),
    );
    const options = { types: ["float32", "float32"] as const };
    expect((await compareWeights(model, other, { ...options, tolerance: 0.03 })).differing).toEqual([]);
    expect((await compareWeights(model, other, { ...options, tolerance: 0.01 })).differing).toHaveLength(1);
  });

  test("two files of one form are compared, too, and NaN is the furthest off", async () => {
    const model = small();
    const other = mapModules(model);
    const p = new Map(other.state()).get("linear.weight")!;
    p.set(p.data.map((v, i) => (i === 7 ? Number.NaN : 2 * v)));
    const { differing } = await compareWeights(model, other, { types: ["float32", "float32"] });
    expect(differing).toMatchObject([{ key: "linear.weight", index: [1, 3], found: Number.NaN }]);
  });

  const folder = join(import.meta.dirname, "../fixtures/golden");
  const { blocks } = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8")) as { blocks: readonly BlockCase[] };
  test.for(blocks.filter(({ family }) => builders[family]))("what PyTorch merged in float32 passes: $id", async (c) => {
    const { entries } = await openCheckpointFile(join(folder, c.file));
    const part = (name: string): Map<string, Tensor> => {
      const state = withPrefix(entries, `${name}.`);
      for (const key of [...state.keys()].filter((k) => /^output(_|$)/.test(k))) state.delete(key);
      return state;
    };
    const model = builders[c.family]!(c.args as never, { id: c.id, scrambles: false }).eval();
    model.loadStateDict(part("train"));
    const theirs = deployForm(builders[c.family]!(c.args as never, { id: c.id, scrambles: false }));
    theirs.loadStateDict(part("deploy"));
    const { differing } = await compareWeights(model, theirs, { types: ["float32", "float32"] });
    expect(differing).toEqual([]);
  });
});
