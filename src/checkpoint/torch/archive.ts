import { fmt } from "../../errors.ts";
import type { DType } from "../../tensor/index.ts";
import type { ByteSource } from "../byte-source.ts";
import { demand, refuse } from "../file-error.ts";
import { Global, kindOf, type PickleValue } from "../pickle/values.ts";
import type { Reading } from "../reading.ts";
import type { StoredBytes } from "../stored-bytes.ts";
import { StoredTensor, type TensorView } from "../stored-tensor.ts";
import { dtypeOf, isCount, StorageRef, TensorRef, type UnreadableTensor } from "./values.ts";

/** An opened `.pth` of either container: what was pickled, and where the storages lie. */
export interface TorchArchive {
  readonly source: ByteSource;
  readonly root: PickleValue;
  /** The bytes of a storage, `undefined` when the file has none by that key. */
  storage(key: string): (StoredBytes & { readonly name: string }) | undefined;
  /** Reads all storages and compares their checksums, where the container has any. */
  verify(): Reading<void>;
}

/** More dimensions than PyTorch allows. */
const MAX_RANK = 64;

/** Why a pickled tensor cannot be read although nothing is wrong with the file; `undefined` when it can. */
export function whyUnreadable(tensor: TensorRef | UnreadableTensor): string | undefined {
  if (!(tensor instanceof TensorRef)) return tensor.reason;
  const { storage, dtype } = tensor;
  if (!(storage instanceof StorageRef)) return undefined;
  if (storage.type === undefined)
    return dtype === null || dtypeOf(dtype)
      ? undefined
      : `of type ${dtype instanceof Global ? dtype.path : kindOf(dtype)}`;
  return typeof storage.type === "string" ? undefined : `of type ${storage.type.name}`;
}

/**
 * Makes a pickled tensor readable under its key: every part of its description is checked, and that its storage is
 * there and has the length that the pickle says.
 */
export function bindTensor(archive: TorchArchive, key: string, tensor: TensorRef): StoredTensor {
  const { source } = archive;
  const where = `${source.name}: tensor "${key}"`;
  const { storage } = tensor;
  if (!(storage instanceof StorageRef))
    return refuse("tensor", `${where}: its storage is ${kindOf(storage)}. ${DAMAGED}`);
  const dtype =
    elementType(tensor, storage) ?? refuse("tensor", `${where}: its element type is ${kindOf(tensor.dtype)}.`);
  const bytes =
    archive.storage(storage.key) ??
    refuse("missing-storage", `${where}: needs storage "${storage.key}", which the file does not hold. ${DAMAGED}`);
  demand(
    bytes.byteLength === storage.byteLength,
    "storage-length",
    () =>
      `${where}: ${bytes.name} has ${bytes.byteLength} bytes, the pickle says ${storage.byteLength} ` +
      `(${storage.length} x ${dtype}). ${DAMAGED}`,
  );
  return new StoredTensor(source, key, viewOf(where, tensor, storage, dtype), bytes);
}

const DAMAGED = "The file is damaged; get it again.";

function elementType({ dtype }: TensorRef, { type }: StorageRef): DType | undefined {
  if (typeof type === "string") return type;
  return dtype === null ? "uint8" : dtypeOf(dtype);
}

function viewOf(where: string, tensor: TensorRef, storage: StorageRef, dtype: DType): TensorView {
  const { shape, strides, offset } = tensor;
  if (!isCounts(shape) || !isCounts(strides) || shape.length !== strides.length || !isCount(offset))
    return refuse(
      "tensor",
      `${where}: shape ${listedValue(shape)}, strides ${listedValue(strides)} and offset ${listedValue(offset)} make no tensor. ${DAMAGED}`,
    );
  // The base of a storage's part counts in the storage's elements; only untyped storages differ, and have no parts.
  return { dtype, shape: [...shape], strides: [...strides], offset: offset + storage.base };
}

const isCounts = (value: PickleValue): value is number[] =>
  Array.isArray(value) && value.length <= MAX_RANK && value.every(isCount);

/** Numbers as they are, everything else by its kind. */
const plain = (value: PickleValue): string => (typeof value === "number" ? String(value) : kindOf(value));

const listedValue = (value: PickleValue): string =>
  Array.isArray(value) && value.length <= 8 ? fmt(value.map(plain)) : plain(value);
