import { basename } from "node:path";
import { describePreprocessing } from "../../data/preprocessing/preprocess.ts";
import { must } from "../../errors.ts";
import {
  type QuantizedFile,
  quantizeFile,
  quantizeWeightsFile,
  type WeightsFile,
} from "../../quantize/node/quantize-file.ts";
import { type QuantizationTargetName, quantizationTargets } from "../../quantize/qdq.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { fmtBytes } from "../../tensor/index.ts";
import { cpuFeatures, saturates } from "../cpu-features.ts";
import type { Run } from "../table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";

/** JSON has no infinity, which equal outputs have. */
const finite = (decibels: number): number | null => (Number.isFinite(decibels) ? decibels : null);

/** Writes an ONNX file of integers, or of smaller weights alone. */
export const run: Run<"quantize"> = async (call) => {
  registerNode();
  const { weightOnly, float16 } = call.options;
  must(
    !(weightOnly && float16),
    "quantize/options",
    () => `quantize: --weight-only ${weightOnly} and --float16 are two ways to store weights. Give one of them.`,
    "usage",
  );
  const type = float16 ? "float16" : weightOnly;
  return type ? smallerWeights(call, type) : integers(call);
};

/** Share of the classes below which something is wrong. */
const FAITHFUL = 0.8;

type Call = Parameters<Run<"quantize">>[0];

/** What the words behind `--keep-float` mean. */
function kept(words: readonly string[]): readonly string[] | number | "auto" {
  const [only, ...others] = words;
  if (others.length || only === undefined) return words;
  if (only === "auto") return "auto";
  return /^\d+$/.test(only) ? Number(only) : words;
}

async function integers({ args: { model, out }, options, io }: Call): Promise<undefined> {
  const { keepFloat, ...settings } = options;
  const { calib, stats, calibrator, target, report } = settings;
  must(
    calib !== undefined || stats !== undefined,
    "quantize/calib",
    () =>
      "quantize: --calib is needed: a folder of pictures like those that the model will see (or --stats, --weight-only, --float16).",
    "usage",
  );
  const start = performance.now();
  const progress = io.progress();
  const result = await quantizeFile(model, out, {
    ...settings,
    ...weightsOptions(options),
    keepFloat: kept(keepFloat),
    signal: io.signal,
    onUnreadable: (error) => io.warn(error.message),
    onProgress: ({ label, done, total }) => progress.update({ label, done, total: total ?? done }),
  }).finally(() => progress.stop());
  noteRemarks(io, model, result.remarks);
  for (const note of result.notes) io.warn(note);
  if (result.agreement < FAITHFUL)
    io.warn(
      `only ${(100 * result.agreement).toFixed(0)} % of the classes are as in float on inputs that calibrated: calibrate with other pictures, keep layers in float (--keep-float auto), or look which suffer (--report)`,
    );
  io.note(describePreprocessing(result.preprocessing));
  if (target === "vnni" && saturates(cpuFeatures()))
    io.warn("this CPU has no VNNI: sums of products saturate here, so outputs are worse than the file says");
  const seconds = (performance.now() - start) / 1000;
  const { layers, kept: left, tensors, sqnr, agreement, samples, paths, bytes, unreadable, sensitivity } = result;
  io.result(
    {
      ...{ model, paths, bytes, target, calibrator, pictures: samples, unreadable },
      ...{ layers, kept: left, tensors, sqnr: finite(sqnr), agreement, notes: result.notes, seconds },
      ...(report !== undefined && { report }),
      ...(result.accuracy && { accuracy: result.accuracy }),
      ...(sensitivity && { sensitivity: sensitivity.map((s) => ({ ...s, sqnr: finite(s.sqnr) })) }),
    },
    () => summary(model, target, result),
  );
  return undefined;
}

function summary(model: string, target: QuantizationTargetName, result: QuantizedFile): string {
  const { layers, kept, tensors, sqnr, agreement, samples, paths, bytes, unreadable, accuracy } = result;
  const counts = new Map<string, number>();
  for (const { calibrator } of tensors) counts.set(calibrator, (counts.get(calibrator) ?? 0) + 1);
  return [
    `${layers.length} layers became int8, ${kept.length} stay in float`,
    ...kept.map(({ name, operator, reason }) => `  ${operator} ${name}: ${reason}`),
    `ranges of ${tensors.length} tensors from ${samples} pictures: ${[...counts].map(([name, n]) => `${n} by ${name}`).join(", ")}`,
    ...(unreadable.length ? [`${unreadable.length} pictures could not be read and were left out`] : []),
    `outputs: ${sqnr.toFixed(1)} dB of signal to noise, ${(100 * agreement).toFixed(1)} % of the classes as in float`,
    ...(accuracy
      ? [`correct of ${accuracy.total} pictures: ${accuracy.float} in float, ${accuracy.integers} in integers`]
      : []),
    `exact on ${quantizationTargets[target].exactOn}`,
    `${basename(model)} ${fmtBytes(bytes[0])}, ${paths.join(" and ")} ${fmtBytes(bytes[1])}`,
  ].join("\n");
}

async function smallerWeights(
  { args: { model, out }, options, io }: Call,
  type: "int8" | "int4" | "float16",
): Promise<undefined> {
  const keepFloat = kept(options.keepFloat);
  must(
    Array.isArray(keepFloat),
    "quantize/keep-float",
    () =>
      `quantize: --keep-float ${keepFloat} needs pictures to choose layers by; name them, or quantize with --calib.`,
    "usage",
  );
  const { blockSize } = options;
  const result = await quantizeWeightsFile(model, out, {
    ...{ ...weightsOptions(options), type, blockSize, keepFloat: keepFloat as readonly string[] },
  });
  noteRemarks(io, model, result.remarks);
  for (const note of result.notes) io.warn(note);
  const { layers, kept: left, paths, bytes } = result;
  const told = layers.map((layer) => ({ ...layer, sqnr: finite(layer.sqnr) }));
  io.result({ model, paths, bytes, type, layers: told, kept: left, notes: result.notes }, () =>
    weightsSummary(model, result),
  );
  return undefined;
}

function weightsSummary(model: string, { layers, kept, paths, bytes }: WeightsFile): string {
  const byBits = new Map<number, number>();
  for (const { bits } of layers) byBits.set(bits, (byBits.get(bits) ?? 0) + 1);
  const worst = layers.reduce((a, b) => (b.sqnr < a.sqnr ? b : a));
  return [
    `weights: ${[...byBits].map(([bits, count]) => `${count} of ${bits} bits`).join(", ")}, ${kept.length} stay in float32`,
    ...kept.map(({ name, operator, reason }) => `  ${operator} ${name}: ${reason}`),
    `the worst is ${worst.layer}: ${worst.sqnr.toFixed(1)} dB of signal to noise`,
    `${basename(model)} ${fmtBytes(bytes[0])}, ${paths.join(" and ")} ${fmtBytes(bytes[1])}`,
  ].join("\n");
}
