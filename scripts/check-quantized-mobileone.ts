/**
 * MobileOne-S0 with Apple's weights, merged, in float and in integers, on imagenette: `npx tsx
 * scripts/check-quantized-mobileone.ts DATA PICTURES [NAME…]`. DATA holds `checkpoints/` and `imagenet/`; PICTURES is a folder
 * with `train/<wnid>/` and `val/<wnid>/` (imagenette224-a.tar, unpacked). NAMEs choose rows; default all.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { imagenetPreprocessing, preprocess } from "../src/data/index.ts";
import { readPicture } from "../src/data/node/index.ts";
import {
  calibrationStatistics,
  compileModel,
  exportOnnx,
  type Feeds,
  openCheckpointFile,
  type QuantizeOnnxOptions,
  quantizeOnnx,
  Tensor,
} from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { MobileOneS0 } from "./checkpoint-networks.ts";

const [data, pictures, ...chosen] = process.argv.slice(2);
const preprocessing = imagenetPreprocessing(224);
const classes = (await readFile(join(data, "imagenet", "imagenet_classes.tsv"), "utf8"))
  .trim()
  .split("\n")
  .map((line) => line.split("\t")[1]);

interface Labelled {
  readonly image: Float32Array;
  readonly label: number;
}

async function part(name: "train" | "val", perClass: number): Promise<Labelled[]> {
  const made: Labelled[] = [];
  for (let i = 0; i < perClass; i++)
    for (const wnid of (await readdir(join(pictures, name))).sort()) {
      const files = (await readdir(join(pictures, name, wnid))).sort();
      if (!files[i]) continue;
      const picture = await readPicture(join(pictures, name, wnid, files[i]));
      made.push({ image: preprocess(picture, preprocessing), label: classes.indexOf(wnid) });
    }
  return made;
}

const batchOf = (list: readonly Labelled[]): Feeds => {
  const size = 3 * 224 * 224;
  const values = new Float32Array(list.length * size);
  for (const [i, { image }] of list.entries()) values.set(image, i * size);
  return { pixel_values: new Tensor("float32", [list.length, 3, 224, 224], values) };
};
const batches = (list: readonly Labelled[]): Feeds[] =>
  Array.from({ length: Math.ceil(list.length / 8) }, (_, i) => batchOf(list.slice(8 * i, 8 * i + 8)));

const net = new MobileOneS0().eval();
using checkpoint = await openCheckpointFile(join(data, "checkpoints", "mobileone_s0_fused.safetensors"));
net.loadStateDict(checkpoint.entries);
const { model } = await exportOnnx(net, { inputShape: [3, 224, 224] });
const [calibration, test] = [await part("train", 8), await part("val", 15)];

async function correct(quantized: OnnxModel): Promise<number> {
  await using program = await compileModel(quantized);
  let right = 0;
  for (let at = 0; at < test.length; at += 10) {
    const some = test.slice(at, at + 10);
    const [logits] = Object.values(await program.run(batchOf(some)));
    for (const [i, { label }] of some.entries()) {
      const row = (logits.data as Float32Array).subarray(i * 1000, (i + 1) * 1000);
      if (row.indexOf(row.reduce((a, b) => Math.max(a, b))) === label) right++;
    }
  }
  return right;
}

const rows: Record<string, QuantizeOnnxOptions> = {};
for (const target of ["portable", "vnni"] as const) {
  for (const calibrator of ["minmax", "percentile", "entropy", "mse", "auto"] as const) {
    rows[`${target} ${calibrator}`] = { target, calibrator };
    rows[`${target} ${calibrator}, biases as they are`] = { target, calibrator, biasCorrection: false };
  }
  rows[`${target} auto, 1 in float`] = { target, keepFloat: 1 };
  rows[`${target} auto, 4 in float`] = { target, keepFloat: 4 };
  rows[`${target} auto, as many as it takes`] = { target, keepFloat: "auto", budget: 0.04 };
}
console.log(`float ${await correct(model)} of ${test.length}`);
const statistics = await calibrationStatistics(model, batches(calibration));
for (const [name, options] of Object.entries(rows)) {
  if (chosen.length && !chosen.includes(name)) continue;
  const { model: made, sqnr, agreement, kept, sensitivity } = await quantizeOnnx(model, statistics, options);
  const worst = sensitivity?.slice(0, 4).map((s) => `${s.layer} ${s.sqnr.toFixed(1)}`);
  console.log(
    `${name}: ${await correct(made)}, ${sqnr.toFixed(1)} dB, ${(100 * agreement).toFixed(0)} % as in float, ${kept.length} kept${worst ? ` (${worst})` : ""}`,
  );
}
