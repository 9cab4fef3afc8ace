import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { openCheckpointFile, parseRecipe, type Tensor, train } from "../../src/node.ts";
import { main } from "../cli/harness.ts";
import { tinyRecipe, writeCifar } from "../recipes/support.ts";
import { inMemory } from "./in-memory.ts";
import { kinds, type Launcher, launchers, pidOf, start, until } from "./launchers.ts";

const folder = mkdtempSync(join(tmpdir(), "repmlp-mpi-"));
const at = (name: string): string => join(folder, name);

beforeAll(() => {
  writeCifar(at("cifar"));
  writeFileSync(at("recipe.json"), JSON.stringify(tinyRecipe));
});

const trainArgs = (data: string, out: string, ...args: readonly string[]): string[] => [
  ...[main, "train", data, "--recipe", "recipe.json", "--out", out, "--threads", "1", ...args],
];

const runTrain = (launcher: Launcher, count: number, out: string, ...args: readonly string[]) =>
  start(launcher, [{ count, args: trainArgs("cifar", out, ...args) }], { cwd: folder });

/** Everything that a run saved, to the bit; the times that it took aside. */
async function saved(out: string): Promise<Map<string, string>> {
  using file = await openCheckpointFile(join(at(out), "last.safetensors"));
  const entries = await Promise.all(
    [...file.entries].map(async ([key, source]) => [key, bits((await source.read()) as Tensor)] as const),
  );
  return new Map(entries);
}

const bits = ({ data }: Tensor): string => Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("hex");

// Named, so that nobody takes for tested what was not.
for (const missing of kinds.filter((kind) => launchers.every(({ name }) => name !== kind)))
  test.skip(`over ${missing}, which is not installed or not without koffi`, () => {});

