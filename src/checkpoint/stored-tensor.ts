import { fmt } from "../errors.ts";
import {
  type DType,
  dtypes,
  type FilePlace,
  type Shape,
  sizeOf,
  stridesOf,
  Tensor,
  type TensorSource,
  tensorBytes,
  tensorFromBytes,
} from "../tensor/index.ts";
import type { ByteSource } from "./byte-source.ts";
import { demand } from "./file-error.ts";
import type { Payload } from "./payload.ts";
import { allocating, piecesOf, type Reading, runAsync, runSync } from "./reading.ts";
import type { StoredBytes } from "./stored-bytes.ts";
import { gather, isContiguous } from "./strided.ts";
import { crc32 } from "./zip/crc32.ts";

/** A view of stored bytes; strides and offset in elements. */
export interface TensorView {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly strides: readonly number[];
  readonly offset: number;
}

/** A view that repeats elements may be this many bytes longer than its file; more is an attempt to fill the memory. */
const EXPANDED_BYTES = 2 ** 26;

/** A tensor in a file: dtype and shape are known, values are read by file range when asked for. */
export class StoredTensor implements TensorSource {
  readonly dtype: DType;
  readonly shape: Shape;
  private readonly strides: readonly number[];
  /** First byte, and number of bytes from the first to the last element. */
  private readonly start: number;
  private readonly span: number;

  /**
   * @param key  name of the tensor in the file, for messages
   * @throws RepmlpError `checkpoint/tensor` when the view does not lie within the stored bytes
   */
  constructor(
    private readonly source: ByteSource,
    readonly key: string,
    { dtype, shape, strides, offset }: TensorView,
    private readonly stored: StoredBytes,
  ) {
    const width = dtypes[dtype].bytes;
    const count = sizeOf(shape);
    const span = count === 0 ? 0 : 1 + shape.reduce((n, d, i) => n + (d - 1) * strides[i], 0);
    demand(
      (offset + span) * width <= stored.byteLength,
      "tensor",
      () =>
        `${this.where}: ${dtype} ${fmt(shape)} with strides ${fmt(strides)} at element ${offset} needs ` +
        `${(offset + span) * width} bytes, its storage has ${stored.byteLength}. The file is damaged; get it again.`,
    );
    demand(
      count <= span || count * width <= Math.max(source.size, EXPANDED_BYTES),
      "limit",
      () =>
        `${this.where}: ${dtype} ${fmt(shape)} repeats ${span} stored elements ${count} times over, ` +
        `${count * width} bytes from a file of ${source.size}. Save a contiguous copy of it.`,
    );
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.start = offset * width;
    this.span = span * width;
  }

  read(): Promise<Tensor> {
    return runAsync(this.source, this.reading());
  }

  readSync(): Tensor {
    return runSync(this.source, this.reading());
  }

  /** Its bytes for a writer, where they stand in the file just so; `undefined` when they must be read. */
  async payload(unit = 1): Promise<Payload | undefined> {
    const { source, where, shape, strides, start, span, stored } = this;
    if (span === 0 || start > 0 || span !== stored.byteLength || !isContiguous(shape, strides)) return undefined;
    const place = await runAsync(source, stored.place(where));
    const pieces = () => piecesOf(source, place!.start, span, where, unit);
    return place && { length: span, pieces, crc: place.crc, confirm: place.confirm };
  }

  /** Stays a view of the file. */
  rows(start: number, end: number, shape: Shape): TensorSource | undefined {
    const { source, key, dtype, strides, stored } = this;
    const offset = this.start / dtypes[dtype].bytes + start * strides[0];
    if (!isContiguous(this.shape, strides) || sizeOf(shape) !== (end - start) * strides[0]) return undefined;
    return new StoredTensor(source, key, { dtype, shape, strides: stridesOf(shape), offset }, stored);
  }

  async place(): Promise<FilePlace | undefined> {
    const { source, where, shape, strides, start, span, stored } = this;
    const { path } = source;
    if (path === undefined || span === 0 || !isContiguous(shape, strides)) return undefined;
    const place = await runAsync(source, stored.place(where));
    if (!place) return undefined;
    const { confirm, defer } = place;
    const checksum = confirm && defer && { offset: place.start, length: stored.byteLength, confirm, defer };
    return { path, offset: place.start + start, ...(checksum && { checksum }) };
  }

  /** A checksum that does not agree is told after the last piece. */
  async *pieces(unit = 1): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
    const payload = await this.payload(unit);
    if (!payload) {
      yield tensorBytes(await this.read());
      return;
    }
    let crc = 0;
    for await (const piece of payload.pieces()) {
      if (payload.confirm) crc = crc32(piece, crc);
      yield piece;
    }
    payload.confirm?.(crc);
  }

  private get where(): string {
    return `${this.source.name}: tensor "${this.key}"`;
  }

  private *reading(): Reading<Tensor> {
    const { dtype, shape, strides, where } = this;
    if (this.span === 0) return Tensor.zeros(dtype, shape);
    const bytes = yield* this.stored.range(where, this.start, this.span);
    if (isContiguous(shape, strides)) return tensorFromBytes(dtype, shape, bytes);
    const dense = allocating(where, sizeOf(shape) * dtypes[dtype].bytes, () =>
      gather(bytes, dtypes[dtype].bytes, shape, strides),
    );
    return tensorFromBytes(dtype, shape, dense);
  }
}
