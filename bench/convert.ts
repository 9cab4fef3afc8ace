/**
 * Time and memory of converting a checkpoint: this package, PyTorch doing what the first release of RepMLP did
 * (`bench/pytorch/convert.py`), and a copy of the file as the floor.
 *
 *   npx tsx bench/convert.ts TRAIN.pth [--rounds 3] [--json]
 *
 * TRAIN.pth holds RepMLP-Res50-light-224 in its training form. The contestants take turns; each is timed as a process,
 * from its start to its end. PyTorch is left out where no Python has it: `PYTHON` names one. Peak memory is the
 * kernel's own high-water mark, read while the process lives, and known on Linux only. `repmlp convert` waits until its
 * file is on the disk, which the other two leave to the system.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { textTable } from "../src/cli/text-table.ts";

const here = dirname(fileURLToPath(import.meta.url));
const cli = join(here, "..", "dist", "cli", "main.js");

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: "string", default: "3" }, json: { type: "boolean", default: false } },
});
const [train] = positionals;
const rounds = Number(values.rounds);
if (positionals.length !== 1 || !existsSync(train) || !(Number.isInteger(rounds) && rounds > 0))
  fail("usage: npx tsx bench/convert.ts TRAIN.pth [--rounds 3] [--json], with a checkpoint that exists");
if (!existsSync(cli)) fail(`${cli} does not exist. Run npm run setup first.`);

/** Next to the checkpoint, so that all of them write to the same disk. */
const folder = mkdtempSync(join(dirname(train), "bench-convert-"));
const out = join(folder, "deploy.pth");

interface Contestant {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly runs: Sample[];
}
interface Sample {
  readonly seconds: number;
  readonly peakMb: number | undefined;
  /** What the program itself printed as JSON: the phases of the Python procedure. */
  readonly report?: unknown;
}

const python = [process.env.PYTHON, "/usr/bin/python3", "python3"].find(
  (path) => path && spawnSync(path, ["-c", "import torch"]).status === 0,
);
const pytorch = join(here, "pytorch", "convert.py");
const contestants: Contestant[] = [
  { name: "file copy", command: "cp", args: [train, out], runs: [] },
  { name: "repmlp", command: process.execPath, args: [cli, "convert", train, out, "--no-verify"], runs: [] },
  ...(python ? [{ name: "PyTorch", command: python, args: [pytorch, train, out], runs: [] }] : []),
];

try {
  // The first reader would pay for the disk: one copy that does not count brings the file into memory.
  await measure(contestants[0]);
  for (let round = 0; round < rounds; round++)
    for (const contestant of contestants) contestant.runs.push(await measure(contestant));
} finally {
  rmSync(folder, { recursive: true });
}
print();

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}

/** Runs a program once, with nothing left to be written by the one before. */
async function measure({ name, command, args }: Contestant): Promise<Sample> {
  rmSync(out, { force: true });
  spawnSync("sync");
  const start = performance.now();
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  let peakMb: number | undefined;
  const timer = setInterval(() => {
    peakMb = highWaterMark(child.pid) ?? peakMb;
  }, 5);
  const said = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const)
    child[stream].on("data", (chunk: Buffer) => {
      said[stream] += chunk;
    });
  let seconds = 0;
  child.on("exit", () => {
    seconds = (performance.now() - start) / 1000;
  });
  const code = await new Promise((resolve, reject) => void child.on("close", resolve).on("error", reject)).finally(() =>
    clearInterval(timer),
  );
  if (code !== 0) throw new Error(`${name} ended with ${code}: ${said.stderr.trim()}`);
  if (!existsSync(out)) throw new Error(`${name} wrote nothing`);
  return { seconds, peakMb, ...(said.stdout.startsWith("{") ? { report: JSON.parse(said.stdout) as unknown } : {}) };
}

/** Largest resident size of a process so far in MB; it only grows, so that the last reading is the peak. */
function highWaterMark(pid: number | undefined): number | undefined {
  try {
    const [, kb] = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
    return kb === undefined ? undefined : Number(kb) / 1024;
  } catch {
    return undefined;
  }
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

function print(): void {
  const results = contestants.map(({ name, runs }) => {
    const seconds = runs.map((r) => r.seconds);
    const peaks = runs.flatMap((r) => r.peakMb ?? []);
    return {
      name,
      median: median(seconds),
      min: Math.min(...seconds),
      max: Math.max(...seconds),
      peakMb: peaks.length > 0 ? Math.max(...peaks) : undefined,
      runs,
    };
  });
  const own = results[1];
  const megabytes = statSync(train).size / 1e6;
  if (values.json) {
    console.log(JSON.stringify({ train, megabytes, rounds, node: process.version, cpu: cpus()[0]?.model, results }));
    return;
  }
  const ratio = (a: number | undefined, b: number | undefined): string => (a && b ? `${(a / b).toFixed(2)}×` : "");
  console.log(`${train}, ${megabytes.toFixed(0)} MB; ${rounds} rounds; ${cpus().length} × ${cpus()[0]?.model}`);
  const header = ["", "median s", "min … max", "÷ repmlp", "peak MB", "÷ repmlp"];
  const rows = results.map(({ name, median, min, max, peakMb }) => [
    name,
    median.toFixed(2),
    `${min.toFixed(2)} … ${max.toFixed(2)}`,
    ratio(median, own.median),
    peakMb?.toFixed(0) ?? "unknown",
    ratio(peakMb, own.peakMb),
  ]);
  console.log(textTable([header, ...rows], "lrrrrr"));
  if (!python) console.log("PyTorch is left out: no Python with it. Set PYTHON to one.");
}
