import { must, RepmlpError } from "../../errors.ts";
import {
  coarsestType,
  compareWeights,
  type Equivalence,
  type FloatType,
  judge,
  type OpenedModel,
  outputTolerances,
  type Verdict,
  verifyEquivalence,
  type WeightComparison,
} from "../../inference/index.ts";
import { openModelFile } from "../../inference/node/open-model.ts";
import type { Module } from "../../nn/index.ts";
import { deployForm } from "../../reparam/index.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { sameShape } from "../../tensor/index.ts";
import type { Call, Run } from "../table.ts";
import { scientific, textTable } from "../text-table.ts";
import { verdictLine, weightSentence } from "../verdict.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";

type Options = Call<"verify">["options"];

/** Compares a checkpoint with its merged form, or two checkpoints. */
export const run: Run<"verify"> = async ({ args: { a, b }, options, io }) => {
  registerNode();
  using first = await openModelFile(a, weightsOptions(options));
  noteRemarks(io, a, first.remarks);
  must(
    b !== undefined || first.form === "train",
    "verify/form",
    () =>
      `${a}: is already merged, so there is nothing to compare it with. Name the training checkpoint, or a second file.`,
    "usage",
  );
  using other = b === undefined ? undefined : await openSame(b, first, options);
  noteRemarks(io, b ?? "", other?.remarks ?? []);
  const { inputSize } = first.preprocessing;
  const result = await verifyEquivalence(first.net, other?.net ?? deployForm(first.net), {
    inputShape: inputSize,
    samples: options.samples,
    seed: options.seed,
    dtype: options.dtype,
  });
  // A merge that is only derived, not read, is rounded to float32.
  const types = other
    ? ([first, other].map(({ entries }) => coarsestType(entries.values())) as [FloatType, FloatType])
    : (["float32", "float32"] as const);
  // Of one file the merged weights are derived; of two they are compared, which shows what outputs hide.
  // Those of a pruned network are others; its outputs tell.
  const isPruned = [first, other].some((file) => file?.options.prunedShapes !== undefined);
  const narrower = isPruned && other !== undefined && !sameWidths(first.net, other.net);
  const weights =
    other && !narrower
      ? await compareWeights(first.net, other.net, { types, tolerance: options.tolerance })
      : undefined;
  const tolerance = options.tolerance ?? Math.max(...types.map((type) => outputTolerances[type]));
  const verdict = judge(result, tolerance);
  const passed = verdict.passed && !weights?.differing.length;
  io.result(
    {
      ...(narrower && { narrower }),
      ...{ a, b: b ?? null, arch: first.arch, ...result, tolerance, passed, differs: verdict.differs },
      ...(weights && { weights: { tensors: weights.tensors, differing: weights.differing } }),
    },
    () => text(result, tolerance, verdict, weights, narrower),
  );
  return passed ? undefined : 1;
};

/** Whether the merged forms have the same tensors. */
function sameWidths(first: Module, second: Module): boolean {
  const [a, b] = [first, second].map((net) => new Map([...deployForm(net).state()].map(([key, p]) => [key, p.shape])));
  return [...a].every(([key, shape]) => sameShape(shape, b.get(key) ?? []));
}

/** The second checkpoint, which must be one of the same network. */
async function openSame(path: string, first: OpenedModel, options: Options): Promise<OpenedModel> {
  const { model, ...rest } = weightsOptions(options);
  // Of what was pruned each file states its own.
  const { prunedShapes: _, compactors: __, ...own } = first.options;
  const opened = await openModelFile(path, { ...rest, prefer: first.arch, model: { ...own, ...model } });
  const [a, b] = [first.found, opened.found];
  if (a.name === b.name && a.numClasses === b.numClasses) return opened;
  opened.close();
  throw new RepmlpError(
    "verify/different",
    `${path}: holds ${b.name} with ${b.numClasses} classes, the first file ${a.name} with ${a.numClasses}. ` +
      "Compare checkpoints of one network.",
  );
}

function text(
  { maxAbs, maxRel, blocks, top1 }: Equivalence,
  tolerance: number,
  verdict: Verdict,
  weights: WeightComparison | undefined,
  narrower = false,
): string {
  const rows = blocks.map((b) => [b.path, scientific(b.maxAbs), scientific(b.maxRel)]);
  const [wrong, ...more] = weights?.differing ?? [];
  const count = more.length ? ` (and values of ${more.length} more tensors)` : "";
  return [
    ...(rows.length ? [textTable([["block", "max difference", "relative"], ...rows]), ""] : []),
    `network: largest difference ${scientific(maxAbs)} (${scientific(maxRel)} of the largest output), same class on ${top1.agree} of ${top1.total} ${top1.of ?? "inputs"}`,
    ...(narrower ? ["weights: of other widths, since one of the networks is pruned; outputs alone are compared"] : []),
    ...(weights && !wrong ? [`weights: ${weights.tensors} tensors are the merge's, but for rounding`] : []),
    ...(verdict.passed && wrong ? [] : [verdictLine(verdict, tolerance)]),
    ...(wrong ? [`FAILED: ${weightSentence(wrong)}${count}`] : []),
  ].join("\n");
}
