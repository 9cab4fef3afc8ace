import { type Dirent, readFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { listed, must, RepmlpError } from "../../errors.ts";
import { byCodePoint } from "../../text.ts";
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

/** What is in a folder, by code point of the names. Throws `data/folder` naming it. */
export async function listEntries(folder: string): Promise<Dirent[]> {
  try {
    return (await readdir(folder, { withFileTypes: true })).sort((a, b) => byCodePoint(a.name, b.name));
  } catch (cause) {
    throw new RepmlpError("data/folder", `${folder}: the folder cannot be read (${reason(cause)})`, "file", { cause });
  }
}

/** Names in a folder, by code point. Throws `data/folder` naming it. */
export const listFolder = async (folder: string): Promise<string[]> =>
  (await listEntries(folder)).map(({ name }) => name);

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
