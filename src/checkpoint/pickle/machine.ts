import { RepmlpError } from "../../errors.ts";
import { decodeUtf8, shortened } from "../text.ts";
import { kindOf, Opaque, type PickleValue } from "./values.ts";

/** What the machine asks its user about: names, calls and references to data outside the pickle. */
export interface PickleHost {
  /** What the file should be, for messages: "a PyTorch checkpoint". */
  readonly format: string;
  /** A global was named; returns what stands for it, or throws to refuse the file. */
  global(module: string, name: string): PickleValue;
  /** A call was asked for; returns the value that stands for its result, or throws to refuse. Never runs anything. */
  call(callable: PickleValue, args: PickleValue[], task: PickleTask): PickleValue;
  /** An object was asked for without a call of its constructor (`cls.__new__`). */
  instance(type: PickleValue, args: PickleValue[], task: PickleTask): PickleValue;
  /** A reference to something outside, such as a storage. */
  persistent(id: PickleValue, task: PickleTask): PickleValue;
}

/** What the host may use of the machine that asks it. */
export interface PickleTask {
  /** Throws, with the file's name and the place in the pickle. */
  fail(reason: string): never;
  /** Counts bytes that a call makes by copying, so that a short pickle cannot copy a long value over and over. */
  charge(bytes: number): void;
}

/** The pickle ended before its STOP; `needed` is the offset up to which bytes are wanted. */
export class PickleEnd extends RepmlpError {
  constructor(
    where: string,
    readonly needed: number,
  ) {
    super(
      "checkpoint/truncated",
      `${where}: the pickle ends in the middle of an instruction. The file is truncated or damaged; get it again.`,
      "file",
    );
  }
}

/** Work a pickle may ask for. Real checkpoints stay far below: a ResNet-50 with its optimizer takes about 30,000 steps. */
const LIMITS = { steps: 2 ** 25, containers: 2 ** 20, copied: 2 ** 26, integerBytes: 2 ** 12 };

/**
 * State of a closed pickle machine: stack, marks and memo, with every access checked. The instructions are in
 * `pickle-opcodes.ts`. Nothing recurses, so nesting costs no JavaScript stack.
 */
export class PickleMachine implements PickleTask {
  readonly stack: PickleValue[] = [];
  readonly marks: number[] = [];
  readonly memo = new Map<number, PickleValue>();
  private readonly view: DataView;
  private steps = 0;
  private containers = 0;
  private copied = 0;

