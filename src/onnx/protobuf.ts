/*
 * The wire format of protobuf (https://protobuf.dev/programming-guides/encoding), as far as ONNX and TensorBoard files
 * use it. A library of our own size: general ones bring descriptors that are decoded whenever the package is loaded.
 */

/** How the bytes of a field are framed; groups are only ever skipped. */
export const WireType = { Varint: 0, Bit64: 1, LengthDelimited: 2, StartGroup: 3, EndGroup: 4, Bit32: 5 } as const;

/** Groups in groups, which nothing writes today and which would let a small file overflow the stack. */
const maxGroups = 100;

const encoder = new TextEncoder();
/** A leading U+FEFF is text here. What is no UTF-8 becomes U+FFFD, as in other readers of proto2. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Writes fields one after the other; numbers in as few bytes as they need. */
export class ProtoWriter {
  #bytes = new Uint8Array(256);
  #length = 0;
  readonly #open: number[] = [];

  /** What was written. The writer must not be used any more. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#length);
  }

  /** Opens a part that begins with its length, which {@link join} fills in. */
  fork(): this {
    this.#open.push(this.#length);
    return this;
  }

  /** Closes the part opened last. */
  join(): this {
    const start = this.#open.pop() ?? 0;
    const end = this.#length;
    const width = Math.max(1, Math.ceil((32 - Math.clz32(end - start)) / 7));
    // Enough for uint32(), which would lose what lies behind the length if it had to grow.
    this.#grow(5);
    this.#bytes.copyWithin(start + width, start, end);
    this.#length = start;
    this.uint32(end - start);
    this.#length = end + width;
    return this;
  }

  tag(field: number, type: number): this {
    return this.uint32((field << 3) | type);
  }

  /** Bytes as they are, without a length. */
  raw(bytes: Uint8Array): this {
    this.#grow(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  /** Bytes with their length before them. */
  bytes(bytes: Uint8Array): this {
    return this.uint32(bytes.length).raw(bytes);
  }

  uint32(value: number): this {
    this.#grow(5);
    let rest = value >>> 0;
    for (; rest > 127; rest >>>= 7) this.#bytes[this.#length++] = (rest & 127) | 128;
    this.#bytes[this.#length++] = rest;
    return this;
  }

  /** Negative numbers take ten bytes, as the format wants them. */
  int32(value: number): this {
    return value < 0 ? this.int64(BigInt(value)) : this.uint32(value);
  }

  /** An integer of at most 64 bits. */
  int64(value: number | bigint): this {
    if (value >= 0 && value <= 0xffffffff) return this.uint32(Number(value));
    this.#grow(10);
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest > 127n; rest >>= 7n) this.#bytes[this.#length++] = Number(rest & 127n) | 128;
    this.#bytes[this.#length++] = Number(rest);
    return this;
  }

  float(value: number): this {
    this.#grow(4);
    new DataView(this.#bytes.buffer).setFloat32(this.#length, value, true);
    this.#length += 4;
    return this;
  }

  double(value: number): this {
    this.#grow(8);
    new DataView(this.#bytes.buffer).setFloat64(this.#length, value, true);
    this.#length += 8;
    return this;
  }

  string(value: string): this {
    this.#grow(5 + 3 * value.length);
    if (this.#shortAscii(value)) return this;
    this.fork();
    const { written } = encoder.encodeInto(value, this.#bytes.subarray(this.#length));
    this.#length += written;
    return this.join();
  }

  /** Nearly all strings are short names, for which the encoder would take several times as long. */
  #shortAscii(value: string): boolean {
    if (value.length > 127) return false;
    const start = this.#length + 1;
    for (let i = 0; i < value.length; i++) {
      const code = value.charCodeAt(i);
      if (code > 127) return false;
      this.#bytes[start + i] = code;
    }
    this.#bytes[start - 1] = value.length;
    this.#length = start + value.length;
    return true;
  }

  #grow(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
  }
}

/** Reads fields one after the other. Throws RangeError where the bytes end too early or cannot be what they claim. */
export class ProtoReader {
  pos = 0;
  readonly end: number;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.end = bytes.byteLength;
  }

  /** Field number and wire type. */
  tag(): readonly [field: number, type: number] {
    const tag = this.uint32();
    const [field, type] = [tag >>> 3, tag & 7];
    if (field === 0 || type > WireType.Bit32)
      throw new RangeError(`no field has number ${field} and wire type ${type}`);
    return [field, type];
  }

  /** A varint's low 32 bits, signed. */
  int32(): number {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.#byte();
      if (shift < 32) value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw new RangeError("an integer of more than ten bytes");
  }

  uint32(): number {
    return this.int32() >>> 0;
  }

  int64(): bigint {
    let low = 0;
    let shift = 0;
    for (; shift < 28; shift += 7) {
      const byte = this.#byte();
      low |= (byte & 127) << shift;
      if (byte < 128) return BigInt(low);
    }
    let value = BigInt(low);
    for (; shift < 70; shift += 7) {
      const byte = this.#byte();
      value |= BigInt(byte & 127) << BigInt(shift);
      if (byte < 128) return BigInt.asIntN(64, value);
    }
    throw new RangeError("an integer of more than ten bytes");
  }

  uint64(): bigint {
    return BigInt.asUintN(64, this.int64());
  }

  float(): number {
    return this.#view.getFloat32(this.#advance(4), true);
  }

  double(): number {
    return this.#view.getFloat64(this.#advance(8), true);
  }

  /** A part that begins with its length, as a view. */
  bytes(): Uint8Array<ArrayBuffer> {
    const length = this.uint32();
    const start = this.#advance(length);
    return this.#bytes.subarray(start, start + length);
  }

  string(): string {
    return decoder.decode(this.bytes());
  }

  /** Where the part ends whose length comes next. */
  partEnd(): number {
    const length = this.uint32();
    if (length > this.end - this.pos) throw new RangeError(`a part of ${length} bytes ends behind its container`);
    return this.pos + length;
  }

  /** Passes over the value of a field. */
  skip(type: number, groups = 0): void {
    if (type === WireType.Varint) this.int32();
    else if (type === WireType.Bit64) this.#advance(8);
    else if (type === WireType.Bit32) this.#advance(4);
    else if (type === WireType.LengthDelimited) this.#advance(this.uint32());
    else if (type === WireType.EndGroup || groups === maxGroups)
      throw new RangeError(groups === maxGroups ? `more than ${maxGroups} groups in groups` : "a group ends unopened");
    else
      for (let inner = this.tag()[1]; inner !== WireType.EndGroup; inner = this.tag()[1]) this.skip(inner, groups + 1);
  }

  #byte(): number {
    return this.#bytes[this.#advance(1)];
  }

  /** Moves on and returns where it was. */
  #advance(count: number): number {
    if (count > this.end - this.pos) throw new RangeError(`${count} bytes are missing at ${this.pos}`);
    const start = this.pos;
    this.pos += count;
    return start;
  }
}
