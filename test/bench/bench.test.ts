import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import {
  bestInPython,
  type Case,
  type Contestant,
  type Context,
  matching,
  timesFaster,
  type Way,
  ways,
} from "../../bench/case.ts";
import { earlierIn, summaryRows } from "../../bench/earlier.ts";
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
    return race(one, { rounds: 2, progress: () => {} });
  };

  test("lets the contestants take turns after a warm-up, and leaves out a rival that fails", async () => {
    const { outcomes, remarks } = await run([turn("A"), turn("B"), program("C", "throw new Error('no wheels')")]);
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

describe("a heat", () => {
  /** Answers as PyTorch's program does, with the times and the check value that its options name. */
  const pretender = join(folder, "pretender");
  writeFileSync(
    pretender,
    `#!${process.execPath}
let options;
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const question = JSON.parse(line);
  options ??= question.options;
  const { seconds, check, fails } = options;
  const said =
    question.do === fails
      ? { error: "no " + fails }
      : {
          result:
            question.do === "prepare" ? { check } : question.do === "run" ? { seconds: Array(question.times).fill(seconds) } : {},
        };
  console.log(JSON.stringify(said));
});
`,
  );
  chmodSync(pretender, 0o755);
  const rival = (name: string, options: object, heat?: string): Contestant => ({
    name,
    does: { kind: "child", runtime: "python", program: pretender, task: "train", options: { check: 1, ...options } },
    ...(heat !== undefined && { heat }),
  });

  test("lets only the fastest race, and nobody who fails or computes something else", async () => {
    const contestants = [
      rival("ours", { seconds: 2 }),
      rival("original", { seconds: 6 }),
      rival("a", { seconds: 4 }, "h"),
      rival("wrong", { seconds: 1, check: 1.1 }, "h"),
      rival("c", { seconds: 3 }, "h"),
      rival("unable", { seconds: 1, fails: "prepare" }, "h"),
      rival("broken", { seconds: 1, fails: "run" }, "h"),
      rival("d", { seconds: 5 }, "h"),
      rival("other", { seconds: 9 }, "another"),
    ];
    const one: Case = { name: "x/y", about: "", contestants, figures: [] };
    const { outcomes, trials, remarks } = await race(one, { rounds: 2, progress: () => {} });
    expect([...outcomes.keys()]).toEqual(["ours", "original", "c", "other"]);
    expect(outcomes.get("c")?.rounds).toEqual([3, 3]);
    expect(trials.map(({ name, seconds }) => [name, seconds])).toEqual([
      ["a", 4],
      ["c", 3],
      ["d", 5],
      ["other", 9],
    ]);
    expect(remarks.map((r) => r.slice(0, 30))).toEqual([
      "wrong does not compute the sam",
      "unable is left out: unable: no",
      "broken is left out: broken: no",
    ]);
  });
});

describe("PyTorch at its best", () => {
  const contextOf = (torches: readonly string[], chosen: readonly Way[]): Context => ({
    ...{ threads: 2, chromium: undefined, scratch: "", data: undefined, train: undefined, ways: chosen },
    pythons: torches.map((torch) => ({ program: `python-${torch}`, torch })),
  });
  const every = Object.keys(ways) as Way[];

  test.for([
    { torches: ["1.13"], chosen: every, grouped: true, racing: 1, heat: 5 },
    { torches: ["1.13", "2.6"], chosen: every, grouped: true, racing: 1, heat: 11 },
    { torches: ["1.13", "2.6"], chosen: every, grouped: false, racing: 1, heat: 3 },
    { torches: ["1.13", "2.6"], chosen: ["batched"] as Way[], grouped: true, racing: 1, heat: 3 },
    { torches: ["1.13"], chosen: [], grouped: true, racing: 1, heat: 0 },
    { torches: [], chosen: every, grouped: true, racing: 0, heat: 0 },
  ])("$torches, $chosen, grouped: $grouped: $heat in the heat", ({ torches, chosen, grouped, racing, heat }) => {
    const { contestants, original } = bestInPython(contextOf(torches, chosen), "train", {}, { grouped });
    const names = contestants.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(contestants.filter((c) => c.heat === undefined).map((c) => c.name)).toEqual(racing ? [original] : []);
    expect(contestants.filter((c) => c.heat !== undefined)).toHaveLength(heat);
  });

  test("yields both ratios, and says who was fastest", () => {
    const { contestants, figures } = bestInPython(contextOf(["1.13", "2.6"], every), "train", {});
    const [first, second] = figures({ floor: 1.25, aim: 1.5 });
    const dense = "PyTorch 2.6, batched and dense products, channels_last";
    expect(contestants.map(({ name }) => name)).toContain(dense);
    const of = (values: Record<string, number>) =>
      new Map(Object.entries(values).map(([name, seconds]) => [name, outcome(name, seconds)]));
    const original = "PyTorch 1.13, as the original writes it";
    const all = of({ repmlp: 2, [original]: 6, [dense]: 3 });
    expect(first).toMatchObject({ name: `${original} ÷ ours`, floor: 1.25, aim: 1.5 });
    expect(first.value(all)).toBe(3);
    expect(second).toMatchObject({ name: "fastest PyTorch ÷ ours", aim: 1 });
    expect(second.floor).toBeUndefined();
    expect([second.value(all), second.note?.(all)]).toEqual([1.5, dense]);
    const slower = of({ repmlp: 2, [original]: 3, [dense]: 6 });
    expect([second.value(slower), second.note?.(slower)]).toEqual([1.5, original]);
    const alone = of({ repmlp: 2, "ONNX Runtime": 1 });
    expect([second.value(alone), second.note?.(alone)]).toEqual([undefined, undefined]);
  });

  test.for([
    { args: ["--ways", "batched,folded"], status: 2, says: "--ways: there is no folded. There are original, " },
    { args: ["--keep"], status: 2, says: "--keep belongs to --write-results" },
    { args: ["--python", "x", "--no-pytorch"], status: 2, says: "--python and --no-pytorch exclude each other" },
    { args: ["--python", join(folder, "none")], status: 1, says: "none does not run or cannot import torch" },
  ])("$args: $says", ({ args, status, says }) => {
    const given = ["--import", "tsx", "bench/main.ts", "--case", "train/light-224-b8", ...args];
    const cwd = join(import.meta.dirname, "../..");
    const ran = spawnSync(process.execPath, given, { cwd, encoding: "utf8" });
    expect(ran.stderr).toContain(says);
    expect(ran.status).toBe(status);
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
  const { value, note: _, ...figure } = timesFaster("PyTorch", { floor: 1.25, aim: 1.5 });
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

  test("name the fastest and list those that it beat", () => {
    const [one] = resultsOf(3.2).cases;
    const figure = { name: "fastest ÷ ours", unit: "×" as const, aim: 1, value: 0.9, note: "PyTorch 2.6 | b" };
    const trials = [
      { name: "a", seconds: 3.25 },
      { name: "b", seconds: 1.75 },
    ];
    const text = resultsDocument({ ...resultsOf(3.2), cases: [{ ...one, figures: [figure], trials }] });
    expect(text).toContain("| a step | fastest ÷ ours (PyTorch 2.6 \\| b) | 0.90× |  | ≥ 1.00× | ✗ |");
    expect(text).toContain("| a | 3.25 s |\n| b | 1.75 s |");
  });

  test("keep the cases of an earlier document, each with its own date and versions", () => {
    const named = (name: string, about: string, theirs: number): CaseResult => ({ ...figureOf(theirs), name, about });
    const first = { ...resultsOf(3), cases: [named("a", "a step", 3), named("b", "RepMLP-x, deploy form", 3.5)] };
    const second = { ...resultsOf(3), date: "2026-01-05", cases: [named("b", "RepMLP-x, deploy form", 2.8)] };
    const third = { ...resultsOf(3), date: "2026-01-07", cases: [named("c", "the same", 4)] };
    const one = resultsDocument(first);
    expect(resultsDocument(first, one)).toBe(one);
    const two = resultsDocument(second, one);
    const three = resultsDocument(third, two);
    expect(earlierIn(three).map((run) => [run.where.slice(0, 10), ...run.sections.map((s) => s.name)])).toEqual([
      ["2026-01-07", "c"],
      ["2026-01-05", "b"],
      ["2026-01-02", "a"],
    ]);
    expect(three).not.toContain("1.75×");
    expect(three.match(/^# .*$/gm)).toEqual(["# Benchmark results", "# Earlier", "# Earlier"]);
    const readme = withSummary("<!-- bench:start --><!-- bench:end -->", third, two);
    expect(readme.match(/(the same|RepMLP-x, deploy form|a step) \| PyTorch ÷ ours \| [\d.]+×/g)).toEqual([
      "the same | PyTorch ÷ ours | 2.00×",
      "RepMLP-x, deploy form | PyTorch ÷ ours | 1.40×",
      "a step | PyTorch ÷ ours | 1.50×",
    ]);
    expect(readme).toContain("\n\nEarlier: 2026-01-05, 2 × a processor");
  });

  test("of this repository: README's rows are those of the cases in bench/RESULTS.md", () => {
    const root = join(import.meta.dirname, "../..");
    const rows = readFileSync(join(root, "README.md"), "utf8")
      .split("<!-- bench:start -->")[1]
      .split("<!-- bench:end -->")[0];
    const found = earlierIn(readFileSync(join(root, "bench/RESULTS.md"), "utf8")).flatMap((run) =>
      run.sections.flatMap(summaryRows),
    );
    expect(found.length).toBeGreaterThan(20);
    expect(rows.split("\n").filter((line) => /^\| (?!work )/.test(line))).toEqual(
      found.map((cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`),
    );
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
