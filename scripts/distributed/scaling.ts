/*
 * A model of the time of a training step on n processes, from what was measured on one:
 *
 *   T(n) = pictures per process · seconds per picture + seconds of the update + all-reduce(n)
 *   all-reduce(n) = 2 (n − 1)/n · bytes / bandwidth + 2 log2(n) · latency
 *
 * the time of a ring, or of halving and doubling, over the slowest link. Weak scaling keeps the pictures per process, strong
 * scaling those of all.
 *
 *   npx tsx scripts/distributed/scaling.ts --bytes 348e6 --picture 0.19 --update 0.28 --batch 32 --bandwidth 1.18e9
 */
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    bytes: { type: "string", default: "348e6" },
    picture: { type: "string", default: "0.19" },
    update: { type: "string", default: "0.28" },
    batch: { type: "string", default: "32" },
    bandwidth: { type: "string", default: "1.18e9" },
    latency: { type: "string", default: "5e-5" },
    processes: { type: "string", default: "1,2,4,8,16,32,64,128,256" },
  },
});
const { bytes, picture, update, batch, bandwidth, latency } = Object.fromEntries(
  Object.entries(values).map(([name, text]) => [name, Number(text)]),
);

const allReduce = (n: number): number =>
  n === 1 ? 0 : ((2 * (n - 1)) / n) * (bytes / bandwidth) + 2 * Math.log2(n) * latency;
const step = (n: number, pictures: number): number => pictures * picture + update + allReduce(n);

console.log("| processes | all-reduce, s | weak: step, s | weak: efficiency | strong: step, s | strong: speed-up |");
console.log("|---|---|---|---|---|---|");
for (const n of values.processes.split(",").map(Number)) {
  const [weak, strong] = [step(n, batch), step(n, Math.ceil(batch / n))];
  const row = [
    ...[n, allReduce(n).toFixed(3), weak.toFixed(3), `${((100 * step(1, batch)) / weak).toFixed(0)} %`],
    ...(n > batch ? ["–", "–"] : [strong.toFixed(3), (step(1, batch) / strong).toFixed(1)]),
  ];
  console.log(`| ${row.join(" | ")} |`);
}
