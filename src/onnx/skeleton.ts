import { isSupported } from "./element-type.ts";
import { writePlace } from "./encode.ts";
import { ProtoWriter, WireType } from "./protobuf.ts";
import { fieldNumbers } from "./schema.ts";

const modelField = fieldNumbers("ModelProto");
const graphField = fieldNumbers("GraphProto");
const tensorField = fieldNumbers("TensorProto");

/** The location of values that lie in the ONNX file itself: no file has such a name. */
export const SELF = "./";

/** A file of which parts can be read. */
export interface ReadableFile {
  readonly size: number;
  readSync(offset: number, length: number): Uint8Array<ArrayBuffer>;
}

/** Raw values of at least so many bytes are left where they are. */
const LARGE = 1024;
const WINDOW = 2 ** 16;

/** One field of a message: its bytes are `start` … `end`−1, and those of its content begin at `content`. */
interface Field {
  readonly number: number;
  readonly wireType: number;
  readonly start: number;
  readonly content: number;
  readonly end: number;
}

/**
 * An ONNX file without the raw values of its large initializers, which become external data at `location`: their offsets
 * are those in the file itself. Reads little more than the result.
 *
 * @returns `undefined` where the file is not of the usual build (or none at all), so that only reading all of it can tell
 */
export function onnxSkeleton(file: ReadableFile, location: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return new Skeleton(file, location).model();
  } catch (cause) {
    if (cause instanceof RangeError) return undefined;
    throw cause;
  }
}

class Skeleton {
  private window: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  private windowStart = 0;

  constructor(
    private readonly file: ReadableFile,
    private readonly location: string,
  ) {}

  model(): Uint8Array<ArrayBuffer> | undefined {
    const fields = [...this.fields(0, this.file.size)];
    const isGraph = ({ number }: Field): boolean => number === modelField.graph;
    // Parts of one graph in several fields would have to be put together first.
    if (fields.filter(isGraph).length !== 1) return undefined;
    return this.replaced(fields, (field) => (isGraph(field) ? this.graph(field) : undefined));
  }

  private graph({ content, end }: Field): Uint8Array<ArrayBuffer> {
    const fields = [...this.fields(content, end)];
    return this.replaced(fields, (field) => (field.number === graphField.initializer ? this.tensor(field) : undefined));
  }

  /** The message of a tensor with its values outside; `undefined` where it is to stay as it is. */
  private tensor({ content, end }: Field): Uint8Array<ArrayBuffer> | undefined {
    if (end - content < LARGE) return undefined;
    const fields = [...this.fields(content, end)];
    const having = (...numbers: readonly number[]): Field[] => fields.filter(({ number }) => numbers.includes(number));
    const [raw, another] = having(tensorField.rawData);
    if (!raw || another || having(tensorField.externalData, tensorField.dataLocation).length) return undefined;
    if (raw.wireType !== WireType.LengthDelimited || raw.end - raw.content < LARGE) return undefined;
    const [type] = having(tensorField.dataType);
    // Values of types that are not read stay inside: nobody could say how many bytes they ought to be.
    if (!type || !isSupported(this.varint(type.content)[0])) return undefined;
    const writer = new ProtoWriter();
    for (const { start, end } of fields.filter((field) => field !== raw)) writer.raw(this.bytes(start, end));
    writePlace(writer, { location: this.location, offset: raw.content }, raw.end - raw.content);
    return writer.finish();
  }

  /** A message with the contents of some fields replaced. */
  private replaced(
    fields: readonly Field[],
    replacement: (field: Field) => Uint8Array<ArrayBuffer> | undefined,
  ): Uint8Array<ArrayBuffer> {
    const writer = new ProtoWriter();
    for (const field of fields) {
      const { number, wireType, start, end } = field;
      const content = wireType === WireType.LengthDelimited ? replacement(field) : undefined;
      if (content) writer.tag(number, wireType).bytes(content);
      else writer.raw(this.bytes(start, end));
    }
    return writer.finish();
  }

  private *fields(from: number, to: number): Generator<Field, void, undefined> {
    for (let start = from; start < to; ) {
      const [tag, content] = this.varint(start);
      const [number, wireType] = [Math.floor(tag / 8), tag % 8];
      const field = { number, wireType, start, ...this.extent(wireType, content) };
      if (field.end > to) throw new RangeError("a field ends behind its message");
      yield field;
      start = field.end;
    }
  }

  private extent(wireType: number, at: number): { readonly content: number; readonly end: number } {
    if (wireType === WireType.Varint) return { content: at, end: this.varint(at)[1] };
    if (wireType === WireType.Bit64) return { content: at, end: at + 8 };
    if (wireType === WireType.Bit32) return { content: at, end: at + 4 };
    if (wireType !== WireType.LengthDelimited) throw new RangeError("a field of another kind");
    const [length, content] = this.varint(at);
    return { content, end: content + length };
  }

  /** A whole number and where it ends; those beyond 64 bits are none. */
  private varint(at: number): [value: number, end: number] {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      const byte = this.byte(at + i);
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return [value, at + i + 1];
    }
    throw new RangeError("a number that does not end");
  }

  private byte(at: number): number {
    const inWindow = at - this.windowStart;
    return inWindow >= 0 && inWindow < this.window.length ? this.window[inWindow] : this.look(at)[0];
  }

  private look(at: number): Uint8Array<ArrayBuffer> {
    if (at >= this.file.size) throw new RangeError("the file ends too early");
    this.windowStart = at;
    this.window = this.file.readSync(at, Math.min(WINDOW, this.file.size - at));
    return this.window;
  }

  private bytes(start: number, end: number): Uint8Array<ArrayBuffer> {
    const inWindow = start - this.windowStart;
    return inWindow >= 0 && end - this.windowStart <= this.window.length
      ? this.window.subarray(inWindow, inWindow + end - start)
      : this.file.readSync(start, end - start);
  }
}
