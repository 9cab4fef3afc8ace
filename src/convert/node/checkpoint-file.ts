import { accessSync, constants, realpathSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { asWeights, type Checkpoint } from "../../checkpoint/index.ts";
import { checksumsInThread } from "../../checkpoint/node/crc32-thread.ts";
import { formatOfName, saveCheckpointFile } from "../../checkpoint/node/index.ts";
import type { Preprocessing } from "../../data/index.ts";
import { must, RepmlpError } from "../../errors.ts";
import { checkpointMetadata, restoreCoefficients } from "../../inference/metadata.ts";
import { type OpenModelOptions, withModelFile } from "../../inference/node/open-model.ts";
import type { StoredModel } from "../../inference/open-model.ts";
import { createDetected } from "../../models/detect.ts";
import type { Naming } from "../../models/family.ts";
import { underNames } from "../../models/naming.ts";
import { familyOf } from "../../models/registry.ts";
import { firstNames, mapModules, type Net } from "../../nn/module.ts";
import { type ConversionEntry, deployForm } from "../../reparam/convert.ts";
import { type DType, derived, dtypes, isFloating, sizeOf, type TensorSource } from "../../tensor/index.ts";

type WantedType = "float32" | "float64" | "float16" | "bfloat16" | undefined;

export interface ConvertCheckpointOptions extends OpenModelOptions {
  /** Element type of the result. Default: that of the checkpoint, tensor by tensor. */
  readonly dtype?: WantedType;
  /** Whose names the keys get: the name of a {@link Naming} of the network's family. Default: those it has here. */
  readonly names?: string | undefined;
  /** Is given both forms, with the values of the file behind them, before anything is written; may throw to stop. */
  readonly check?: (training: Net, deploy: Net, stored: StoredModel) => Promise<void>;
  /** Told before each tensor is written. */
  readonly onTensor?: (key: string, index: number, count: number) => void;
  /** Stops the conversion between two tensors; nothing is left behind. */
  readonly signal?: AbortSignal;
}

export interface CheckpointConversion {
  /** Name in the registry. */
  readonly arch: string;
  readonly numClasses: number | undefined;
  /** What became of each block, in tree order. */
  readonly blocks: readonly ConversionEntry[];
  /** Number of tensors and of values, before and after. */
  readonly tensors: readonly [before: number, after: number];
  readonly values: readonly [before: number, after: number];
  /** Metadata that the written file carries. */
  readonly metadata: Readonly<Record<string, string>>;
  /** What was not taken over, in words: a wrapper, a prefix, an optimizer's state, metadata. */
  readonly remarks: readonly string[];
}

/**
 * Converts a training checkpoint to the deploy form as a stream: each tensor of the result is merged from the few that
 * it needs when its turn comes to be written, so that memory holds one block, whatever the size of the model. No network
 * is initialized. Formats are told by content (reading) and file name (writing); the file appears whole or not at all.
 *
 * Everything is computed in float64 and rounded once to the result's type.
 *
 * @throws RepmlpError `convert/already-deploy`, `convert/same-file`, `checkpoint/integer-weight`, `detect/unknown`,
 *   `detect/ambiguous`, `convert/unwritable`, `models/naming`, and what reading and writing checkpoints throws
 */
export async function convertCheckpointFile(
  load: string,
  save: string,
  { names, check, onTensor, signal, ...options }: ConvertCheckpointOptions = {},
): Promise<CheckpointConversion> {
  formatOfName(save);
  mustDiffer(load, save);
  mustBeWritable(save);
  return withModelFile(load, options, async (stored, checkpoint) => {
    const { found, entries, remarks } = stored;
    const { dtype } = options;
    const training = bindTraining(load, stored, dtype);
    restoreCoefficients(training, checkpoint.metadata, load);
    const blocks: ConversionEntry[] = [];
    const merged = mapModules(
      deployForm(training, (entry) => blocks.push(entry)),
      { parameter: (p) => (dtype && dtype !== p.dtype && isFloating(p.dtype) ? p.to(dtype) : p) },
    );
    const named =
      names === undefined ? merged.state() : underNames(new Map(merged.state()), familyOf(found.name), names);
    await check?.(training, merged, stored);
    const result = [...named].map(([key, p]) => [key, p.source()] as const);
    const metadata = metadataFor(checkpoint, stored);
    const checksums = await checksumsInThread(entries.values());
    await saveCheckpointFile(save, result, {
      ...{ metadata, onTensor, signal },
      confirm: () => checksums.done,
      // The checkpoint it was made of is still there, should the power fail.
      durable: false,
    });
    return {
      arch: found.name,
      numClasses: found.numClasses,
      blocks,
      tensors: [entries.size, result.length],
      values: [valuesOf(entries.values()), valuesOf(result.map(([, source]) => source))],
      metadata,
      remarks,
    };
  });
}

/** Resolves links; a file that does not exist yet is no other one. */
export function mustDiffer(load: string, save: string, what = "training checkpoint"): void {
  const real = (path: string): string | undefined => {
    try {
      return realpathSync(path);
    } catch {
      return undefined;
    }
  };
  const [a, b] = [real(load), real(save)];
  must(
    a === undefined || a !== b,
    "convert/same-file",
    () => `${save}: is the ${what} itself, which would be lost. Write to another file.`,
    "usage",
  );
}

/** Told before any work is done; what still goes wrong then is told by the writer. */
export function mustBeWritable(path: string): void {
  const folder = dirname(path);
  const refuse = (reason: string): never => {
    throw new RepmlpError("convert/unwritable", `${path}: cannot be written: ${reason}.`, "file");
  };
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) refuse("it is a folder. Name a file in it");
  const found = statSync(folder, { throwIfNoEntry: false });
  if (!found) refuse(`folder ${folder} does not exist. Create it`);
  if (!found?.isDirectory()) refuse(`${folder} is not a folder. Choose another path`);
  try {
    accessSync(folder, constants.W_OK);
  } catch {
    refuse(`no permission for folder ${folder}. Choose another path`);
  }
}

