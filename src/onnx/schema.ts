/*
 * The part of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) that is read or written here; what is
 * not listed is passed over. A test holds numbers and types against the generated description of the whole file.
 */

/** Types of fields that are no messages, with their value where a file has none. Enumerations are int32. */
export const emptyValues = {
  int32: 0,
  int64: 0n,
  uint64: 0n,
  float: 0,
  double: 0,
  string: "",
  bytes: new Uint8Array(0),
  /** Known to be there, not looked into. */
  presence: false,
} as const;

/** Fields by message and name: number, type, and `many` (a list), `maybe` (undefined where absent) or `one`. */
export const schema = {
  ModelProto: {
    irVersion: [1, "int64", "one"],
    producerName: [2, "string", "one"],
    producerVersion: [3, "string", "one"],
    graph: [7, "GraphProto", "maybe"],
    opsetImport: [8, "OperatorSetIdProto", "many"],
    metadataProps: [14, "StringStringEntryProto", "many"],
    functions: [25, "presence", "many"],
  },
  OperatorSetIdProto: { domain: [1, "string", "one"], version: [2, "int64", "one"] },
  StringStringEntryProto: { key: [1, "string", "one"], value: [2, "string", "one"] },
  GraphProto: {
    node: [1, "NodeProto", "many"],
    name: [2, "string", "one"],
    initializer: [5, "TensorProto", "many"],
    input: [11, "ValueInfoProto", "many"],
    output: [12, "ValueInfoProto", "many"],
    valueInfo: [13, "ValueInfoProto", "many"],
    sparseInitializer: [15, "presence", "many"],
  },
  NodeProto: {
    input: [1, "string", "many"],
    output: [2, "string", "many"],
    name: [3, "string", "one"],
    opType: [4, "string", "one"],
    attribute: [5, "AttributeProto", "many"],
    docString: [6, "string", "one"],
    domain: [7, "string", "one"],
  },
  AttributeProto: {
    name: [1, "string", "one"],
    f: [2, "float", "one"],
    i: [3, "int64", "one"],
    s: [4, "bytes", "one"],
    t: [5, "TensorProto", "maybe"],
    floats: [7, "float", "many"],
    ints: [8, "int64", "many"],
    strings: [9, "bytes", "many"],
    type: [20, "int32", "one"],
    refAttrName: [21, "string", "one"],
  },
  TensorProto: {
    dims: [1, "int64", "many"],
    dataType: [2, "int32", "one"],
    segment: [3, "presence", "one"],
    floatData: [4, "float", "many"],
    int32Data: [5, "int32", "many"],
    int64Data: [7, "int64", "many"],
    name: [8, "string", "one"],
    rawData: [9, "bytes", "one"],
    doubleData: [10, "double", "many"],
    uint64Data: [11, "uint64", "many"],
    externalData: [13, "StringStringEntryProto", "many"],
    dataLocation: [14, "int32", "one"],
  },
  ValueInfoProto: { name: [1, "string", "one"], type: [2, "TypeProto", "maybe"] },
  TypeProto: {
    tensorType: [1, "TypeProto.Tensor", "maybe"],
    sequenceType: [4, "presence", "one"],
    mapType: [5, "presence", "one"],
    sparseTensorType: [8, "presence", "one"],
    optionalType: [9, "presence", "one"],
  },
  "TypeProto.Tensor": { elemType: [1, "int32", "one"], shape: [2, "TensorShapeProto", "maybe"] },
  TensorShapeProto: { dim: [1, "TensorShapeProto.Dimension", "many"] },
  "TensorShapeProto.Dimension": { dimValue: [1, "int64", "maybe"], dimParam: [2, "string", "maybe"] },
} as const;

type Schema = typeof schema;
export type MessageName = keyof Schema;

interface Values {
  readonly int32: number;
  readonly int64: bigint;
  readonly uint64: bigint;
  readonly float: number;
  readonly double: number;
  readonly string: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly presence: boolean;
}

type ValueOf<T> = T extends keyof Values ? Values[T] : T extends MessageName ? Message<T> : never;
type FieldOf<F> = F extends readonly [number, infer T, infer C]
  ? C extends "many"
    ? ValueOf<T>[]
    : C extends "maybe"
      ? ValueOf<T> | undefined
      : ValueOf<T>
  : never;

/** A message that was read. */
export type Message<N extends MessageName> = { -readonly [F in keyof Schema[N]]: FieldOf<Schema[N][F]> };

/** Numbers of the fields of a message by name. */
export const fieldNumbers = <N extends MessageName>(name: N): Readonly<Record<keyof Schema[N], number>> =>
  Object.fromEntries(
    Object.entries<readonly [number, string, string]>(schema[name]).map(([field, [number]]) => [field, number]),
  ) as Record<keyof Schema[N], number>;

/** An enumeration whose values count from 0. */
const counted = <const N extends readonly string[]>(names: N): Readonly<Record<N[number], number>> =>
  Object.fromEntries(names.map((name, i) => [name, i])) as Record<N[number], number>;

export const attributeTypeNames = [
  "UNDEFINED",
  "FLOAT",
  "INT",
  "STRING",
  "TENSOR",
  "GRAPH",
  "FLOATS",
  "INTS",
  "STRINGS",
  "TENSORS",
  "GRAPHS",
  "SPARSE_TENSOR",
  "SPARSE_TENSORS",
  "TYPE_PROTO",
  "TYPE_PROTOS",
] as const;

/** `AttributeProto.AttributeType` */
export const AttributeType = counted(attributeTypeNames);

export const dataTypeNames = [
  "UNDEFINED",
  "FLOAT",
  "UINT8",
  "INT8",
  "UINT16",
  "INT16",
  "INT32",
  "INT64",
  "STRING",
  "BOOL",
  "FLOAT16",
  "DOUBLE",
  "UINT32",
  "UINT64",
  "COMPLEX64",
  "COMPLEX128",
  "BFLOAT16",
  "FLOAT8E4M3FN",
  "FLOAT8E4M3FNUZ",
  "FLOAT8E5M2",
  "FLOAT8E5M2FNUZ",
  "UINT4",
  "INT4",
  "FLOAT4E2M1",
  "FLOAT8E8M0",
  "UINT2",
  "INT2",
] as const;

/** `TensorProto.DataType` */
export const DataType = counted(dataTypeNames);

/** `TensorProto.DataLocation` */
export const DataLocation = counted(["DEFAULT", "EXTERNAL"]);
