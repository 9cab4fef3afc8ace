/**
 * Where the time of a compiled graph goes, by ONNX Runtime's own profiler:
 *
 *   npx tsx bench/profile.ts RepMLP-Res50-light-224 --batch 8
 *   npx tsx bench/profile.ts repmlp-block --channels 64 --batch 32 --top 40
 *   npx tsx bench/profile.ts RepMLP-Res50-light-224 --infer deploy --batch 1
 *
 * Prints milliseconds per run by operator and by node, slowest first, with the shapes of the node. The first run, which
 * warms up, does not count.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";
import { type Lowered, lower, targets } from "../src/graph/index.ts";
import { traceModel } from "../src/nn/index.ts";
import { convertToDeploy, lowerStep, type Net, sgd, Tensor, trainStep } from "../src/node.ts";
import { encodeOnnx } from "../src/onnx/index.ts";
import { networkOf } from "./contestants/networks.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    batch: { type: "string", default: "8" },
    channels: { type: "string" },
    size: { type: "string" },
    infer: { type: "string" },
    threads: { type: "string", default: "2" },
    runs: { type: "string", default: "4" },
    top: { type: "string", default: "25" },
  },
});

interface NodeEvent {
  readonly cat: string;
  readonly name: string;
  /** Microseconds. */
  readonly dur: number;
  readonly args?: Readonly<Record<string, unknown>>;
}

const trained = (model: Net, shape: readonly number[]): Lowered =>
  lowerStep(trainStep(model.train(), { optimizer: sgd({ momentum: 0.9, weightDecay: 1e-4 }), inputShape: shape }))
    .lowered;

function inferred(model: Net, shape: readonly number[]): Lowered {
  const { output, names } = traceModel(values.infer === "deploy" ? convertToDeploy(model.eval()) : model.eval(), shape);
  return lower({ outputs: { output } }, { target: targets.inference, names });
}

/** Feeds of a lowered graph: the parameters' values, the pictures, small numbers for the rest. */
async function feedsOf({ model, parameters }: Lowered, images: Tensor): Promise<Record<string, ort.Tensor>> {
  const entries = model.inputs.map(async ({ name, shape = [] }): Promise<[string, ort.Tensor]> => {
    const dims = shape as number[];
    const given = parameters.get(name)?.source().read() ?? (name === "input" ? images : undefined);
    const tensor = (await given) ?? Tensor.full("float32", dims, 0.01);
    return [name, new ort.Tensor("float32", tensor.data as Float32Array, dims)];
  });
  return Object.fromEntries(await Promise.all(entries));
}

/** Runs a model several times; events of all runs. */
async function profile(lowered: Lowered, images: Tensor): Promise<readonly NodeEvent[]> {
  const folder = mkdtempSync(join(tmpdir(), "repmlp-profile-"));
  const session = await ort.InferenceSession.create(encodeOnnx(lowered.model), {
    intraOpNumThreads: Number(values.threads),
    executionMode: "sequential",
    logSeverityLevel: 3,
    enableProfiling: true,
    profileFilePrefix: join(folder, "run"),
  });
  const feeds = await feedsOf(lowered, images);
  for (let i = 0; i <= Number(values.runs); i++) await session.run(feeds);
  session.endProfiling();
  const events: NodeEvent[] = readdirSync(folder).flatMap((file) =>
    JSON.parse(readFileSync(join(folder, file), "utf8")),
  );
  rmSync(folder, { recursive: true });
  return events.filter(({ cat, name }) => cat === "Node" && name.endsWith("_kernel_time"));
}

const shapes = (list: unknown): string =>
  ((list ?? []) as Readonly<Record<string, number[]>>[]).map((t) => `[${Object.values(t)[0]}]`).join(" ");

/** Sums of durations by a key, in milliseconds per run, largest first. */
function sums(events: readonly NodeEvent[], keyOf: (event: NodeEvent) => string): [string, number][] {
  const total = new Map<string, number>();
  for (const event of events) {
    const key = keyOf(event);
    total.set(key, (total.get(key) ?? 0) + event.dur / 1000 / Number(values.runs));
  }
  return [...total].sort(([, a], [, b]) => b - a);
}

const number = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text));
const { model, images } = networkOf({
  net: positionals[0] ?? "RepMLP-Res50-light-224",
  batch: Number(values.batch),
  channels: number(values.channels),
  size: number(values.size),
  threads: Number(values.threads),
});
const lowered = values.infer ? inferred(model, images.shape) : trained(model, images.shape);
const all = await profile(lowered, images);
const seen = new Set<string>();
const events = all.filter(({ name }) => seen.has(name) || !seen.add(name));
const byOp = sums(events, ({ args }) => String(args?.op_name));
const total = byOp.reduce((sum, [, ms]) => sum + ms, 0);
console.log(`${lowered.model.nodes.length} nodes, ${total.toFixed(1)} ms in kernels per run\n`);
for (const [op, ms] of byOp.slice(0, 16))
  console.log(`${op.padEnd(24)} ${ms.toFixed(1).padStart(9)} ms ${((100 * ms) / total).toFixed(1).padStart(6)} %`);
console.log("");
const describe = ({ name, args }: NodeEvent): string =>
  `${name.replace("_kernel_time", "")}  ${shapes(args?.input_type_shape)} -> ${shapes(args?.output_type_shape)}`;
for (const [node, ms] of sums(events, describe).slice(0, Number(values.top)))
  console.log(`${ms.toFixed(2).padStart(9)} ms  ${node}`);
