import { fmt, must, RepmlpError } from "../../errors.ts";
import { sizeOf } from "../../tensor/index.ts";

/** The contents of an IDX file of unsigned bytes. */
export interface Idx {
  readonly shape: readonly number[];
  readonly data: Uint8Array<ArrayBuffer>;
}

/** Deflate cannot shrink data by more than this factor, so a header that promises more is a lie. */
const maxDeflateRatio = 1032;

/**
 * Reads an IDX file (the format of MNIST: big-endian, magic 0x0000 08 rank, one 32-bit size per axis, then the bytes),
 * gzipped or not. The size is taken from the header and checked before memory is allocated.
 *
 * @param name what to call the file in errors
 * @throws `idx/magic`, `idx/type`, `idx/truncated`, `idx/size`, `idx/gzip`
 */
export async function readIdx(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Idx> {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) {
    const { shape, start } = parseHeader(bytes, name);
    const data = bytes.subarray(start);
    checkSize(data.length, shape, name);
    return { shape, data };
  }
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  const next = async (): Promise<Uint8Array | undefined> => {
    try {
      return (await reader.read()).value;
    } catch (cause) {
      const message = `${name}: the gzip data is damaged or cut short (${bytes.length} bytes). Download the file again`;
      throw new RepmlpError("idx/gzip", message, "file", { cause });
    }
  };
  try {
    return await collect(next, bytes.length, name);
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function collect(next: () => Promise<Uint8Array | undefined>, packed: number, name: string): Promise<Idx> {
  let head = new Uint8Array(0);
  for (let chunk = await next(); chunk; chunk = await next()) {
    const joined = new Uint8Array(head.length + chunk.length);
    joined.set(head);
    joined.set(chunk, head.length);
    head = joined;
    if (head.length >= 4 && head.length >= 4 + 4 * head[3]) break;
  }
  const { shape, start } = parseHeader(head, name);
  const size = sizeOf(shape);
  must(
    size <= packed * maxDeflateRatio,
    "idx/size",
    () => `${name}: the header promises ${fmt(shape)} bytes, but ${packed} gzipped bytes cannot hold as many`,
    "file",
  );
  const data = new Uint8Array(size);
  let filled = 0;
  for (let chunk: Uint8Array | undefined = head.subarray(start); chunk; chunk = await next()) {
    if (filled + chunk.length > size) checkSize(filled + chunk.length, shape, name);
    data.set(chunk, filled);
    filled += chunk.length;
  }
  checkSize(filled, shape, name);
  return { shape, data };
}

function parseHeader(bytes: Uint8Array, name: string): { shape: number[]; start: number } {
  const cut = (): string => `${name}: the file ends inside its header (${bytes.length} bytes). Download it again`;
  must(bytes.length >= 4, "idx/truncated", cut, "file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = view.getUint32(0);
  must(
    magic >>> 16 === 0 && bytes[3] > 0,
    "idx/magic",
    () => `${name}: not an IDX file: it starts with 0x${magic.toString(16).padStart(8, "0")}, expected 0x000008NN`,
    "file",
  );
  must(
    bytes[2] === 8,
    "idx/type",
    () => `${name}: IDX element type 0x${bytes[2].toString(16)}; only unsigned bytes (0x8) can be read`,
    "file",
  );
  const start = 4 + 4 * bytes[3];
  must(bytes.length >= start, "idx/truncated", cut, "file");
  return { shape: Array.from({ length: bytes[3] }, (_, axis) => view.getUint32(4 + 4 * axis)), start };
}

function checkSize(found: number, shape: readonly number[], name: string): void {
  must(
    found === sizeOf(shape),
    found < sizeOf(shape) ? "idx/truncated" : "idx/size",
    () =>
      found < sizeOf(shape)
        ? `${name}: cut short in record ${recordOf(found, shape)}: the header says ${fmt(shape)} = ${sizeOf(shape)} bytes, the file has ${found}. Download it again`
        : `${name}: the header says ${fmt(shape)} = ${sizeOf(shape)} bytes, but the file has more`,
    "file",
  );
}

const recordOf = (byte: number, shape: readonly number[]): number => Math.floor(byte / sizeOf(shape.slice(1)));
