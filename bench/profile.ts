/**
 * Where the time of a compiled graph goes, by ONNX Runtime's own profiler:
 * `npx tsx bench/profile.ts ARCH|block:C [--form train|deploy] [--infer] [--batch 8] [--threads 2] [--top 25] [--steps 3]`.
 * Prints time per step by operator and by node, slowest first, with the node's shapes.
 */
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";
import { lower, targets } from "../src/graph/index.ts";
import { type Net, Tensor } from "../src/node.ts";
import { traceModel } from "../src/nn/index.ts";
import { encodeOnnx } from "../src/onnx/index.ts";
import { sizeOf } from "../src/tensor/index.ts";
import { toOrt } from "../src/runtime/ort.ts";
import { sgd, trainStep } from "../src/training/index.ts";
import { benchNet } from "./nets.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    form: { type: "string", default: "train" },
    infer: { type: "boolean", default: false },
    batch: { type: "string", default: "8" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "3" },
    top: { type: "string", default: "25" },
    match: { type: "string", default: "" },
  },
});
const { net, inputShape } = benchNet(positionals[0], values.form);
const shape = [Number(values.batch), ...inputShape];
const lowered = values.infer ? inference(net) : training(net);
const { model } = lowered;
const bytes = encodeOnnx(model);
console.log(`${model.nodes.length} nodes, ${(bytes.length / 1e6).toFixed(1)} MB`);

function inference(of: Net): ReturnType<typeof lower> {
  of.eval();
  const { output, names } = traceModel(of, shape);
  return lower({ outputs: { output } }, { target: targets.inference, names });
}

function training(of: Net): ReturnType<typeof lower> {
  of.train();
  const { outputs, next, names } = trainStep(of, { optimizer: sgd({ momentum: 0.9, weightDecay: 1e-4 }), inputShape: shape });
  const state = Object.fromEntries([...next].map(([ref, value]) => [`next:${names.get(ref)}`, value]));
  return lower({ outputs: { ...outputs, ...state } }, { target: targets.cpuTraining, names });
}

const prefix = join(tmpdir(), `repmlp-profile-${process.pid}`);
const started = performance.now();
const session = await ort.InferenceSession.create(bytes, {
  intraOpNumThreads: Number(values.threads),
  graphOptimizationLevel: "all",
  executionMode: "sequential",
  enableProfiling: true,
  profileFilePrefix: prefix,
  enableCpuMemArena: !process.env.NOARENA,
  enableMemPattern: !process.env.NOARENA,
  logSeverityLevel: 3,
});
console.log(`session ${((performance.now() - started) / 1000).toFixed(2)} s`);
const feeds: Record<string, ort.Tensor> = {};
for (const { name, shape: dims, dtype } of model.inputs) {
  const ref = lowered.parameters.get(name);
  const t = ref ? (await ref.source().read()) : Tensor.full(dtype, dims as number[], 0);
  if (!ref) for (let i = 0; i < t.data.length; i++) (t.data as Float32Array)[i] = Math.sin(i * 1.7) * (name === "input" ? 2 : 0.1);
  feeds[name] = toOrt(ort as never, new Tensor(t.dtype, dims as number[], t.data)) as never;
}
const steps = Number(values.steps);
const times: number[] = [];
for (let i = 0; i < steps + 1; i++) {
  const t0 = performance.now();
  await session.run(feeds);
  times.push(performance.now() - t0);
}
session.endProfiling();
console.log(`step times ms: ${times.map((t) => t.toFixed(0)).join(" ")}`);

interface Event {
  readonly name: string;
  readonly dur: number;
  readonly cat: string;
  readonly args?: { readonly op_name?: string; readonly input_type_shape?: unknown; readonly output_type_shape?: unknown };
}
const { readdirSync } = await import("node:fs");
const file = readdirSync(tmpdir()).find((f) => f.startsWith(`repmlp-profile-${process.pid}`))!;
const events: Event[] = JSON.parse(readFileSync(join(tmpdir(), file), "utf8"));
rmSync(join(tmpdir(), file));
const runs = events.filter((e) => e.cat === "Session" && e.name === "model_run").length;
const byOp = new Map<string, { ms: number; n: number }>();
const byNode = new Map<string, { ms: number; n: number; op: string; shapes: string }>();
const shapesOf = (v: unknown): string =>
  (v as Record<string, number[]>[] | undefined)?.map((o) => `[${Object.values(o)[0].join(",")}]`).join(" ") ?? "";
const seen = new Map<string, number>();
for (const e of events) {
  if (e.cat !== "Node" || !e.name.endsWith("_kernel_time")) continue;
  // The first run warms up.
  const nth = (seen.get(e.name) ?? 0) + 1;
  seen.set(e.name, nth);
  if (nth === 1) continue;
  const op = e.args?.op_name ?? "?";
  const ms = e.dur / 1000 / (runs - 1);
  const o = byOp.get(op) ?? { ms: 0, n: 0 };
  byOp.set(op, { ms: o.ms + ms, n: o.n + 1 });
  const n = byNode.get(e.name) ?? { ms: 0, n: 0, op, shapes: `${shapesOf(e.args?.input_type_shape)} -> ${shapesOf(e.args?.output_type_shape)}` };
  byNode.set(e.name, { ...n, ms: n.ms + ms });
}
const total = [...byOp.values()].reduce((s, o) => s + o.ms, 0);
console.log(`kernels: ${total.toFixed(1)} ms per step`);
for (const [op, { ms, n }] of [...byOp].sort((a, b) => b[1].ms - a[1].ms).slice(0, 18))
  console.log(`${op.padEnd(24)} ${ms.toFixed(1).padStart(8)} ms ${((100 * ms) / total).toFixed(1).padStart(5)} %  ${Math.round(n / (runs - 1))} nodes`);
console.log("");
for (const [name, { ms, op, shapes }] of [...byNode].filter(([name, n]) => `${name} ${n.op}`.includes(values.match)).sort((a, b) => b[1].ms - a[1].ms).slice(0, Number(values.top)))
  console.log(`${ms.toFixed(2).padStart(8)} ms  ${op.padEnd(14)} ${name.replace("_kernel_time", "")}  ${shapes}`);
void sizeOf;
