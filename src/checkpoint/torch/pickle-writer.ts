import { type DType, dtypes, sizeOf, stridesOf } from "../../tensor/index.ts";
import type { SaveTask, TensorEntry } from "../save-task.ts";
import { METADATA } from "./values.ts";

const storageClasses: Readonly<Partial<Record<DType, string>>> = {
  float64: "DoubleStorage",
  float32: "FloatStorage",
  float16: "HalfStorage",
  bfloat16: "BFloat16Storage",
  int64: "LongStorage",
  int32: "IntStorage",
  int16: "ShortStorage",
  int8: "CharStorage",
  uint8: "ByteStorage",
  bool: "BoolStorage",
};

/**
 * Pickles an `OrderedDict` of tensors as `torch.save` does: protocol 2, only instructions and names that
 * `torch.load(weights_only=True)` allows, storage `i` for the i-th tensor.
 *
 * uint16, uint32 and uint64 have no storage class of their own; they are written as PyTorch 2.3 and later do.
 *
 * @param wrapper   key of a dict around it
 * @param metadata  string pairs, as the attribute `metadata` of the OrderedDict
 */
export function pickleStateDict(
  entries: readonly TensorEntry[],
  { wrapper, metadata }: Pick<SaveTask, "wrapper" | "metadata">,
): Uint8Array<ArrayBuffer> {
  const out = new PickleWriter();
  out.byte(0x80, 2);
  if (wrapper !== undefined) {
    out.char("}(");
    out.text(wrapper);
  }
  out.emptyOrderedDict();
  out.char("(");
  entries.forEach(([key, { dtype, shape }], i) => {
    out.text(key);
    tensor(out, String(i), dtype, shape);
  });
  out.char("u");
  attributes(out, metadata);
  if (wrapper !== undefined) out.char("u");
  out.char(".");
  return out.bytes();
}

/** Gives the dict on the stack an attribute `metadata`, which loading a state dict does not look at. */
function attributes(out: PickleWriter, metadata: SaveTask["metadata"]): void {
  const pairs = Object.entries(metadata);
  if (!pairs.length) return;
  out.char("}(");
  out.text(METADATA);
  out.char("}(");
  for (const [name, text] of pairs) {
    out.text(name);
    out.text(text);
  }
  out.char("uub");
}

function tensor(out: PickleWriter, storage: string, dtype: DType, shape: readonly number[]): void {
  const storageClass = storageClasses[dtype];
  const size = sizeOf(shape);
  out.global("torch._utils", storageClass ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3");
  out.char("((");
  out.text("storage");
  if (storageClass) out.global("torch", storageClass);
  else out.global("torch.storage", "UntypedStorage");
  out.text(storage);
  out.text("cpu");
  out.integer(storageClass ? size : size * dtypes[dtype].bytes);
  out.char("tQ");
  out.integer(0);
  out.integers(shape);
  out.integers(stridesOf(shape));
  out.byte(0x89); // requires_grad: False
  out.emptyOrderedDict(); // backward hooks
  if (!storageClass) out.global("torch", dtype);
  out.char("tR");
}

const utf8 = new TextEncoder();

/** Puts pickle instructions into a growing buffer; names and repeated strings are memoized. */
class PickleWriter {
  private buffer = new Uint8Array(2 ** 16);
  private view = new DataView(this.buffer.buffer);
  private length = 0;
  private readonly memo = new Map<string, number>();

  bytes(): Uint8Array<ArrayBuffer> {
    return this.buffer.subarray(0, this.length);
  }

  byte(...values: number[]): void {
    const at = this.reserve(values.length);
    this.buffer.set(values, at);
  }

  char(instructions: string): void {
    for (const instruction of instructions) this.byte(instruction.charCodeAt(0));
  }

  emptyOrderedDict(): void {
    this.global("collections", "OrderedDict");
    this.char(")R");
  }

  global(module: string, name: string): void {
    this.memoized(`c${module}\n${name}\n`, () => this.char(`c${module}\n${name}\n`));
  }

  text(value: string): void {
    this.memoized(`X${value}`, () => {
      const raw = utf8.encode(value);
      this.char("X");
      this.uint32(raw.length);
      // The buffer may be another one once there is room.
      const at = this.reserve(raw.length);
      this.buffer.set(raw, at);
    });
  }

  integers(values: readonly number[]): void {
    if (values.length > 3) this.char("(");
    for (const value of values) this.integer(value);
    if (values.length > 3) this.char("t");
    else this.byte([0x29, 0x85, 0x86, 0x87][values.length]);
  }

  /** A whole number from 0 to 2^53. */
  integer(value: number): void {
    if (value < 2 ** 8) this.byte(0x4b, value);
    else if (value < 2 ** 31) {
      this.char("J");
      this.uint32(value);
    } else {
      // LONG1, eight bytes: the sign bit stays clear.
      this.byte(0x8a, 8);
      const at = this.reserve(8);
      this.view.setBigUint64(at, BigInt(value), true);
    }
  }

  private memoized(key: string, write: () => void): void {
    const index = this.memo.get(key);
    if (index !== undefined) {
      this.char("j");
      this.uint32(index);
      return;
    }
    write();
    this.char("r");
    this.uint32(this.memo.size);
    this.memo.set(key, this.memo.size);
  }

  private uint32(value: number): void {
    const at = this.reserve(4);
    this.view.setUint32(at, value, true);
  }

  /** Makes room for `count` bytes and returns where they go. */
  private reserve(count: number): number {
    const at = this.length;
    this.length += count;
    if (this.length > this.buffer.length) {
      const larger = new Uint8Array(Math.max(this.length, this.buffer.length * 2));
      larger.set(this.buffer);
      this.buffer = larger;
      this.view = new DataView(larger.buffer);
    }
    return at;
  }
}
