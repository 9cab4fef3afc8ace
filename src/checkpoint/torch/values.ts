import { type DType, dtypes } from "../../tensor/index.ts";
import { Global, kindOf, PickleRecord, type PickleValue } from "../pickle/values.ts";

/** Attribute of a state dict in which we keep what safetensors has its metadata for. */
export const METADATA = "metadata";

/** A storage as a pickle names it: the bytes lie elsewhere in the file. Checked when a tensor is made of it. */
export class StorageRef extends PickleRecord {
  readonly record = "storage";
  constructor(
    /** Name of the entry (zip) or record (legacy) that holds the bytes. */
    readonly key: string,
    /** `undefined` for an untyped storage (a run of bytes). */
    readonly type: DType | UnreadType | undefined,
    /** Elements of the whole storage; bytes when untyped. */
    readonly length: number,
    /** Old files can name a part of a storage: where it starts, in elements. */
    readonly base = 0,
  ) {
    super();
  }

  /** Bytes of the whole storage; `undefined` when the type is unknown. */
  get byteLength(): number | undefined {
    if (this.type === undefined) return this.length;
    const width = typeof this.type === "string" ? dtypes[this.type].bytes : this.type.bytes;
    return width === undefined ? undefined : this.length * width;
  }
}

/** A type that PyTorch has and we do not read; its width, where we know it, lets us step over it. */
export interface UnreadType {
  readonly name: string;
  readonly bytes: number | undefined;
}

/** A tensor as a pickle describes it, not checked yet: a view of a storage. */
export class TensorRef extends PickleRecord {
  readonly record = "tensor";
  constructor(
    readonly storage: PickleValue,
    readonly offset: PickleValue,
    readonly shape: PickleValue,
    readonly strides: PickleValue,
    /** Element type where the storage has none. */
    readonly dtype: PickleValue = null,
  ) {
    super();
  }
}

/** A tensor of a kind that we do not read: sparse, quantized, without values. */
export class UnreadableTensor extends PickleRecord {
  readonly record = "tensor";
  constructor(readonly reason: string) {
    super();
  }
}

const unreadWidths: Readonly<Record<string, number>> = {
  ComplexFloat: 8,
  ComplexDouble: 16,
  QInt8: 1,
  QUInt8: 1,
  QInt32: 4,
  QUInt4x2: 1,
  QUInt2x4: 1,
};

const storageTypes: Readonly<Record<string, DType>> = {
  Double: "float64",
  Float: "float32",
  Half: "float16",
  BFloat16: "bfloat16",
  Long: "int64",
  Int: "int32",
  Short: "int16",
  Char: "int8",
  Byte: "uint8",
  Bool: "bool",
};

/** The element type that a storage class name stands for. */
function storageType(global: Global): StorageRef["type"] {
  const name = global.path.split(".").at(-1) ?? "";
  if (/^_?UntypedStorage$/.test(name)) return undefined;
  const type = /^(\w+)Storage$/.exec(name)?.[1] ?? "";
  if (Object.hasOwn(storageTypes, type)) return storageTypes[type];
  return { name: global.path, bytes: Object.hasOwn(unreadWidths, type) ? unreadWidths[type] : undefined };
}

/** The dtype that a global such as `torch.uint16` names. */
export function dtypeOf(value: PickleValue): DType | undefined {
  const name = value instanceof Global && value.path.startsWith("torch.") ? value.path.slice("torch.".length) : "";
  return Object.hasOwn(dtypes, name) ? (name as DType) : undefined;
}

export const isCount = (value: PickleValue | undefined): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

/**
 * Reads a persistent id: `("storage", class, key, device, length)`, and in old files a sixth item, `None` or
 * `(key, offset, length)` of a part. Returns a sentence when it is something else.
 */
export function storageOf(id: PickleValue): StorageRef | string {
  if (!Array.isArray(id) || id[0] !== "storage") return `a reference to ${kindOf(Array.isArray(id) ? id[0] : id)}`;
  const [, type, key, , length, part = null] = id;
  if (!(type instanceof Global) || typeof key !== "string" || !isCount(length))
    return `a storage reference of ${id.map(kindOf).join(", ")}`;
  if (part === null) return new StorageRef(key, storageType(type), length);
  const [, offset, partLength] = Array.isArray(part) ? part : [];
  if (!isCount(offset) || !isCount(partLength) || offset + partLength > length)
    return `a part of storage ${key} that does not lie in its ${length} elements`;
  return new StorageRef(key, storageType(type), length, offset);
}