  /** @param where  file and part, for messages; @param position  where the pickle starts in `bytes` */
  constructor(
    private readonly bytes: Uint8Array<ArrayBuffer>,
    public position: number,
    readonly where: string,
    readonly host: PickleHost,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  fail(reason: string, code = "pickle"): never {
    throw new RepmlpError(
      `checkpoint/${code}`,
      `${this.where}: ${reason} (pickle byte ${this.position}). The file is damaged or not ${this.host.format}.`,
      "file",
    );
  }

  // ---- the instruction stream ----

  /** Steps over `length` bytes and returns where they start. */
  private advance(length: number): number {
    const start = this.position;
    if (start + length > this.bytes.length) throw new PickleEnd(this.where, start + length);
    this.position += length;
    return start;
  }

  /** The next instruction code. */
  next(): number {
    if (++this.steps > LIMITS.steps) this.fail(`the pickle has more than ${LIMITS.steps} instructions`, "limit");
    return this.u8();
  }

  u8(): number {
    return this.bytes[this.advance(1)];
  }
  u16(): number {
    return this.view.getUint16(this.advance(2), true);
  }
  u32(): number {
    return this.view.getUint32(this.advance(4), true);
  }
  i32(): number {
    return this.view.getInt32(this.advance(4), true);
  }
  /** Pickle's BINFLOAT is big-endian, unlike everything else in it. */
  f64(): number {
    return this.view.getFloat64(this.advance(8), false);
  }

  u64(): number {
    const value = this.view.getBigUint64(this.advance(8), true);
    if (value > Number.MAX_SAFE_INTEGER) this.fail(`a length of ${value} bytes`);
    return Number(value);
  }

  take(length: number): Uint8Array<ArrayBuffer> {
    if (length < 0) this.fail(`a length of ${length} bytes`);
    const start = this.advance(length);
    return this.bytes.subarray(start, start + length);
  }

  text(length: number): string {
    return decodeUtf8(this.take(length)) ?? this.fail("a string is not valid UTF-8");
  }

  /** A line of the old text instructions, without its end. */
  lineBytes(): Uint8Array<ArrayBuffer> {
    const end = this.bytes.indexOf(10, this.position);
    if (end < 0) throw new PickleEnd(this.where, this.bytes.length + 1);
    return this.take(end + 1 - this.position).subarray(0, -1);
  }

  line(): string {
    return decodeUtf8(this.lineBytes()) ?? this.fail("a name is not valid UTF-8");
  }

  /** A little-endian two's-complement integer of `length` bytes. */
  integer(length: number): number | bigint {
    if (length > LIMITS.integerBytes) this.fail(`an integer of ${length} bytes`, "limit");
    const digits = Array.from(this.take(length), (byte) => byte.toString(16).padStart(2, "0")).reverse();
    return narrowed(BigInt.asIntN(length * 8, BigInt(`0x0${digits.join("")}`)));
  }

  // ---- the stack ----

  push(value: PickleValue): void {
    this.stack.push(value);
  }

  /** Counts a new container against the limit. */
  container<T extends PickleValue>(value: T): T {
    if (++this.containers > LIMITS.containers)
      this.fail(`the pickle builds more than ${LIMITS.containers} containers`, "limit");
    return value;
  }

  charge(bytes: number): void {
    this.copied += bytes;
    if (this.copied > LIMITS.copied) this.fail(`the pickle copies more than ${LIMITS.copied} bytes`, "limit");
  }

  pop(): PickleValue {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) this.fail("an instruction finds the stack empty");
    return this.stack.pop() as PickleValue;
  }

  top(): PickleValue {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) this.fail("an instruction finds the stack empty");
    return this.stack[this.stack.length - 1];
  }

  /** Everything above the last mark, which is removed. */
  popMark(): PickleValue[] {
    const mark = this.marks.pop();
    if (mark === undefined) this.fail("an instruction finds no mark");
    const values = this.stack.slice(mark);
    this.stack.length = mark;
    return this.container(values);
  }

  popTuple(what: string): PickleValue[] {
    const value = this.pop();
    return Array.isArray(value) ? value : this.fail(`${what} must be a tuple, found ${kindOf(value)}`);
  }

  popText(what: string): string {
    const value = this.pop();
    return typeof value === "string" ? value : this.fail(`${what} must be a string, found ${kindOf(value)}`);
  }

  recall(index: number): void {
    const value = this.memo.get(index);
    if (value === undefined) this.fail(`memo entry ${index} was never stored`);
    this.stack.push(value);
  }

  remember(index: number): void {
    this.memo.set(index, this.top());
  }

  // ---- containers ----

  append(values: PickleValue[]): void {
    const list = this.top();
    if (Array.isArray(list)) for (const value of values) list.push(value);
    else if (!(list instanceof Opaque)) this.fail(`items are appended to ${kindOf(list)}`);
  }

  setItems(pairs: PickleValue[]): void {
    const target = this.top();
    const dict = target instanceof Opaque ? target.items : target;
    if (!(dict instanceof Map)) this.fail(`items are set in ${kindOf(target)}`);
    if (pairs.length % 2 !== 0) this.fail("a key without a value");
    for (let i = 0; i < pairs.length; i += 2) {
      const key = pairs[i];
      // Python would let the later one win; a pickler never writes it, so it can only hide something.
      if (typeof key === "string" && dict.has(key)) this.fail(`key "${shortened(key)}" is set twice`);
      dict.set(key, pairs[i + 1]);
    }
  }
}

/** A bigint as a number where that is exact. */
export const narrowed = (value: bigint): number | bigint =>
  value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