describe.each(launchers)("$name", (launcher) => {
  test("sums, sends and gathers", async () => {
    const script = fileURLToPath(new URL("collectives.ts", import.meta.url));
    const size = 3;
    const args = ["--import", import.meta.resolve("tsx"), script];
    const { stdout, stderr, code } = await start(launcher, [{ count: size, args }]).ended;
    expect(code, stderr).toBe(0);
    const lines = stdout.trim().split("\n");
    const results = lines.map((line) => JSON.parse(line) as { readonly rank: number });
    expect(results.map(({ rank }) => rank).sort()).toEqual([0, 1, 2]);
    for (const { rank, ...result } of results)
      expect(result).toEqual({
        size,
        floats: [6, 7.5, 9],
        doubles: [6, 6 + 3e-12],
        most: 2,
        least: 3,
        bytes: [3, 4, 5, 6, 7],
        view: [100, 100, 300, 300, 300, 100, 100, 100],
        gathered: [[], [1], [2, 2]],
        values: [
          { rank: 0, bad: "1", text: "" },
          { rank: 1, bad: "NaN", text: "é" },
          { rank: 2, bad: "1", text: "éé" },
        ],
        shared: { list: [1, null, "two"] },
        nothing: "undefined",
        many: Array.from({ length: 7 }, (_, i) => new Array(3 * i).fill(3 * i + 3)),
        turns: [3, 6],
        // 6 · (1 + i / 64) with 8 bits.
        rounded: Array.from({ length: 7 }, (_, i) => Math.round(192 * (1 + i / 64)) / 32),
      });
  });

  test("repmlp train: the weights of processes in memory, to the bit, and one set of files and lines", async () => {
    const out = launcher.command;
    const { code, stdout, stderr } = await runTrain(launcher, 2, out).ended;
    expect(stderr).toMatch(/^2 processes by (Open MPI|MPICH).*, 1 thread each\n$/);
    expect(code).toBe(0);
    expect(stdout.match(/epoch 2\/2/g)).toHaveLength(1);
    const recipe = parseRecipe(JSON.stringify(tinyRecipe), "tiny");
    await Promise.all(
      inMemory(2).map((communicator) =>
        train({ recipe, data: at("cifar"), folder: at(`${out}-memory`), threads: 1, communicator }),
      ),
    );
    expect(await saved(out)).toEqual(await saved(`${out}-memory`));
    expect(
      readFileSync(at(`${out}/log.csv`), "utf8")
        .trim()
        .split("\n"),
    ).toHaveLength(3);
    for (const name of ["train.pth", "best.safetensors", "curves.svg"])
      expect(existsSync(at(`${out}/${name}`))).toBe(true);
  });

  test("a rank that is killed ends the job at once; another number of ranks goes on from the last checkpoint", async () => {
    const out = `${launcher.command}-killed`;
    writeFileSync(at("long.json"), JSON.stringify({ ...tinyRecipe, epochs: 2000 }));
    const job = runTrain(launcher, 2, out, "--recipe", "long.json");
    await until(() => existsSync(at(`${out}/last.safetensors`)));
    const rank = pidOf(out, 1);
    expect(rank).toBeDefined();
    const killed = performance.now();
    process.kill(rank!, "SIGKILL");
    const { code, stdout, stderr } = await job.ended;
    expect((performance.now() - killed) / 1000).toBeLessThan(10);
    expect(code).not.toBe(0);
    expect(stdout + stderr).toMatch(/signal 9/i);
    // The launcher may end a moment before the last of its processes.
    await until(() => pidOf(out, 0) === undefined, 5);
    const { epoch } = await lastEpoch(out);
    // To the end of a run as long as what was done, and one epoch more.
    const again = await runTrain(launcher, 3, out, "--resume", "--epochs", `${epoch + 1}`).ended;
    expect(again.stderr).toMatch(/resuming at step \d+/);
    expect(again.stderr).toContain("changed since then: processes: 2 → 3");
    expect(again.code).toBe(0);
  });

  test("a second job in the folder is refused; SIGTERM to one rank: all stop after the step, with a checkpoint", async () => {
    const out = `${launcher.command}-stopped`;
    const job = runTrain(launcher, 2, out, "--recipe", "long.json");
    await until(() => existsSync(at(`${out}/last.safetensors`)));
    const second = await runTrain(launcher, 2, out, "--resume").ended;
    expect(second.stderr).toMatch(/^error: rank 0 of 2 on \S+: \S+: another run writes there/m);
    expect(second.code).not.toBe(0);
    process.kill(pidOf(out, 1)!, "SIGTERM");
    const { stderr, code } = await job.ended;
    expect(stderr).toContain("stopped; the same command with --resume goes on");
    expect(code).not.toBe(0);
    expect(existsSync(at(`${out}/train.pth`))).toBe(false);
  });

  test("prune is refused: every process would write", async () => {
    const args = [main, "prune", "cifar", "--init", "nowhere.pth", "--out", "pruned"];
    const { stderr, code } = await start(launcher, [{ count: 2, args }], { cwd: folder }).ended;
    expect(stderr.match(/^error: .*$/gm)).toEqual([
      expect.stringMatching(
        /^error: rank 0 of 2 on \S+: prune: works in one process, and 2 were started\. Start it without the launcher; /,
      ),
    ]);
    expect(code).not.toBe(0);
    expect(existsSync(at("pruned"))).toBe(false);
  });

  test("what one rank fails at is told once, with its name", async () => {
    const both = [
      { count: 1, args: trainArgs("cifar", "failed") },
      { count: 1, args: trainArgs("nowhere", "failed") },
    ];
    const one = await start(launcher, both, { cwd: folder }).ended;
    expect(one.stderr.match(/^error: .*$/gm)).toEqual([expect.stringMatching(/^error: rank 1 of 2 on \S+: nowhere: /)]);
    expect(one.code).not.toBe(0);
    expect(one.seconds).toBeLessThan(15);
  });
});

/** Where a run's last checkpoint stands. */
async function lastEpoch(out: string): Promise<{ readonly epoch: number }> {
  using file = await openCheckpointFile(join(at(out), "last.safetensors"));
  const { loader } = JSON.parse(file.metadata["repmlp.training"]) as { readonly loader: { readonly epoch: number } };
  return { epoch: loader.epoch + 1 };
}
