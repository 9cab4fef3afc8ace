/**
 * Accuracy of a public ResNet-20 on CIFAR-10 in float and in int8, by each calibrator and target:
 * `npx tsx scripts/check-quantized.ts DATA [PICTURES]`. DATA holds `checkpoints/` and `cifar10/`; 256 pictures of the
 * training set calibrate, the first PICTURES (default 1000) of the test set count.
 */
import { calibrators, type QuantizationTargetName, quantizationTargets, quantizeOnnx } from "../src/node.ts";
import { type OnnxModel, onnxByteLength } from "../src/onnx/index.ts";
import { correctOf, quantizedNetworks } from "./quantized-networks.ts";

const [data, pictures = "1000"] = process.argv.slice(2);
const network = await quantizedNetworks.resnet20(data);
const { model } = network;
const test = await network.test(Number(pictures));
const total = test.labels.length;
const correct = (quantized: OnnxModel): Promise<number> => correctOf(quantized, test);

const row = (...cells: readonly (string | number)[]): void => console.log(`| ${cells.join(" | ")} |`);
row("weights", "calibrator", "correct", "of", "SQNR of the logits", "bytes");
row("---", "---", "---:", "---:", "---:", "---:");
row("float32", "", await correct(model), total, "", onnxByteLength(model));
for (const target of Object.keys(quantizationTargets) as QuantizationTargetName[])
  for (const calibrator of [...(Object.keys(calibrators) as (keyof typeof calibrators)[]), "auto"] as const) {
    const { model: made, sqnr } = await quantizeOnnx(model, network.calibration(), { target, calibrator });
    row(target, calibrator, await correct(made), total, `${sqnr.toFixed(1)} dB`, onnxByteLength(made));
  }
