import { describe, expect, test } from "vitest";
import { parseClassMap, parseClassNames } from "../../src/inference/class-names.ts";
import { addCounts, averages, countLogits, noCounts } from "../../src/inference/counts.ts";
import {
  mergeTestRecords,
  type NamedRecord,
  parseTestRecord,
  readCounts,
  type TestRecord,
  testCsvHeader,
  testCsvRow,
  writeCounts,
} from "../../src/inference/record.ts";
import { finalLine, progressLine } from "../../src/inference/report.ts";
import { parseShard, shardRange } from "../../src/inference/shard.ts";
import { rng } from "../../src/tensor/index.ts";

const random = rng(5);
const N = 37;
const CLASSES = 7;
const logits = Float32Array.from({ length: N * CLASSES }, () => 3 * random.normal());
const labels = Int32Array.from({ length: N }, () => random.below(CLASSES));

describe("counts", () => {
  test("ranks and cross entropy of single rows", () => {
    // -log softmax: log(e^2 + e^1 + e^0 + 3 e^-1) - 1 for class 1, second in rank.
    const row = Float32Array.of(2, 1, 0, -1, -1, -1);
    const { lossUnits, ...rest } = countLogits(row, [1]);
    expect(rest).toEqual({ total: 1, correct: 0, correctTop5: 1 });
    const expected = Math.log(Math.E ** 2 + Math.E + 1 + 3 / Math.E) - 1;
    expect(Number(lossUnits) / 2 ** 32).toBeCloseTo(expected, 8);
    expect(countLogits(row, [5])).toMatchObject({ correct: 0, correctTop5: 0 });
  });

  test("any way of cutting gives the same sums, to the last bit", () => {
    const whole = countLogits(logits, labels);
    for (const size of [1, 5, 36]) {
      let sum = noCounts;
      for (let start = 0; start < N; start += size) {
        const end = Math.min(N, start + size);
        sum = addCounts(sum, countLogits(logits.subarray(start * CLASSES, end * CLASSES), labels.subarray(start, end)));
      }
      expect(sum).toEqual(whole);
    }
  });
});

describe("shards", () => {
  test("cover every picture once and start with a batch", () => {
    for (const [length, batch, count] of [
      [1050, 100, 3],
      [7, 100, 4],
      [50, 1, 7],
    ]) {
      const ranges = Array.from({ length: count }, (_, index) => shardRange(length, batch, { index, count }));
      expect(ranges[0][0]).toBe(0);
      expect(ranges.at(-1)![1]).toBe(length);
      for (const [i, [start]] of ranges.entries()) {
        if (i) expect(start).toBe(ranges[i - 1][1]);
        expect(start === length || start % batch === 0).toBe(true);
      }
    }
  });

  test("are written i/n from 1", () => {
    expect(parseShard("3/16")).toEqual({ index: 2, count: 16 });
    for (const wrong of ["0/4", "5/4", "4", "1/0", "a/b"])
      expect(() => parseShard(wrong)).toThrow(`test: "${wrong}" is no shard`);
  });
});

const recordOf = (index: number, count: number, part = countLogits(logits, labels)): TestRecord => ({
  format: "repmlp-test/1",
  model: { name: "M", form: "deploy", weights: "m.pth", sha256: "00", parameters: 1234567, dtype: "float32" },
  data: { name: "D", images: N, classes: CLASSES, labelsSha256: "11" },
  input: { imageSize: 224, cropPct: 0.875, interpolation: "bilinear", text: "shorter side to 256" },
  batchSize: 10,
  provider: "cpu",
  shard: { index, count },
  counts: writeCounts(part),
  unreadable: [],
  seconds: 1.5,
  waiting: 0.25,
});

describe("merging", () => {
  const cut = (index: number): NamedRecord => {
    const [start, end] = shardRange(N, 10, { index, count: 3 });
    const part = countLogits(logits.subarray(start * CLASSES, end * CLASSES), labels.subarray(start, end));
    const text = JSON.stringify(recordOf(index + 1, 3, part));
    return { where: `part${index + 1}.json`, record: parseTestRecord(text, "part") };
  };
  const parts = [0, 1, 2].map(cut);

  test("gives what one run gives, in any order", () => {
    const whole = recordOf(1, 1);
    for (const order of [parts, parts.toReversed()]) {
      const merged = mergeTestRecords(order);
      expect({ ...merged, seconds: 0, waiting: 0 }).toEqual({ ...whole, seconds: 0, waiting: 0 });
      expect(averages(readCounts(merged))).toEqual(averages(countLogits(logits, labels)));
      expect(merged.seconds).toBe(4.5);
    }
  });

  test("pictures that could not be read count as seen, and are named together", () => {
    const lost = (index: number, name: string): NamedRecord => {
      const { where, record } = parts[index];
      const counts = { ...record.counts, total: record.counts.total - 1 };
      return { where, record: { ...record, counts, unreadable: [name] } };
    };
    const merged = mergeTestRecords([parts[0], lost(1, "b/2.jpg"), lost(2, "a/1.jpg")]);
    expect(merged.counts.total).toBe(N - 2);
    expect(merged.unreadable).toEqual(["a/1.jpg", "b/2.jpg"]);
  });

  const changed = (change: (record: TestRecord) => TestRecord): NamedRecord => ({
    where: "other.json",
    record: change(parts[1].record),
  });
  test.for([
    ["a missing part", [parts[0], parts[2]], "merge: shard 2/3 is missing"],
    ["a repeated part", [...parts, parts[1]], "merge: part2.json and part2.json are both shard 2/3"],
    ["nothing", [], "merge: no parts given"],
    [
      "other weights",
      [parts[0], changed((r) => ({ ...r, model: { ...r.model, sha256: "22" } })), parts[2]],
      "merge: part1.json and other.json are of different evaluations: weights is 00 and 22",
    ],
    [
      "other data",
      [parts[0], changed((r) => ({ ...r, data: { ...r.data, labelsSha256: "x" } })), parts[2]],
      "labels is 11 and x",
    ],
    [
      "a part that lacks pictures",
      [parts[0], changed((r) => ({ ...r, counts: { ...r.counts, total: 3 } })), parts[2]],
      `merge: the parts hold ${N - 7} pictures, the data set ${N}`,
    ],
  ] as [string, NamedRecord[], string][])("refuses %s", ([, list, message]) => {
    expect(() => mergeTestRecords(list)).toThrow(message);
  });

  test.for([
    ["{", "x.json: is no result of repmlp test"],
    ["{}", "x.json: is no result of repmlp test (format"],
    [
      JSON.stringify({ ...recordOf(1, 1), counts: { total: 1, correct: 0, correctTop5: 0, lossUnits: "1.5" } }),
      "lossUnits",
    ],
  ])("files that are something else: %#", ([text, message]) => {
    expect(() => parseTestRecord(text, "x.json")).toThrow(message);
  });
});

