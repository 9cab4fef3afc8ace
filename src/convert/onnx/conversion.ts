import { must, RepmlpError } from "../../errors.ts";
import { coarsestType, outputTolerances } from "../../inference/compare.ts";
import { mustHaveFiniteWeights } from "../../inference/onnx-weights.ts";
import { decodeOnnx, encodeOnnx, type OnnxModel } from "../../onnx/index.ts";
import { countOnnx, type OnnxCounts } from "./counts.ts";
import { type MergedOnnx, type MergeOnnxOptions, mergeOnnx } from "./merge.ts";
import { type Feeds, type OnnxProof, type OnnxRunner, proveOnnx } from "./proof.ts";
import { openRunner } from "./runner.ts";

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

/** What became of a model. */
export interface OnnxConversion extends Omit<MergedOnnx, "model"> {
  readonly counts: readonly [before: OnnxCounts, after: OnnxCounts];
  /** Size of the model and its weights, in bytes. */
  readonly bytes: readonly [before: number, after: number];
  readonly proof: OnnxProof | undefined;
  readonly tolerance: number;
  /** Both models, for a report. */
  readonly models: readonly [before: OnnxModel, after: OnnxModel];
}

/** Opens a model to run it, as it is or without the runtime's optimizations. */
export type OpenModel = (optimize: boolean) => Promise<OnnxRunner>;

/** Where a model is, and where what it becomes goes. */
export interface OnnxStore {
  /** In messages. */
  readonly name: string;
  /** Size of the model and its weights. */
  readonly bytes: number;
  readonly open: OpenModel;
  /** Writes the merged model, from where it can be run. */
  write(merged: OnnxModel): Promise<{ readonly bytes: number; readonly open: OpenModel }>;
}

/**
 * Merges a model, writes it and runs both.
 *
 * @throws RepmlpError `convert-onnx/nothing` where no rule fires, `convert-onnx/differs` where outputs differ by more than
 *   the tolerance, `convert-onnx/inputs`
 */
export async function convertModel(
  model: OnnxModel,
  store: OnnxStore,
  { verify = true, inputs, tolerance, force = false, ...options }: ConvertOnnxOptions = {},
): Promise<OnnxConversion> {
  await mustHaveFiniteWeights(model, store.name);
  const { model: merged, merges, kept } = mergeOnnx(model, options);
  must(
    merges.length > 0 || merged.nodes.length < model.nodes.length,
    "convert-onnx/nothing",
    () =>
      `${store.name}: there is nothing to merge${kept.length ? `; ${kept.length} nodes were looked at, the first: ${kept[0].operator} ${kept[0].name}: ${kept[0].reason}` : ""}. Nothing was written.`,
    "model",
  );
  const allowed = tolerance ?? outputTolerances[coarsestType(model.initializers.values())];
  const { bytes, open } = await store.write(merged);
  const given = verify && typeof inputs === "function" ? await inputs(model) : inputs;
  const proof = verify
    ? await proveOnnx(
        model,
        () => store.open(true),
        () => open(true),
        {
          inputs: given as readonly Feeds[] | undefined,
          tolerance: allowed,
          plain: () => store.open(false),
        },
      )
    : undefined;
  if (proof && !force && !proof.passed) throw differs(proof, allowed);
  const sizes = proof?.sizes[0];
  return {
    merges,
    kept,
    counts: [countOnnx(model, sizes), countOnnx(merged, sizes)],
    bytes: [store.bytes, bytes],
    proof,
    tolerance: allowed,
    models: [model, merged],
  };
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

/**
 * Merges an ONNX file in memory and runs both, as `convertOnnxFile` does with files: what a page does with a file that is
 * dropped on it.
 *
 * @param bytes  the file, with all weights inside; not changed, and not to be changed afterwards
 * @returns what became of it, and the bytes of the merged file
 * @throws RepmlpError as {@link convertModel}, and what {@link decodeOnnx} throws
 */
export async function convertOnnxBytes(
  bytes: Uint8Array<ArrayBuffer>,
  { name = "the file", ...options }: ConvertOnnxOptions & { readonly name?: string } = {},
): Promise<OnnxConversion & { readonly file: Uint8Array<ArrayBuffer> }> {
  const model = decodeOnnx(bytes, { name, keep: true });
  let file: Uint8Array<ArrayBuffer> | undefined;
  const result = await convertModel(
    model,
    {
      name,
      bytes: bytes.byteLength,
      open: (optimize) => openRunner(bytes, { optimize }),
      write: async (merged) => {
        const made = encodeOnnx(merged);
        file = made;
        return { bytes: made.byteLength, open: (optimize) => openRunner(made, { optimize }) };
      },
    },
    options,
  );
  return { ...result, file: file! };
}
