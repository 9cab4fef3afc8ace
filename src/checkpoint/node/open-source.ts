import { closeSync, constants, openSync, readSync, type Stats, statSync } from "node:fs";
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
  const own = descriptorOf(path);
  // Opened without waiting for somebody to write, which could not be interrupted.
  const descriptor = own ?? openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const first = own === undefined ? firstBytes(descriptor) : undefined;
  if (first?.length === 0) closeSync(descriptor);
  demand(first?.length !== 0, "pipe", () => nothing(path));
  const stream = descriptor === 0 ? process.stdin : new Socket({ fd: descriptor, readable: true, writable: false });
  const chunks: Uint8Array[] = first ? [first] : [];
  let total = first?.length ?? 0;
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
  demand(total > 0, "pipe", () => nothing(path));
  return new Uint8Array(Buffer.concat(chunks));
}

const nothing = (path: string): string =>
  `${path}: is a pipe, and nothing came through it. Start what writes into it first.`;

/** What is in a pipe already: no bytes where nobody has it open for writing, `undefined` where they are yet to come. */
function firstBytes(descriptor: number): Uint8Array | undefined {
  const bytes = Buffer.alloc(2 ** 16);
  try {
    return bytes.subarray(0, readSync(descriptor, bytes));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return undefined;
    throw error;
  }
}
