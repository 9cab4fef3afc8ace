import { type DescField, fromBinary, ScalarType, toBinary } from "@bufbuild/protobuf";
import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import {
  file_onnx,
  ModelProtoSchema,
  AttributeProto_AttributeType as TheirAttributeType,
  TensorProto_DataLocation as TheirDataLocation,
  TensorProto_DataType as TheirDataType,
} from "onnx-buf";
import { describe, expect, test } from "vitest";
import { decodeOnnx, encodeOnnx } from "../../src/onnx/index.ts";
import { ProtoReader, ProtoWriter } from "../../src/onnx/protobuf.ts";
import { AttributeType, DataLocation, DataType, schema } from "../../src/onnx/schema.ts";
import { model, plain } from "./models.ts";

/*
 * Our protobuf against the library made from onnx.proto itself.
 */

type Entry = readonly [number: number, type: string, count: string];

const messages = new Map(
  file_onnx.messages
    .flatMap((m) => [m, ...m.nestedMessages])
    .map((m) => [m.typeName.replace(/^onnx\./, ""), m] as const),
);

/** Type of a field in the words of our schema. */
function typeOf(field: DescField): string {
  if (field.message) return field.message.typeName.replace(/^onnx\./, "");
  return field.enum || field.scalar === undefined ? "int32" : ScalarType[field.scalar].toLowerCase();
}

describe("the schema is that of onnx.proto", () => {
  const rows = Object.entries<Record<string, Entry>>(schema).flatMap(([message, fields]) =>
    Object.entries(fields).map(([name, entry]) => ({ message, name, entry })),
  );
  test.for(rows)("$message.$name", ({ message, name, entry: [number, type, count] }) => {
    const field = messages.get(message)?.field[name];
    expect(field?.number).toBe(number);
    if (type === "presence") expect(field?.message).toBeDefined();
    else expect(typeOf(field!)).toBe(type);
    expect(field?.fieldKind === "list").toBe(count === "many");
  });

  test.for([
    { name: "AttributeType", ours: AttributeType, theirs: TheirAttributeType },
    { name: "DataType", ours: DataType, theirs: TheirDataType },
    { name: "DataLocation", ours: DataLocation, theirs: TheirDataLocation },
  ])("$name", ({ ours, theirs }) => {
    const numbers = Object.entries(theirs).filter(([, value]) => typeof value === "number");
    expect(ours).toEqual(Object.fromEntries(numbers));
  });
});

test("any model is the same after the library has read and written it", () => {
  fc.assert(
    fc.property(model, (m) => {
      const rewritten = toBinary(ModelProtoSchema, fromBinary(ModelProtoSchema, encodeOnnx(m)));
      expect(plain(decodeOnnx(rewritten as Uint8Array<ArrayBuffer>))).toEqual(plain(m));
    }),
    // A counterexample is large and takes minutes to shrink.
    { numRuns: 200, endOnFailure: true },
  );
});

describe("values on the wire", () => {
  const bytesOf = (write: (writer: ProtoWriter) => unknown): Uint8Array<ArrayBuffer> => {
    const writer = new ProtoWriter();
    write(writer);
    return writer.finish();
  };

  test("integers of any size", () => {
    const near = [0n, 7n, 14n, 28n, 31n, 32n, 35n, 53n, 62n, 63n].flatMap((bits) =>
      [-1n, 0n, 1n].map((d) => 2n ** bits + d),
    );
    const numbers = near.flatMap((v) => [v, -v]).filter((v) => v === BigInt.asIntN(64, v));
    for (const value of numbers) {
      const bytes = bytesOf((w) => w.int64(value));
      expect(bytes).toEqual(new BinaryWriter().int64(value).finish());
      expect(new ProtoReader(bytes).int64()).toBe(value);
      expect(new ProtoReader(bytes).uint64()).toBe(BigInt.asUintN(64, value));
      expect(new ProtoReader(bytes).int32()).toBe(Number(BigInt.asIntN(32, value)));
      const small = Number(value);
      if (small === (small | 0))
        expect(bytesOf((w) => w.int32(small))).toEqual(new BinaryWriter().int32(small).finish());
      if (Number.isSafeInteger(small)) expect(bytesOf((w) => w.int64(small))).toEqual(bytes);
    }
  });

  test("texts of any length, in parts of parts", () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: "binary", maxLength: 300 }), { maxLength: 8 }), (texts) => {
        const ours = new ProtoWriter();
        const theirs = new BinaryWriter();
        for (const writer of [ours, theirs]) for (const text of texts) writer.fork().string(text).uint32(text.length);
        for (const writer of [ours, theirs]) for (const _ of texts) writer.join();
        const bytes = ours.finish();
        expect(bytes).toEqual(theirs.finish());
        const [mine, other] = [new ProtoReader(bytes), new BinaryReader(bytes)];
        for (const _ of texts) {
          expect(mine.partEnd()).toBe(other.uint32() + other.pos);
          expect(mine.string()).toBe(other.string());
          expect(mine.uint32()).toBe(other.uint32());
        }
      }),
      { numRuns: 100 },
    );
  });
});

test("a part stays whole wherever the writer's memory has to grow", () => {
  for (let before = 0; before < 1100; before++) {
    const [ours, theirs] = [new ProtoWriter(), new BinaryWriter()];
    for (const writer of [ours, theirs]) writer.raw(new Uint8Array(before)).fork().string("G").join();
    expect(Buffer.compare(ours.finish(), theirs.finish()), `after ${before} bytes`).toBe(0);
  }
});

describe("what is not taken", () => {
  test.for([
    { name: "an integer without end", bytes: Array<number>(11).fill(0x80), message: /more than ten bytes/ },
    { name: "field number 0", bytes: [0x00, 1], message: /no field has number 0/ },
    { name: "wire type 7", bytes: [0x0f, 1], message: /wire type 7/ },
    { name: "a part longer than what is left", bytes: [0x0a, 5, 1], message: /5 bytes are missing/ },
    { name: "a number cut in two", bytes: [0x0d, 1, 2], message: /4 bytes are missing/ },
    { name: "a group that was not opened", bytes: [0x0c], message: /a group ends unopened/ },
    { name: "groups in groups in …", bytes: Array<number>(200).fill(0x0b), message: /more than 100 groups/ },
  ])("$name", ({ bytes, message }) => {
    const reader = new ProtoReader(Uint8Array.from(bytes));
    const read = () => (bytes[0] === 0x80 ? reader.int64() : reader.skip(reader.tag()[1]));
    expect(read).toThrow(RangeError);
    reader.pos = 0;
    expect(read).toThrow(message);
  });

  test("groups are passed over", () => {
    const reader = new ProtoReader(Uint8Array.of(0x0b, 0x13, 0x18, 5, 0x14, 0x0c, 0x08, 7));
    reader.skip(reader.tag()[1]);
    expect([reader.tag(), reader.int32()]).toEqual([[1, 0], 7]);
  });
});
