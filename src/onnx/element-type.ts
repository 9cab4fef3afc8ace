import { RepmlpError } from "../errors.ts";
import type { DType } from "../tensor/index.ts";
import { DataType, dataTypeNames } from "./schema.ts";

/** ONNX element type of every dtype. */
export const elementTypes: Readonly<Record<DType, number>> = {
  float32: DataType.FLOAT,
  float64: DataType.DOUBLE,
  float16: DataType.FLOAT16,
  bfloat16: DataType.BFLOAT16,
  int8: DataType.INT8,
  uint8: DataType.UINT8,
  int16: DataType.INT16,
  uint16: DataType.UINT16,
  int32: DataType.INT32,
  uint32: DataType.UINT32,
  int64: DataType.INT64,
  uint64: DataType.UINT64,
  bool: DataType.BOOL,
};

const dtypeOf = new Map(Object.entries(elementTypes).map(([dtype, code]) => [code, dtype as DType]));

/** The dtype of an ONNX element type; `undefined` where there is none for it. */
export const dtypeOfElementType = (code: number): DType | undefined => dtypeOf.get(code);

export const isSupported = (code: number): boolean => dtypeOf.has(code);

/** The dtype of an ONNX element type. Throws `onnx/element-type` for strings, complex, 8-bit and 4-bit floats. */
export function dtypeFromElementType(code: number, where: string): DType {
  const dtype = dtypeOf.get(code);
  if (dtype) return dtype;
  const name = dataTypeNames[code] ?? `number ${code}`;
  throw new RepmlpError(
    "onnx/element-type",
    `${where}: element type ${name} is not supported. Supported are ${Object.keys(elementTypes).join(", ")}.`,
    "file",
  );
}
