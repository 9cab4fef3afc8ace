import { randomBytes } from "node:crypto";
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isRunning, type ProcessIdentity, thisProcess } from "../../checkpoint/node/index.ts";
import { listed, must, RepmlpError } from "../../errors.ts";

/** Name of the file that says which process writes to a folder. */
export const lockName = ".repmlp.lock";

export interface RunFolderOptions {
  /** Goes on with what is there. */
  readonly resume?: boolean;
  /** Puts the run in the place of an earlier one. */
  readonly overwrite?: boolean;
  /** Names of the files that a run leaves: a folder that holds one of them holds an earlier run. */
  readonly results: readonly string[];
}

/** A folder that this process alone writes to. */
export interface RunFolder {
  /** With `overwrite`, takes away the earlier results: to be called when all that is read from there has been read. */
  clear(): void;
  /** Lets others write there. */
  release(): void;
}

/**
 * Claims a folder for a run and makes it where there is none. The claim ends with `release()` or with the process,
 * however that ends: a claim of a process that runs no longer is taken over.
 *
 * @throws `run-folder/taken` while another run writes there, `run-folder/results` where an earlier run's results lie and
 *   neither `resume` nor `overwrite` is asked for, `store/unwritable` where the folder cannot be made or written to
 */
export function claimRunFolder(
  folder: string,
  { resume = false, overwrite = false, results }: RunFolderOptions,
): RunFolder {
  must(
    !(resume && overwrite),
    "run-folder/options",
    () => "run: --resume goes on with a run, --overwrite takes it away. Choose one.",
    "usage",
  );
  const path = join(folder, lockName);
  try {
    mkdirSync(folder, { recursive: true });
    lock(path);
  } catch (cause) {
    if (cause instanceof RepmlpError) throw cause;
    const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new RepmlpError(
      "store/unwritable",
      `${folder}: cannot be written to (${reason}). Choose another folder.`,
      "file",
      { cause },
    );
  }
  const onExit = (): void => unlock(path);
  process.on("exit", onExit);
  const release = (): void => {
    process.off("exit", onExit);
    unlock(path);
  };
  try {
    const found = results.filter((name) => existsSync(join(folder, name)));
    must(
      resume || overwrite || !found.length,
      "run-folder/results",
      () =>
        `${folder}: holds the results of an earlier run (${listed(found, 3)}). Go on with it by --resume, replace it by --overwrite, or choose another folder by --out.`,
      "usage",
    );
  } catch (error) {
    release();
    throw error;
  }
  const clear = (): void => {
    if (overwrite) for (const name of results) rmSync(join(folder, name), { recursive: true, force: true });
  };
  return { clear, release };
}

interface Lock extends ProcessIdentity {
  /** For people. */
  readonly since: string;
}

/** Makes the lock file, whole or not at all; throws `run-folder/taken` while its holder runs. */
function lock(path: string): void {
  const text = JSON.stringify({ ...thisProcess(), since: new Date().toISOString() } satisfies Lock);
  // Whoever takes over a lock that is left may find that another one was faster, and then looks again.
  for (let attempt = 0; attempt < 50; attempt++) {
    if (create(path, text)) return;
    const { holder, content } = read(path);
    if (content === undefined) continue;
    const running = holder && isRunning(holder);
    must(
      running === false || holder === undefined,
      "run-folder/taken",
      () => taken(path, holder as Lock, running === true),
      "usage",
    );
    if (takeOver(path, content, text)) return;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  }
  throw new RepmlpError(
    "run-folder/taken",
    `${path}: several runs are claiming this folder at the same time. Start one, or use another folder (--out).`,
    "usage",
  );
}

function taken(path: string, { host, pid, since }: Lock, here: boolean): string {
  const folder = path.slice(0, -lockName.length - 1);
  return here
    ? `${folder}: another run writes there (process ${pid}, since ${since}). Wait for it, stop it, or choose another folder by --out.`
    : `${folder}: a run on ${host} writes there (process ${pid}, since ${since}). Choose another folder by --out; if that run is gone, delete ${path}.`;
}

/** Creates the file with its content in one; false where there is one. */
function create(path: string, text: string): boolean {
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  writeFileSync(draft, text, { flag: "wx" });
  try {
    linkSync(draft, path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return false;
    // A file system without links.
    return createPlainly(path, text);
  } finally {
    rmSync(draft, { force: true });
  }
}

function createPlainly(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** `content` is undefined where the file is gone; `holder` where nobody can be told from it. */
function read(path: string): { readonly holder?: Lock; readonly content?: string } {
  let content: string;
  try {
    content = readFileSync(path, "utf8");
  } catch {
    return {};
  }
  try {
    const { host, pid, started, since } = JSON.parse(content) as Partial<Lock>;
    if (typeof host !== "string" || !Number.isInteger(pid) || typeof started !== "string") return { content };
    return { content, holder: { host, pid: pid as number, started, since: String(since) } };
  } catch {
    return { content };
  }
}

/** A process that is gone may have been about to take over. */
const TAKEOVER_MS = 60_000;

/**
 * Replaces a lock that is left. Of several that try, one holds the mark of doing so, and it looks once more: a lock is
 * only replaced while it is the one that was found.
 */
function takeOver(path: string, content: string, text: string): boolean {
  const mark = `${path}.next`;
  if (!createPlainly(mark, "")) {
    const made = statSync(mark, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - made > TAKEOVER_MS) rmSync(mark, { force: true });
    return false;
  }
  try {
    if (read(path).content !== content) return false;
    const draft = `${path}.${randomBytes(6).toString("hex")}`;
    writeFileSync(draft, text, { flag: "wx" });
    renameSync(draft, path);
    return true;
  } finally {
    rmSync(mark, { force: true });
  }
}

/** Only our own. */
function unlock(path: string): void {
  const { holder } = read(path);
  const { host, pid, started } = thisProcess();
  if (holder?.host === host && holder.pid === pid && holder.started === started) rmSync(path, { force: true });
}
