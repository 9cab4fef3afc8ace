import { must } from "../errors.ts";
import { fieldsOf } from "./message.ts";
import { ProtoReader, WireType } from "./protobuf.ts";
import { type MessageName, schema } from "./schema.ts";

// An empty message takes 2 bytes in a file and some hundred in memory, a small 64-bit integer 1 and about 30. Real
// models stay far below these limits: 7,000 nodes are about 50,000 messages.
const maxMessages = 2_000_000;
const maxPackedVarints = 2 ** 26;

interface Seen {
  messages: number;
  varints: number;
}

/**
 * Walks the framing of a protobuf message without building anything and refuses what would take far more memory than
 * the file. Throws RangeError (from the reader) for broken framing and RepmlpError `onnx/bomb` for too many parts.
 */
export function checkWire(message: MessageName, bytes: Uint8Array<ArrayBuffer>, where: string): void {
  const reader = new ProtoReader(bytes);
  walk(reader, message, reader.end, { messages: 0, varints: 0 }, where);
}

function walk(reader: ProtoReader, message: MessageName, end: number, seen: Seen, where: string): void {
  seen.messages++;
  must(
    seen.messages <= maxMessages && seen.varints <= maxPackedVarints,
    "onnx/bomb",
    () =>
      `${where}: more than ${maxMessages} parts or ${maxPackedVarints} packed integers. The file is damaged or hostile.`,
    "file",
  );
  const fields = fieldsOf[message];
  while (reader.pos < end) {
    const [number, wireType] = reader.tag();
    const field = fields.get(number);
    if (wireType !== WireType.LengthDelimited || field === undefined) {
      reader.skip(wireType);
      continue;
    }
    const partEnd = reader.partEnd();
    if (field.wireType === WireType.Varint) seen.varints += partEnd - reader.pos;
    if (field.type in schema) walk(reader, field.type as MessageName, partEnd, seen, where);
    else reader.pos = partEnd;
  }
}
