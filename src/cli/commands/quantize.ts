import { basename } from "node:path";
import { describePreprocessing } from "../../data/preprocessing/preprocess.ts";
import { must } from "../../errors.ts";
import { type QuantizedFile, quantizeFile } from "../../quantize/node/quantize-file.ts";
import { type QuantizationTargetName, quantizationTargets } from "../../quantize/qdq.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { fmtBytes } from "../../tensor/index.ts";
import { cpuFeatures, saturates } from "../cpu-features.ts";
import type { Run } from "../table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";

/** Writes an int8 ONNX file. */
export const run: Run<"quantize"> = async ({ args: { model, out }, options, io }) => {
  registerNode();
  const { calib, pictures, batchSize, calibrator, target, keepFloat, equalize, biasCorrection, mean, std } = options;
  must(
    calib !== undefined,
    "quantize/calib",
    () => "quantize: --calib is needed: a folder of pictures like those that the model will see.",
    "usage",
  );
  const start = performance.now();
  const progress = io.progress();
  const result = await quantizeFile(model, out, {
    ...weightsOptions(options),
    ...{ calib, pictures, batchSize, calibrator, target, keepFloat, equalize, biasCorrection, mean, std },
    signal: io.signal,
    onUnreadable: (error) => io.warn(error.message),
    onProgress: ({ label, done, total }) => progress.update({ label, done, total: total ?? done }),
  }).finally(() => progress.stop());
  noteRemarks(io, model, result.remarks);
  for (const note of result.notes) io.warn(note);
  io.note(describePreprocessing(result.preprocessing));
  if (target === "vnni" && saturates(cpuFeatures()))
    io.warn("this CPU has no VNNI: sums of products saturate here, so outputs are worse than the file says");
  const seconds = (performance.now() - start) / 1000;
  const { layers, kept, tensors, sqnr, samples, paths, bytes, unreadable } = result;
  io.result(
    {
      ...{ model, paths, bytes, target, calibrator, pictures: samples, unreadable },
      // JSON has no infinity, which equal outputs have.
      ...{ layers, kept, tensors, sqnr: Number.isFinite(sqnr) ? sqnr : null, notes: result.notes, seconds },
    },
    () => summary(model, target, result),
  );
  return undefined;
};

function summary(model: string, target: QuantizationTargetName, result: QuantizedFile): string {
  const { layers, kept, tensors, sqnr, samples, paths, bytes, unreadable } = result;
  const counts = new Map<string, number>();
  for (const { calibrator } of tensors) counts.set(calibrator, (counts.get(calibrator) ?? 0) + 1);
  return [
    `${layers.length} layers became int8, ${kept.length} stay in float`,
    ...kept.map(({ name, operator, reason }) => `  ${operator} ${name}: ${reason}`),
    `ranges of ${tensors.length} tensors from ${samples} pictures: ${[...counts].map(([name, n]) => `${n} by ${name}`).join(", ")}`,
    ...(unreadable.length ? [`${unreadable.length} pictures could not be read and were left out`] : []),
    `outputs: ${sqnr.toFixed(1)} dB of signal to noise`,
    `exact on ${quantizationTargets[target].exactOn}`,
    `${basename(model)} ${fmtBytes(bytes[0])}, ${paths.join(" and ")} ${fmtBytes(bytes[1])}`,
  ].join("\n");
}
