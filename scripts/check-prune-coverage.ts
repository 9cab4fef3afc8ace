/**
 * Which networks can be pruned: follows the channels of every ONNX model in a folder, cuts a share of each group, the
 * smallest filters first, and runs what is left in ONNX Runtime:
 *
 *   npx tsx scripts/check-prune-coverage.ts FOLDER [--cut 0.4] [--only NAME,…] [--why]
 *
 * Two checks for each model: the narrower file runs, and where the filters are set to zero before they are cut, it gives the
 * same outputs as the file with the zeros. Prints a Markdown table; with --why also what stays, and the reason. Exits with 1
 * where a model cannot be read or cut, or outputs differ.
 */
import { readdirSync } from "node:fs";
import { join, parse } from "node:path";
import { parseArgs } from "node:util";
import { randomInputs } from "../src/inference/index.ts";
import { Buffer, countParameters } from "../src/nn/index.ts";
import { OnnxNet, openOnnx } from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { byL1, type Channel, type ChannelDependencies, channelDependencies, cutChannels } from "../src/prune/index.ts";
import { compileModel } from "../src/runtime/index.ts";
import { registerNode } from "../src/runtime/node/platform.ts";
import type { Shape, Tensor } from "../src/tensor/index.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    cut: { type: "string", default: "0.4" },
    only: { type: "string" },
    why: { type: "boolean", default: false },
  },
});
const [folder] = positionals;
if (folder === undefined) throw new Error("usage: check-prune-coverage.ts FOLDER [--cut 0.4] [--only NAME,…] [--why]");
const share = Number(values.cut);
const only = values.only?.split(",");

/** Differences of rounding alone, as a part of the largest output. */
const TOLERANCE = 1e-4;

interface Coverage {
  readonly layers: number;
  readonly prunable: number;
  readonly groups: number;
  /** Share of multiply-adds with a tenth of each group, and after the cut. */
  readonly least: number;
  readonly macs: number;
  readonly parameters: number;
  /** Largest difference as a part of the largest output. */
  readonly difference: number;
  /** Channels by why they stay. */
  readonly stays: ReadonlyMap<string, number>;
}

/** A share of each group, the smallest filters first. */
const smallest = (net: OnnxNet, { groups }: ChannelDependencies, part: number): Channel[] =>
  groups.flatMap((group) => {
    const scores = byL1(net)(group);
    const count = Math.min(group.channels.length - 1, Math.floor(part * group.channels.length));
    return [...group.channels].sort((a, b) => scores[a.index] - scores[b.index]).slice(0, count);
  });

/** Sets filters and what is carried along with them to zero; running statistics stay. */
function silence(net: OnnxNet, cut: readonly Channel[]): void {
  const parameters = new Map(net.state());
  const gone = new Map<string, { readonly axis: number; readonly positions: Set<number> }[]>();
  for (const { group, positions } of cut)
    for (const [a, { key, axis, role }] of group.axes.entries()) {
      if (role === "takes" || parameters.get(key) instanceof Buffer) continue;
      const places = gone.get(key) ?? [];
      gone.set(key, places);
      const place = places.find((other) => other.axis === axis) ?? { axis, positions: new Set<number>() };
      if (!places.includes(place)) places.push(place);
      for (const p of positions[a]) place.positions.add(p);
    }
  for (const [key, places] of gone) {
    const p = parameters.get(key)!;
    const strides = places.map(({ axis }) => p.shape.slice(axis + 1).reduce((n, d) => n * d, 1));
    const isGone = (i: number): boolean =>
      places.some(({ axis, positions }, k) => positions.has(Math.floor(i / strides[k]) % p.shape[axis]));
    p.set(p.data.map((v, i) => (isGone(i) ? 0 : v)));
  }
}

async function outputOf(model: OnnxModel, input: Tensor): Promise<Float64Array> {
  const program = await compileModel({ ...model, outputs: model.outputs.slice(0, 1) });
  try {
    const results = await program.run({ [model.inputs[0].name]: input });
    return results[model.outputs[0].name].toFloat64();
  } finally {
    await program.dispose();
  }
}

async function coverageOf(path: string): Promise<Coverage> {
  const net = new OnnxNet(await openOnnx(path)).eval();
  const image = net.imageShape.map(Number) as Shape;
  const dependencies = channelDependencies(net, [1, ...image]);
  const { groups, fixed } = dependencies;
  const whole = dependencies.macs();
  const makers = new Set(
    groups.flatMap(({ axes }) => axes.flatMap(({ key, role }) => (role === "makes" ? [key] : []))),
  );
  const cut = smallest(net, dependencies, share);
  silence(net, cut);
  const narrow = cutChannels(net, dependencies, cut);
  const input = randomInputs(image, 1, 0);
  const [expected, found] = [await outputOf(net.toOnnx(), input), await outputOf(narrow.toOnnx(), input)];
  const scale = expected.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const stays = new Map<string, number>();
  for (const { reason, count } of fixed) stays.set(reason, (stays.get(reason) ?? 0) + count);
  return {
    layers: new Set([...makers, ...fixed.map(({ key }) => key)]).size,
    prunable: makers.size,
    groups: groups.length,
    least: dependencies.macs(smallest(net, dependencies, 0.9)) / whole,
    macs: dependencies.macs(cut) / whole,
    parameters: countParameters(narrow) / countParameters(net),
    difference: expected.reduce((m, v, i) => Math.max(m, Math.abs(v - found[i])), 0) / scale,
    stays,
  };
}

registerNode();
const percent = (part: number): string => `${(100 * part).toFixed(1)} %`;
const files = readdirSync(folder).filter(
  (name) => name.endsWith(".onnx") && (!only || only.includes(parse(name).name)),
);
console.log(
  "| network | layers | of these can be cut | groups | least multiply-adds | cut: multiply-adds | parameters | runs | zeros cut: largest difference |",
);
console.log("|---|---:|---:|---:|---:|---:|---:|---|---:|");
for (const file of files.sort()) {
  const name = parse(file).name;
  try {
    const c = await coverageOf(join(folder, file));
    const equal = c.difference < TOLERANCE;
    if (!equal) process.exitCode = 1;
    const figures = [c.layers, c.prunable, c.groups, percent(c.least), percent(c.macs), percent(c.parameters), "yes"];
    console.log(`| ${name} | ${figures.join(" | ")} | ${c.difference.toExponential(1)}${equal ? "" : ", differs"} |`);
    if (values.why) for (const [reason, count] of c.stays) console.log(`  ${count} stay: ${reason}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`| ${name} | | | | | | | no | ${(error as Error).message.replaceAll("|", "\\|")} |`);
  }
}
