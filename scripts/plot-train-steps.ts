/**
 * Draws how far losses part from PyTorch's: `npx tsx scripts/plot-train-steps.ts FOLDER OUT.svg`. FOLDER holds the results
 * of train-steps.ts and compare_train_torch.py.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { chartsSvg } from "../src/report/node/curves.ts";

const [folder, out] = process.argv.slice(2);
if (out === undefined) throw new Error("usage: plot-train-steps.ts FOLDER OUT.svg");
const read = <T>(name: string): T => JSON.parse(readFileSync(join(folder, name), "utf8")) as T;
const { losses: ours } = read<{ readonly losses: readonly number[] }>("steps.json");
const torch = read<{ readonly losses: readonly number[]; readonly noise: readonly (readonly number[])[] }>(
  "torch.json",
);

/** Relative distance from PyTorch's loss at each step; equal losses have no place on a scale of powers. */
const distance = (losses: readonly number[]): [number, number][] =>
  torch.losses.flatMap((loss, i): [number, number][] => {
    const d = Math.abs(losses[i] - loss) / loss;
    return d > 0 ? [[i + 1, d]] : [];
  });

const series = [
  { name: "here", points: distance(ours) },
  ...torch.noise.map((losses, i) => ({ name: `PyTorch, noise ${i + 1}`, points: distance(losses) })),
];
const options = {
  ...{ title: "Distance from PyTorch's loss", xLabel: "step", yLabel: "relative difference", yLog: true },
  xRange: [0, torch.losses.length] as const,
};
writeFileSync(out, await chartsSvg("Distance from PyTorch's losses, same batches", [{ series, options }]));
