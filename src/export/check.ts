import { must, RepmlpError } from "../errors.ts";
import { firstBeyond } from "../inference/finite-outputs.ts";
import { Comparison, isWithin, Predictor, randomInputs } from "../inference/index.ts";
import type { Net } from "../nn/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import { type CompileOptions, compileModel } from "../runtime/index.ts";
import { type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import { type ExportDType, ioNames } from "./graph.ts";

/** How an exported model compares with the network it was made of. */
export interface ExportCheck {
  /** Largest difference of two logits. */
  readonly maxAbsDiff: number;
  /** Largest absolute logit of the network. */
  readonly scale: number;
  /** Batch sizes at which the exported model ran. */
  readonly batches: readonly number[];
}

/** Differences that pass, as a part of the largest logit: rounding of merged weights, and of half precision. */
const TOLERANCE: Readonly<Record<ExportDType, number>> = { float32: 1e-4, float16: 5e-2 };

export interface CheckOptions {
  readonly inputShape: Shape;
  readonly batch: number | "dynamic";
  readonly dtype: ExportDType;
  readonly compile?: CompileOptions;
}

/**
 * Runs an exported graph on random input, at two batch sizes if the batch is open, and compares with the network itself
 * (in the form given, so that a merge is checked along).
 *
 * @throws RepmlpError `export/check` when they differ by more than rounding
 */
export async function checkExport(
  net: Net,
  graph: OnnxModel,
  { inputShape, batch, dtype, compile = {} }: CheckOptions,
): Promise<ExportCheck> {
  const batches = batch === "dynamic" ? [1, 2] : [batch];
  const inputs = randomInputs(
    inputShape,
    batches.reduce((a, b) => a + b),
    0,
  );
  // One after the other, so that the memory of two sessions is not needed at once.
  const expected = await reference(net, inputs, inputShape, compile);
  const program = await compileModel(graph, compile);
  const found = new Comparison();
  let start = 0;
  for (const count of batches) {
    const size = sizeOf(inputShape);
    const feed = (inputs.data as Float32Array<ArrayBuffer>).slice(start * size, (start + count) * size);
    const results = await program.run({ [ioNames.input]: new Tensor("float32", [count, ...inputShape], feed) });
    const logits = results[ioNames.output].data as Float32Array;
    const width = logits.length / count;
    found.add(expected.subarray(start * width), logits, logits.length);
    start += count;
  }
  await program.dispose();
  const { maxAbs: maxAbsDiff, scale } = found;
  if (!Number.isFinite(scale) || !Number.isFinite(maxAbsDiff))
    await refuseOverflow(net, inputs, inputShape, dtype, compile);
  const tolerance = TOLERANCE[dtype];
  const advice =
    dtype === "float16" ? "Use float32 (--dtype float32)." : "Leave the check out (--no-check) to look at it.";
  must(
    isWithin(found, tolerance),
    "export/check",
    () =>
      `export: the exported model differs from the network by ${maxAbsDiff.toExponential(2)} with logits up to ${scale.toPrecision(3)}; ${dtype} allows ${(tolerance * scale).toExponential(2)}. ${advice}`,
    "model",
  );
  return { maxAbsDiff, scale, batches };
}

/** The largest number of half precision. */
const HALF_MAX = 65504;

/** Says where values grow beyond the element type, on the way through the network as it is in float32. */
async function refuseOverflow(
  net: Net,
  inputs: Tensor,
  inputShape: Shape,
  dtype: ExportDType,
  compile: CompileOptions,
): Promise<never> {
  const half = dtype === "float16";
  const image = (inputs.data as Float32Array<ArrayBuffer>).slice(0, sizeOf(inputShape));
  const limit = half ? HALF_MAX : Number.MAX_VALUE;
  const weight = half
    ? [...net.state()].find(([, p]) => p.data.toFloat64().some((v) => Math.abs(v) > HALF_MAX))
    : undefined;
  const layer = weight
    ? undefined
    : await firstBeyond(net, new Tensor("float32", [1, ...inputShape], image), compile, limit);
  const what = weight
    ? `weight ${weight[0]} holds values`
    : layer === undefined
      ? "the exported model has outputs"
      : `layer ${layer} has outputs`;
  throw new RepmlpError(
    "export/overflow",
    `export: ${what} beyond what ${dtype} holds${half ? ` (${HALF_MAX})` : ""}. ${half ? "Use float32 (--dtype float32)." : "Give other weights."}`,
    "model",
  );
}

async function reference(net: Net, inputs: Tensor, inputShape: Shape, compile: CompileOptions): Promise<Float32Array> {
  const predictor = await Predictor.create(net, { inputShape, batchSize: inputs.shape[0], ...compile });
  const { data } = await predictor.run(inputs);
  await predictor.dispose();
  return data as Float32Array;
}