test("lines of the original program", () => {
  const counts = { total: 100, correct: 70, correctTop5: 91, lossUnits: BigInt(Math.round(123.456 * 2 ** 32)) };
  const sum = { total: 1100, correct: 759, correctTop5: 1001, lossUnits: BigInt(Math.round(1300 * 2 ** 32)) };
  expect(progressLine({ batch: 10, batches: 391, counts, sum, seconds: 0.1234, sumSeconds: 1.43 })).toBe(
    "Test: [ 10/391]\tTime  0.123 ( 0.130)\tLoss 1.2346e+00 (1.1818e+00)\tAcc@1  70.00 ( 69.00)\tAcc@5  91.00 ( 91.00)",
  );
  expect(finalLine(sum)).toBe(" * Acc@1 69.000 Acc@5 91.000");
});

test("results file: timm's columns first", () => {
  expect(testCsvHeader).toBe(
    "model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation,correct,total,dtype,provider,seconds",
  );
  const record = recordOf(1, 1, { total: 150, correct: 118, correctTop5: 142, lossUnits: 0n });
  expect(testCsvRow({ ...record, model: { ...record.model, name: 'a,"b' } })).toBe(
    '"a,""b",224,78.6667,21.3333,94.6667,5.3333,1.23,0.875,bilinear,118,150,float32,cpu,1.50',
  );
});

describe("class lists", () => {
  test("plain names, and columns in any order", () => {
    expect(parseClassNames("tench\ngoldfish\r\n", "c")).toEqual(["tench", "goldfish"]);
    const table = "1\tn02\tgreat white shark\n0\tn01\ttench\n";
    expect(parseClassNames(table, "c")).toEqual(["tench", "great white shark"]);
    expect([...parseClassMap(table, "c")]).toEqual([
      ["n02", 1],
      ["n01", 0],
    ]);
    expect(parseClassMap("n5\t17\n", "c").get("n5")).toBe(17);
  });

  test("where several columns are numbers, the index is found by what fits", () => {
    expect(parseClassNames("7\t1\n9\t0\n", "c")).toEqual(["9", "7"]);
    expect(parseClassNames("1\t7\n0\t9\n", "c")).toEqual(["9", "7"]);
    expect(parseClassNames("0\t0\n1\t1\n", "c")).toEqual(["0", "1"]);
    expect(parseClassNames("name\tindex\n1\t0\n0\t1\n", "c")).toEqual(["1", "0"]);
    const entries = (text: string, folders?: string[]) => Object.fromEntries(parseClassMap(text, "c", folders));
    expect(entries("10\t2\n", ["10"])).toEqual({ 10: 2 });
    expect(entries("2\t10\n", ["10"])).toEqual({ 10: 2 });
    expect(entries("0\tn01\t1984\n1\tn02\t1985\n", ["n02"])).toEqual({ n01: 0, n02: 1 });
    expect(entries("index\tfolder\n0\t1\n1\t0\n", ["0"])).toEqual({ 1: 0, 0: 1 });
    expect(entries("3\n10\n", ["10"])).toEqual({ 3: 0, 10: 1 });
  });

  test.for<[string, string[], string]>([
    ["0\t1\n1\t2\n2\t0\n", ["0", "1"], "c: several columns are numbers, and each can be the index"],
    ["10\t2\n", [], "c: several columns are numbers"],
    ["n01\t0\n", ["n02", "n03"], "c: does not know n02, n03. Add a line"],
    ["n01\t0\nn01\t1\n", ["n01"], "c: n01 is there twice"],
    ["n01\t0\nn02\n", ["n01"], "c: line 2 has columns but no class index: n02"],
  ])("wrong class maps: %#", ([text, folders, message]) => {
    expect(() => parseClassMap(text, "c", folders)).toThrow(message);
  });

  test.for([
    ["", "c: holds no classes"],
    ["0\t1\n1\t2\n2\t0\n", "c: several columns are numbers"],
    ["n01\ttench\n", "c: line 1 has columns but no class index"],
    ["0\ta\n0\tb\n", "c: 2 classes need the indices 0 to 1, each once; 0 does not fit"],
    ["0\ta\n2\tb\n", "c: 2 classes need the indices 0 to 1, each once; 2 does not fit"],
  ])("wrong lists: %#", ([text, message]) => {
    expect(() => parseClassNames(text, "c")).toThrow(message);
  });
});
