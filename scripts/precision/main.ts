/**
 * How precise the ops and their fused forms are: errors of float32 against float64 of outputs, statistics and
 * gradients, beside PyTorch's on the same input. Exits with 1 where one is above twice PyTorch's and 5e-6 of the
 * tensor's largest value, and is not among the known ones of cases.json.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import "../../src/node.ts";
import { targets } from "../../src/graph/index.ts";
import {
  cases,
  conditions,
  cpuWays,
  type Entry,
  measureCase,
  type Recording,
  readRecording,
  type Way,
} from "./measure.ts";

const help = `npm run precision -- [FILTER…] [options]

Prints per case and condition the tensor that comes closest to what is allowed, or exceeds it most.

  FILTER           only cases whose name contains one of these
  --all            every tensor
  --json           everything as JSON
  --live           run PyTorch now, by the Python that --python names, in place of its recorded results
  --python PATH    default python3
  --device webgpu  on the device, in place of the CPU; fails where a node would fall back to the CPU
  --help`;

const { values: options, positionals: filters } = parseArgs({
  allowPositionals: true,
  options: {
    all: { type: "boolean" },
    json: { type: "boolean" },
    live: { type: "boolean" },
    python: { type: "string", default: "python3" },
    device: { type: "string", default: "cpu" },
    help: { type: "boolean" },
  },
});

function runPytorch(): Recording {
  const script = join(import.meta.dirname, "pytorch.py");
  const { status, stdout, error } = spawnSync(options.python, [script], {
    encoding: "utf8",
    maxBuffer: 1e8,
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (status !== 0)
    throw new Error(
      `${options.python} ${script} failed${error ? `: ${error.message}` : ""}. It needs torch and numpy.`,
    );
  return JSON.parse(stdout) as Recording;
}

const deviceOnly = { extra: { session: { disable_cpu_ep_fallback: "1" } } };
const waysOf: Readonly<Record<string, Readonly<Record<string, Way>>>> = {
  cpu: cpuWays,
  webgpu: { webgpu: { target: targets.webgpuTraining, compile: { device: "webgpu", session: deviceOnly } } },
};

const worstOf = ({ ours }: Entry): number => Math.max(...Object.values(ours));
/** How much of what is allowed an entry uses. */
const use = (e: Entry): number => (e.failure ? 1e9 : 1) * (worstOf(e) / e.allowed);
const short = (e: number): string => e.toExponential(1);

function row(e: Entry): string[] {
  const ours = Object.values(e.ours).map(short);
  return [
    e.condition,
    e.tensor,
    ...ours,
    short(e.pytorch),
    short(e.allowed),
    e.failure ? `ABOVE: ${e.failure}` : e.known ? "above, known" : "",
  ];
}

function print(title: string, header: readonly string[], rows: readonly (readonly string[])[]): void {
  console.log(`\n${title}`);
  const all = [header, ...rows];
  const widths = header.map((_, i) => Math.max(...all.map((r) => r[i].length)));
  for (const r of all) console.log(`  ${r.map((cell, i) => cell.padEnd(widths[i])).join("  ")}`.trimEnd());
}

async function main(): Promise<number> {
  const ways = waysOf[options.device];
  const chosen = cases.filter(({ name }) => !filters.length || filters.some((f) => name.includes(f)));
  if (!ways || !chosen.length) {
    const names = cases.map(({ name }) => `  ${name}`).join("\n");
    console.error(
      ways ? `precision: no case of that name. There are:\n${names}` : "precision: --device is cpu or webgpu",
    );
    return 2;
  }
  const recording = options.live ? runPytorch() : readRecording();
  const header = ["condition", "tensor", ...Object.keys(ways), "PyTorch", "allowed", ""];
  if (!options.json)
    console.log(`errors against float64, as shares of the largest value; PyTorch ${recording.pytorch}`);
  const entries: Entry[] = [];
  const unable: string[] = [];
  for (const testCase of chosen) {
    let found: readonly Entry[];
    try {
      found = await measureCase(testCase, recording, { ways });
    } catch (error) {
      if (options.device === "cpu") throw error;
      // What a device cannot run whole counts as failed; the others are still measured.
      unable.push(testCase.name);
      if (!options.json) console.log(`\n${testCase.name}\n  cannot run: ${(error as Error).message}`);
      continue;
    }
    entries.push(...found);
    if (options.json) continue;
    const groups = Object.keys(conditions).map((name) => found.filter(({ condition }) => condition === name));
    const shown = options.all ? found : groups.map((g) => g.reduce((a, b) => (use(b) > use(a) ? b : a)));
    print(testCase.name, header, shown.map(row));
  }
  const above = entries.filter((e) => e.failure);
  if (options.json)
    console.log(JSON.stringify({ pytorch: recording.pytorch, device: options.device, entries, unable }));
  else {
    const tolerated = entries.filter((e) => e.known);
    for (const why of new Set(tolerated.map((e) => e.known))) console.log(`\nabove, known: ${why}`);
    const passed = entries.length - above.length - tolerated.length;
    console.log(
      `\n${passed} passed, ${above.length} failed, ${tolerated.length} above and known${unable.length ? `, ${unable.length} cases cannot run` : ""}`,
    );
  }
  return above.length || unable.length ? 1 : 0;
}

if (options.help) console.log(help);
else process.exitCode = await main();
