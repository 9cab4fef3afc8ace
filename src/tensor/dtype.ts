/** Element types. `float16` and `bfloat16` are kept as their raw bits in a `Uint16Array`, `bool` as 0/1 bytes. */
export type DType =
  | "float32"
  | "float64"
  | "float16"
  | "bfloat16"
  | "int8"
  | "uint8"
  | "int16"
  | "uint16"
  | "int32"
  | "uint32"
  | "int64"
  | "uint64"
  | "bool";

export type TypedArray =
  | Float32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int8Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>
  | Int16Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>
  | BigUint64Array<ArrayBuffer>;

type ArrayType = {
  new (length: number): TypedArray;
  new (buffer: ArrayBuffer, byteOffset?: number, length?: number): TypedArray;
};

interface DTypeInfo {
  readonly bytes: number;
  readonly array: ArrayType;
  readonly floating: boolean;
}

const info = (bytes: number, array: unknown, floating = false): DTypeInfo => ({
  bytes,
  array: array as ArrayType,
  floating,
});

/** Size, storage and kind of every element type. */
export const dtypes: Readonly<Record<DType, DTypeInfo>> = {
  float32: info(4, Float32Array, true),
  float64: info(8, Float64Array, true),
  float16: info(2, Uint16Array, true),
  bfloat16: info(2, Uint16Array, true),
  int8: info(1, Int8Array),
  uint8: info(1, Uint8Array),
  int16: info(2, Int16Array),
  uint16: info(2, Uint16Array),
  int32: info(4, Int32Array),
  uint32: info(4, Uint32Array),
  int64: info(8, BigInt64Array),
  uint64: info(8, BigUint64Array),
  bool: info(1, Uint8Array),
};

export const isFloating = (dtype: DType): boolean => dtypes[dtype].floating;

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** Value of IEEE 754 half-precision bits. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Bits of the half-precision number nearest to `value` (ties to even); rounds once, straight from float64. */
export function numberToHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const a = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  if (a < 2 ** -14) return sign | roundHalfEven(a * 2 ** 24);
  const exponent = Math.floor(Math.log2(a));
  // log2 may be off by one next to a power of two.
  const e = 2 ** exponent > a ? exponent - 1 : 2 ** (exponent + 1) <= a ? exponent + 1 : exponent;
  return sign | (((e + 15) << 10) + roundHalfEven((a / 2 ** e - 1) * 1024));
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** Value of bfloat16 bits. */
export function bfloat16ToNumber(bits: number): number {
  u32[0] = (bits << 16) >>> 0;
  return f32[0];
}

/** Bits of the bfloat16 number nearest to `value` (ties to even, by way of float32). */
export function numberToBfloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  f32[0] = value;
  const bits = u32[0];
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
