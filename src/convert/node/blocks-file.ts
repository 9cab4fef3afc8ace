import { checksumsInThread } from "../../checkpoint/node/crc32-thread.ts";
import { formatOfName, openCheckpointFile, saveCheckpointFile } from "../../checkpoint/node/index.ts";
import { modelEntries, remarksOn } from "../../inference/open-model.ts";
import { mustHavePrefix } from "../../models/detect.ts";
import type { TensorSource } from "../../tensor/index.ts";
import { type MergeBlocksOptions, type MergedBlocks, mergeBlocks } from "../merge-blocks.ts";
import { mustBeWritable, mustDiffer, valuesOf } from "./checkpoint-file.ts";

export interface ConvertBlocksOptions extends Omit<MergeBlocksOptions, "where" | "ordered"> {
  /** Key of the state dict inside a `.pth`, such as `params_ema`. By default the usual ones are tried. */
  readonly key?: string | undefined;
  /** Only keys that begin with this are taken, and written without it. */
  readonly prefix?: string | undefined;
  /** Told before each tensor is written. */
  readonly onTensor?: (key: string, index: number, count: number) => void;
  /** Stops the conversion between two tensors; nothing is left behind. */
  readonly signal?: AbortSignal;
}

export interface BlocksConversion extends Omit<MergedBlocks, "entries"> {
  /** Number of tensors and of values, before and after. */
  readonly tensors: readonly [before: number, after: number];
  readonly values: readonly [before: number, after: number];
  /** What was not taken over, in words. */
  readonly remarks: readonly string[];
}

/**
 * Merges the blocks in a checkpoint file of any network that are known by their keys ({@link mergeBlocks}), as a stream:
 * memory holds one block, whatever the size of the file. Keys stay what they are, but for those of merged layers; of what
 * lies beside the state dict nothing is read, and nothing in the file is executed.
 *
 * @throws what `mergeBlocks`, reading and writing checkpoints throw; `convert/same-file`, `convert/unwritable`,
 *   `detect/prefix`
 */
export async function convertBlocksFile(
  load: string,
  save: string,
  { key, prefix, onTensor, signal, ...options }: ConvertBlocksOptions = {},
): Promise<BlocksConversion> {
  formatOfName(save);
  mustDiffer(load, save);
  mustBeWritable(save);
  using checkpoint = await openCheckpointFile(load, {
    ...(key !== undefined && { wrapper: key }),
    stripModulePrefix: prefix === undefined,
  });
  const state = modelEntries(checkpoint.entries);
  mustHavePrefix([...state.keys()], prefix, checkpoint.name);
  const inside = new Map<string, TensorSource>();
  const leftOut: string[] = [];
  for (const [name, source] of state)
    if (name.startsWith(prefix ?? "")) inside.set(name.slice((prefix ?? "").length), source);
    else leftOut.push(name);
  const { entries, blocks, warnings } = await mergeBlocks(inside, {
    ...options,
    ...(checkpoint.format !== "safetensors" && { ordered: true }),
    where: checkpoint.name,
  });
  const { "repmlp.training": _, form: __, ...kept } = checkpoint.metadata;
  const checksums = await checksumsInThread(inside.values());
  await saveCheckpointFile(save, entries, {
    metadata: { format: "pt", ...kept },
    ...{ onTensor, signal },
    confirm: () => checksums.done,
    // The checkpoint it was made of is still there, should the power fail.
    durable: false,
  });
  return {
    ...{ blocks, warnings },
    tensors: [inside.size, entries.size],
    values: [valuesOf(inside.values()), valuesOf(entries.values())],
    remarks: remarksOn(checkpoint, checkpoint.entries.size - state.size, {
      ...(prefix && { prefix }),
      ...(leftOut.length && { leftOut }),
    }),
  };
}
