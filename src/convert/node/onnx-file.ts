import { mkdtemp, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileSource } from "../../checkpoint/node/index.ts";
import { openOnnx, saveOnnx } from "../../inference/node/onnx-file.ts";
import { type OnnxModel, onnxSkeleton } from "../../onnx/index.ts";
import { dtypes, sizeOf, type Tensor } from "../../tensor/index.ts";
import { type ConvertOnnxOptions, convertModel, type OnnxConversion } from "../onnx/conversion.ts";
import type { OnnxRunner } from "../onnx/proof.ts";
import { openRunner } from "../onnx/runner.ts";
import { mustBeWritable, mustDiffer } from "./checkpoint-file.ts";

/** What became of an ONNX file. */
export interface ConvertedOnnxFile extends OnnxConversion {
  /** The files that were written: the model, and its weights where they are apart. */
  readonly paths: readonly string[];
}

/**
 * Merges an ONNX file (`mergeOnnx`), runs both files and writes the result if their outputs are equal. All else that
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
  options: ConvertOnnxOptions = {},
): Promise<ConvertedOnnxFile> {
  mustDiffer(load, save, "model");
  mustBeWritable(save);
  const model = await openOnnx(load, { keep: true });
  const folder = await mkdtemp(join(dirname(save), ".onnx-"));
  try {
    const made = join(folder, basename(save));
    let written: readonly string[] = [];
    const conversion = await convertModel(
      model,
      {
        name: load,
        bytes: await bytesOf(load, model),
        open: (optimize) => openFile(load, optimize),
        write: async (merged) => {
          const { paths, bytes } = await saveOnnx(made, merged, { ...(hasExternal(model) && { external: true }) });
          written = paths;
          return { bytes, open: (optimize) => openFile(made, optimize) };
        },
      },
      options,
    );
    // The weights first: the model must never point to what is not there.
    for (const path of written.toReversed()) await rename(path, join(dirname(save), basename(path)));
    return { ...conversion, paths: written.map((path) => join(dirname(save), basename(path))) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
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

/** From this size on weights are mapped from the file, which the runtime would otherwise read into memory first. */
const MAPPED_BYTES = 2 ** 22;

/** A session over a file. Its weights stay in the file: what the runtime is given holds everything else as it is there. */
async function openFile(path: string, optimize: boolean): Promise<OnnxRunner> {
  const real = await realpath(path);
  const file = fileSource(real);
  try {
    if (file.size < MAPPED_BYTES) return await openRunner(real, { optimize });
    const whole = { size: file.size, readSync: (offset: number, length: number) => file.readSync!(offset, length) };
    const skeleton = onnxSkeleton(whole, basename(real));
    if (!skeleton) return await openRunner(real, { optimize });
    return await openRunner(skeleton, { optimize, weightsFolder: dirname(real) });
  } finally {
    file.close?.();
  }
}

const byteLength = ({ dtype, shape }: Pick<Tensor, "dtype" | "shape">): number => sizeOf(shape) * dtypes[dtype].bytes;
