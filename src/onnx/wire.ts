import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { type BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { TensorProtoSchema } from "onnx-buf";
import { type DType, dtypes, type Shape, sizeOf, type Tensor, tensorBytes } from "../tensor/index.ts";
import { elementTypes } from "./element-type.ts";

// Messages are written field by field: building message objects first takes six times as long for large graphs, and
// would copy the weights.

/** Field numbers of a message by name, from the generated description of onnx.proto. */
export const fieldNumbers = <D extends DescMessage>({ field }: D): Record<keyof D["field"], number> =>
  Object.fromEntries(Object.entries<DescField>(field).map(([name, { number }]) => [name, number])) as Record<
    keyof D["field"],
    number
  >;

export const writeString = (writer: BinaryWriter, field: number, value: string): BinaryWriter =>
  writer.tag(field, WireType.LengthDelimited).string(value);

/** The bytes are the same either way; the 32-bit path is several times faster. */
export function writeInt64(writer: BinaryWriter, field: number, value: number | bigint): void {
  writer.tag(field, WireType.Varint);
  if (typeof value === "number" && value === (value | 0)) writer.int32(value);
  else writer.int64(value);
}

/** Writes a nested message. */
export function writeMessage(writer: BinaryWriter, field: number, body: (writer: BinaryWriter) => void): void {
  writer.tag(field, WireType.LengthDelimited).fork();
  body(writer);
  writer.join();
}

const tensorField = fieldNumbers(TensorProtoSchema);

/** Everything of a tensor message but its values. */
export function writeTensorHeader(writer: BinaryWriter, dtype: DType, shape: Shape, name?: string): void {
  for (const size of shape) writeInt64(writer, tensorField.dims, size);
  writer.tag(tensorField.dataType, WireType.Varint).int32(elementTypes[dtype]);
  if (name !== undefined) writeString(writer, tensorField.name, name);
}

/** The frame around the values of a tensor, which follow as they are. */
export function writeRawDataFrame(writer: BinaryWriter, byteLength: number): void {
  writer.tag(tensorField.rawData, WireType.LengthDelimited).uint32(byteLength);
}

export function writeTensor(writer: BinaryWriter, tensor: Tensor): void {
  writeTensorHeader(writer, tensor.dtype, tensor.shape);
  writeRawDataFrame(writer, tensor.byteLength);
  writer.raw(tensorBytes(tensor));
}

export const byteLengthOf = ({ dtype, shape }: { readonly dtype: DType; readonly shape: Shape }): number =>
  sizeOf(shape) * dtypes[dtype].bytes;
