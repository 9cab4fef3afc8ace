import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { textTable } from "../src/cli/text-table.ts";
import type { Figure } from "./case.ts";
import { type Earlier, earlierIn, type Section, summaryRows } from "./earlier.ts";
import type { Machine } from "./machine.ts";
import type { Trial } from "./race.ts";
import type { Outcome } from "./stats.ts";

export interface FigureResult extends Omit<Figure, "value" | "note"> {
  /** Absent when a contestant that it needs could not run. */
  readonly value?: number;
  /** Whose number it is. */
  readonly note?: string;
}

export interface CaseResult {
  readonly name: string;
  readonly about: string;
  readonly outcomes: readonly Outcome[];
  readonly figures: readonly FigureResult[];
  /** Those of whom only the fastest raced; absent in results of earlier versions. */
  readonly trials?: readonly Trial[];
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
  figure.note === undefined ? figure.name : `${figure.name} (${figure.note})`,
  amount(figure.value, figure.unit),
  limit(figure.floor, figure),
  limit(figure.aim, figure),
  verdict(figure),
];

const trialHeader = ["before the race", "one run"] as const;
const trialRows = (trials: readonly Trial[]): string[][] => trials.map((t) => [t.name, duration(t.seconds)]);

/** One case for the terminal. */
export function caseText({ name, about, outcomes, figures, trials = [], remarks }: CaseResult): string {
  const parts = [`${name}: ${about}`];
  if (outcomes.length)
    parts.push(textTable([timesHeader, ...outcomes.map((o) => timesRow(o, outcomes[0]))], "lrrrrrr"));
  if (trials.length) parts.push(textTable([trialHeader, ...trialRows(trials)], "lr"));
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

const summaryHeader = ["work", ...figureHeader.slice(0, 4), "reached"] as const;
const summary = (sections: readonly Section[]): string =>
  markdownTable(summaryHeader, sections.flatMap(summaryRows), "llrrrl");

const sectionOf = ({ name, about, outcomes, figures, trials = [], remarks }: CaseResult): Section => ({
  name,
  body: [
    `${about[0].toUpperCase()}${about.slice(1)}.`,
    markdownTable(
      timesHeader,
      outcomes.map((o) => timesRow(o, outcomes[0])),
      "lrrrrrr",
    ),
    ...(trials.length ? [markdownTable(trialHeader, trialRows(trials), "lr")] : []),
    ...(figures.length ? [markdownTable(figureHeader, figures.map(figureRow), "lrrrl")] : []),
    ...remarks.map((r) => `- ${r.split("\n")[0]}`),
  ].join("\n\n"),
});

/** What is known of some cases, and when, where and with what it was measured. */
const runOf = (results: Results): Earlier => ({
  where: where(results),
  versions: markdownTable(["", "version"], Object.entries(results.versions), "ll"),
  sections: results.cases.map(sectionOf),
});

/**
 * The results and what a document of earlier ones has of other cases, newest first. Earlier figures stay with the date,
 * machine and versions of their own run.
 */
const runsOf = (results: Results, earlier = ""): readonly Earlier[] => {
  const now = runOf(results);
  const measured = new Set(now.sections.map(({ name }) => name));
  const kept = earlierIn(earlier).map((run) => ({
    ...run,
    sections: run.sections.filter(({ name }) => !measured.has(name)),
  }));
  return [now, ...kept.filter(({ sections }) => sections.length)];
};

/** The results as a document, with the cases of an earlier document that they do not have. */
export function resultsDocument(results: Results, earlier = ""): string {
  const parts = runsOf(results, earlier).map(({ where, versions, sections }) =>
    [`${where}.`, versions, summary(sections), ...sections.map(({ name, body }) => `## ${name}\n\n${body}`)].join(
      "\n\n",
    ),
  );
  const title = ["# Benchmark results", "Written by `npm run bench -- --write-results`; do not edit."].join("\n\n");
  return `${[title, ...parts].join("\n\n# Earlier\n\n").replace("\n\n# Earlier", "")}\n`;
}

export const readmeMarks = ["<!-- bench:start -->", "<!-- bench:end -->"] as const;

/** README's text with the summary of the results, and of earlier ones of other cases, between the marks. */
export function withSummary(readme: string, results: Results, earlier = ""): string {
  const [start, end] = readmeMarks.map((mark) => readme.indexOf(mark));
  if (start < 0 || end < start) throw new Error(`README.md has no ${readmeMarks.join(" … ")}`);
  const runs = runsOf(results, earlier).map(({ where, sections }, i) =>
    `${i ? "Earlier: " : ""}${where}.`.concat("\n\n", summary(sections)),
  );
  const body = `\n${runs.join("\n\n")}\n\nAll of it, with versions: [bench/RESULTS.md](bench/RESULTS.md).\n`;
  return readme.slice(0, start + readmeMarks[0].length) + body + readme.slice(end);
}

/** Writes bench/RESULTS.md and the marked part of README.md; with `keep`, cases that were not measured stay there. */
export function writeResults(
  results: Results,
  paths: { readonly results: string; readonly readme: string },
  keep = false,
): void {
  const earlier = keep && existsSync(paths.results) ? readFileSync(paths.results, "utf8") : "";
  writeFileSync(paths.results, resultsDocument(results, earlier));
  writeFileSync(paths.readme, withSummary(readFileSync(paths.readme, "utf8"), results, earlier));
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
