import { type DType, dtypes, type Shape, sizeOf, type Tensor, tensorBytes } from "../tensor/index.ts";
import { elementTypes } from "./element-type.ts";
import { type ProtoWriter, WireType } from "./protobuf.ts";
import { fieldNumbers } from "./schema.ts";

// Messages are written field by field: building message objects first takes six times as long for large graphs, and
// would copy the weights.

export const writeString = (writer: ProtoWriter, field: number, value: string): ProtoWriter =>
  writer.tag(field, WireType.LengthDelimited).string(value);

export const writeInt64 = (writer: ProtoWriter, field: number, value: number | bigint): ProtoWriter =>
  writer.tag(field, WireType.Varint).int64(value);

/** Writes a nested message. */
export function writeMessage(writer: ProtoWriter, field: number, body: (writer: ProtoWriter) => void): void {
  writer.tag(field, WireType.LengthDelimited).fork();
  body(writer);
  writer.join();
}

const tensorField = fieldNumbers("TensorProto");

/** Everything of a tensor message but its values. */
export function writeTensorHeader(writer: ProtoWriter, dtype: DType, shape: Shape, name?: string): void {
  for (const size of shape) writeInt64(writer, tensorField.dims, size);
  writer.tag(tensorField.dataType, WireType.Varint).int32(elementTypes[dtype]);
  if (name !== undefined) writeString(writer, tensorField.name, name);
}

/** The frame around the values of a tensor, which follow as they are. */
export function writeRawDataFrame(writer: ProtoWriter, byteLength: number): void {
  writer.tag(tensorField.rawData, WireType.LengthDelimited).uint32(byteLength);
}

export function writeTensor(writer: ProtoWriter, tensor: Tensor): void {
  writeTensorHeader(writer, tensor.dtype, tensor.shape);
  writeRawDataFrame(writer, tensor.byteLength);
  writer.raw(tensorBytes(tensor));
}

export const byteLengthOf = ({ dtype, shape }: { readonly dtype: DType; readonly shape: Shape }): number =>
  sizeOf(shape) * dtypes[dtype].bytes;
