import { randomBytes } from "node:crypto";
import { writeSync } from "node:fs";
import { type FileHandle, open, realpath, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { RepmlpError } from "../errors.ts";
import type { ByteSink } from "./sink.ts";

/** Bytes per system call. Larger writes were seen to take up to ten times as long (Linux 6, ext4). */
const WRITE_BYTES = 2 ** 19;

/** After so many bytes the disk is set to work on them, while we go on; the sync at the end then has little left. */
const SYNC_BYTES = 2 ** 26;

/**
 * Writes a file so that its path holds either the old content or the whole new one: into a temporary file in the same
 * folder, flushed to disk, then renamed. When `write` fails the temporary file is removed and the old file is untouched.
 * A symbolic link stays one; the file it points to is replaced.
 *
 * @throws RepmlpError `checkpoint/disk-full` or `checkpoint/write` for what the file system refuses; what `write` throws
 */
export async function writeFileAtomically(path: string, write: (sink: ByteSink) => Promise<void>): Promise<void> {
  const target = await realpath(path).catch(() => path);
  const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(6).toString("hex")}.tmp`);
  const failed = (cause: unknown) => writeError(path, cause);
  const file = await open(temporary, "wx").catch((cause) => Promise.reject(failed(cause)));
  try {
    try {
      const sink = sinkOf(file, failed);
      await write(sink);
      await sink.finish();
    } finally {
      await file.close();
    }
    await rename(temporary, target).catch((cause) => Promise.reject(failed(cause)));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(target));
}

/** Writes are synchronous: into the system's cache they take less time than a round trip through the thread pool. */
function sinkOf(file: FileHandle, failed: (cause: unknown) => RepmlpError): ByteSink & { finish(): Promise<void> } {
  let unsynced = 0;
  let syncing: Promise<void> = Promise.resolve();
  const sync = () => {
    unsynced = 0;
    syncing = syncing.then(() => file.datasync());
    syncing.catch(() => {}); // reported by finish()
  };
  return {
    write(chunk) {
      try {
        for (let done = 0; done < chunk.length; )
          done += writeSync(file.fd, chunk, done, Math.min(chunk.length - done, WRITE_BYTES));
      } catch (cause) {
        throw failed(cause);
      }
      unsynced += chunk.length;
      if (unsynced >= SYNC_BYTES) sync();
    },
    patch(chunk, offset) {
      try {
        writeSync(file.fd, chunk, 0, chunk.length, offset);
      } catch (cause) {
        throw failed(cause);
      }
    },
    async finish() {
      try {
        await syncing;
        await file.sync();
      } catch (cause) {
        throw failed(cause);
      }
    },
  };
}

/** Makes the rename itself durable; file systems that cannot sync a folder do not need it. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}

function writeError(path: string, cause: unknown): RepmlpError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const error = (kind: string, text: string) =>
    new RepmlpError(`checkpoint/${kind}`, `${path}: ${text}`, "file", { cause });
  if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG")
    return error(
      "disk-full",
      `cannot be written: the disk is full (${code}). What was there before is kept; free some space.`,
    );
  if (code === "ENOENT") return error("write", `cannot be written: folder ${dirname(path)} does not exist. Create it.`);
  if (code === "EACCES" || code === "EPERM" || code === "EROFS")
    return error(
      "write",
      `cannot be written: no permission for folder ${dirname(path)} (${code}). Choose another path.`,
    );
  return error("write", `cannot be written: ${message}. What was there before is kept.`);
}
