/** `npm run bench`: this package beside what one would use instead, in turns and in one run. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { chromiumPath } from "../test/browser/harness.ts";
import { type Case, type Context, matching, type Way, ways } from "./case.ts";
import { findPythons, machine, versions } from "./machine.ts";
import { race } from "./race.ts";
import { type CaseResult, caseText, joined, type Results, writeResults } from "./report.ts";
import { convertCases } from "./suites/convert.ts";
import { dataCases } from "./suites/data.ts";
import { inferCases } from "./suites/infer.ts";
import { loadCases } from "./suites/load.ts";
import { trainCases } from "./suites/train.ts";

const suites = {
  train: trainCases,
  infer: inferCases,
  convert: convertCases,
  load: loadCases,
  data: dataCases,
} as const satisfies Record<string, (context: Context) => readonly Case[]>;
type Suite = keyof typeof suites;

const help = `usage: npm run bench -- [${Object.keys(suites).join("] [")}] [options]

Runs all suites, or those named. The contestants of a case take turns; each is a process of its own that stays warm.
Prints medians, quartiles and ratios; how good they are does not change the exit code.

  --case PATTERN     only cases whose name contains PATTERN; several add up
  --list             name the cases and stop
  --rounds N         turns of each contestant (default 7)
  --large            also the cases that need much memory (batch 32)
  --threads N        for everyone (default: the cores)
  --python PATH      a Python that has PyTorch; several race against each other where PyTorch's fastest is looked for,
                     elsewhere the first takes part (default: those that PYTHON names, with commas between; python3)
  --ways LIST        how PyTorch's user may write a network beside the original, with commas between: all, none or of
                     ${Object.keys(ways).join(" ")}
                     (default all). After one run each, only the fastest races beside the original
  --no-pytorch       leave PyTorch out
  --no-chromium      leave the browser out (CHROMIUM names it)
  --data DIR         pictures for the data suite (default: those of the tests)
  --train FILE       checkpoint for the convert suite (default: one made by a formula)
  --json FILE        write everything, machine and versions included
  --write-results    write bench/RESULTS.md and the table in README.md
  --keep             cases that were not measured stay in both, with date, machine and versions of their own run
  --from FILE        do not run: take the results of an earlier --json; may be repeated
  --help

examples:
  npm run bench -- --list
  npm run bench -- train --case repmlp-block --case resnet50
  npm run bench -- infer load --rounds 15 --json infer.json
  npm run bench -- --from train.json --from infer.json --write-results`;

class UsageError extends Error {}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      allowNegative: true,
      options: {
        case: { type: "string", multiple: true, default: [] },
        list: { type: "boolean", default: false },
        rounds: { type: "string", default: "7" },
        large: { type: "boolean", default: false },
        threads: { type: "string", default: String(availableParallelism()) },
        python: { type: "string", multiple: true, default: [] },
        ways: { type: "string", default: "all" },
        pytorch: { type: "boolean", default: true },
        chromium: { type: "boolean", default: true },
        data: { type: "string" },
        train: { type: "string" },
        json: { type: "string" },
        "write-results": { type: "boolean", default: false },
        keep: { type: "boolean", default: false },
        from: { type: "string", multiple: true },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new UsageError(`--${name} must be a positive integer, got ${text}`);
  return value;
}

type Options = ReturnType<typeof parse>["values"];

const existing = (path: string | undefined): string | undefined => {
  if (path !== undefined && !existsSync(path)) throw new UsageError(`${path} does not exist`);
  return path && resolve(path);
};

/** The ways of writing a network that the command line asks for. */
function chosenWays(list: string): readonly Way[] {
  if (list === "all") return Object.keys(ways) as Way[];
  if (list === "none") return [];
  const names = list.split(",");
  const unknown = names.filter((name) => !(name in ways));
  if (unknown.length)
    throw new UsageError(`--ways: there is no ${unknown.join(", ")}. There are ${Object.keys(ways).join(", ")}`);
  return names as Way[];
}

