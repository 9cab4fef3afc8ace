/**
 * MobileOne-S0 with Apple's weights, merged, in float and in integers, on imagenette: `npx tsx
 * scripts/check-quantized-mobileone.ts DATA PICTURES [NAME…]`. DATA holds `checkpoints/` and `imagenet/`; PICTURES is a folder
 * with `train/<wnid>/` and `val/<wnid>/` (imagenette224-a.tar, unpacked). NAMEs choose rows; default all.
 */
import { calibrationStatistics, type QuantizeOnnxOptions, quantizeOnnx } from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { correctOf, quantizedNetworks } from "./quantized-networks.ts";

const [data, pictures, ...chosen] = process.argv.slice(2);
const network = await quantizedNetworks.mobileone(data, pictures);
const { model } = network;
const test = await network.test(150);
const correct = (quantized: OnnxModel): Promise<number> => correctOf(quantized, test);

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
console.log(`float ${await correct(model)} of ${test.labels.length}`);
const statistics = await calibrationStatistics(model, network.calibration());
for (const [name, options] of Object.entries(rows)) {
  if (chosen.length && !chosen.includes(name)) continue;
  const { model: made, sqnr, agreement, kept, sensitivity } = await quantizeOnnx(model, statistics, options);
  const worst = sensitivity?.slice(0, 4).map((s) => `${s.layer} ${s.sqnr.toFixed(1)}`);
  console.log(
    `${name}: ${await correct(made)}, ${sqnr.toFixed(1)} dB, ${(100 * agreement).toFixed(0)} % as in float, ${kept.length} kept${worst ? ` (${worst})` : ""}`,
  );
}
