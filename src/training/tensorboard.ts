import { ProtoReader, ProtoWriter, WireType } from "../onnx/protobuf.ts";

/*
 * TensorBoard's event files: records of TensorFlow's TFRecord format, each an `Event` message. Field numbers are those of
 * tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto.
 */

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli), the checksum of TFRecord. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** TFRecord stores checksums rotated and offset, as they may be of data that holds checksums itself. */
const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
};

/** Bytes around the data of a record: its length (uint64), the length's checksum; after it the data's. */
const HEADER = 12;
const FOOTER = 4;

function record(data: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER + data.length + FOOTER);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, masked(bytes.subarray(0, 8)), true);
  bytes.set(data, HEADER);
  view.setUint32(HEADER + data.length, masked(data), true);
  return bytes;
}

const message = (writer: ProtoWriter, field: number, body: (inner: ProtoWriter) => void): ProtoWriter => {
  writer.tag(field, WireType.LengthDelimited).fork();
  body(writer);
  return writer.join();
};

/** An `Event` as a record, with its time first: seconds since 1970. */
function eventRecord(seconds: number, body: (event: ProtoWriter) => void): Uint8Array<ArrayBuffer> {
  const event = new ProtoWriter().tag(1, WireType.Bit64).double(seconds);
  body(event);
  return record(event.finish());
}

/** The record that an event file begins with. */
export const versionRecord = (seconds: number): Uint8Array<ArrayBuffer> =>
  eventRecord(seconds, (event) => event.tag(3, WireType.LengthDelimited).string("brain.Event:2"));

/** Scalars of one step, by tag, as a record. */
export const scalarsRecord = (
  seconds: number,
  step: number,
  scalars: Readonly<Record<string, number>>,
): Uint8Array<ArrayBuffer> =>
  eventRecord(seconds, (event) => {
    event.tag(2, WireType.Varint).int64(step);
    message(event, 5, (summary) => {
      for (const [tag, value] of Object.entries(scalars))
        message(summary, 1, (entry) => {
          entry.tag(1, WireType.LengthDelimited).string(tag).tag(2, WireType.Bit32).float(value);
        });
    });
  });

/**
 * The bytes of an event file up to a step: whole records with right checksums, from the start to the first that is not,
 * without those of later steps. Empty when it does not begin with a whole record.
 */
export function recordsUntil(bytes: Uint8Array<ArrayBuffer>, step: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kept: Uint8Array[] = [];
  for (let at = 0; at + HEADER + FOOTER <= bytes.length; ) {
    const length = Number(view.getBigUint64(at, true));
    const end = at + HEADER + length + FOOTER;
    const data = bytes.subarray(at + HEADER, end - FOOTER);
    if (end > bytes.length || view.getUint32(at + 8, true) !== masked(bytes.subarray(at, at + 8))) break;
    if (view.getUint32(end - FOOTER, true) !== masked(data)) break;
    if (stepOf(data) <= step) kept.push(bytes.subarray(at, end));
    at = end;
  }
  const size = kept.reduce((n, part) => n + part.length, 0);
  const joined = new Uint8Array(size);
  let at = 0;
  for (const part of kept) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Step of an event, 0 where it tells none. */
function stepOf(data: Uint8Array<ArrayBuffer>): number {
  const reader = new ProtoReader(data);
  while (reader.pos < reader.end) {
    const [field, type] = reader.tag();
    if (field === 2) return Number(reader.int64());
    reader.skip(type);
  }
  return 0;
}
