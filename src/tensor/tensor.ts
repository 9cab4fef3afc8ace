import { fmt, must } from "../errors.ts";
import {
  bfloat16ToNumber,
  type DType,
  dtypes,
  halfToNumber,
  numberToBfloat16,
  numberToHalf,
  type TypedArray,
} from "./dtype.ts";

export type Shape = readonly number[];

/** Number of elements of a shape; 1 for a scalar `[]`. */
export const sizeOf = (shape: Shape): number => shape.reduce((n, d) => n * d, 1);

export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((d, i) => d === b[i]);

/** Row-major strides, in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  for (let i = shape.length - 1, n = 1; i >= 0; i--) {
    strides[i] = n;
    n *= shape[i];
  }
  return strides;
}

/**
 * Something that can produce a tensor: a tensor itself, a byte range of a file, or a value derived from others.
 * dtype and shape are known without reading anything.
 */
export interface TensorSource {
  readonly dtype: DType;
  readonly shape: Shape;
  /** Reads the values; every call reads again, nothing is kept. */
  read(): Promise<Tensor>;
  /** As `read`, at once. Throws `tensor/async-only` where the source can only be read asynchronously (a Blob). */
  readSync(): Tensor;
  /**
   * The bytes in order without ever holding all of them, where the source can do that: pieces of a whole number of
   * `unit` bytes (default 1), each only valid until the next one is asked for.
   */
  pieces?(unit?: number): AsyncIterable<Uint8Array<ArrayBuffer>>;
  /** Rows `start` … `end`−1 of the first axis under another shape, where they can be read without the others. */
  rows?(start: number, end: number, shape: Shape): TensorSource | undefined;
  /** Where the bytes lie in a file, in order and in full; `undefined` where they do not. */
  place?(): Promise<FilePlace | undefined>;
}

/** From so many bytes on a tensor is worth taking in pieces. */
const LARGE = 2 ** 18;

/** Whether a tensor is better taken in pieces than read whole: small memory that is used again costs less than fresh one. */
export const inPieces = (source: TensorSource): boolean =>
  source.pieces !== undefined && sizeOf(source.shape) * dtypes[source.dtype].bytes >= LARGE;

/** A tensor's bytes in a file on disk. */
export interface FilePlace {
  /** Absolute path. */
  readonly path: string;
  readonly offset: number;
  /** A checksum that was not compared yet, of these bytes and perhaps others around them. */
  readonly checksum?: {
    readonly offset: number;
    readonly length: number;
    /** Throws when the CRC-32 is not that of the file's directory. */
    readonly confirm: (crc32: number) => void;
    /** Leaves the comparison to the caller: reading does not make it any more. */
    readonly defer: () => void;
  };
  /** Values that have to be finite, which whoever does not read the tensor has to see to. */
  readonly values?: {
    readonly dtype: DType;
    readonly length: number;
    /** Throws, naming the value that is not. */
    readonly refuse: () => void;
  };
}

/** A dense row-major tensor on the host. Immutable by convention: nothing in the library writes into `data`. */
export class Tensor implements TensorSource {
  constructor(
    readonly dtype: DType,
    readonly shape: Shape,
    readonly data: TypedArray,
  ) {
    must(
      data instanceof dtypes[dtype].array,
      "tensor/storage",
      () => `tensor: ${dtype} values are kept in a ${dtypes[dtype].array.name}, got a ${data.constructor.name}`,
    );
    must(
      sizeOf(shape) === data.length,
      "tensor/size",
      () => `tensor: shape ${fmt(shape)} needs ${sizeOf(shape)} values, got ${data.length}`,
    );
  }

  /** Number of elements. */
  get size(): number {
    return this.data.length;
  }

  get byteLength(): number {
    return this.data.byteLength;
  }

  read(): Promise<Tensor> {
    return Promise.resolve(this);
  }

  readSync(): Tensor {
    return this;
  }

  /** The same values under another shape; shares the storage. */
  reshape(shape: Shape): Tensor {
    return new Tensor(this.dtype, shape, this.data);
  }

  /** A tensor of the same shape and dtype with each value replaced. */
  map(f: (value: number, index: number) => number): Tensor {
    return Tensor.of(this.dtype, this.shape, this.toFloat64().map(f));
  }

