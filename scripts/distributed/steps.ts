/*
 * Some training steps of the CIFAR-10 pure MLP, to compare numbers of processes: losses, seconds per step, and the weights.
 *
 *   npx tsx scripts/distributed/steps.ts --norms frozen --out one.safetensors
 *   mpirun -n 2 npx tsx scripts/distributed/steps.ts --norms frozen --out two.safetensors --compare one.safetensors
 *
 * --norms frozen|local|averaged|synced, --steps N (20), --batch-size N (64), --lr X (0.05), --channels a,b,c (the
 * paper's), --accumulate N: parts of a batch (1), --data FOLDER of CIFAR-10 (default: made pictures).
 */
import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { alone, type Communicator, launchOf } from "../../src/distributed/index.ts";
import { openMpi } from "../../src/distributed/node/index.ts";
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
    accumulate: { type: "string", default: "1" },
    data: { type: "string" },
    out: { type: "string" },
    compare: { type: "string" },
  },
});
const [steps, batchSize] = [Number(values.steps), Number(values["batch-size"])];
const launch = launchOf(process.env);
const communicator: Communicator = launch ? await openMpi(launch) : alone;

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
const data = values.data === undefined ? made : await cifar10(values.data, "train");

const model = createModel("RepMLP-CIFAR10-pure-MLP", {
  ...(values.channels && { channels: values.channels.split(",").map(Number) }),
});
model.initialize(1);
if (values.norms === "frozen") freezeNorms(model);

const losses: number[] = [];
let begin = 0;
const trainer = new Trainer(model, {
  ...{ data: { train: data }, epochs: 1, batchSize, lr: Number(values.lr), seed: 1, threads: 1, communicator },
  schedule: { kind: "constant" },
  accumulate: Number(values.accumulate),
  batchNormStatistics: (values.norms === "frozen" ? "local" : values.norms) as NormStatistics,
  signal: stopAfter(steps),
  onEvent: (event) => {
    // The first step is not like the others.
    if (event.type === "step" && event.step === 1) begin = performance.now();
    if (event.type === "step") losses.push(event.loss);
  },
});
await trainer.run();
if (communicator.rank === 0) await tell();
await communicator.close();

function stopAfter(count: number): AbortSignal {
  const stop = new AbortController();
  const watch = setInterval(() => {
    if (losses.length >= count) stop.abort();
  });
  watch.unref();
  return stop.signal;
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
  console.log(`${seconds.toFixed(3)} s per step, weights ${hash.digest("hex").slice(0, 16)}`);
  if (values.out) await saveCheckpointFile(values.out, entries);
  if (values.compare) await compare(values.compare);
}

/** Differences of all values together, by 2-norms, and the largest of a value by the largest value of its tensor. */
async function compare(path: string): Promise<void> {
  using file = await openCheckpointFile(path);
  let [worst, where, squares, apart] = [0, "", 0, 0];
  for (const [key, source] of model.stateDict()) {
    const [a, b] = [source.readSync().toFloat64(), (await file.entries.get(key)!.read()).toFloat64()];
    const largest = a.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    const difference = a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i])), 0);
    if (difference / largest > worst)
      [worst, where] = [difference / largest, `${key}, up to ${largest.toPrecision(2)}`];
    squares += a.reduce((sum, v) => sum + v * v, 0);
    apart += a.reduce((sum, v, i) => sum + (v - b[i]) ** 2, 0);
  }
  const all = Math.sqrt(apart / squares).toExponential(2);
  console.log(
    `difference to ${path}: ${all} of the norm of all weights; ${worst.toExponential(2)} in ${where || "none"}`,
  );
}
