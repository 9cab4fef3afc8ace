import { existsSync } from "node:fs";
import { mkdir, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpointFile, saveCheckpointFile, temporaryPath } from "../../checkpoint/node/index.ts";
import { must, RepmlpError } from "../../errors.ts";
import { fmtBytes, type Tensor } from "../../tensor/index.ts";
import type { CheckpointStore } from "../checkpoint-store.ts";

/**
 * Checkpoints as `<folder>/<name>.safetensors`, each written through a temporary file and a rename, so that a crash or
 * a full disk leaves the one before.
 *
 * @throws `store/unwritable`, `store/space` on `prepare` when the folder cannot be made or written to, or has no room
 */
export function folderStore(folder: string): CheckpointStore {
  const path = (name: string): string => join(folder, `${name}.safetensors`);
  return {
    async prepare(bytes = 0) {
      await tryWriting(folder);
      await checkSpace(folder, bytes);
    },
    async save(name, { entries, metadata }) {
      await saveCheckpointFile(path(name), entries, { metadata });
      return path(name);
    },
    async load(name) {
      if (!existsSync(path(name))) return undefined;
      // Read whole and closed, because the file is going to be replaced while the run goes on.
      using file = await openCheckpointFile(path(name));
      const entries = new Map<string, Tensor>();
      for (const [key, source] of file.entries) entries.set(key, await source.read());
      return { entries, metadata: file.metadata, where: path(name) };
    },
  };
}

/** Permissions alone do not tell: the file system may be read-only or full. */
async function tryWriting(folder: string): Promise<void> {
  const probe = await temporaryPath(join(folder, "probe"));
  try {
    await mkdir(folder, { recursive: true });
    await writeFile(probe, new Uint8Array(4096));
    await rm(probe);
  } catch (cause) {
    await rm(probe, { force: true }).catch(() => {});
    const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new RepmlpError(
      "store/unwritable",
      `${folder}: checkpoints cannot be written there (${reason}). Choose another folder.`,
      "file",
      { cause },
    );
  }
}

/** A new checkpoint is complete before it takes the old one's place. */
async function checkSpace(folder: string, bytes: number): Promise<void> {
  // Where the system cannot tell, a write that fails later leaves the checkpoint before it.
  const disk = await statfs(folder).catch(() => undefined);
  if (!disk) return;
  const free = disk.bavail * disk.bsize;
  must(
    free >= bytes,
    "store/space",
    () =>
      `${folder}: a checkpoint needs ${fmtBytes(bytes)}, the disk has ${fmtBytes(free)} left. Free some space or choose another folder.`,
    "file",
  );
}
