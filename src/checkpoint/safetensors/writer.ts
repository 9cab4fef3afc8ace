import { type DType, dtypes, sizeOf } from "../../tensor/index.ts";
import { payloads, type SaveTask, type TensorEntry } from "../save-task.ts";
import { CollectingSink } from "../sink.ts";
import { crc32 } from "../zip/crc32.ts";
import { safetensorsTypes } from "./reader.ts";

const typeNames = Object.fromEntries(Object.entries(safetensorsTypes).map(([name, dtype]) => [dtype, name])) as Record<
  DType,
  string
>;

/**
 * Writes safetensors. The header lists the tensors in the given order; their bytes are ordered by element size, largest
 * first, so that each is aligned for its type (readers map them into memory).
 */
export async function writeSafetensors(task: SaveTask): Promise<void> {
  const sink = new CollectingSink(task.sink);
  const inFileOrder = [...task.entries].sort(([, a], [, b]) => dtypes[b.dtype].bytes - dtypes[a.dtype].bytes);
  await sink.write(header(task, inFileOrder));
  for await (const payload of payloads(task, inFileOrder)) {
    let crc = 0;
    for await (const piece of payload.pieces()) {
      if (payload.confirm) crc = crc32(piece, crc);
      await sink.write(piece);
    }
    payload.confirm?.(crc);
  }
  await sink.flush();
}

function header({ entries, metadata }: SaveTask, inFileOrder: readonly TensorEntry[]): Uint8Array<ArrayBuffer> {
  const ranges = new Map<string, [number, number]>();
  let end = 0;
  for (const [key, { dtype, shape }] of inFileOrder) {
    const begin = end;
    end += sizeOf(shape) * dtypes[dtype].bytes;
    ranges.set(key, [begin, end]);
  }
  // Keys are written one by one: an object literal would treat "__proto__" and numbers in their own ways.
  const fields = entries.map(
    ([key, { dtype, shape }]) =>
      `${JSON.stringify(key)}:${JSON.stringify({ dtype: typeNames[dtype], shape, data_offsets: ranges.get(key) })}`,
  );
  if (Object.keys(metadata).length > 0) fields.unshift(`"__metadata__":${JSON.stringify(metadata)}`);
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  // Spaces after the header bring the data to a multiple of eight.
  const length = Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}
