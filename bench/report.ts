import { readFileSync, writeFileSync } from "node:fs";
import { textTable } from "../src/cli/text-table.ts";
import type { Figure } from "./case.ts";
import type { Machine } from "./machine.ts";
import type { Outcome } from "./stats.ts";

export interface FigureResult extends Omit<Figure, "value"> {
  /** Absent when a contestant that it needs could not run. */
  readonly value?: number;
}

export interface CaseResult {
  readonly name: string;
  readonly about: string;
  readonly outcomes: readonly Outcome[];
  readonly figures: readonly FigureResult[];
  readonly remarks: readonly string[];
}

/** Everything that a run of the benchmark found out; what `--json` writes. */
export interface Results {
  /** ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly versions: Readonly<Record<string, string>>;
  readonly threads: number;
  readonly rounds: number;
  readonly cases: readonly CaseResult[];
}

const duration = (seconds: number): string =>
  seconds >= 10 ? `${seconds.toFixed(1)} s` : seconds >= 1 ? `${seconds.toFixed(2)} s` : `${milliseconds(seconds)} ms`;
const milliseconds = (seconds: number): string => (1000 * seconds).toPrecision(3).replace(/e\+\d+$/, "");

const digits = { "×": 2, "%": 0, s: 2, ms: 0, "": 2 } as const;
const amount = (value: number | undefined, unit: Figure["unit"]): string => {
  if (value === undefined) return "";
  const number = value.toFixed(digits[unit]);
  return unit === "×" || unit === "" ? `${number}${unit}` : `${number} ${unit}`;
};

/** What became of a figure: the aim, the floor, or neither. */
function verdict({ value, floor, aim, smaller }: FigureResult): string {
  if (value === undefined) return "not measured";
  const reaches = (limit: number | undefined): boolean =>
    limit !== undefined && (smaller ? value <= limit : value >= limit);
  if (floor === undefined && aim === undefined) return "";
  return reaches(aim) ? "✓ aim" : reaches(floor) ? "✓ floor" : "✗";
}

const limit = (value: number | undefined, { unit, smaller }: FigureResult): string =>
  value === undefined ? "" : `${smaller ? "≤" : "≥"} ${amount(value, unit)}`;

const timesHeader = ["", "median", "min", "quartiles", "of the first", "rate", "peak MB"] as const;

function timesRow(outcome: Outcome, first: Outcome): string[] {
  const { name, median, min, q1, q3, peakMb, items, facts } = outcome;
  const rate = items
    ? `${Number((items.count / median).toPrecision(3))} ${items.unit}/s`
    : facts.gflops
      ? `${facts.gflops.toFixed(0)} GFLOP/s`
      : facts.gbPerSecond
        ? `${facts.gbPerSecond.toFixed(1)} GB/s`
        : "";
  const of = `${(median / first.median).toFixed(2)}×`;
  const spread = `${duration(q1)} … ${duration(q3)}`;
  return [name, duration(median), duration(min), spread, of, rate, peakMb?.toFixed(0) ?? ""];
}

const figureHeader = ["figure", "measured", "floor", "aim", ""] as const;
const figureRow = (figure: FigureResult): string[] => [
  figure.name,
  amount(figure.value, figure.unit),
  limit(figure.floor, figure),
  limit(figure.aim, figure),
  verdict(figure),
];

/** One case for the terminal. */
export function caseText({ name, about, outcomes, figures, remarks }: CaseResult): string {
  const parts = [`${name}: ${about}`];
  if (outcomes.length)
    parts.push(textTable([timesHeader, ...outcomes.map((o) => timesRow(o, outcomes[0]))], "lrrrrrr"));
  if (figures.length) parts.push(textTable([figureHeader, ...figures.map(figureRow)], "lrrrl"));
  return [...parts, ...remarks.map((r) => `! ${r}`)].join("\n");
}

const markdownTable = (header: readonly string[], rows: readonly (readonly string[])[], align: string): string => {
  const line = (cells: readonly string[]): string => `| ${cells.map((c) => c.replaceAll("|", "\\|")).join(" | ")} |`;
  return [
    line(header),
    `|${[...align].map((a) => (a === "l" ? "---" : "---:")).join("|")}|`,
    ...rows.map((row) => line(row)),
  ].join("\n");
};

const where = ({ date, machine, threads, rounds }: Results): string =>
  `${date.slice(0, 10)}, ${machine.cores} × ${machine.cpu} (${machine.vector.join(" ")}), ${machine.memoryGb} GB, ` +
  `${machine.system}; ${threads} threads, medians of ${rounds} interleaved rounds`;

const asked = ({ floor, aim }: FigureResult): boolean => floor !== undefined || aim !== undefined;
const summaryHeader = ["work", ...figureHeader.slice(0, 4), "reached"] as const;
const summary = (cases: readonly CaseResult[]): string =>
  markdownTable(
    summaryHeader,
    cases.flatMap(({ about, figures }) => figures.filter(asked).map((f) => [about, ...figureRow(f)])),
    "llrrrl",
  );

/** The results as a document. */
export function resultsDocument(results: Results): string {
  const sections = results.cases.map(({ name, about, outcomes, figures, remarks }) =>
    [
      `## ${name}`,
      `${about[0].toUpperCase()}${about.slice(1)}.`,
      markdownTable(
        timesHeader,
        outcomes.map((o) => timesRow(o, outcomes[0])),
        "lrrrrrr",
      ),
      ...(figures.length ? [markdownTable(figureHeader, figures.map(figureRow), "lrrrl")] : []),
      ...remarks.map((r) => `- ${r.split("\n")[0]}`),
    ].join("\n\n"),
  );
  return `${[
    "# Benchmark results",
    "Written by `npm run bench -- --write-results`; do not edit.",
    `${where(results)}.`,
    markdownTable(["", "version"], Object.entries(results.versions), "ll"),
    summary(results.cases),
    ...sections,
  ].join("\n\n")}\n`;
}

export const readmeMarks = ["<!-- bench:start -->", "<!-- bench:end -->"] as const;

/** README's text with the summary of the results between the marks. */
export function withSummary(readme: string, results: Results): string {
  const [start, end] = readmeMarks.map((mark) => readme.indexOf(mark));
  if (start < 0 || end < start) throw new Error(`README.md has no ${readmeMarks.join(" … ")}`);
  const body = `\n${summary(results.cases)}\n\n${where(results)}. All of it, with versions: [bench/RESULTS.md](bench/RESULTS.md).\n`;
  return readme.slice(0, start + readmeMarks[0].length) + body + readme.slice(end);
}

/** Writes bench/RESULTS.md and the marked part of README.md. */
export function writeResults(results: Results, paths: { readonly results: string; readonly readme: string }): void {
  writeFileSync(paths.results, resultsDocument(results));
  writeFileSync(paths.readme, withSummary(readFileSync(paths.readme, "utf8"), results));
}

/** Several runs of different cases on one machine as one. */
export function joined(all: readonly Results[]): Results {
  const [first, ...others] = all;
  const key = ({ machine, versions, threads }: Results): string => JSON.stringify([machine, versions, threads]);
  for (const other of others)
    if (key(other) !== key(first))
      throw new Error("these results come from different machines, versions or numbers of threads");
  const rounds = Math.min(...all.map((r) => r.rounds));
  const cases = new Map(all.flatMap((r) => r.cases).map((c) => [c.name, c]));
  return { ...first, rounds, cases: [...cases.values()] };
}
