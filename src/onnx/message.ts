import { type ProtoReader, WireType } from "./protobuf.ts";
import { emptyValues, type Message, type MessageName, schema } from "./schema.ts";

type Scalar = keyof typeof emptyValues;
type Value = string | number | bigint | boolean | Uint8Array<ArrayBuffer> | Record<string, unknown>;

/** A field of {@link schema}, by its number. */
export interface Field {
  readonly name: string;
  readonly type: Scalar | MessageName;
  readonly count: "one" | "many" | "maybe";
  readonly wireType: number;
}

const wireTypes: Readonly<Record<Exclude<Scalar, "presence">, number>> = {
  int32: WireType.Varint,
  int64: WireType.Varint,
  uint64: WireType.Varint,
  float: WireType.Bit32,
  double: WireType.Bit64,
  string: WireType.LengthDelimited,
  bytes: WireType.LengthDelimited,
};

const isMessage = (type: string): type is MessageName => Object.hasOwn(schema, type);
const isScalar = (type: string): type is Scalar => Object.hasOwn(emptyValues, type);

type Entry = readonly [number: number, type: Field["type"], count: Field["count"]];

const fieldOf = ([name, [number, type, count]]: [string, Entry]): [number, Field] => [
  number,
  { name, type, count, wireType: wireTypes[type as keyof typeof wireTypes] ?? WireType.LengthDelimited },
];

/** Fields of every message by number. */
export const fieldsOf = Object.fromEntries(
  Object.entries<Record<string, Entry>>(schema).map(([message, fields]): [string, ReadonlyMap<number, Field>] => [
    message,
    new Map(Object.entries(fields).map(fieldOf)),
  ]),
) as Readonly<Record<MessageName, ReadonlyMap<number, Field>>>;

/**
 * Reads a message up to `end`. A message that comes in several parts is put together, lists may be packed or not, and
 * what the schema does not list, or lists with another wire type, is passed over.
 *
 * @throws RangeError when the bytes are no such message
 */
export function readMessage<N extends MessageName>(reader: ProtoReader, name: N, end = reader.end): Message<N> {
  return readInto(emptyMessage(name), reader, name, end) as Message<N>;
}

function emptyMessage(name: MessageName): Record<string, unknown> {
  const message: Record<string, unknown> = {};
  for (const { name: field, type, count } of fieldsOf[name].values())
    message[field] = count === "many" ? [] : count === "one" && isScalar(type) ? emptyValues[type] : undefined;
  return message;
}

function readInto(message: Record<string, unknown>, reader: ProtoReader, name: MessageName, end: number): object {
  const fields = fieldsOf[name];
  while (reader.pos < end) {
    const [number, wireType] = reader.tag();
    const field = fields.get(number);
    if (field?.count === "many" && wireType === WireType.LengthDelimited && field.wireType !== wireType) {
      const list = message[field.name] as Value[];
      for (const partEnd = reader.partEnd(); reader.pos < partEnd; )
        list.push(readScalar(reader, field.type as Scalar));
    } else if (field?.wireType !== wireType) reader.skip(wireType);
    else if (field.count === "many") (message[field.name] as Value[]).push(readValue(reader, field.type, undefined));
    else message[field.name] = readValue(reader, field.type, message[field.name]);
  }
  if (reader.pos > end) throw new RangeError(`${name} ends inside one of its fields`);
  return message;
}

function readValue(reader: ProtoReader, type: Field["type"], before: unknown): Value {
  if (!isMessage(type)) return readScalar(reader, type);
  const end = reader.partEnd();
  return readInto((before as Record<string, unknown>) ?? emptyMessage(type), reader, type, end) as Record<
    string,
    unknown
  >;
}

function readScalar(reader: ProtoReader, type: Scalar): Value {
  if (type !== "presence") return reader[type]();
  reader.skip(WireType.LengthDelimited);
  return true;
}
