import { shortened } from "../text.ts";

/**
 * What a pickle can hold here. Tuples, lists and sets are all arrays (a checkpoint never depends on the difference),
 * dicts are Maps, integers beyond 2^53 are bigints. Nothing in it can run.
 */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleValue[]
  | Map<PickleValue, PickleValue>
  | Global
  | Opaque
  | PickleRecord;

/** The name of a Python class or function; only ever compared, never looked up. */
export class Global {
  constructor(readonly path: string) {}
}

/** An OrderedDict, which unlike a dict can have attributes. */
export class OrderedDict extends Map<PickleValue, PickleValue> {
  attributes: PickleValue = null;
}

/** An object of a class that this library does not know: its class, what it was made from and what it holds. */
export class Opaque {
  /** Attributes, as Python's `__setstate__` would get them. */
  state: PickleValue = null;
  /** Items of a subclass of dict. */
  readonly items = new Map<PickleValue, PickleValue>();
  constructor(
    readonly type: string,
    readonly args: readonly PickleValue[] = [],
  ) {}
}

/** Base of the values that the user of the pickle machine adds (tensors, storages). */
export abstract class PickleRecord {
  abstract readonly record: string;
}

/** A short name of a value's kind, for messages. */
export function kindOf(value: PickleValue | undefined): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "string") return `the string ${JSON.stringify(shortened(value))}`;
  if (typeof value !== "object") return `the ${typeof value} ${value}`;
  if (value instanceof Global) return `the name ${value.path}`;
  if (value instanceof Opaque) return `an object of class ${value.type}`;
  if (value instanceof PickleRecord) return `a ${value.record}`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return value instanceof Map ? `a dict of ${value.size}` : `${value.length} bytes`;
}
