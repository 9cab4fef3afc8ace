import { readFileSync, type Stats } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { listed, must, RepmlpError } from "../../errors.ts";
import type { NamedBytes } from "../sets/idx-dataset.ts";

/** Reads a whole file. Throws `data/read` naming it. */
export async function readNamed(path: string): Promise<NamedBytes> {
  try {
    return named(path, await readFile(path));
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

/** As {@link readNamed}; takes a fraction of its processor time for small files, but the thread waits for the disk. */
export function readNamedSync(path: string): NamedBytes {
  try {
    return named(path, readFileSync(path));
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

const named = (name: string, { buffer, byteOffset, byteLength }: Buffer): NamedBytes => ({
  name,
  bytes: new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength),
});

const unreadable = (path: string, cause: unknown): RepmlpError =>
  new RepmlpError("data/read", `${path}: cannot be read (${reason(cause)})`, "file", { cause });

/** Names in a folder, sorted. Throws `data/folder` naming it. */
export async function listFolder(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (cause) {
    throw new RepmlpError("data/folder", `${folder}: the folder cannot be read (${reason(cause)})`, "file", { cause });
  }
}

/** What a path leads to, through symbolic links. Throws `data/read` naming it, as for a link into nowhere. */
export async function statOf(path: string): Promise<Stats> {
  try {
    return await stat(path);
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

/** The first of `names` that is in `folder`, as a path; throws `data/missing` listing what is there. */
export async function findFile(folder: string, names: readonly string[]): Promise<string> {
  const present = await listFolder(folder);
  const found = names.find((name) => present.includes(name));
  must(
    found !== undefined,
    "data/missing",
    () => `${folder}: no ${names[0]} (nor ${listed(names.slice(1))}). The folder holds ${listed(present) || "nothing"}`,
    "file",
  );
  return join(folder, found);
}

export const reason = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));