/** The cases that the command line asks for. */
function wanted(names: readonly string[], options: Options, context: Context): readonly Case[] {
  for (const name of names)
    if (!(name in suites))
      throw new UsageError(`there is no suite ${name}. There are ${Object.keys(suites).join(", ")}`);
  const chosen = names.length ? (names as readonly Suite[]) : (Object.keys(suites) as Suite[]);
  const { cases, unmatched } = matching(
    chosen.flatMap((name) => suites[name](context)),
    options.case,
  );
  if (unmatched.length) throw new UsageError(`no case contains "${unmatched.join('", "')}". See --list`);
  return cases.filter(({ large }) => options.large || options.list || !large);
}

/** One line that is overwritten on a terminal; elsewhere one per case. */
function progressOf(name: string): { readonly show: (text: string) => void; readonly end: () => void } {
  const { stderr } = process;
  if (!stderr.isTTY) {
    stderr.write(`${name}\n`);
    return { show: () => {}, end: () => {} };
  }
  return { show: (text) => stderr.write(`\r\x1b[K${name}: ${text}`), end: () => stderr.write("\r\x1b[K") };
}

async function runCase(one: Case, rounds: number): Promise<CaseResult> {
  const { name, about } = one;
  if (!one.contestants.length) return { name, about, outcomes: [], figures: [], remarks: ["nobody can run this here"] };
  const { show, end } = progressOf(name);
  const { outcomes, trials, remarks } = await race(one, { rounds, progress: show }).finally(end);
  const figures = one.figures.map(({ value, note, ...figure }) => {
    const said = note?.(outcomes);
    return { ...figure, value: value(outcomes), ...(said !== undefined && { note: said }) };
  });
  return { name, about, outcomes: [...outcomes.values()], figures, trials, remarks };
}

async function measure(names: readonly string[], options: Options): Promise<Results | undefined> {
  const [rounds, threads] = [positive("rounds", options.rounds), positive("threads", options.threads)];
  const [data, train] = [existing(options.data), existing(options.train)];
  if (options.python.length && !options.pytorch) throw new UsageError("--python and --no-pytorch exclude each other");
  const chosen = chosenWays(options.ways);
  // The list of cases does not depend on it, and looking takes seconds.
  const pythons = options.pytorch && !options.list ? findPythons(options.python) : [];
  // Beside a checkpoint that is given, so that all of it is on one disk.
  const scratch = mkdtempSync(join(train ? dirname(train) : tmpdir(), "repmlp-bench-"));
  try {
    const chromium = options.chromium ? chromiumPath : undefined;
    const cases = wanted(names, options, { threads, pythons, ways: chosen, chromium, scratch, data, train });
    if (options.list) {
      for (const { name, about, large } of cases)
        console.log(`${name.padEnd(30)} ${about}${large ? " (--large)" : ""}`);
      return undefined;
    }
    if (options.pytorch && !pythons.length) console.error("PyTorch is left out: no Python has it. --python names one.");
    if (options.chromium && !chromium) console.error("Chromium is left out: none found. CHROMIUM names one.");
    const results: CaseResult[] = [];
    for (const one of cases) {
      const result = await runCase(one, rounds);
      results.push(result);
      console.log(`${caseText(result)}\n`);
    }
    return {
      date: new Date().toISOString(),
      machine: machine(),
      versions: versions(pythons),
      threads,
      rounds,
      cases: results,
    };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const { values: options, positionals } = parse(process.argv.slice(2));
  if (options.help) return console.log(help);
  if (options.keep && !options["write-results"]) throw new UsageError("--keep belongs to --write-results");
  const results = options.from
    ? joined(options.from.map((path) => JSON.parse(readFileSync(existing(path)!, "utf8")) as Results))
    : await measure(positionals, options);
  if (!results) return;
  if (options.json) writeFileSync(options.json, `${JSON.stringify(results, null, 1)}\n`);
  const root = join(import.meta.dirname, "..");
  if (options["write-results"])
    writeResults(
      results,
      { results: join(root, "bench", "RESULTS.md"), readme: join(root, "README.md") },
      options.keep,
    );
}

main().catch((error: Error) => {
  console.error(error instanceof UsageError ? `bench: ${error.message}. See --help.` : `bench: ${error.message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
});
