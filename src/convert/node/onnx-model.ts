import { mkdtemp, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { must, RepmlpError } from "../../errors.ts";
import { coarsestType, outputTolerances } from "../../inference/compare.ts";
import { openOnnx, saveOnnx } from "../../inference/node/onnx-file.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import { fromOrt, platform, toOrt, translateError } from "../../runtime/ort.ts";
import { dtypes, sizeOf, type Tensor } from "../../tensor/index.ts";
import { countOnnx, type OnnxCounts } from "../onnx/counts.ts";
import { type MergedOnnx, type MergeOnnxOptions, mergeOnnx } from "../onnx/index.ts";
import { type Feeds, type OnnxProof, type OnnxRunner, proveOnnx } from "../onnx/proof.ts";
import { mustBeWritable, mustDiffer } from "./checkpoint-file.ts";

export interface ConvertOnnxOptions extends MergeOnnxOptions {
  /** Runs both models and compares them. Default true. */
  readonly verify?: boolean;
  /** Inputs to compare on. Default: random ones, of two sizes where the file leaves sizes open. */
  readonly inputs?: readonly Feeds[] | ((model: OnnxModel) => Promise<readonly Feeds[]>) | undefined;
  /** Largest difference of an output, as a share of its largest value. Default: 1e-4, for half precision 2e-2. */
  readonly tolerance?: number | undefined;
  /** Writes the file even where outputs differ by more. */
  readonly force?: boolean;
}

export interface OnnxConversion extends Omit<MergedOnnx, "model"> {
  readonly counts: readonly [before: OnnxCounts, after: OnnxCounts];
  /** Size of the model and its weights, in bytes. */
  readonly bytes: readonly [before: number, after: number];
  readonly proof: OnnxProof | undefined;
  readonly tolerance: number;
  readonly paths: readonly string[];
  /** Both models, for a report. */
  readonly models: readonly [before: OnnxModel, after: OnnxModel];
}

/**
 * Merges an ONNX file ({@link mergeOnnx}), runs both files and writes the result if their outputs are equal. All else that
 * the file says stays as it is; weights outside of the file stay outside. Memory holds one weight at a time, and one of
 * both models while it runs.
 *
 * @throws RepmlpError `convert-onnx/differs` where outputs differ by more than the tolerance (nothing is written),
 *   `convert-onnx/nothing` where no rule fires, `convert-onnx/inputs`, `convert/same-file`, `convert/unwritable`, and what
 *   reading ONNX files throws
 */
export async function convertOnnxFile(
  load: string,
  save: string,
  { verify = true, inputs, tolerance, force = false, ...options }: ConvertOnnxOptions = {},
): Promise<OnnxConversion> {
  mustDiffer(load, save, "model");
  mustBeWritable(save);
  const model = await openOnnx(load, { keep: true });
  const { model: merged, merges, kept } = mergeOnnx(model, options);
  must(
    merges.length > 0 || merged.nodes.length < model.nodes.length,
    "convert-onnx/nothing",
    () =>
      `${load}: there is nothing to merge${kept.length ? `; ${kept.length} nodes were looked at, the first: ${kept[0].operator} ${kept[0].name}: ${kept[0].reason}` : ""}. Nothing was written.`,
    "model",
  );
  const allowed = tolerance ?? outputTolerances[coarsestType(model.initializers.values())];
  const folder = await mkdtemp(join(dirname(save), ".onnx-"));
  try {
    const made = join(folder, basename(save));
    const written = await saveOnnx(made, merged, { ...(hasExternal(model) && { external: true }) });
    const plain = () => openRunner(load, "disabled");
    const both = [() => openRunner(load), () => openRunner(made)] as const;
    const given = typeof inputs === "function" ? await inputs(model) : inputs;
    const proof = verify ? await proveOnnx(model, ...both, { inputs: given, tolerance: allowed, plain }) : undefined;
    if (proof && !force && !proof.passed) throw differs(proof, allowed);
    // The weights first: the model must never point to what is not there.
    for (const path of written.paths.toReversed()) await rename(path, join(dirname(save), basename(path)));
    const sizes = proof?.sizes[0];
    return {
      merges,
      kept,
      counts: [countOnnx(model, sizes), countOnnx(merged, sizes)],
      bytes: [await bytesOf(load, model), written.bytes],
      proof,
      tolerance: allowed,
      paths: written.paths.map((path) => join(dirname(save), basename(path))),
      models: [model, merged],
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function differs({ outputs }: OnnxProof, tolerance: number): RepmlpError {
  const worst = outputs.find((o) => !o.passed)!;
  const by = Number.isNaN(worst.maxRel)
    ? "has another size, or values that are not finite"
    : `differs by ${worst.maxRel.toExponential(1)} of its largest value`;
  return new RepmlpError(
    "convert-onnx/differs",
    `convert: output "${worst.name}" ${by}, ${tolerance.toExponential(1)} is allowed. Nothing was written; --force writes it all the same.`,
    "model",
  );
}

/** Whether weights lie in other files. */
const hasExternal = ({ kept }: OnnxModel): boolean => kept?.external ?? false;

async function bytesOf(path: string, model: OnnxModel): Promise<number> {
  const { size } = await stat(path);
  if (!hasExternal(model)) return size;
  let weights = 0;
  for (const source of model.initializers.values()) weights += (await source.place?.()) ? byteLength(source) : 0;
  return size + weights;
}

/** A session over a file. */
export async function openRunner(path: string, optimization: "all" | "disabled" = "all"): Promise<OnnxRunner> {
  const { ort, threads } = await platform("cpu");
  try {
    const session = await ort.InferenceSession.create(path, {
      intraOpNumThreads: threads,
      graphOptimizationLevel: optimization,
      logSeverityLevel: 3,
    });
    return {
      run: async (feeds) => {
        const given = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, toOrt(ort, t)]));
        try {
          const made = await session.run(given);
          return Object.fromEntries(Object.entries(made).map(([name, t]) => [name, fromOrt(t)]));
        } catch (cause) {
          throw translateError("run the model", cause);
        }
      },
      dispose: () => session.release(),
    };
  } catch (cause) {
    throw translateError("open the model", cause);
  }
}

const byteLength = ({ dtype, shape }: Pick<Tensor, "dtype" | "shape">): number => sizeOf(shape) * dtypes[dtype].bytes;
