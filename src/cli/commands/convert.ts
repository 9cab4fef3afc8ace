import { freemem } from "node:os";
import { type CheckpointConversion, convertCheckpointFile, stateBytes } from "../../convert/node/checkpoint-file.ts";
import { must, RepmlpError } from "../../errors.ts";
import type { Equivalence, StoredModel } from "../../inference/index.ts";
import type { Net } from "../../nn/index.ts";
import { fmtBytes } from "../../tensor/index.ts";
import type { Io } from "../io.ts";
import type { Call, Run } from "../table.ts";
import { grouped, scientific, textTable } from "../text-table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";

/** Merges a checkpoint or an ONNX file and says what was merged. */
export const run: Run<"convert"> = async (call) => {
  const { args, options } = call;
  const isOnnx = args.load.toLowerCase().endsWith(".onnx");
  mustApply(isOnnx ? "an ONNX file" : "a checkpoint", isOnnx ? ofCheckpoints(options) : ofOnnx(options));
  if (isOnnx || !options.blocks)
    mustApply(isOnnx ? "an ONNX file" : "a checkpoint without --blocks", ofBlocks(options));
  if (options.blocks) {
    mustApply("a checkpoint with --blocks", ofNetworks(options));
    const { convertBlocks } = await import("./convert-blocks.ts");
    return convertBlocks(call);
  }
  if (!isOnnx) return convertCheckpoint(call);
  const { convertOnnx } = await import("./convert-onnx.ts");
  return convertOnnx(call);
};

type Options = Call<"convert">["options"];

/** Options that say nothing about an ONNX file, and those that only do about one. */
const ofCheckpoints = ({ arch, numClasses, imageSize, key, prefix, modelOption, names, dtype }: Options) => ({
  "--arch": arch,
  "--num-classes": numClasses,
  "--image-size": imageSize,
  "--key": key,
  "--prefix": prefix,
  "--model-option": modelOption.length ? modelOption : undefined,
  "--names": names,
  "--dtype": dtype,
});
const ofOnnx = ({ inputs, tolerance, force, report }: Options) => ({
  "--inputs": inputs.length ? inputs : undefined,
  "--tolerance": tolerance,
  "--force": force || undefined,
  "--report": report,
});

/** Options that say something about single blocks, and those that do about a network that is known. */
const ofBlocks = (options: Options) => {
  const lists = ["eps", "identity", "partition", "kind", "transposed", "skip"] as const;
  return {
    "--blocks": options.blocks || undefined,
    ...Object.fromEntries(lists.map((name) => [`--${name}`, options[name].length ? options[name] : undefined])),
    "--keep-pairs": options.keepPairs || undefined,
  };
};
const ofNetworks = ({ arch, numClasses, imageSize, modelOption, names, verify }: Options) => ({
  "--arch": arch,
  "--num-classes": numClasses,
  "--image-size": imageSize,
  "--model-option": modelOption.length ? modelOption : undefined,
  "--names": names,
  "--verify": verify || undefined,
});

function mustApply(what: string, others: Readonly<Record<string, unknown>>): void {
  const given = Object.keys(others).find((name) => others[name] !== undefined);
  must(given === undefined, "cli/option", () => `convert: ${given} does not apply to ${what}. Leave it out.`, "usage");
}

const convertCheckpoint: Run<"convert"> = async ({ args: { load, save }, options, io }) => {
  const start = performance.now();
  let verification: Verification | undefined;
  const progress = io.progress();
  const result = await convertCheckpointFile(load, save, {
    ...weightsOptions(options),
    ...{ dtype: options.dtype, names: options.names },
    signal: io.signal,
    onTensor: (label, done, total) => progress.update({ done, total, label }),
    check: async (training, deploy, stored) => {
      if (wantsVerification(training, deploy, options.verify, io))
        verification = await verified(training, deploy, stored, io);
    },
  }).finally(() => progress.stop());
  noteRemarks(io, load, result.remarks);
  const seconds = (performance.now() - start) / 1000;
  const { blocks, ...rest } = result;
  const merged = blocks.filter((b) => b.merged).length;
  const counts = { merged, left: blocks.length - merged };
  io.result(
    { load, save, ...rest, blocks: options.explain ? blocks : counts, verification: verification ?? null, seconds },
    () => text(save, result, counts, verification, options.explain),
  );
  return undefined;
};

