import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { type Case, type Contestant, matching, timesFaster } from "../../bench/case.ts";
import { race } from "../../bench/race.ts";
import { type CaseResult, joined, type Results, resultsDocument, withSummary } from "../../bench/report.ts";
import { growthExponent, quantile } from "../../bench/stats.ts";

const folder = mkdtempSync(join(tmpdir(), "repmlp-bench-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("quantiles lie between the values, as NumPy's do", () => {
  const values = [4, 1, 3, 2];
  expect([0, 0.25, 0.5, 0.75, 1].map((q) => quantile(values, q))).toEqual([1, 1.75, 2.5, 3.25, 4]);
});

test("the growth of 5 x^1.5 is 1.5", () => {
  expect(growthExponent([1, 2, 8].map((x) => [x, 5 * x ** 1.5]))).toBeCloseTo(1.5, 12);
});

describe("a race", () => {
  const log = join(folder, "turns");
  const program = (name: string, body: string): Contestant => ({
    name,
    does: { kind: "program", command: process.execPath, args: ["--eval", body] },
  });
  const turn = (name: string): Contestant =>
    program(name, `require("node:fs").appendFileSync(${JSON.stringify(log)}, ${JSON.stringify(name)})`);
  const run = (contestants: readonly Contestant[]) => {
    const one: Case = { name: "x/y", about: "", contestants, figures: [] };
    return race(one, { rounds: 2, python: undefined, progress: () => {} });
  };

  test("lets the contestants take turns after a warm-up, and leaves out a rival that fails", async () => {
    const { outcomes, remarks } = await run([turn("A"), turn("B"), program("C", "throw new Error('no wheels')")]);
    const { readFileSync } = await import("node:fs");
    const [, turns] = readFileSync(log, "utf8").split(/^(?:AB)/);
    // One more pair per round; short programs may run several times in a round.
    expect(turns).toMatch(/^A+B+A+B+$/);
    expect([...outcomes.keys()]).toEqual(["A", "B"]);
    expect(outcomes.get("A")?.rounds).toHaveLength(2);
    expect(remarks).toHaveLength(1);
    expect(remarks[0]).toMatch(/^C is left out: [\s\S]*no wheels/);
  });

  test("does not go on without us", async () => {
    await expect(run([program("A", "process.exit(3)"), turn("B")])).rejects.toThrow("A ended with 3");
  });
});

describe("several --case", () => {
  const cases = ["train/light-b8", "train/resnet50", "infer/light-b1", "load/pth"].map((name) => ({ name }));
  const found = (...patterns: string[]): string[] => matching(cases, patterns).cases.map(({ name }) => name);

  test("add up, in the order of the suites, none twice", () => {
    expect(found("resnet", "light", "train/light")).toEqual(["train/light-b8", "train/resnet50", "infer/light-b1"]);
    expect(found("pth")).toEqual(["load/pth"]);
    expect(found()).toEqual(cases.map(({ name }) => name));
  });

  test("must each fit a case", () => {
    expect(matching(cases, ["light", "resnet51", "pht"]).unmatched).toEqual(["resnet51", "pht"]);
    const args = ["--import", "tsx", "bench/main.ts", "--list", "--no-pytorch", "--case", "resnet50", "--case", "x51"];
    const { status, stderr } = spawnSync(process.execPath, args, {
      cwd: join(import.meta.dirname, "../.."),
      encoding: "utf8",
    });
    expect(stderr).toContain('no case contains "x51". See --list');
    expect(status).toBe(2);
  });
});

const outcome = (name: string, median: number) => ({
  ...{ name, median, min: median, q1: median, q3: median, rounds: [median], runsPerRound: 1 },
  ...{ prepareSeconds: undefined, peakMb: undefined, facts: {} },
});
const figureOf = (theirs: number): CaseResult => {
  const outcomes = [outcome("repmlp", 2), outcome("PyTorch", theirs)];
  const { value, ...figure } = timesFaster("PyTorch", { floor: 1.25, aim: 1.5 });
  const found = value(new Map(outcomes.map((o) => [o.name, o])));
  return { name: "train/x", about: "a step", outcomes, figures: [{ ...figure, value: found }], remarks: [] };
};
const resultsOf = (theirs: number): Results => ({
  date: "2026-01-02T03:04:05.000Z",
  machine: { cpu: "a processor", cores: 2, vector: ["avx2"], memoryGb: 24, system: "linux 6" },
  versions: { node: "20.19.0" },
  threads: 2,
  rounds: 7,
  cases: [figureOf(theirs)],
});

describe("results", () => {
  test.for([
    { theirs: 3.2, row: "| 1.60× | ≥ 1.25× | ≥ 1.50× | ✓ aim |" },
    { theirs: 2.6, row: "| 1.30× | ≥ 1.25× | ≥ 1.50× | ✓ floor |" },
    { theirs: 2.4, row: "| 1.20× | ≥ 1.25× | ≥ 1.50× | ✗ |" },
  ])("PyTorch at $theirs s and we at 2 s: $row", ({ theirs, row }) => {
    expect(resultsDocument(resultsOf(theirs))).toContain(`PyTorch ÷ ours ${row}`);
  });

  test("of one machine can be joined, of two not", () => {
    const other = { ...resultsOf(3), cases: [{ ...figureOf(3), name: "infer/x" }] };
    expect(joined([resultsOf(3), other]).cases.map((c) => c.name)).toEqual(["train/x", "infer/x"]);
    expect(() => joined([resultsOf(3), { ...other, threads: 4 }])).toThrow("different machines");
  });

  test("README's numbers are theirs, and the check notices others", () => {
    const script = join(import.meta.dirname, "../../scripts/check-results.mjs");
    mkdirSync(join(folder, "bench"));
    const empty = "text\n<!-- bench:start --><!-- bench:end -->\n";
    const readme = withSummary(empty, resultsOf(3.2));
    writeFileSync(join(folder, "bench", "RESULTS.md"), resultsDocument(resultsOf(3.2)));
    const check = (text: string): string => {
      writeFileSync(join(folder, "README.md"), text);
      return spawnSync(process.execPath, [script, folder], { encoding: "utf8" }).stderr;
    };
    expect(readme).toContain("1.60×");
    expect(check(readme)).toBe("");
    expect(check(readme.replace("1.60×", "1.61×"))).toContain("1.61× is in the benchmark table but not in");
    expect(check("text")).toContain("must have <!-- bench:start -->");
  });
});
