import { RepmlpError } from "../../errors.ts";
import { type Checkpoint, type OpenCheckpointOptions, openCheckpoint } from "../checkpoint.ts";
import type { SaveOptions, TensorEntry } from "../save-task.ts";
import { type SaveFormat, writeCheckpoint } from "../writer.ts";
import { type AtomicFileOptions, writeFileAtomically } from "./atomic-file.ts";
import { openSource } from "./open-source.ts";

/**
 * Opens a checkpoint file; see {@link openCheckpoint}. The file stays open for reading tensors: close it, or write
 * `using checkpoint = …`. A pipe (`/dev/stdin`) is read whole.
 */
export async function openCheckpointFile(path: string, options?: OpenCheckpointOptions): Promise<Checkpoint> {
  const source = await openSource(path);
  try {
    return await openCheckpoint(source, options);
  } catch (error) {
    source.close?.();
    throw error;
  }
}

export interface SaveFileOptions extends SaveOptions, AtomicFileOptions {
  /** By default the file name decides: `.safetensors`, or `.pth`, `.pt`, `.th`, `.ckpt`, `.bin`. */
  readonly format?: SaveFormat;
}

/**
 * Writes a checkpoint file, one tensor in memory at a time, through a temporary file and a rename: the path holds the
 * old file or the whole new one, whatever happens. See {@link writeCheckpoint} for what may be written.
 *
 * @throws RepmlpError `checkpoint/disk-full`, `checkpoint/write`, `checkpoint/save-format` for an unknown ending
 * @example await saveCheckpointFile("deploy.safetensors", checkpoint.entries, { metadata: { format: "pt" } });
 */
export async function saveCheckpointFile(
  path: string,
  entries: Iterable<TensorEntry>,
  options: SaveFileOptions = {},
): Promise<void> {
  const format = options.format ?? formatOfName(path);
  await writeFileAtomically(path, (sink) => writeCheckpoint(sink, entries, { ...options, format }), options);
}

/** The format that a file name asks for. */
export function formatOfName(path: string): SaveFormat {
  if (/\.safetensors$/i.test(path)) return "safetensors";
  if (/\.(pth|pt|th|ckpt|bin)$/i.test(path)) return "pth";
  throw new RepmlpError(
    "checkpoint/save-format",
    `${path}: its ending does not say which format to write. Use .pth or .safetensors.`,
    "usage",
  );
}
