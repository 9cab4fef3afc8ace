import { fmt, listed, must, RepmlpError } from "../errors.ts";
import {
  type DType,
  dtypes,
  type FilePlace,
  type Shape,
  sizeOf,
  Tensor,
  type TensorSource,
  tensorFromBytes,
} from "../tensor/index.ts";
import { dtypeFromElementType } from "./element-type.ts";
import { DataLocation, type Message } from "./schema.ts";

type TensorProto = Message<"TensorProto">;

/** A byte range that can be read again and again, such as a slice of a file. */
export interface ByteSource {
  read(): Promise<Uint8Array<ArrayBuffer>>;
  readSync(): Uint8Array<ArrayBuffer>;
  /** In pieces of whole units, each valid until the next one is asked for. */
  pieces?(unit?: number): AsyncIterable<Uint8Array<ArrayBuffer>>;
  /** Where they lie on disk, if they do. */
  readonly place?: FilePlace | undefined;
}

/**
 * Opens `length` bytes at `offset` of the external data file `location`, a relative path that stays inside the folder
 * of the model. Called while the model is decoded, so that a missing or short file is noticed then; reading comes later.
 */
export type OpenExternal = (location: string, offset: number, length: number) => ByteSource;

/** Where the values of tensors come from. */
export interface StoredValues {
  /** The file that the messages are views of, and where it begins in their memory. */
  readonly inFile?: { readonly path: string; readonly start: number } | undefined;
  readonly external?: OpenExternal | undefined;
}

/**
 * The tensor of a message. Raw bytes stay where they are and become a tensor when read (a view if they happen to lie
 * aligned), so that opening a large model copies nothing.
 */
export function tensorFromProto(
  proto: TensorProto,
  where: string,
  { inFile, external }: StoredValues = {},
): TensorSource {
  must(!proto.segment, "onnx/segment", () => `${where}: tensors in segments are not supported. Re-export it.`, "file");
  const dtype = dtypeFromElementType(proto.dataType, where);
  const shape = shapeOf(proto, dtype, where);
  if (proto.dataLocation === DataLocation.EXTERNAL || proto.externalData.length > 0)
    return bytesAs(dtype, shape, where, openExternal(proto, sizeOf(shape) * dtypes[dtype].bytes, where, external));
  const values = typedValues(proto, dtype);
  return values.length > 0
    ? tensorOfValues(dtype, shape, values, where)
    : bytesAs(dtype, shape, where, inMemory(proto.rawData, inFile));
}

/** Checked before anything is allocated: sizes are natural numbers and the bytes can be counted exactly. */
function shapeOf(proto: TensorProto, dtype: DType, where: string): Shape {
  const shape = proto.dims.map(Number);
  must(
    shape.every((d) => Number.isSafeInteger(d) && d >= 0) && Number.isSafeInteger(sizeOf(shape) * dtypes[dtype].bytes),
    "onnx/dims",
    () => `${where}: impossible shape [${listed(proto.dims.map(String))}]. The file is damaged.`,
    "file",
  );
  return shape;
}

const inMemory = (
  bytes: Uint8Array<ArrayBuffer>,
  file: StoredValues["inFile"],
): ByteSource & { byteLength: number } => ({
  place: file && { path: file.path, offset: bytes.byteOffset - file.start },
  byteLength: bytes.byteLength,
  read: async () => bytes,
  readSync: () => bytes,
});

function bytesAs(
  dtype: DType,
  shape: Shape,
  where: string,
  source: ByteSource & { readonly byteLength?: number },
): TensorSource {
  const wanted = sizeOf(shape) * dtypes[dtype].bytes;
  const check = (got: number): void =>
    must(
      got === wanted,
      "onnx/size",
      () => `${where}: ${dtype} ${fmt(shape)} needs ${wanted} bytes, but ${got} are stored. The file is damaged.`,
      "file",
    );
  const build = (bytes: Uint8Array<ArrayBuffer>): Tensor => {
    check(bytes.byteLength);
    return tensorFromBytes(dtype, shape, bytes);
  };
  if (source.byteLength !== undefined) check(source.byteLength);
  return {
    dtype,
    shape,
    read: async () => build(await source.read()),
    readSync: () => build(source.readSync()),
    ...(source.pieces && { pieces: (unit?: number) => source.pieces!(unit) }),
    place: async () => source.place,
  };
}

/** The field that holds the values of a dtype when they are not raw bytes; see the comments in `onnx.proto`. */
function typedValues(proto: TensorProto, dtype: DType): readonly number[] | readonly bigint[] {
  switch (dtype) {
    case "float32":
      return proto.floatData;
    case "float64":
      return proto.doubleData;
    case "int64":
      return proto.int64Data;
    case "uint32":
    case "uint64":
      return proto.uint64Data;
    default:
      return proto.int32Data;
  }
}

function tensorOfValues(
  dtype: DType,
  shape: Shape,
  values: readonly number[] | readonly bigint[],
  where: string,
): Tensor {
  must(
    values.length === sizeOf(shape),
    "onnx/size",
    () =>
      `${where}: ${dtype} ${fmt(shape)} needs ${sizeOf(shape)} values, but ${values.length} are stored. The file is damaged.`,
    "file",
  );
  const data = new dtypes[dtype].array(values.length);
  const wide = data instanceof BigInt64Array || data instanceof BigUint64Array;
  // uint32 values come as 64-bit integers; float16 and bfloat16 as their bits, which is also how they are kept.
  if (wide) for (let i = 0; i < values.length; i++) data[i] = BigInt(values[i]);
  else for (let i = 0; i < values.length; i++) data[i] = Number(values[i]);
  return new Tensor(dtype, shape, data);
}

function openExternal(
  proto: TensorProto,
  byteLength: number,
  where: string,
  external: OpenExternal | undefined,
): ByteSource {
  const entries = new Map(proto.externalData.map(({ key, value }) => [key, value]));
  const location = entries.get("location") ?? "";
  must(
    isInside(location),
    "onnx/external-location",
    () =>
      `${where}: external data at "${location}" lies outside the folder of the model. It is refused; keep the data file beside the model.`,
    "file",
  );
  const offset = byteCount(entries.get("offset") ?? "0", "offset", where);
  const length = byteCount(entries.get("length") ?? `${byteLength}`, "length", where);
  must(
    length === byteLength && Number.isSafeInteger(offset + length),
    "onnx/external-size",
    () =>
      `${where}: the tensor needs ${byteLength} bytes, but the file states ${length} at offset ${offset} of "${location}". The file is damaged.`,
    "file",
  );
  if (external) return external(location, offset, length);
  throw new RepmlpError(
    "onnx/external-missing",
    `${where}: its values are in the external file "${location}", which was not given. Open the model from its folder, or pass "external".`,
    "file",
  );
}

/** Whether a path from an untrusted file is relative and never climbs, on any operating system. */
const isInside = (path: string): boolean =>
  path !== "" &&
  !/^[/\\]|^[a-z][a-z0-9+.-]*:/i.test(path) &&
  !path.includes("\0") &&
  !path.split(/[/\\]/).includes("..");

function byteCount(text: string, what: string, where: string): number {
  const count = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  must(
    Number.isSafeInteger(count),
    "onnx/external-size",
    () => `${where}: external ${what} "${text}" is not a number of bytes. The file is damaged.`,
    "file",
  );
  return count;
}
