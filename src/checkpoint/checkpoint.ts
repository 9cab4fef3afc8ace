import type { TensorSource } from "../tensor/index.ts";
import type { ByteSource } from "./byte-source.ts";
import { type CheckpointFormat, detectFormat } from "./detect-format.ts";
import { type Reading, runAsync } from "./reading.ts";
import { openSafetensors } from "./safetensors/reader.ts";
import { denseEntries } from "./sparse.ts";
import { openPthLegacy } from "./torch/legacy-container.ts";
import type { OtherValue } from "./torch/other-values.ts";
import { type StateDictOptions, stateDictOf, stripped } from "./torch/state-dict.ts";
import { openPthZip } from "./torch/zip-container.ts";

export interface OpenCheckpointOptions extends StateDictOptions {
  /**
   * When the CRC-32 of a zip container's storages is compared (the other formats have none). `read` (default): when a
   * storage is read first, so that opening is instant; the pickle's own is compared at opening. `open`: all before
   * `openCheckpoint` returns, which reads the whole file. `never`: none at all, for files whose writer did not compute them.
   */
  readonly verify?: "read" | "open" | "never";
}

interface CheckpointContents {
  readonly entries: ReadonlyMap<string, TensorSource>;
  readonly wrapper: string | undefined;
  readonly alternatives: readonly string[];
  readonly strippedPrefix: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly others: ReadonlyMap<string, OtherValue>;
  verify(): Reading<void>;
}

/** An opened checkpoint file: names, types and shapes are here, values are read when asked for. */
export class Checkpoint {
  /** The file's name, as messages give it. */
  readonly name: string;
  /** The state dict in file order; keys without a wrapper and without a leading `module.`. */
  readonly entries: ReadonlyMap<string, TensorSource>;
  /** Key under which the state dict was found, e.g. `state_dict`. */
  readonly wrapper: string | undefined;
  /** Keys under which other values of the same network lie, e.g. `state_dict_ema`; for `wrapper` in the options. */
  readonly alternatives: readonly string[];
  /** Whether a leading `module.` was taken off keys. */
  readonly strippedPrefix: boolean;
  /** What a safetensors file carries as `__metadata__`, and a `.pth` as the attribute `metadata` of its state dict. */
  readonly metadata: Readonly<Record<string, string>>;
  /** What lies beside the state dict in a `.pth`, by path: `epoch`, `optimizer.param_groups.0.lr`, …. */
  readonly others: ReadonlyMap<string, OtherValue>;

  /** @internal */
  constructor(
    private readonly source: ByteSource,
    readonly format: CheckpointFormat,
    private readonly contents: CheckpointContents,
  ) {
    this.name = source.name;
    this.entries = contents.entries;
    this.wrapper = contents.wrapper;
    this.alternatives = contents.alternatives;
    this.strippedPrefix = contents.strippedPrefix;
    this.metadata = contents.metadata;
    this.others = contents.others;
  }

  /** Reads everything once and compares all checksums. */
  verify(): Promise<void> {
    return runAsync(this.source, this.contents.verify());
  }

  /** Lets go of the file; tensors that were not read can no longer be. */
  close(): void {
    this.source.close?.();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Opens a `.pth` (zip or legacy container) or `.safetensors` file; which one it is shows in its content. Nothing in the
 * file is executed. Only descriptions are read (milliseconds, whatever the file's size); values come later, by range.
 *
 * @throws RepmlpError of kind `file` that names the file, and the tensor or Python name it is about:
 *   `checkpoint/not-a-checkpoint`, `/truncated`, `/refused` (a pickle that calls what it should not), `/whole-module`,
 *   `/no-state-dict`, `/missing-storage`, `/storage-length`, `/tensor`, `/crc` (on reading), …
 * @example
 * const checkpoint = await openCheckpoint(blobSource(file));
 * const weight = await checkpoint.entries.get("fc.weight")?.read();
 */
export async function openCheckpoint(source: ByteSource, options: OpenCheckpointOptions = {}): Promise<Checkpoint> {
  const { format, contents } = await runAsync(source, opening(source, options));
  return new Checkpoint(source, format, contents);
}

function* opening(
  source: ByteSource,
  options: OpenCheckpointOptions,
): Reading<{ format: CheckpointFormat; contents: CheckpointContents }> {
  const format = yield* detectFormat(source);
  if (format === "safetensors") {
    const { entries: stored, metadata } = yield* openSafetensors(source);
    const entries = denseEntries(source.name, stored, metadata);
    const { stripModulePrefix = true } = options;
    const names = stripped(source.name, entries, stripModulePrefix);
    return {
      format,
      contents: { ...names, wrapper: undefined, alternatives: [], metadata, others: new Map(), *verify() {} },
    };
  }
  const archive =
    format === "pth-zip"
      ? yield* openPthZip(source, options.verify === "never" ? "ignore" : "check")
      : yield* openPthLegacy(source);
  const contents = { ...stateDictOf(archive, options), verify: archive.verify };
  if (options.verify === "open") yield* archive.verify();
  return { format, contents };
}
