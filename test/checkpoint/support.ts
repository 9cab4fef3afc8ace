import { readFileSync } from "node:fs";
import { join } from "node:path";
import { memorySource } from "../../src/checkpoint/byte-source.ts";
import { type OpenCheckpointOptions, openCheckpoint, writeCheckpoint } from "../../src/checkpoint/index.ts";
import type { SaveOptions, TensorEntry } from "../../src/checkpoint/save-task.ts";
import { CollectingSink } from "../../src/checkpoint/sink.ts";
import type { SaveFormat } from "../../src/checkpoint/writer.ts";
import { ZipWriter } from "../../src/checkpoint/zip/writer.ts";
import { RepmlpError } from "../../src/errors.ts";

export const fixtures = join(import.meta.dirname, "..", "fixtures", "checkpoints");

export const fixture = (name: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(join(fixtures, name)));

export const open = (bytes: Uint8Array<ArrayBuffer>, name = "model.pth", options?: OpenCheckpointOptions) =>
  openCheckpoint(memorySource(bytes, name), options);

/** Opens bytes and reads every tensor; resolves to the error of whatever fails. */
export async function failure(
  bytes: Uint8Array<ArrayBuffer>,
  name?: string,
  options?: OpenCheckpointOptions,
): Promise<RepmlpError> {
  try {
    const checkpoint = await open(bytes, name, options);
    for (const tensor of checkpoint.entries.values()) await tensor.read();
  } catch (error) {
    if (error instanceof RepmlpError) return error;
    throw error;
  }
  throw new Error("the file was accepted");
}

export const concat = (...parts: Uint8Array[]): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.concat(parts));

/** Collects what a writer writes. */
export class MemorySink {
  private readonly chunks: Uint8Array[] = [];
  write(chunk: Uint8Array): void {
    this.chunks.push(chunk.slice());
  }
  bytes(): Uint8Array<ArrayBuffer> {
    return concat(...this.chunks);
  }
}

export async function save(
  entries: Iterable<TensorEntry>,
  options: SaveOptions & { readonly format: SaveFormat },
): Promise<Uint8Array<ArrayBuffer>> {
  const sink = new MemorySink();
  await writeCheckpoint(sink, entries, options);
  return sink.bytes();
}

/** A zip file of stored entries. */
export async function zipOf(files: Readonly<Record<string, Uint8Array>>): Promise<Uint8Array<ArrayBuffer>> {
  const memory = new MemorySink();
  const sink = new CollectingSink(memory);
  const zip = new ZipWriter(sink);
  for (const [name, data] of Object.entries(files)) {
    const bytes = new Uint8Array(data);
    await zip.add(name, { length: bytes.length, pieces: () => [bytes] });
  }
  await zip.finish();
  await sink.flush();
  return memory.bytes();
}

/** A `.pth` whose pickle is given as text, one character per byte, and whose storage "0" is eight float32 zeros. */
export const pthOf = (pickle: string): Promise<Uint8Array<ArrayBuffer>> =>
  zipOf({ "x/data.pkl": Buffer.from(pickle, "latin1"), "x/data/0": new Uint8Array(32) });

export const u32 = (value: number): string => {
  const raw = Buffer.alloc(4);
  raw.writeUInt32LE(value);
  return raw.toString("latin1");
};

/** Pickle of a text. */
export const text = (value: string): string => {
  const raw = Buffer.from(value, "utf8");
  return `X${u32(raw.length)}${raw.toString("latin1")}`;
};

const storage = `(${text("storage")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}K\x08tQ`;
const matrix = { shape: "(K\x02K\x04t", strides: "(K\x04K\x01t", offset: "K\x00", storage };

/** Pickle of a tensor of storage "0", which has eight elements; its parts can be replaced by other pickles. */
export function tensor(parts: Partial<typeof matrix> = {}): string {
  const t = { ...matrix, ...parts };
  return `ctorch._utils\n_rebuild_tensor_v2\n(${t.storage}${t.offset}${t.shape}${t.strides}\x89}tR`;
}

/** Pickle of a dict with one good tensor "w" and more. */
export const stateDict = (more = ""): string => `\x80\x02}(${text("w")}${tensor()}${more}u.`;
