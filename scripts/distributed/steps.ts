/*
 * Some training steps of the CIFAR-10 pure MLP, to compare numbers of processes: losses, seconds per step, and the weights.
 *
 *   npx tsx scripts/distributed/steps.ts --norms frozen --out one.safetensors
 *   mpirun -n 2 node --import tsx scripts/distributed/steps.ts --norms frozen --out two.safetensors --compare one.safetensors
 *
 * --norms frozen|local|averaged|synced, --steps N (20), --batch-size N (64), --lr X (0.05), --warmup N: steps up to that
 * rate (0), --channels a,b,c (the paper's), --accumulate N: parts of a batch (1), --data FOLDER of CIFAR-10 (default: made
 * pictures), --threads N (1), --exchange float32|bfloat16, --perturb: a third of the initial values are the next larger
 * number of float32, a third the next smaller one.
 */
import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { tuneAllocator } from "../../src/cli/reexec.ts";
import { alone, type Communicator, launchOf } from "../../src/distributed/index.ts";
import { loadKoffi, openMpi } from "../../src/distributed/node/index.ts";
import { BatchNorm, type Module } from "../../src/nn/index.ts";
import {
  cifar10,
  createModel,
  type Dataset,
  type NormStatistics,
  openCheckpointFile,
  rng,
  sampleDataset,
  saveCheckpointFile,
  subset,
  Trainer,
  tensorBytes,
} from "../../src/node.ts";

const { values } = parseArgs({
  options: {
    norms: { type: "string", default: "local" },
    steps: { type: "string", default: "20" },
    "batch-size": { type: "string", default: "64" },
    lr: { type: "string", default: "0.05" },
    channels: { type: "string" },
    warmup: { type: "string", default: "0" },
    accumulate: { type: "string", default: "1" },
    threads: { type: "string", default: "1" },
    exchange: { type: "string", default: "float32" },
    perturb: { type: "boolean", default: false },
    data: { type: "string" },
    out: { type: "string" },
    compare: { type: "string" },
  },
});
const [steps, batchSize] = [Number(values.steps), Number(values["batch-size"])];
const launch = launchOf(process.env);
if (launch) tuneAllocator(loadKoffi());
/** Milliseconds spent in sums, and in waiting for the slowest process before them. */
const spent = { sums: 0, waiting: 0 };
const communicator: Communicator = launch ? timed(await openMpi(launch)) : alone;

/** Pictures whose class shows in their brightness, with noise. */
const made: Dataset = sampleDataset({
  length: steps * batchSize,
  imageShape: [3, 32, 32],
  classes: Array.from({ length: 10 }, (_, i) => `${i}`),
  sample: (i) => {
    const random = rng(i, "picture");
    return { image: Float32Array.from({ length: 3072 }, () => random.normal() + (i % 10) / 5 - 1), label: i % 10 };
  },
});
const all = values.data === undefined ? made : await cifar10(values.data, "train");
// One epoch is then as many steps as are wanted.
const data = subset(
  all,
  Array.from({ length: steps * batchSize }, (_, i) => i),
);

const model = createModel("RepMLP-CIFAR10-pure-MLP", {
  ...(values.channels && { channels: values.channels.split(",").map(Number) }),
});
model.initialize(1);
if (values.norms === "frozen") freezeNorms(model);
if (values.perturb) perturb(model);

const losses: number[] = [];
let begin = 0;
const trainer = new Trainer(model, {
  ...{ data: { train: data }, epochs: 1, batchSize, seed: 1, threads: Number(values.threads), communicator },
  schedule: (step) => Number(values.lr) * Math.min(1, (step + 1) / (Number(values.warmup) + 1)),
  gradientExchange: values.exchange as "float32" | "bfloat16",
  accumulate: Number(values.accumulate),
  batchNormStatistics: (values.norms === "frozen" ? "local" : values.norms) as NormStatistics,
  onEvent: (event) => {
    // The first step is not like the others.
    if (event.type === "step" && event.step === 1) {
      begin = performance.now();
      Object.assign(spent, { sums: 0, waiting: 0 });
    }
    if (event.type === "step") losses.push(event.loss);
  },
});
await trainer.run();
if (communicator.rank === 0) await tell();
await communicator.close();