/** The training form in evaluation mode with a file's tensors behind its parameters; none is read. */
function bindTraining(where: string, { found, options, entries }: StoredModel, dtype: WantedType): Net {
  must(
    found.form === "train",
    "convert/already-deploy",
    () =>
      `${where}: holds the deploy form of ${found.name}, which is converted already. Use it as it is, or give the training checkpoint.`,
    "file",
  );
  const model = createDetected(found, options);
  // With another type wanted, float64 lies between: it holds every value, and the only rounding is the last one.
  const weights = asWeights(where, entries);
  const typeOf = (source: TensorSource): DType =>
    dtype === undefined || dtype === source.dtype || !isFloating(source.dtype) ? source.dtype : "float64";
  const keys = firstNames([...model.state()]);
  const training = mapModules(model, {
    parameter: (p) => {
      const key = keys.get(p) ?? "";
      const source = weights.get(key);
      return source && isFloating(p.dtype) ? p.to(typeOf(source)) : p.copy();
    },
  });
  training.loadStateDict(new Map([...weights].map(([key, source]) => [key, cast(source, typeOf(source))])));
  return training.initialize();
}

/** A tensor in another type when it is read. */
const cast = (source: TensorSource, dtype: DType): TensorSource =>
  dtype === source.dtype ? source : derived(dtype, source.shape, [source], (t) => t.cast(dtype));

export const valuesOf = (sources: Iterable<TensorSource>): number => {
  let sum = 0;
  for (const { shape } of sources) sum += sizeOf(shape);
  return sum;
};

/** Keeps what the checkpoint says of itself, but for the state of its training run. */
function metadataFor({ metadata }: Checkpoint, { found, options, preprocessing }: StoredModel): Record<string, string> {
  const { "repmlp.training": _, ...kept } = metadata;
  const own = checkpointMetadata({ arch: found.name, options, preprocessing });
  // As the file has it, unless another size is wanted.
  if (isOfSize(kept.preprocessing, preprocessing)) own.preprocessing = kept.preprocessing;
  // Other readers of safetensors ask for "format".
  return { format: "pt", ...kept, ...own, form: "deploy" };
}

const isOfSize = (text: string | undefined, { inputSize }: Preprocessing): text is string =>
  text !== undefined && `${(JSON.parse(text) as Preprocessing).inputSize}` === `${inputSize}`;

/** Bytes that a network's values take. */
export const stateBytes = (model: Net): number =>
  [...model.state()].reduce((sum, [, p]) => sum + sizeOf(p.shape) * dtypes[p.dtype].bytes, 0);
