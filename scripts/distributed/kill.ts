/*
 * Kills one rank of a run at a random moment, again and again: how long the job takes to end, and whether the run, resumed
 * until it is through, has the weights of one that nothing happened to. Needs Linux and the built program.
 *
 *   npx tsx scripts/distributed/kill.ts [times, 10] [processes, 2] [seed of the moments, 1]
 */
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpointFile } from "../../src/checkpoint/node/index.ts";
import { rng, type Tensor, tensorBytes } from "../../src/tensor/index.ts";
import { main } from "../../test/cli/harness.ts";
import { type Launcher, launchers, type Outcome, pidOf, start, until } from "../../test/distributed/launchers.ts";
import { tinyRecipe, writeCifar } from "../../test/recipes/support.ts";

const [times = 10, processes = 2, seed = 1] = process.argv.slice(2).map(Number);
const folder = mkdtempSync(join(tmpdir(), "repmlp-kill-"));
writeCifar(join(folder, "cifar"));
writeFileSync(join(folder, "recipe.json"), JSON.stringify({ ...tinyRecipe, epochs: 15 }));

const args = (out: string, ...more: string[]): string[] => [
  ...[main, "train", "cifar", "--recipe", "recipe.json", "--out", out, "--threads", "1", ...more],
];
const run = (launcher: Launcher, out: string, ...more: string[]) =>
  start(launcher, [{ count: processes, args: args(out, ...more) }], { cwd: folder });

/** Of all that the last checkpoint holds. */
async function weights(out: string): Promise<string> {
  using file = await openCheckpointFile(join(folder, out, "last.safetensors"));
  const hash = createHash("sha256");
  for (const [key, source] of file.entries) hash.update(key).update(tensorBytes((await source.read()) as Tensor));
  return hash.digest("hex").slice(0, 16);
}

async function mustEnd(running: Promise<Outcome>): Promise<void> {
  const { code, stderr } = await running;
  if (code !== 0) throw new Error(stderr);
}

for (const launcher of launchers) {
  await mustEnd(run(launcher, "whole").ended);
  const expected = await weights("whole");
  const random = rng(seed, launcher.name);
  let wrong = 0;
  for (let i = 0; i < times; i++) {
    const out = `killed-${i}`;
    const job = run(launcher, out);
    await until(() => existsSync(join(folder, out, "last.safetensors")));
    await new Promise((resolve) => setTimeout(resolve, 1000 * random.next()));
    const rank = random.below(processes);
    const pid = pidOf(out, rank);
    if (pid === undefined) throw new Error("the run was through before it could be killed");
    const begin = performance.now();
    process.kill(pid, "SIGKILL");
    const { code } = await job.ended;
    const seconds = (performance.now() - begin) / 1000;
    await until(() => Array.from({ length: processes }, (_, r) => pidOf(out, r)).every((p) => p === undefined));
    const opened = (await weights(out)) !== "";
    await mustEnd(run(launcher, out, "--resume").ended);
    const same = (await weights(out)) === expected;
    if (!same || code === 0 || seconds > 10) wrong++;
    console.log(
      `${launcher.name} ${i + 1}: rank ${rank} killed, ended after ${seconds.toFixed(1)} s with code ${code}; ` +
        `checkpoint ${opened ? "opens" : "is lost"}; resumed weights ${same ? "the same" : "DIFFER"}`,
    );
    rmSync(join(folder, out), { recursive: true });
  }
  rmSync(join(folder, "whole"), { recursive: true });
  console.log(`${launcher.name}: ${times - wrong} of ${times} as they should be`);
  if (wrong) process.exitCode = 1;
}
rmSync(folder, { recursive: true });
