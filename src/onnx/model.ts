import { must } from "../errors.ts";
import type { DType, Tensor, TensorSource } from "../tensor/index.ts";

/**
 * Value of a node attribute. A plain integer is written as INT and any other plain number as FLOAT, so a float that
 * may happen to be whole needs the explicit form: `{ float: 1 }`. Likewise for lists. Reading always gives the explicit
 * form for floats, a `bigint` only for integers beyond 2^53, and `{ unsupported }` for what has no counterpart here
 * (sub-graphs, sparse tensors, binary strings): whoever needs such an attribute can say so, the rest need not care.
 */
export type AttributeValue =
  | number
  | bigint
  | string
  | readonly number[]
  | readonly bigint[]
  | readonly string[]
  | Tensor
  | { readonly float: number }
  | { readonly floats: readonly number[] }
  | { readonly unsupported: string };

export interface OnnxNode {
  readonly opType: string;
  /** Value names; an empty string leaves out an optional input. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly name: string;
  readonly attrs: Readonly<Record<string, AttributeValue>>;
  /** Operator set; absent for the standard one. */
  readonly domain?: string;
  readonly doc?: string;
}

/** A size, or the name of one that is only known at run time (`"batch"`); `""` for an unknown size without a name. */
export type OnnxDim = number | string;

export interface OnnxValueInfo {
  readonly name: string;
  readonly dtype: DType;
  /** Absent when the file does not even state the rank. */
  readonly shape?: readonly OnnxDim[];
}

/** Where an initializer lies: at an offset of a file beside the model. */
export interface OnnxPlace {
  readonly location: string;
  readonly offset: number;
}

export interface OnnxModel {
  readonly nodes: readonly OnnxNode[];
  /** What a caller feeds; never an initializer. */
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
  readonly initializers: ReadonlyMap<string, TensorSource>;
  /** Initializers that are not written into the file because another one holds them: external data. */
  readonly placed?: ReadonlyMap<string, OnnxPlace>;
  /** Types of intermediate values, for viewers. */
  readonly valueInfo?: readonly OnnxValueInfo[];
  /** Version of the standard operator set. */
  readonly opset: number;
  /** Versions of other operator sets by domain; a domain that some node uses and that is not listed gets version 1. */
  readonly domains?: Readonly<Record<string, number>>;
  /** `metadata_props` of the model. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Name of the graph; `"graph"` when absent, since ONNX requires one. */
  readonly name?: string;
  readonly producer?: { readonly name: string; readonly version: string };
  /** With {@link DecodeOnnxOptions.keep}: all else that the file says. It is written back in place of what is read of it. */
  readonly kept?: KeptParts;
}

/** What a file says beyond what is read of it, as it stands there; opaque but to this room and to who rewrites graphs. */
export interface KeptParts {
  readonly irVersion: number;
  /** Fields of the model but for its graph. */
  readonly model: Uint8Array<ArrayBuffer>;
  /** Fields of the graph but for those that are apart below, and initializers that are read. */
  readonly graph: Uint8Array<ArrayBuffer>;
  /** Bytes of the nodes that are still the objects that were read. */
  readonly nodes: WeakMap<OnnxNode, Uint8Array<ArrayBuffer>>;
  /** Names that a node's sub-graphs read beside its inputs. */
  readonly captured: ReadonlyMap<OnnxNode, readonly string[]>;
  /** Initializers of types that are not read, and their names. */
  readonly tensors: readonly Uint8Array<ArrayBuffer>[];
  readonly unread: ReadonlySet<string>;
  /** Names of all initializers of the file. */
  readonly initialized: ReadonlySet<string>;
  /** All inputs by name, initializers that are listed among them, too. */
  readonly inputs: readonly (readonly [name: string, bytes: Uint8Array<ArrayBuffer>])[];
  readonly outputs: readonly string[];
  readonly valueInfo: readonly (readonly [name: string, bytes: Uint8Array<ArrayBuffer>])[];
  /** Whether values lie in other files. */
  readonly external: boolean;
  /** Initializers that whoever runs the model may feed instead. */
  readonly fed: ReadonlySet<string>;
}

const wrongKind = (node: OnnxNode, key: string, wanted: string): string => {
  const value = node.attrs[key];
  const got =
    value === undefined
      ? "missing"
      : typeof value === "object" && "unsupported" in value
        ? value.unsupported
        : describe(value);
  return `onnx: attribute "${key}" of ${node.opType} node "${node.name}" must be ${wanted}, but is ${got}. Check the exporter of the file.`;
};

const describe = (value: AttributeValue): string => {
  if (typeof value !== "object") return `${typeof value} ${String(value)}`;
  return Array.isArray(value) ? `a list of ${value.length}` : `{ ${Object.keys(value).join(", ")} }`;
};

/** Reads an INT attribute; `fallback` stands in for an absent one, without it absence is an error (`onnx/attribute`). */
export function intAttr(node: OnnxNode, key: string, fallback?: number): number {
  const value = node.attrs[key] ?? fallback;
  must(
    typeof value === "number" && Number.isInteger(value),
    "onnx/attribute",
    () => wrongKind(node, key, "an integer"),
    "file",
  );
  return value;
}

/** Reads an INTS attribute. Throws `onnx/attribute`. */
export function intsAttr(node: OnnxNode, key: string, fallback?: readonly number[]): readonly number[] {
  const value = node.attrs[key] ?? fallback;
  must(isIntegers(value), "onnx/attribute", () => wrongKind(node, key, "a list of integers"), "file");
  return value;
}

const isIntegers = (value: AttributeValue | undefined): value is readonly number[] =>
  Array.isArray(value) && value.every((v) => Number.isInteger(v));

/** Reads a FLOAT attribute. Throws `onnx/attribute`. */
export function floatAttr(node: OnnxNode, key: string, fallback?: number): number {
  const value = node.attrs[key] ?? fallback;
  if (typeof value === "number") return value;
  must(typeof value === "object" && "float" in value, "onnx/attribute", () => wrongKind(node, key, "a float"), "file");
  return value.float;
}

/** Reads a STRING attribute. Throws `onnx/attribute`. */
export function stringAttr(node: OnnxNode, key: string, fallback?: string): string {
  const value = node.attrs[key] ?? fallback;
  must(typeof value === "string", "onnx/attribute", () => wrongKind(node, key, "a string"), "file");
  return value;
}