/** The same, looking at the clock. */
function timed(group: Communicator): Communicator {
  const measured = async <T>(what: keyof typeof spent, work: Promise<T>): Promise<T> => {
    const from = performance.now();
    const result = await work;
    spent[what] += performance.now() - from;
    return result;
  };
  const own = Object.create(group) as Communicator;
  own.allReduce = async (array, how) => {
    await measured("waiting", group.barrier());
    await measured("sums", group.allReduce(array, how));
  };
  own.allToAll = async (bytes) => {
    await measured("waiting", group.barrier());
    return measured("sums", group.allToAll(bytes));
  };
  return own;
}

/** Batch norms go on using statistics that are not those of any batch. */
function freezeNorms(net: Module): void {
  for (const [, module] of net.modules())
    if (module instanceof BatchNorm) Object.defineProperty(module, "training", { get: () => false, set: () => {} });
}

async function tell(): Promise<void> {
  const seconds = (performance.now() - begin) / 1000 / (losses.length - 1);
  const hash = createHash("sha256");
  const entries = model.stateDict();
  for (const [, source] of entries) hash.update(tensorBytes(source.readSync()));
  console.log(`${communicator.size} processes, ${communicator.description}, norms ${values.norms}`);
  console.log(`losses ${losses.map((loss) => loss.toFixed(6)).join(" ")}`);
  const each = (ms: number): string => (ms / 1000 / (losses.length - 1)).toFixed(3);
  const messages =
    communicator.size > 1 ? `, of them ${each(spent.sums)} s in sums and ${each(spent.waiting)} s waiting` : "";
  console.log(`${seconds.toFixed(3)} s per step${messages}, weights ${hash.digest("hex").slice(0, 16)}`);
  if (values.out) await saveCheckpointFile(values.out, entries);
  if (values.compare) await compare(values.compare);
}

/** By the last bit of float32. */
function perturb(net: Module): void {
  const random = rng(7, "perturb");
  for (const [, p] of net.parameters()) {
    const tensor = p.data.clone();
    const [{ data: own }, bits] = [tensor, new Int32Array(tensor.data.buffer as ArrayBuffer)];
    for (let i = 0; i < bits.length; i++) if (own[i] !== 0) bits[i] += random.below(3) - 1;
    p.set(tensor);
  }
}

/** Differences by 2-norms, of all values together and of the worst tensors, and the largest of a value by that of its tensor. */
async function compare(path: string): Promise<void> {
  using file = await openCheckpointFile(path);
  const norm = (list: Float64Array): number => Math.sqrt(list.reduce((sum, v) => sum + v * v, 0));
  const most = (list: Float64Array): number => list.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
  const rows: { readonly key: string; readonly apart: number; readonly size: number; readonly worst: number }[] = [];
  for (const [key, source] of model.stateDict()) {
    const [a, b] = [source.readSync().toFloat64(), (await file.entries.get(key)!.read()).toFloat64()];
    const difference = a.map((v, i) => v - b[i]);
    const worst = most(difference) / (most(a) || 1);
    rows.push({ key, apart: norm(difference), size: norm(a), worst });
  }
  const ratio = ({ apart, size }: { apart: number; size: number }): number => apart / (size || 1);
  const all = rows.reduce((sum, r) => [Math.hypot(sum[0], r.apart), Math.hypot(sum[1], r.size)], [0, 0]);
  const sorted = rows.toSorted((a, b) => ratio(b) - ratio(a));
  const [worst] = rows.toSorted((a, b) => b.worst - a.worst);
  const digits = (x: number): string => x.toExponential(1);
  console.log(
    `to ${path}: overall ${digits(all[0] / all[1])}; of a tensor at most ${digits(ratio(sorted[0]))} (${sorted[0].key}), ` +
      `median ${digits(ratio(sorted[rows.length >> 1]))}; of a value at most ${digits(worst.worst)} of its tensor's largest (${worst.key})`,
  );
}