  /** The same values in a storage of their own. */
  clone(): Tensor {
    return new Tensor(this.dtype, this.shape, this.data.slice() as TypedArray);
  }

  /** The values as float64, whatever the dtype; 64-bit integers beyond 2^53 are rounded. */
  toFloat64(): Float64Array<ArrayBuffer> {
    const { data } = this;
    if (data instanceof Float64Array) return data;
    const decode = decoders[this.dtype];
    if (decode) return Float64Array.from(data as Uint16Array<ArrayBuffer>, decode);
    return data instanceof BigInt64Array || data instanceof BigUint64Array
      ? Float64Array.from(data, Number)
      : Float64Array.from(data);
  }

  /** The values rounded (floats) or truncated (integers) to another dtype; `this` when it is the same. */
  cast(dtype: DType): Tensor {
    return dtype === this.dtype ? this : Tensor.of(dtype, this.shape, this.toFloat64());
  }

  /** A tensor from numbers, rounded once to `dtype`. */
  static of(dtype: DType, shape: Shape, values: ArrayLike<number>): Tensor {
    const data = new dtypes[dtype].array(values.length);
    if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
      for (let i = 0; i < values.length; i++) data[i] = BigInt(Math.trunc(values[i]));
    } else {
      const encode = encoders[dtype];
      if (encode) for (let i = 0; i < values.length; i++) data[i] = encode(values[i]);
      else data.set(values);
    }
    return new Tensor(dtype, shape, data);
  }

  static float32(shape: Shape, values: ArrayLike<number>): Tensor {
    return Tensor.of("float32", shape, values);
  }

  static zeros(dtype: DType, shape: Shape): Tensor {
    return new Tensor(dtype, shape, new dtypes[dtype].array(sizeOf(shape)));
  }

  static full(dtype: DType, shape: Shape, value: number): Tensor {
    return Tensor.of(dtype, shape, new Float64Array(sizeOf(shape)).fill(value));
  }

  static scalar(value: number, dtype: DType = "float32"): Tensor {
    return Tensor.of(dtype, [], [value]);
  }
}

const decoders: Partial<Record<DType, (bits: number) => number>> = {
  float16: halfToNumber,
  bfloat16: bfloat16ToNumber,
};

const encoders: Partial<Record<DType, (value: number) => number>> = {
  float16: numberToHalf,
  bfloat16: numberToBfloat16,
  bool: (v) => (v ? 1 : 0),
};

/**
 * A tensor computed from others when it is asked for, with the same definition for the synchronous and the
 * asynchronous way; nothing is kept, so a stream of derived tensors holds one at a time.
 */
export function derived(
  dtype: DType,
  shape: Shape,
  inputs: readonly TensorSource[],
  compute: (...tensors: Tensor[]) => Tensor,
): TensorSource {
  return {
    dtype,
    shape,
    read: async () => compute(...(await Promise.all(inputs.map((t) => t.read())))),
    readSync: () => compute(...inputs.map((t) => t.readSync())),
  };
}

/** Views bytes as a tensor; copies only when the offset is not aligned for the dtype. Little-endian. */
export function tensorFromBytes(dtype: DType, shape: Shape, bytes: Uint8Array<ArrayBuffer>): Tensor {
  const { bytes: width, array: ArrayOf } = dtypes[dtype];
  const count = sizeOf(shape);
  must(
    bytes.byteLength === count * width,
    "tensor/bytes",
    () => `tensor: ${dtype} ${fmt(shape)} needs ${count * width} bytes, got ${bytes.byteLength}`,
  );
  // Not slice(): that of a Node Buffer does not copy.
  const aligned = bytes.byteOffset % width === 0 ? bytes : new Uint8Array(bytes);
  return new Tensor(dtype, shape, new ArrayOf(aligned.buffer, aligned.byteOffset, count));
}

/** The raw little-endian bytes of a tensor; shares the storage. */
export const tensorBytes = (tensor: Tensor): Uint8Array<ArrayBuffer> =>
  new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);

/** Bytes for people: `348.2 MB` (powers of ten). */
export function fmtBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = bytes < 1000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  return power === 0 ? `${bytes} B` : `${(bytes / 1000 ** power).toFixed(1)} ${units[power]}`;
}
