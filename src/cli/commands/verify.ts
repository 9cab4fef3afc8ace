import { asWeights } from "../../checkpoint/index.ts";
import { openCheckpointFile } from "../../checkpoint/node/index.ts";
import { must } from "../../errors.ts";
import {
  coarsestType,
  compareWeights,
  type Equivalence,
  type FloatType,
  judge,
  outputTolerances,
  type Verdict,
  verifyEquivalence,
  type WeightComparison,
} from "../../inference/index.ts";
import { createDetected, type DetectedModel, detectModel, modelInfo } from "../../models/index.ts";
import type { Net } from "../../nn/index.ts";
import { deployForm } from "../../reparam/index.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import type { Call, Run } from "../table.ts";
import { scientific, textTable } from "../text-table.ts";
import { verdictLine, weightSentence } from "../verdict.ts";

/** Compares a checkpoint with its merged form, or two checkpoints. */
export const run: Run<"verify"> = async ({ args: { a, b }, options, io }) => {
  registerNode();
  using first = await load(a, options);
  must(
    b !== undefined || first.found.form === "train",
    "verify/form",
    () =>
      `${a}: is already merged, so there is nothing to compare it with. Name the training checkpoint, or a second file.`,
    "usage",
  );
  using other = b === undefined ? undefined : await loadSame(b, first.found, options);
  const { inputSize } = modelInfo(first.found.name).preprocessing({ imageSize: options.imageSize });
  const result = await verifyEquivalence(first.model, other?.model ?? deployForm(first.model), {
    inputShape: inputSize,
    samples: options.samples,
    seed: options.seed,
    dtype: options.dtype,
  });
  // A merge that is only derived, not read, is rounded to float32.
  const types = other ? ([first.type, other.type] as const) : (["float32", "float32"] as const);
  // Of one file the merged weights are derived; of two they are compared, which shows what outputs hide.
  const weights = other && (await compareWeights(first.model, other.model, { types, tolerance: options.tolerance }));
  const tolerance = options.tolerance ?? Math.max(...types.map((type) => outputTolerances[type]));
  const verdict = judge(result, tolerance);
  const passed = verdict.passed && !weights?.differing.length;
  io.result(
    {
      ...{ a, b: b ?? null, arch: first.found.name, ...result, tolerance, passed, differs: verdict.differs },
      ...(weights && { weights: { tensors: weights.tensors, differing: weights.differing } }),
    },
    () => text(result, tolerance, verdict, weights),
  );
  return passed ? undefined : 1;
};

/** A network whose values are read from its file when they are needed. */
interface Loaded extends Disposable {
  readonly model: Net;
  readonly found: DetectedModel;
  /** The coarsest element type of the file's weights. */
  readonly type: FloatType;
}

async function load(
  path: string,
  { arch, numClasses, imageSize }: Call<"verify">["options"],
  prefer?: string,
): Promise<Loaded> {
  const checkpoint = await openCheckpointFile(path);
  try {
    const options = { ...(numClasses && { numClasses }), ...(imageSize && { imageSize }) };
    const found = detectModel(checkpoint.entries, {
      arch,
      prefer: prefer ?? checkpoint.metadata.arch,
      options,
      where: path,
    });
    const model = createDetected(found, options);
    model.loadStateDict(asWeights(path, checkpoint.entries));
    return {
      model,
      found,
      type: coarsestType(checkpoint.entries.values()),
      [Symbol.dispose]: () => checkpoint.close(),
    };
  } catch (error) {
    checkpoint.close();
    throw error;
  }
}

/** The second checkpoint, which must be one of the same network. */
async function loadSame(path: string, first: DetectedModel, options: Call<"verify">["options"]): Promise<Loaded> {
  const loaded = await load(path, options, first.name);
  const { found } = loaded;
  must(
    found.name === first.name && found.numClasses === first.numClasses,
    "verify/different",
    () =>
      `${path}: holds ${found.name} with ${found.numClasses} classes, the first file ${first.name} with ` +
      `${first.numClasses}. Compare checkpoints of one network.`,
    "model",
  );
  return loaded;
}

function text(
  { maxAbs, maxRel, blocks, top1 }: Equivalence,
  tolerance: number,
  verdict: Verdict,
  weights: WeightComparison | undefined,
): string {
  const rows = blocks.map((b) => [b.path, scientific(b.maxAbs), scientific(b.maxRel)]);
  const [wrong, ...more] = weights?.differing ?? [];
  const count = more.length ? ` (and values of ${more.length} more tensors)` : "";
  return [
    ...(rows.length ? [textTable([["block", "max difference", "relative"], ...rows]), ""] : []),
    `network: largest difference ${scientific(maxAbs)} (${scientific(maxRel)} of the largest output), same class on ${top1.agree} of ${top1.total} inputs`,
    ...(weights && !wrong ? [`weights: ${weights.tensors} tensors are the merge's, but for rounding`] : []),
    ...(verdict.passed && wrong ? [] : [verdictLine(verdict, tolerance)]),
    ...(wrong ? [`FAILED: ${weightSentence(wrong)}${count}`] : []),
  ].join("\n");
}
