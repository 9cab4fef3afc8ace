/**
 * Accuracy of a public ResNet-20 on CIFAR-10 in float and in int8, by each calibrator and target:
 * `npx tsx scripts/check-quantized.ts DATA [PICTURES]`. DATA holds `checkpoints/` and `cifar10/`; 256 pictures of the
 * training set calibrate, the first PICTURES (default 1000) of the test set count.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { cifar10FromBytes, type Dataset, imagenetNormalization } from "../src/data/index.ts";
import {
  calibrators,
  compileModel,
  exportOnnx,
  type Feeds,
  openCheckpointFile,
  type QuantizationTargetName,
  quantizationTargets,
  quantizeOnnx,
} from "../src/node.ts";
import { type OnnxModel, onnxByteLength } from "../src/onnx/index.ts";
import { ResNet20 } from "./checkpoint-networks.ts";

const [data, pictures = "1000"] = process.argv.slice(2);
const part = async (name: string): Promise<Dataset> => {
  const bytes = new Uint8Array(brotliDecompressSync(await readFile(join(data, "cifar10", `${name}.bin.br`))));
  return cifar10FromBytes([{ name, bytes }], imagenetNormalization);
};
const [train, test] = await Promise.all([part("train_1"), part("test_a")]);
const indices = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => from + i);

const net = new ResNet20().eval();
using checkpoint = await openCheckpointFile(join(data, "checkpoints", "resnet20-12fca82f.safetensors"));
net.loadStateDict(checkpoint.entries);
const { model } = await exportOnnx(net, { inputShape: [3, 32, 32] });

async function* calibration(): AsyncGenerator<Feeds> {
  for (let at = 0; at < 256; at += 32) yield { pixel_values: (await train.batch(indices(32, at))).images };
}

const total = Number(pictures);

async function correct(quantized: OnnxModel): Promise<number> {
  await using program = await compileModel(quantized);
  let right = 0;
  for (let at = 0; at < total; at += 100) {
    const { images, labels } = await test.batch(indices(Math.min(100, total - at), at));
    const { logits } = await program.run({ pixel_values: images });
    const [count, classes] = logits.shape;
    for (let i = 0; i < count; i++) {
      const row = (logits.data as Float32Array).subarray(i * classes, (i + 1) * classes);
      if (row.indexOf(Math.max(...row)) === labels[i]) right++;
    }
  }
  return right;
}

const row = (...cells: readonly (string | number)[]): void => console.log(`| ${cells.join(" | ")} |`);
row("weights", "calibrator", "correct", "of", "SQNR of the logits", "bytes");
row("---", "---", "---:", "---:", "---:", "---:");
row("float32", "", await correct(model), total, "", onnxByteLength(model));
for (const target of Object.keys(quantizationTargets) as QuantizationTargetName[])
  for (const calibrator of [...(Object.keys(calibrators) as (keyof typeof calibrators)[]), "auto"] as const) {
    const { model: made, sqnr } = await quantizeOnnx(model, calibration(), { target, calibrator });
    row(target, calibrator, await correct(made), total, `${sqnr.toFixed(1)} dB`, onnxByteLength(made));
  }