function text(
  save: string,
  { arch, blocks, tensors, values }: CheckpointConversion,
  { merged, left }: { readonly merged: number; readonly left: number },
  verification: Verification | undefined,
  explain: boolean,
): string {
  const rows = blocks.map((b) => [b.path, b.block, `${b.merged ? "merged" : "kept"}: ${b.note}`]);
  return [
    ...(explain ? [textTable([["block", "type", "what became of it"], ...rows], "lll"), ""] : []),
    `${arch}: ${merged} blocks merged, ${left} left; ${grouped(tensors[0])} tensors became ${grouped(tensors[1])}, ` +
      `${grouped(values[0])} values ${grouped(values[1])}`,
    ...(verification ? [`verified: ${verification.sentence}`] : []),
    `wrote ${save}`,
  ].join("\n");
}

interface Verification {
  readonly maxAbs: number;
  readonly maxRel: number;
  readonly top1: Equivalence["top1"];
  readonly tolerance: number;
  readonly sentence: string;
}

/** Random inputs; the forms differ by rounding alone or not at all, which few inputs show. */
const SAMPLES = 4;

/** Memory by the size of both forms' values: the sessions hold them, and another copy while they are made. */
const MEMORY_FACTOR = 3;

/** Weights up to which both forms are compared unasked: more would cost a multiple of the conversion's time and memory. */
const UNASKED = 100e6;

/** Whether to compare both forms; when not, and nobody asked for that, says why. */
function wantsVerification(training: Net, deploy: Net, asked: boolean | undefined, io: Io): boolean {
  if (asked === false) return false;
  const needed = MEMORY_FACTOR * (stateBytes(training) + stateBytes(deploy));
  if (asked === undefined && stateBytes(training) > UNASKED) {
    io.note(
      `not verified: ${fmtBytes(stateBytes(training))} of weights; --verify takes about ${fmtBytes(needed)} of memory`,
    );
    return false;
  }
  const free = Math.min(freemem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  if (needed <= free) return true;
  const reason = `running both forms takes about ${fmtBytes(needed)} of memory, ${fmtBytes(free)} are free`;
  must(asked === undefined, "convert/memory", () => `convert: ${reason}. Leave --verify out, or free some.`, "runtime");
  io.note(`not verified: ${reason}`);
  return false;
}

async function verified(training: Net, deploy: Net, { preprocessing }: StoredModel, io: Io): Promise<Verification> {
  const [{ coarsestType, judge, outputTolerances, verifyEquivalence }, { registerNode }] = await Promise.all([
    import("../../inference/index.ts"),
    import("../../runtime/node/platform.ts"),
  ]);
  registerNode();
  io.note(`comparing both forms on ${SAMPLES} random inputs`);
  const { inputSize } = preprocessing;
  const found = await verifyEquivalence(training, deploy, { inputShape: inputSize, samples: SAMPLES });
  const { maxAbs, maxRel, top1, blocks } = found;
  // What is written decides, whoever asked for it: the checkpoint's own types, or --dtype.
  const type = coarsestType([...deploy.state()].map(([, p]) => p));
  const tolerance = outputTolerances[type];
  const { passed, differs } = judge(found, tolerance);
  if (!passed) {
    const block = blocks.find(({ path }) => path === differs);
    const what =
      block === undefined
        ? `the merged form differs from the training form by ${scientific(maxRel)} of the largest output`
        : `block ${block.path} differs from its training form by ${scientific(block.maxRel)} of its largest output`;
    throw new RepmlpError(
      "convert/differs",
      `convert: ${what}, ${scientific(tolerance)} is allowed for ${type}. Nothing was written; --no-verify writes it ` +
        "all the same.",
      "model",
    );
  }
  const sentence =
    `largest difference ${scientific(maxAbs)} (${scientific(maxRel)} of the largest output), ` +
    `same class on ${top1.agree} of ${top1.total} ${top1.of ?? "random inputs"}`;
  return { maxAbs, maxRel, top1, tolerance, sentence };
}
