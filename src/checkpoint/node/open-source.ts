import { constants, openSync, type Stats, statSync } from "node:fs";
import { Socket } from "node:net";
import { type ByteSource, memorySource } from "../byte-source.ts";
import { demand } from "../file-error.ts";
import { fileSource } from "./file-source.ts";

/** The most that is taken from a pipe, all of which is held in memory. */
const MAX_PIPED = 2 ** 31;

/** What came through the pipes that were read: a pipe gives its bytes once, and a command may open a file twice. */
const piped = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();

/**
 * Opens what a path names for random access: a file by range; a pipe (`/dev/stdin`, `<(…)`, a FIFO) by reading all of it
 * into memory.
 *
 * @throws RepmlpError `checkpoint/open`, `checkpoint/not-a-file` (a folder, a device), `checkpoint/pipe` when nothing or
 *   too much comes through a pipe
 */
export async function openSource(path: string): Promise<ByteSource> {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats || !isPipe(path, stats)) return fileSource(path);
  // The number is part of the name: another process may be behind the same path next time.
  const name = `${path} ${stats.dev}:${stats.ino}`;
  const bytes = piped.get(name) ?? readPipe(path);
  piped.set(name, bytes);
  return memorySource(await bytes, path);
}

/** Sockets can only be read where they are open already, as the standard input. */
const isPipe = (path: string, stats: Stats): boolean =>
  stats.isFIFO() || (stats.isSocket() && descriptorOf(path) !== undefined);

/** The descriptor that a path stands for. */
function descriptorOf(path: string): number | undefined {
  const [, number] = /^\/(?:dev|proc\/self)\/fd\/(\d+)$/.exec(path) ?? [];
  return path === "/dev/stdin" ? 0 : number === undefined ? undefined : Number(number);
}

async function readPipe(path: string): Promise<Uint8Array<ArrayBuffer>> {
  // Opened without waiting for somebody to write, which could not be interrupted.
  const descriptor = descriptorOf(path) ?? openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const stream = descriptor === 0 ? process.stdin : new Socket({ fd: descriptor, readable: true, writable: false });
  const chunks: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of stream as AsyncIterable<Uint8Array>) {
    total += chunk.length;
    demand(
      total <= MAX_PIPED,
      "pipe",
      () =>
        `${path}: more than ${MAX_PIPED} bytes came through the pipe, which are kept in memory. Save them to a file.`,
    );
    chunks.push(chunk);
  }
  demand(total > 0, "pipe", () => `${path}: is a pipe, and nothing came through it. Start what writes into it first.`);
  return new Uint8Array(Buffer.concat(chunks));
}
