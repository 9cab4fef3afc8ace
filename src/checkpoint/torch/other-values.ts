import type { TensorSource } from "../../tensor/index.ts";
import { Global, Opaque, PickleRecord, type PickleValue } from "../pickle/values.ts";
import { bindTensor, type TorchArchive, whyUnreadable } from "./archive.ts";
import { TensorRef, UnreadableTensor } from "./values.ts";

/** A value in a checkpoint beside its state dict; `opaque` names what is not read. */
export type OtherValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | TensorSource
  | { readonly opaque: string };

/** Nested further, larger or longer than this is named, not listed: a small pickle can describe an endless structure. */
const LIMITS = { depth: 24, values: 50_000, characters: 2 ** 23, key: 200 };

/**
 * Flattens what lies beside the state dict: `{optimizer: {param_groups: [{lr: 0.1}]}}` gives
 * `optimizer.param_groups.0.lr -> 0.1`. Objects of unknown classes give their attributes in the same way.
 */
export function otherValues(
  archive: TorchArchive,
  roots: readonly (readonly [path: readonly string[], value: ReadonlyMap<PickleValue, PickleValue>])[],
): Map<string, OtherValue> {
  const found = new Map<string, OtherValue>();
  let characters = 0;
  const full = () => found.size >= LIMITS.values || characters >= LIMITS.characters;

  const put = (path: readonly string[], value: OtherValue): void => {
    const key = path.join(".");
    characters += key.length;
    found.set(key, value);
  };
  const visit = (path: readonly string[], value: PickleValue): void => {
    if (full()) return;
    const children = childrenOf(value);
    if (children === undefined) put(path, leafOf(archive, path, value));
    else if (path.length >= LIMITS.depth) put(path, { opaque: `nested deeper than ${LIMITS.depth}` });
    else
      for (const [key, child] of children) {
        if (full()) return;
        visit([...path, segment(key)], child);
      }
  };
  for (const [path, value] of roots) visit(path, value as Map<PickleValue, PickleValue>);
  if (full()) found.set("…", { opaque: "the file holds more values than are listed" });
  return found;
}

function childrenOf(value: PickleValue): Iterable<[PickleValue, PickleValue]> | undefined {
  if (value instanceof Map) return value;
  if (Array.isArray(value)) return value.entries();
  if (!(value instanceof Opaque)) return undefined;
  if (value.items.size > 0) return value.items;
  return value.state instanceof Map ? value.state : undefined;
}

const segment = (key: PickleValue): string =>
  typeof key === "string" ? key.slice(0, LIMITS.key) : typeof key === "number" ? String(key) : "?";

function leafOf(archive: TorchArchive, path: readonly string[], value: PickleValue): OtherValue {
  if (value instanceof UnreadableTensor) return { opaque: `tensor ${value.reason}` };
  if (value instanceof TensorRef) {
    const reason = whyUnreadable(value);
    return reason === undefined ? bindTensor(archive, path.join("."), value) : { opaque: `tensor ${reason}` };
  }
  if (value instanceof Opaque) return { opaque: value.type };
  if (value instanceof Global) return { opaque: value.path };
  if (value instanceof PickleRecord) return { opaque: value.record };
  return value as OtherValue;
}
