import { fmt } from "../../errors.ts";
import { type DType, dtypes, sizeOf, stridesOf, type TensorSource } from "../../tensor/index.ts";
import type { ByteSource } from "../byte-source.ts";
import { demand, refuse } from "../file-error.ts";
import { type Reading, readRange } from "../reading.ts";
import { FileRange } from "../stored-bytes.ts";
import { StoredTensor } from "../stored-tensor.ts";
import { decodeUtf8, shortened } from "../text.ts";
import { keysOfJson } from "./json-keys.ts";

/** The reference implementation's limit. */
const MAX_HEADER = 100_000_000;

/** Names of element types in safetensors. */
export const safetensorsTypes: Readonly<Record<string, DType>> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  I64: "int64",
  I32: "int32",
  I16: "int16",
  I8: "int8",
  U64: "uint64",
  U32: "uint32",
  U16: "uint16",
  U8: "uint8",
  BOOL: "bool",
};

/** A tensor as the header describes it; offsets count from the end of the header. */
interface HeaderEntry {
  readonly key: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/**
 * Opens a safetensors file: 8 bytes of header length (little-endian), a JSON header, the tensors' bytes. As strict as
 * the reference implementation: the byte ranges must follow one another without holes or overlaps and end with the
 * file, and no key may appear twice.
 */
export function* openSafetensors(
  source: ByteSource,
): Reading<{ entries: Map<string, TensorSource>; metadata: Record<string, string> }> {
  const { name } = source;
  const head = yield* readRange(source, 0, 8, "the header length");
  const length = new DataView(head.buffer, head.byteOffset).getBigUint64(0, true);
  demand(
    length <= source.size - 8,
    "truncated",
    () =>
      `${name}: header length ${length} exceeds the file (${source.size} bytes); it is truncated or not safetensors.`,
  );
  demand(
    length <= MAX_HEADER,
    "limit",
    () => `${name}: header length ${length} exceeds the limit of ${MAX_HEADER} bytes.`,
  );
  const raw = yield* readRange(source, 8, Number(length), "the header");
  const header = parseHeader(name, raw);
  const metadata = metadataOf(name, header.get("__metadata__"));
  header.delete("__metadata__");
  const found = [...header].map(([key, value]) => headerEntry(name, key, value));
  const dataStart = 8 + Number(length);
  checkRanges(name, found, source.size - dataStart);
  const entries = new Map(found.map((entry) => [entry.key, tensorOf(source, dataStart, entry)] as const));
  return { entries, metadata };
}

const tensorOf = (
  source: ByteSource,
  dataStart: number,
  { key, dtype, shape, begin, end }: HeaderEntry,
): TensorSource =>
  new StoredTensor(
    source,
    key,
    { dtype, shape, strides: stridesOf(shape), offset: 0 },
    new FileRange(source, dataStart + begin, end - begin, `tensor "${shortened(key)}"`),
  );

function parseHeader(name: string, raw: Uint8Array): Map<string, unknown> {
  const text = decodeUtf8(raw) ?? "";
  demand(
    text.startsWith("{"),
    "safetensors",
    () => `${name}: the header is not a JSON object in UTF-8. The file is damaged or not safetensors.`,
  );
  let header: Record<string, unknown>;
  try {
    header = JSON.parse(text);
  } catch (cause) {
    return refuse(
      "safetensors",
      `${name}: the header is not valid JSON (${shortened(String(cause))}). Get the file again.`,
      cause,
    );
  }
  const { outermost, repeated } = keysOfJson(text);
  demand(
    repeated === undefined,
    "safetensors",
    () => `${name}: the header has key "${shortened(repeated ?? "")}" twice. The file is damaged or made to mislead.`,
  );
  return new Map(outermost.map((key) => [key, header[key]]));
}

function metadataOf(name: string, value: unknown): Record<string, string> {
  if (value === undefined) return {};
  const isText =
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((v) => typeof v === "string");
  demand(isText, "safetensors", () => `${name}: __metadata__ must map strings to strings.`);
  return value as Record<string, string>;
}

function headerEntry(name: string, key: string, value: unknown): HeaderEntry {
  const where = `${name}: tensor "${shortened(key)}"`;
  const { dtype, shape, data_offsets: offsets, ...more } = (value ?? {}) as Record<string, unknown>;
  demand(
    isCounts(shape) &&
      isCounts(offsets) &&
      offsets.length === 2 &&
      typeof dtype === "string" &&
      Object.keys(more).length === 0,
    "safetensors",
    () => `${where}: its header entry must have dtype, shape and data_offsets, and nothing else. Get the file again.`,
  );
  demand(
    Object.hasOwn(safetensorsTypes, dtype),
    "dtype",
    () => `${where}: dtype ${shortened(dtype, 20)} is unknown; known are ${Object.keys(safetensorsTypes).join(", ")}.`,
  );
  const type = safetensorsTypes[dtype];
  const [begin, end] = offsets;
  const needed = sizeOf(shape) * dtypes[type].bytes;
  demand(
    end - begin === needed,
    "safetensors",
    () =>
      `${where}: ${dtype} ${fmt(shape)} needs ${needed} bytes, its range ${begin} to ${end} has ${end - begin}. Get the file again.`,
  );
  return { key, dtype: type, shape, begin, end };
}

const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((v) => Number.isSafeInteger(v) && v >= 0);

function checkRanges(name: string, entries: readonly HeaderEntry[], size: number): void {
  let at = 0;
  for (const { key, begin, end } of [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    demand(
      begin === at,
      "safetensors",
      () =>
        `${name}: tensor "${shortened(key)}": starts at byte ${begin} of the data, the one before it ends at ${at}: ` +
        `${begin < at ? "they overlap" : "there is a hole"}. Get the file again.`,
    );
    at = end;
  }
  demand(
    at === size,
    at > size ? "truncated" : "safetensors",
    () =>
      `${name}: its tensors need ${at} bytes after the header, the file has ${size}. ${at > size ? "It is truncated; get" : "Get"} it again.`,
  );
}
