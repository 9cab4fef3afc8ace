/**
 * Runs public checkpoints that others trained and compares with what PyTorch makes of them:
 * `npx tsx scripts/check-real-checkpoints.ts DATA`. DATA holds `checkpoints/`, `cifar10/test_a.bin.br` and
 * `imagenet/imagenette224-a.tar`. Exit code 1 when something differs.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { openCheckpointFile } from "../src/checkpoint/node/index.ts";
import { cifar10FromBytes, type Dataset, imagenetNormalization, preprocess, sampleDataset } from "../src/data/index.ts";
import { decodePicture } from "../src/data/node/index.ts";
import { exportOnnx } from "../src/export/index.ts";
import { Comparison, Predictor } from "../src/inference/index.ts";
import type { Net } from "../src/nn/index.ts";
import { compileModel } from "../src/runtime/index.ts";
import { registerNode } from "../src/runtime/node/platform.ts";
import { evaluate } from "../src/tasks/index.ts";
import { Tensor } from "../src/tensor/index.ts";
import { MobileOneS0, ResNet20 } from "./checkpoint-networks.ts";
import { tarFiles } from "./tar.ts";

const [data] = process.argv.slice(2);
if (!data) {
  console.error("usage: npx tsx scripts/check-real-checkpoints.ts DATA");
  process.exit(2);
}
registerNode();
let failed = 0;

function report(what: string, passed: boolean, figures: string): void {
  if (!passed) failed++;
  console.log(`${passed ? "ok    " : "FAILED"} ${what}: ${figures}`);
}

const largest = (a: ArrayLike<number>, b: ArrayLike<number>): number => new Comparison().add(a, b).maxAbs;

async function loaded<N extends Net>(net: N, file: string): Promise<N> {
  using checkpoint = await openCheckpointFile(join(data, "checkpoints", file));
  net.loadStateDict(
    new Map(await Promise.all([...checkpoint.entries].map(async ([k, t]) => [k, await t.read()] as const))),
  );
  return net.eval();
}

/** Logits of the network and of its ONNX export. */
async function logitsBoth(net: Net, inputs: Tensor): Promise<[Float32Array, Float32Array]> {
  const [batchSize, ...inputShape] = inputs.shape;
  const predictor = await Predictor.create(net, { inputShape, batchSize });
  const own = (await predictor.run(inputs)).data as Float32Array;
  await predictor.dispose();
  const program = await compileModel((await exportOnnx(net, { inputShape })).model);
  const { logits } = await program.run({ pixel_values: inputs });
  await program.dispose();
  return [own, logits.data as Float32Array];
}

async function expectation<T>(file: string): Promise<T> {
  return JSON.parse(await readFile(join(data, "checkpoints", file), "utf8")) as T;
}

async function checkResnet20(): Promise<void> {
  const expected = await expectation<{ n: number; correct_top1: number; logits_first16: number[][] }>(
    "resnet20-expected.json",
  );
  const bytes = brotliDecompressSync(await readFile(join(data, "cifar10", "test_a.bin.br")));
  const test = cifar10FromBytes([{ name: "test_a.bin", bytes: new Uint8Array(bytes) }], imagenetNormalization);
  for (const file of ["resnet20-12fca82f.th", "resnet20-12fca82f.safetensors"]) {
    const net = await loaded(new ResNet20(), file);
    const { images } = await test.batch(Array.from({ length: 16 }, (_, i) => i));
    const [own, exported] = (await logitsBoth(net, images)).map((l) => largest(l, expected.logits_first16.flat()));
    // The file gives 5 decimals.
    report(
      `${file}, logits of 16 pictures`,
      own < 5e-5 && exported < 5e-5,
      `differ by ${own.toExponential(1)}, exported ${exported.toExponential(1)}`,
    );
    const { top1, total } = await evaluate(net, test, { batchSize: 250 });
    report(
      `${file}, CIFAR-10 test half`,
      top1 === expected.correct_top1 && total === expected.n,
      `${top1} of ${total}, PyTorch ${expected.correct_top1}`,
    );
  }
}

interface MobileOneExpected {
  readonly n: number;
  readonly correct_top1: number;
  readonly correct_top5: number;
  readonly predictions: Readonly<Record<string, number>>;
  readonly synthetic_logits_first20: readonly number[];
  readonly synthetic_argmax: number;
}

async function checkMobileOne(): Promise<void> {
  const expected = await expectation<MobileOneExpected>("mobileone_s0-expected.json");
  const net = await loaded(new MobileOneS0(), "mobileone_s0_fused.safetensors");
  const formula = Float32Array.from({ length: 3 * 224 * 224 }, (_, i) => ((i % 255) / 255 - 0.5) * 4);
  const both = await logitsBoth(net, new Tensor("float32", [1, 3, 224, 224], formula));
  const [own, exported] = both.map((l) => largest(l, expected.synthetic_logits_first20));
  const argmax = both[0].indexOf(Math.max(...both[0]));
  report(
    "MobileOne-S0, logits of the formula input",
    own < 2e-5 && exported < 2e-5 && argmax === expected.synthetic_argmax,
    `differ by ${own.toExponential(1)}, exported ${exported.toExponential(1)}; largest is ${argmax}`,
  );
  const { images, predictions } = await imagenette(expected);
  const { top1, top5, total } = await evaluate(net, images, { batchSize: 25 });
  report(
    "MobileOne-S0, imagenette",
    top1 === expected.correct_top1 && top5 === expected.correct_top5 && total === expected.n,
    `${top1} of ${total} top-1, ${top5} top-5; PyTorch ${expected.correct_top1} and ${expected.correct_top5}`,
  );
  const same = await evaluate(net, predictions, { batchSize: 25 });
  report("MobileOne-S0, single predictions", same.top1 === total, `${same.top1} of ${total} as PyTorch`);
}

/** The pictures with their classes, and with PyTorch's predictions as classes. */
async function imagenette({ predictions }: MobileOneExpected): Promise<{ images: Dataset; predictions: Dataset }> {
  const table = (await readFile(join(data, "imagenet", "imagenet_classes.tsv"), "utf8")).trim();
  const classOf = new Map(
    table
      .split("\n")
      .map((line) => line.split("\t"))
      .map(([index, id]) => [id, Number(index)]),
  );
  const files = tarFiles(await readFile(join(data, "imagenet", "imagenette224-a.tar")));
  const config = { inputSize: [3, 224, 224] as const, resize: 224, ...imagenetNormalization };
  const names = Object.keys(predictions);
  const pictures = await Promise.all(
    names.map(async (name) => preprocess(await decodePicture(files.get(name)!, name), config)),
  );
  const dataset = (label: (name: string) => number): Dataset =>
    sampleDataset({
      length: names.length,
      classes: [...classOf.keys()],
      imageShape: [3, 224, 224],
      sample: (i) => ({ image: pictures[i], label: label(names[i]) }),
    });
  return {
    images: dataset((name) => classOf.get(name.split("/")[1])!),
    predictions: dataset((name) => predictions[name]),
  };
}

await checkResnet20();
await checkMobileOne();
process.exitCode = failed ? 1 : 0;
