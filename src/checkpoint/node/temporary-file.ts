import { readdir, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isRunning, type ProcessIdentity, thisProcess } from "./processes.ts";

/** `.<file>.<host>-<pid>-<start>-<random>.tmp`, and without the process as earlier versions wrote it. */
const pattern = /^\..*?\.?(?:([\w-]+)~(\d+)~(\d*)~)?[0-9a-f]{12}\.tmp$/;

/** Names without a process are left alone for so long: an earlier version may be writing there. */
const UNKNOWN_MS = 24 * 3600 * 1000;

const tame = (host: string): string => host.replace(/[^\w-]/g, "_");

/**
 * Where a file is written before it takes its place: beside it, under a name that says which process is writing. What
 * processes that are gone have left in that folder is removed first.
 */
export async function temporaryPath(target: string): Promise<string> {
  const { randomBytes } = await import("node:crypto");
  const folder = dirname(target);
  await removeOrphans(folder);
  const { host, pid, started } = thisProcess();
  return join(folder, `.${basename(target)}.${tame(host)}~${pid}~${started}~${randomBytes(6).toString("hex")}.tmp`);
}

const cleaned = new Set<string>();

/** Removes temporary files whose process is gone; once per folder and process. */
async function removeOrphans(folder: string): Promise<void> {
  if (cleaned.has(folder)) return;
  cleaned.add(folder);
  // Where it cannot be listed, writing tells why.
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    const found = pattern.exec(name);
    if (found && (await isOrphan(join(folder, name), found)))
      await rm(join(folder, name), { force: true }).catch(() => {});
  }
}

async function isOrphan(path: string, [, host, pid, started]: RegExpExecArray): Promise<boolean> {
  const own = thisProcess();
  if (host !== undefined) {
    if (host !== tame(own.host)) return false;
    const writer: ProcessIdentity = { host: own.host, pid: Number(pid), started };
    return isRunning(writer) === false;
  }
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && Date.now() - found.mtimeMs > UNKNOWN_MS;
}
