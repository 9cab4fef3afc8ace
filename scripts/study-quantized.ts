/**
 * Float, quantized after training and trained for integers, side by side, on networks trained here: `npx tsx
 * scripts/study-quantized.ts OUT [CASE…]`. Cases: demo (the demo's network), repvgg and qarepvgg (small plain networks of
 * these blocks), all on the package's part of Fashion-MNIST. Rows that OUT/results.json has are not made again.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { insertBatchNorms, QARepVGGBlock, RepVGGBlock } from "../src/blocks/index.ts";
import { fashionMnistSmall } from "../src/data/node/index.ts";
import { type Net, Sequential } from "../src/nn/index.ts";
import {
  calibrateQuantizedNet,
  calibrationStatistics,
  compileModel,
  convertToDeploy,
  createModel,
  exportOnnx,
  exportQuantized,
  type Feeds,
  nn,
  openCheckpointFile,
  type QuantizationTargetName,
  QuantizedNet,
  type QuantizeOnnxOptions,
  quantizeOnnx,
  saveCheckpointFile,
  sgd,
  startInsertedNorms,
  type Tensor,
  Trainer,
} from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";

const [out, ...chosen] = process.argv.slice(2);
const inputShape = [1, 28, 28];

const plain = (Block: typeof RepVGGBlock | typeof QARepVGGBlock): Net => {
  const block = (inChannels: number, outChannels: number, stride = 1) => new Block({ inChannels, outChannels, stride });
  return new Sequential(
    ...[block(1, 16, 2), block(16, 16), block(16, 16), block(16, 32, 2), block(32, 32), block(32, 32), block(32, 32)],
    ...[block(32, 64, 2), block(64, 64), new nn.GlobalAvgPool(), new nn.Linear(64, 10)],
  );
};

const cases: Readonly<Record<string, { readonly make: () => Net; readonly epochs: number; readonly lr: number }>> = {
  demo: { make: () => createModel("RepMLP-Mixer-28"), epochs: 8, lr: 0.05 },
  repvgg: { make: () => plain(RepVGGBlock), epochs: 10, lr: 0.1 },
  qarepvgg: { make: () => plain(QARepVGGBlock), epochs: 10, lr: 0.1 },
};
const tuning = { epochs: 3, lr: 0.01 };

const [train, test] = await Promise.all([fashionMnistSmall("train"), fashionMnistSmall("test")]);
const indices = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => from + i);

async function* images(count: number, size = 64): AsyncGenerator<Tensor> {
  for (let at = 0; at < count; at += size) yield (await train.batch(indices(size, at))).images;
}
async function* feeds(count: number): AsyncGenerator<Feeds> {
  for await (const pixels of images(count)) yield { pixel_values: pixels };
}

async function correct(model: OnnxModel): Promise<number> {
  await using program = await compileModel(model, { threads: 1 });
  let right = 0;
  for (let at = 0; at < test.length; at += 100) {
    const { images: pixels, labels } = await test.batch(indices(Math.min(100, test.length - at), at));
    const [logits] = Object.values(await program.run({ pixel_values: pixels }));
    for (const [i, label] of labels.entries()) {
      const row = (logits.data as Float32Array).subarray(i * 10, i * 10 + 10);
      if (row.indexOf(row.reduce((a, b) => Math.max(a, b))) === label) right++;
    }
  }
  return right;
}

mkdirSync(out, { recursive: true });
const file = join(out, "results.json");
const results: Record<string, number> = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
async function row(name: string, make: () => Promise<OnnxModel>): Promise<void> {
  if (results[name] === undefined) {
    results[name] = await correct(await make());
    writeFileSync(file, JSON.stringify(results, undefined, 1));
  }
  console.log(`${name}: ${((100 * results[name]) / test.length).toFixed(2)} % of ${test.length}`);
}

const learn = (net: Net, { epochs, lr }: { readonly epochs: number; readonly lr: number }): Promise<unknown> =>
  new Trainer(net, {
    ...{ data: { train }, epochs, lr, batchSize: 64, threads: 1, seed: 1 },
    optimizer: sgd({ momentum: 0.9, nesterov: true, weightDecay: 5e-4 }),
    group: (key) => (key.startsWith("quantize.") ? { weightDecay: 0 } : undefined),
  }).run();

for (const [name, { make, ...settings }] of Object.entries(cases)) {
  if (chosen.length && !chosen.includes(name)) continue;
  const path = join(out, `${name}.safetensors`);
  const trained = async (): Promise<Net> => {
    const net = make();
    if (!existsSync(path)) {
      await learn(net, settings);
      await saveCheckpointFile(path, net.stateDict());
    }
    using checkpoint = await openCheckpointFile(path);
    const read = [...checkpoint.entries].map(async ([key, source]) => [key, await source.read()] as const);
    net.loadStateDict(new Map(await Promise.all(read)));
    return net.eval();
  };
  const net = await trained();
  const { model } = await exportOnnx(net, { inputShape });
  await row(`${name} float`, async () => model);
  const statistics = await calibrationStatistics(model, feeds(256), { compile: { threads: 1 } });
  for (const target of ["portable", "vnni"] as const satisfies readonly QuantizationTargetName[]) {
    const quantized = async (options: QuantizeOnnxOptions): Promise<OnnxModel> =>
      (await quantizeOnnx(model, statistics, { target, compile: { threads: 1 }, ...options })).model;
    await row(`${name} ${target} minmax, one scale per weight`, () =>
      quantized({ calibrator: "minmax", perChannel: false, biasCorrection: false }),
    );
    for (const calibrator of ["minmax", "percentile", "entropy", "mse", "auto"] as const)
      await row(`${name} ${target} ${calibrator}`, () => quantized({ calibrator }));
    const tuned = async (start: Net): Promise<OnnxModel> => {
      const own = new QuantizedNet(start, { inputShape, target });
      await calibrateQuantizedNet(own, images(512), { threads: 1 });
      await learn(own, tuning);
      return (await exportQuantized(own, { compile: { threads: 1 } })).model;
    };
    await row(`${name} ${target} A1`, async () => {
      const start = insertBatchNorms(convertToDeploy(net));
      await startInsertedNorms(start, images(512), { threads: 1 });
      return tuned(start);
    });
    await row(`${name} ${target} QAT`, async () => tuned(await trained()));
  }
}
