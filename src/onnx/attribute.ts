import { must, RepmlpError } from "../errors.ts";
import { Tensor } from "../tensor/index.ts";
import type { AttributeValue, OnnxNode } from "./model.ts";
import { type ProtoWriter, WireType } from "./protobuf.ts";
import { attributeTypeNames, fieldNumbers, AttributeType as Kind, type Message } from "./schema.ts";
import { tensorFromProto } from "./tensor-proto.ts";
import { writeInt64, writeMessage, writeString, writeTensor } from "./wire.ts";

const strictUtf8 = new TextDecoder("utf-8", { fatal: true });

const field = fieldNumbers("AttributeProto");

/** Writes an attribute; throws `onnx/attribute` for numbers that its ONNX type cannot hold. */
export function writeAttribute(writer: ProtoWriter, name: string, value: AttributeValue, node: OnnxNode): void {
  const context = () => `onnx: ${node.opType} node "${node.name}", attribute "${name}"`;
  writeString(writer, field.name, name);
  const type = (kind: number): ProtoWriter => writer.tag(field.type, WireType.Varint).int32(kind);
  if (typeof value === "number" && !Number.isInteger(value)) writeFloat(type(Kind.FLOAT), field.f, value, context);
  else if (typeof value === "number" || typeof value === "bigint") writeInt(type(Kind.INT), field.i, value, context);
  else if (typeof value === "string") writeString(type(Kind.STRING), field.s, value);
  else if (value instanceof Tensor) writeMessage(type(Kind.TENSOR), field.t, (w) => writeTensor(w, value));
  else if (isList(value)) writeList(writer, type, value, context);
  else if ("float" in value) writeFloat(type(Kind.FLOAT), field.f, value.float, context);
  else if ("floats" in value) {
    type(Kind.FLOATS);
    for (const v of value.floats) writeFloat(writer, field.floats, v, context);
  } else
    throw new RepmlpError(
      "onnx/attribute",
      `${context()}: a ${value.unsupported} cannot be written. Remove the node or replace the attribute.`,
    );
}

/** Where an attribute is, for messages; only put together when there is something to say. */
type Where = () => string;

type List = readonly number[] | readonly bigint[] | readonly string[];

// Array.isArray does not narrow readonly arrays.
const isList = (value: AttributeValue): value is List => Array.isArray(value);

function writeList(writer: ProtoWriter, type: (kind: number) => ProtoWriter, list: List, context: Where): void {
  if (typeof list[0] === "string") {
    type(Kind.STRINGS);
    for (const v of list as readonly string[]) writeString(writer, field.strings, v);
  } else if ((list as readonly (number | bigint)[]).every((v) => typeof v === "bigint" || Number.isInteger(v))) {
    type(Kind.INTS);
    for (const v of list as readonly (number | bigint)[]) writeInt(writer, field.ints, v, context);
  } else {
    type(Kind.FLOATS);
    for (const v of list as readonly number[]) writeFloat(writer, field.floats, v, context);
  }
}

function writeInt(writer: ProtoWriter, number: number, value: number | bigint, context: Where): void {
  must(
    Number.isSafeInteger(value) || BigInt(value) === BigInt.asIntN(64, BigInt(value)),
    "onnx/attribute",
    () => `${context()}: ${value} does not fit in 64 bits. Write { float: ${value} } if a float is meant.`,
    "model",
  );
  writeInt64(writer, number, value);
}

function writeFloat(writer: ProtoWriter, number: number, value: number, context: Where): void {
  must(
    !Number.isFinite(value) || Number.isFinite(Math.fround(value)),
    "onnx/attribute",
    () => `${context()}: ${value} exceeds float32. ONNX float attributes are float32.`,
    "model",
  );
  writer.tag(number, WireType.Bit32).float(value);
}

/** Reads an attribute; what has no counterpart becomes `{ unsupported }`. Throws for damaged tensors. */
export function attributeFromProto(proto: Message<"AttributeProto">, where: string): AttributeValue {
  if (proto.refAttrName) return { unsupported: `reference to "${proto.refAttrName}" of a function` };
  switch (proto.type) {
    case Kind.FLOAT:
      return { float: proto.f };
    case Kind.INT:
      return isSafe(proto.i) ? Number(proto.i) : proto.i;
    case Kind.STRING:
      return decodeText(proto.s) ?? { unsupported: "binary string" };
    case Kind.TENSOR:
      return tensorAttribute(proto, where);
    case Kind.FLOATS:
      return { floats: proto.floats };
    case Kind.INTS:
      return proto.ints.every(isSafe) ? proto.ints.map(Number) : proto.ints;
    case Kind.STRINGS: {
      const texts = proto.strings.map(decodeText);
      return texts.every((t) => t !== undefined) ? texts : { unsupported: "list of binary strings" };
    }
    default:
      return {
        unsupported: (attributeTypeNames[proto.type] ?? `type ${proto.type}`).toLowerCase().replaceAll("_", " "),
      };
  }
}

function tensorAttribute(proto: Message<"AttributeProto">, where: string): AttributeValue {
  must(proto.t, "onnx/attribute", () => `${where}: the tensor is missing. The file is damaged.`, "file");
  if (proto.t.externalData.length > 0) return { unsupported: "tensor in an external file" };
  return tensorFromProto(proto.t, where).readSync();
}

const isSafe = (v: bigint): boolean => v === BigInt.asIntN(54, v) && v !== -(2n ** 53n);

function decodeText(bytes: Uint8Array): string | undefined {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return undefined;
  }
}
