import { must } from "../errors.ts";
import { writeSafetensors } from "./safetensors/writer.ts";
import type { SaveOptions, SaveTask, TensorEntry } from "./save-task.ts";
import { BlobSink, type ByteSink } from "./sink.ts";
import { shortened } from "./text.ts";
import { writePth } from "./torch/writer.ts";

export type SaveFormat = "pth" | "safetensors";

/**
 * Writes a checkpoint to a sink, front to back, reading one tensor at a time. `.pth` is what `torch.save` writes of an
 * `OrderedDict` of tensors (`torch.load` takes it, with `weights_only=True` too), with metadata as its attribute
 * `metadata`; safetensors as its reference.
 *
 * @param entries  keys and tensors, in the order of the state dict; any keys that are valid Unicode, each once
 * @throws RepmlpError `checkpoint/save-key` for a repeated or malformed key, `checkpoint/save-metadata`, `checkpoint/save-wrapper`, and whatever
 *   reading a tensor throws
 */
export async function writeCheckpoint(
  sink: ByteSink,
  entries: Iterable<TensorEntry>,
  { format, ...options }: SaveOptions & { readonly format: SaveFormat },
): Promise<void> {
  const task: SaveTask = { ...options, sink, entries: [...entries], metadata: options.metadata ?? {} };
  checkKeys(task, format);
  await (format === "pth" ? writePth(task) : writeSafetensors(task));
}

/** A checkpoint as a Blob, for a page to offer as a download. */
export async function checkpointBlob(
  entries: Iterable<TensorEntry>,
  options: SaveOptions & { readonly format: SaveFormat },
): Promise<Blob> {
  const sink = new BlobSink();
  await writeCheckpoint(sink, entries, options);
  return sink.blob();
}

function checkKeys({ entries, metadata, wrapper }: SaveTask, format: SaveFormat): void {
  must(
    wrapper === undefined || (format === "pth" && isUnicode(wrapper)),
    "checkpoint/save-wrapper",
    () => `save: the wrapper ${JSON.stringify(wrapper)} needs a .pth and valid Unicode. Leave it out, or save as .pth.`,
    "usage",
  );
  const seen = new Set<string>();
  for (const [key] of entries) {
    must(!seen.has(key), "checkpoint/save-key", () => `save: key "${shortened(key)}" is given twice.`, "usage");
    must(
      isUnicode(key),
      "checkpoint/save-key",
      () => `save: key ${JSON.stringify(shortened(key))} is not valid Unicode. Rename it.`,
      "usage",
    );
    seen.add(key);
  }
  const pairs = Object.entries(metadata);
  must(
    pairs.every(([name, text]) => typeof text === "string" && isUnicode(name) && isUnicode(text)),
    "checkpoint/save-metadata",
    () => "save: metadata must map strings to strings of valid Unicode.",
    "usage",
  );
  must(
    format === "pth" || !seen.has("__metadata__"),
    "checkpoint/save-key",
    () => 'save: safetensors keeps the key "__metadata__" for itself. Rename the tensor.',
    "usage",
  );
}

/** No half of a surrogate pair stands alone; the encoder would replace it and change the key. */
const isUnicode = (text: string): boolean => !/\p{Surrogate}/u.test(text);
