import type { Checkpoint } from "../../checkpoint/checkpoint.ts";
import { openCheckpointFile } from "../../checkpoint/node/checkpoint-file.ts";
import { type OpenedModel, openModel, type ReadModelOptions, readModel, type StoredModel } from "../open-model.ts";

export interface OpenModelOptions extends ReadModelOptions {
  /** Key of the state dict inside a `.pth`, such as `model_ema`. By default the usual ones are tried. */
  readonly key?: string | undefined;
}

/** Options of the checkpoint: a prefix that is asked for is looked for in the keys as they are. */
const fileOptions = ({ key, prefix }: OpenModelOptions) => ({
  ...(key !== undefined && { wrapper: key }),
  stripModulePrefix: prefix === undefined,
});

/**
 * Opens a `.pth` or `.safetensors` checkpoint as a network: the one way in which every command opens one. Architecture,
 * form and number of classes are found from keys and shapes; options, class names and preprocessing are those that the
 * file states.
 *
 * @throws what {@link readModel} and opening a checkpoint throw
 */
export async function openModelFile(path: string, options: OpenModelOptions = {}): Promise<OpenedModel> {
  const checkpoint = await openModelCheckpoint(path, options);
  try {
    return openModel(checkpoint, options);
  } catch (error) {
    checkpoint.close();
    throw error;
  }
}

/** A checkpoint file of which a network may be taken; close it. */
export const openModelCheckpoint = (path: string, options: OpenModelOptions): Promise<Checkpoint> =>
  openCheckpointFile(path, fileOptions(options));

/** A checkpoint file for `use`, which is closed afterwards. */
export async function withModelFile<T>(
  path: string,
  options: OpenModelOptions,
  use: (stored: StoredModel, checkpoint: Checkpoint) => Promise<T>,
): Promise<T> {
  using checkpoint = await openModelCheckpoint(path, options);
  return await use(readModel(checkpoint, options), checkpoint);
}
