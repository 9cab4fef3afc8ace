/**
 * What compiled graphs cost, counted and not timed: nodes by operator, bytes that nodes write, the most bytes alive at
 * once. `npx tsx scripts/graph-costs.ts` compares with scripts/graph-costs.json and fails on growth; `--update` writes
 * that file anew.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  createModel,
  deployForm,
  lowerStep,
  type Module,
  type Net,
  nn,
  ops,
  RepMLP,
  sgd,
  trainStep,
} from "../src/index.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { views } from "../src/runtime/in-place.ts";
import { dtypes, sizeOf } from "../src/tensor/index.ts";
import { formulaEntries } from "./conformance/formula.ts";

/** A count may grow by this part before the check fails. */
const bound = 0.02;

interface Costs {
  readonly nodes: number;
  readonly megabytesWritten: number;
  /**
   * Results of nodes that are alive at the same time, outputs included; inputs, constants and what is written over the
   * values of an input not.
   */
  readonly peakMegabytes: number;
  /** Nodes by operator. */
  readonly operators: Readonly<Record<string, number>>;
}

interface Compiled {
  readonly model: OnnxModel;
  /** Inputs whose next values, `next:<name>`, take their place. */
  readonly inPlace?: ReadonlySet<string>;
}

function costsOf({ model: { nodes, outputs, valueInfo = [] }, inPlace = new Set() }: Compiled): Costs {
  const bytes = new Map(
    [...valueInfo, ...outputs].map(({ name, dtype, shape = [] }) => [
      name,
      sizeOf(shape as readonly number[]) * dtypes[dtype].bytes,
    ]),
  );
  const sizes = (name: string): number => {
    const size = bytes.get(name);
    if (size === undefined || Number.isNaN(size)) throw new Error(`the size of ${name} is not known`);
    return size;
  };
  const operators: Record<string, number> = {};
  /** The tensor whose memory a view shares. */
  const owner = new Map<string, string>();
  const ownerOf = (name: string): string => owner.get(name) ?? name;
  const lastUse = new Map<string, number>();
  for (const [i, { opType, inputs, outputs: made }] of nodes.entries()) {
    operators[opType] = (operators[opType] ?? 0) + 1;
    if (views.has(opType)) owner.set(made[0], ownerOf(inputs[0]));
    for (const name of [...inputs, ...made]) lastUse.set(ownerOf(name), i);
  }
  for (const { name } of outputs) lastUse.set(ownerOf(name), nodes.length);
  const overwriting = new Set([...inPlace].map((name) => `next:${name}`));
  const alive = new Map<string, number>();
  let [written, live, peak] = [0, 0, 0];
  for (const [i, { opType, outputs: made }] of nodes.entries()) {
    for (const name of views.has(opType) ? [] : made.filter(Boolean)) {
      written += sizes(name);
      if (overwriting.has(name)) continue;
      alive.set(name, sizes(name));
      live += sizes(name);
    }
    peak = Math.max(peak, live);
    for (const [name, size] of alive) {
      if (lastUse.get(name) !== i) continue;
      live -= size;
      alive.delete(name);
    }
  }
  return {
    nodes: nodes.length,
    megabytesWritten: Math.round(written / 1e4) / 100,
    peakMegabytes: Math.round(peak / 1e4) / 100,
    operators: Object.fromEntries(Object.entries(operators).sort(([a], [b]) => (a < b ? -1 : 1))),
  };
}

/** Training needs values only for what is computed from them while tracing, so shapes are enough here. */
function step(model: Net, inputShape: readonly number[], gradCheckpointing = false): Compiled {
  const graph = trainStep(model.train() as Net, {
    optimizer: sgd({ momentum: 0.9, weightDecay: 1e-4 }),
    ...{ inputShape, gradCheckpointing },
  });
  const { lowered, inPlace } = lowerStep(graph, "cpu", { valueInfo: true });
  return { model: lowered.model, inPlace };
}

function inference(model: Net, inputShape: readonly number[]): Compiled {
  const { output, names } = nn.traceModel(model, inputShape);
  return ops.lower({ outputs: { output } }, { target: ops.targets.inference, names, valueInfo: true });
}

const deployed = (name: string): Net => {
  const net = deployForm(createModel(name)).eval();
  net.loadStateDict(formulaEntries(net));
  return net;
};

const pooledBlock = (): Net =>
  new nn.Sequential(
    new RepMLP({
      inChannels: 64,
      height: 14,
      width: 14,
      partition: 7,
      groups: 4,
      reparamConvKernels: [1, 3, 5],
    }) as Module & Net,
    new nn.GlobalAvgPool(),
  );

const smallResNet = { numBlocks: [1, 1, 2, 1], channels: [64, 128, 256, 512], stemChannels: 16, numClasses: 10 };

const graphs: Readonly<Record<string, () => Compiled>> = {
  "training step, RepMLP block C 64, batch 32": () => step(pooledBlock(), [32, 64, 14, 14]),
  "training step, small ResNet, batch 8": () =>
    step(createModel("ResNet-50-base-224", { ...smallResNet }), [8, 3, 64, 64]),
  "training step, RepMLP-CIFAR10-pure-MLP, batch 128": () =>
    step(createModel("RepMLP-CIFAR10-pure-MLP"), [128, 3, 32, 32]),
  "training step, RepMLP-Res50-light-224, batch 8": () => step(createModel("RepMLP-Res50-light-224"), [8, 3, 224, 224]),
  "training step with gradient checkpointing, RepMLP-Res50-light-224, batch 8": () =>
    step(createModel("RepMLP-Res50-light-224"), [8, 3, 224, 224], true),
  "inference, RepMLP-Res50-light-224 deployed, batch 8": () =>
    inference(deployed("RepMLP-Res50-light-224"), [8, 3, 224, 224]),
};

/** Every count of a graph by name. */
const countsOf = ({ operators, ...totals }: Costs): Record<string, number> => ({
  ...totals,
  ...Object.fromEntries(Object.entries(operators).map(([op, n]) => [`${op} nodes`, n])),
});

const file = join(import.meta.dirname, "graph-costs.json");
const now = Object.fromEntries(Object.entries(graphs).map(([name, graph]) => [name, costsOf(graph())]));

if (process.argv.includes("--update")) {
  writeFileSync(file, `${JSON.stringify(now, null, 2)}\n`);
  console.log(`graph-costs: ${Object.keys(now).length} graphs written`);
} else {
  const before = JSON.parse(readFileSync(file, "utf8")) as Record<string, Costs>;
  const grown: string[] = [];
  let smaller = 0;
  for (const [name, costs] of Object.entries(now)) {
    const old = before[name] ? countsOf(before[name]) : {};
    for (const [what, count] of Object.entries(countsOf(costs))) {
      if (count > (old[what] ?? 0) * (1 + bound))
        grown.push(`${name}: ${what} grew from ${old[what] ?? 0} to ${count}`);
      if (count < (old[what] ?? 0)) smaller++;
    }
  }
  for (const line of grown) console.error(line);
  if (grown.length) console.error("If that is meant, run npm run graph-costs -- --update and say why in the commit.");
  else
    console.log(
      `graph-costs: ${Object.keys(now).length} graphs, no count more than ${100 * bound} % above the file` +
        (smaller ? `; ${smaller} are below it: --update keeps them there` : ""),
    );
  process.exitCode = grown.length ? 1 : 0;
}
