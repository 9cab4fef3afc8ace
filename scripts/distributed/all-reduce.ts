/*
 * Seconds of an all-reduce by the number of bytes, beside a copy of as many in memory.
 *
 *   mpirun -n 2 node --import tsx scripts/distributed/all-reduce.ts [MB…]
 */
import { alone, launchOf } from "../../src/distributed/index.ts";
import { openMpi } from "../../src/distributed/node/index.ts";

const launch = launchOf(process.env);
const group = launch ? await openMpi(launch) : alone;
const sizes = process.argv.slice(2).map(Number);

/** The fastest of some turns: what slows a turn down is others. */
async function fastest(turns: number, work: () => unknown): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < turns; i++) {
    await group.barrier();
    const begin = performance.now();
    await work();
    best = Math.min(best, (performance.now() - begin) / 1000);
  }
  return best;
}

if (group.rank === 0) console.log(`${group.size} processes, ${group.description}`);
for (const mb of sizes.length ? sizes : [0.001, 1, 25, 88, 348]) {
  const values = new Float32Array(Math.round(mb * 250_000)).fill(1);
  const copy = new Float32Array(values.length);
  const turns = mb > 50 ? 5 : 30;
  const seconds = await fastest(turns, () => group.allReduce(values));
  const copying = await fastest(turns, () => copy.set(values));
  if (group.rank > 0) continue;
  const rate = (s: number): string => `${(mb / 1000 / s).toFixed(2)} GB/s`;
  console.log(`${mb} MB: ${(1000 * seconds).toFixed(3)} ms, ${rate(seconds)}; copied in memory ${rate(copying)}`);
}
await group.close();
