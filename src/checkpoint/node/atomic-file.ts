import { type FileHandle, open, realpath, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { RepmlpError } from "../../errors.ts";
import type { ByteSink } from "../sink.ts";
import { temporaryPath } from "./temporary-file.ts";

/** Bytes per system call. Larger writes were seen to take up to ten times as long (Linux 6, ext4). */
const WRITE_BYTES = 2 ** 19;

/** After so many bytes the disk is set to work on them, while we go on; the sync at the end then has little left. */
const SYNC_BYTES = 2 ** 26;

export interface AtomicFileOptions {
  /**
   * Waits until the disk has the bytes, so that not even a power failure leaves less. Default true; what can be made again
   * from another file need not wait.
   */
  readonly durable?: boolean;
  /** Awaited when all is written, before the file takes its place; may throw to leave the old one there. */
  readonly confirm?: () => Promise<void>;
}

/**
 * Writes a file so that its path holds either the old content or the whole new one: into a temporary file in the same
 * folder, flushed to disk, then renamed; what a process that was killed has left there is removed first. When `write` fails the temporary file is removed and the old file is untouched.
 * A symbolic link stays one; the file it points to is replaced.
 *
 * @throws RepmlpError `checkpoint/disk-full` or `checkpoint/write` for what the file system refuses; what `write` throws
 */
export async function writeFileAtomically(
  path: string,
  write: (sink: ByteSink) => Promise<void>,
  { durable = true, confirm }: AtomicFileOptions = {},
): Promise<void> {
  const target = await realpath(path).catch(() => path);
  const temporary = await temporaryPath(target);
  const failed = (cause: unknown) => writeError(path, cause);
  const file = await open(temporary, "wx").catch((cause) => Promise.reject(failed(cause)));
  try {
    try {
      const sink = sinkOf(file, failed, durable);
      await write(sink);
      await sink.finish();
      await confirm?.();
    } finally {
      await file.close();
    }
    await rename(temporary, target).catch((cause) => Promise.reject(failed(cause)));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  if (durable) await syncFolder(dirname(target));
}

/**
 * Collects the bytes in two buffers in turn: while one is on its way to the disk on another thread, the other is filled.
 */
function sinkOf(
  file: FileHandle,
  failed: (cause: unknown) => RepmlpError,
  durable: boolean,
): ByteSink & { finish(): Promise<void> } {
  let [filling, other] = [new Uint8Array(WRITE_BYTES), new Uint8Array(WRITE_BYTES)];
  /** Bytes in `filling`, and where they belong in the file. */
  let [used, start] = [0, 0];
  let unsynced = 0;
  let writing: Promise<void> = Promise.resolve();
  let syncing: Promise<void> = Promise.resolve();
  const attempt = (next: () => Promise<void>): void => {
    writing = writing.then(next);
    writing.catch(() => {}); // told by whoever waits for it next
  };
  const flush = async (): Promise<void> => {
    await writing;
    const [bytes, at] = [filling.subarray(0, used), start];
    attempt(() => writeAll(file, bytes, at));
    [filling, other] = [other, filling];
    start += used;
    unsynced += used;
    used = 0;
    if (!durable || unsynced < SYNC_BYTES) return;
    unsynced = 0;
    syncing = Promise.all([syncing, writing]).then(() => file.datasync());
    syncing.catch(() => {}); // told by finish()
  };
  const telling = async (action: () => Promise<void>): Promise<void> => {
    try {
      await action();
    } catch (cause) {
      throw failed(cause);
    }
  };
  return {
    async write(chunk) {
      for (let done = 0; done < chunk.length; ) {
        const taken = Math.min(chunk.length - done, WRITE_BYTES - used);
        filling.set(chunk.subarray(done, done + taken), used);
        used += taken;
        done += taken;
        if (used === WRITE_BYTES) await telling(flush);
      }
    },
    patch(chunk, offset) {
      // Any part of it may have left the buffer.
      const gone = Math.max(0, Math.min(chunk.length, start - offset));
      if (gone) attempt(() => writeAll(file, chunk.subarray(0, gone), offset));
      if (gone < chunk.length) filling.set(chunk.subarray(gone), offset + gone - start);
    },
    finish: () =>
      telling(async () => {
        await flush();
        await writing;
        await syncing;
        if (durable) await file.sync();
      }),
  };
}

async function writeAll(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
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
