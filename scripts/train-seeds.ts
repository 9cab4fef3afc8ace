/**
 * Trains the pure MLP on CIFAR-10 from several seeds, here and in PyTorch, and says whether their accuracies differ:
 *
 *   npx tsx scripts/train-seeds.ts DATA OUT [--seeds 10] [--epochs 4] [--channels 8,16,32] [--files 1] [--python python3]
 *   npx tsx scripts/train-seeds.ts DATA OUT --table     # only the table of what is there
 *
 * DATA is CIFAR-10 in its binary layout, of which the first --files training files are used. Each run's result is a file
 * in OUT, and what is there is not run again, so that a stopped call goes on; --first 5 --seeds 1 --threads 1 does seed 5
 * alone, for several at once. PyTorch's runs are those of
 * train_cifar_torch.py: the same recipe, with its own initial values, shuffling and draws; without a Python that has torch
 * they are left out, and the table says so.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { readRecipe, train } from "../src/node.ts";

/** A finished run: mean training loss and test accuracy (0 … 1) of each epoch. */
interface SeedRun {
  readonly losses: readonly number[];
  readonly top1: readonly number[];
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: "10" },
    first: { type: "string", default: "0" },
    threads: { type: "string" },
    epochs: { type: "string", default: "4" },
    channels: { type: "string", default: "8,16,32" },
    files: { type: "string", default: "1" },
    python: { type: "string", default: "python3" },
    table: { type: "boolean", default: false },
  },
});
const [data, out] = positionals.map((path) => resolve(path));
if (out === undefined) throw new Error("usage: train-seeds.ts DATA OUT [--seeds N] [--epochs N] [--channels a,b,c] …");
const [count, first, epochs, files] = [values.seeds, values.first, values.epochs, values.files].map(Number);
const seeds = Array.from({ length: count }, (_, i) => first + i);
const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
const channels = values.channels.split(",").map(Number);
mkdirSync(out, { recursive: true });
const fileOf = (who: string, seed: number): string => join(out, `${who}-${seed}.json`);

if (!values.table) {
  await runOurs();
  runPyTorch();
}
printTable();

async function runOurs(): Promise<void> {
  const recipe = { ...(await readRecipe("cifar10-pure-mlp")), epochs, model: { channels } };
  const folder = join(out, `data-${first}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  const names = readdirSync(data).filter((name) => name.endsWith(".bin"));
  const training = names
    .filter((name) => name.startsWith("train"))
    .sort()
    .slice(0, files);
  for (const name of [...training, ...names.filter((name) => name.startsWith("test"))])
    symlinkSync(join(data, name), join(folder, name));
  for (const seed of seeds) {
    if (existsSync(fileOf("ours", seed))) continue;
    const run = join(out, `ours-${seed}`);
    const { summary } = await train({
      data: folder,
      kind: "cifar10",
      recipe,
      folder: run,
      resume: existsSync(run),
      seed,
      ...threads,
    });
    const result: SeedRun = {
      losses: summary.history.map((r) => r.trainLoss),
      top1: summary.history.map((r) => r.validationTop1 ?? Number.NaN),
    };
    writeFileSync(fileOf("ours", seed), JSON.stringify({ seed, ...result }));
    rmSync(run, { recursive: true });
    console.log(`here, seed ${seed}: ${(100 * result.top1[epochs - 1]).toFixed(2)} %`);
  }
}

function runPyTorch(): void {
  const found = spawnSync(values.python, ["-c", "import torch"]);
  if (found.status !== 0) {
    console.log(`${values.python} has no torch: PyTorch's runs are left out (--python names another one)`);
    return;
  }
  for (const seed of seeds) {
    const file = fileOf("torch", seed);
    if (existsSync(file)) continue;
    const options = ["--epochs", `${epochs}`, "--files", `${files}`, "--seed", `${seed}`, "--json", file];
    const script = join(import.meta.dirname, "train_cifar_torch.py");
    const done = spawnSync(values.python, [script, data, "--channels", ...channels.map(String), ...options]);
    if (done.status !== 0) throw new Error(`PyTorch's run with seed ${seed} failed:\n${done.stderr}`);
    console.log(`PyTorch, seed ${seed}: ${(100 * read(file).top1[epochs - 1]).toFixed(2)} %`);
  }
}

function read(file: string): SeedRun {
  return JSON.parse(readFileSync(file, "utf8")) as SeedRun;
}

/** Everything that is there, by seed. */
function runsOf(who: string): SeedRun[] {
  const seedOf = (name: string): number => Number(new RegExp(`^${who}-(\\d+)\\.json$`).exec(name)?.[1] ?? -1);
  const names = readdirSync(out).filter((name) => seedOf(name) >= 0);
  return names.sort((a, b) => seedOf(a) - seedOf(b)).map((name) => read(join(out, name)));
}

/** Mean, and standard deviation over the runs (n − 1). */
function spread(of: readonly number[]): { readonly mean: number; readonly deviation: number } {
  const mean = of.reduce((a, b) => a + b, 0) / of.length;
  return { mean, deviation: Math.sqrt(of.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (of.length - 1)) };
}

function printTable(): void {
  const [ours, torch] = ["ours", "torch"].map(runsOf);
  const figures: readonly (readonly [name: string, of: (run: SeedRun) => number, digits: number])[] = [
    ["mean training loss of the first epoch", (r) => r.losses[0], 4],
    ["mean training loss of the last epoch", (r) => r.losses[r.losses.length - 1], 4],
    ["top-1 after the last epoch, %", (r) => 100 * r.top1[r.top1.length - 1], 2],
  ];
  console.log(`| | here, ${ours.length} seeds | PyTorch, ${torch.length} seeds | difference | its standard error |`);
  console.log("|---|---:|---:|---:|---:|");
  for (const [name, of, digits] of figures) {
    const [a, b] = [ours, torch].map((runs) => spread(runs.map(of)));
    const error = Math.sqrt(a.deviation ** 2 / ours.length + b.deviation ** 2 / torch.length);
    const show = (v: number): string => (Number.isFinite(v) ? v.toFixed(digits) : "not run");
    const both = ({ mean, deviation }: typeof a): string => `${show(mean)} ± ${show(deviation)}`;
    console.log(`| ${name} | ${both(a)} | ${both(b)} | ${show(a.mean - b.mean)} | ${show(error)} |`);
  }
  const list = (runs: readonly SeedRun[]): string =>
    runs.map((r) => (100 * r.top1[r.top1.length - 1]).toFixed(2)).join(", ");
  console.log(`\nhere, seeds in order: ${list(ours)}\nPyTorch: ${list(torch)}`);
}
