import type { DescMessage } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { must } from "../errors.ts";

// An empty message takes 2 bytes in a file and some 400 in memory, a small 64-bit integer 1 and about 30. Real
// models stay far below these limits: 7,000 nodes are about 50,000 messages.
const maxMessages = 2_000_000;
const maxPackedVarints = 2 ** 26;
const maxDepth = 100;

interface Seen {
  messages: number;
  varints: number;
}

const fieldMaps = new WeakMap<DescMessage, Map<number, DescMessage | "varints" | undefined>>();

function fieldsOf(desc: DescMessage): Map<number, DescMessage | "varints" | undefined> {
  let fields = fieldMaps.get(desc);
  if (!fields) {
    fields = new Map(desc.fields.map((f) => [f.number, f.message ?? (f.fieldKind === "list" ? "varints" : undefined)]));
    fieldMaps.set(desc, fields);
  }
  return fields;
}

/**
 * Walks the framing of a protobuf message without building anything and refuses what would take far more memory than
 * the file. Throws RangeError (from the reader) for broken framing and RepmlpError `onnx/bomb` for too many parts.
 */
export function checkWire(desc: DescMessage, bytes: Uint8Array, where: string): void {
  const reader = new BinaryReader(bytes);
  walk(reader, desc, bytes.byteLength, 0, { messages: 0, varints: 0 }, where);
}

function walk(reader: BinaryReader, desc: DescMessage, end: number, depth: number, seen: Seen, where: string): void {
  seen.messages++;
  must(
    seen.messages <= maxMessages && seen.varints <= maxPackedVarints && depth <= maxDepth,
    "onnx/bomb",
    () =>
      `${where}: more than ${maxMessages} parts, ${maxPackedVarints} packed integers or ${maxDepth} levels. The file is damaged or hostile.`,
    "file",
  );
  const fields = fieldsOf(desc);
  while (reader.pos < end) {
    const [number, wireType] = reader.tag();
    const field = fields.get(number);
    if (wireType !== WireType.LengthDelimited || field === undefined) {
      reader.skip(wireType, number, maxDepth);
    } else {
      const length = reader.uint32();
      if (reader.pos + length > end) throw new RangeError(`a part of ${length} bytes ends behind its container`);
      if (field === "varints") seen.varints += length;
      if (typeof field === "object") walk(reader, field, reader.pos + length, depth + 1, seen, where);
      else reader.pos += length;
    }
  }
}
