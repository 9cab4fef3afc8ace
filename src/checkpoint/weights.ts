import { listed } from "../errors.ts";
import {
  type DType,
  dtypes,
  type FilePlace,
  isFloating,
  type Shape,
  sizeOf,
  stridesOf,
  type Tensor,
  type TensorSource,
  tensorFromBytes,
} from "../tensor/index.ts";
import { demand, refuse } from "./file-error.ts";
import { shortened } from "./text.ts";

/** Counts batches; the only integer that a network keeps. */
const isCounter = (key: string): boolean => key.endsWith("num_batches_tracked");

/**
 * The entries of a file as the weights of a network: integers in place of weights are refused now, values that are not
 * finite (and variances below 0) whenever and however they are read. Everything that runs, merges or writes a network
 * from a file opens it through this; reading a file as such does not ask for it.
 *
 * @param where  the file, for messages
 * @throws RepmlpError `checkpoint/integer-weight` naming the keys; reading throws `checkpoint/not-finite` naming the key
 */
export function asWeights(where: string, entries: ReadonlyMap<string, TensorSource>): Map<string, TensorSource> {
  const integers = [...entries].filter(([key, { dtype }]) => !isFloating(dtype) && !isCounter(key));
  demand(
    !integers.length,
    "integer-weight",
    () =>
      `${where}: ${listed(
        integers.map(([key, { dtype }]) => `tensor "${shortened(key)}" is ${dtype}`),
        3,
      )}; weights must be floating-point. Give the unquantized checkpoint.`,
  );
  return new Map(
    [...entries].map(([key, source]) => [key, isFloating(source.dtype) ? new Weight(where, key, source) : source]),
  );
}

/** A tensor of which every value is looked at, whichever way it is read. */
class Weight implements TensorSource {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly pieces?: (unit?: number) => AsyncIterable<Uint8Array<ArrayBuffer>>;

  constructor(
    private readonly where: string,
    private readonly key: string,
    private readonly source: TensorSource,
  ) {
    this.dtype = source.dtype;
    this.shape = source.shape;
    if (source.pieces) this.pieces = (unit = 1) => this.checkedPieces(unit);
  }

  async read(): Promise<Tensor> {
    return this.checked(await this.source.read());
  }

  readSync(): Tensor {
    return this.checked(this.source.readSync());
  }

  rows(start: number, end: number, shape: Shape): TensorSource | undefined {
    const rows = this.source.rows?.(start, end, shape);
    return rows && new Weight(this.where, this.key, rows);
  }

  /** Whoever takes the bytes from there looks at the values himself. */
  async place(): Promise<FilePlace | undefined> {
    if (this.isVariance) return undefined;
    const place = await this.source.place?.();
    const length = sizeOf(this.shape) * dtypes[this.dtype].bytes;
    const refuse = (): void => void this.checked(this.source.readSync());
    return place && { ...place, values: { dtype: this.dtype, length, refuse } };
  }

  private async *checkedPieces(unit: number): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
    const { bytes: width } = dtypes[this.dtype];
    // Whole values.
    for await (const piece of this.source.pieces!(unit % width === 0 ? unit : unit * width)) {
      const part = tensorFromBytes(this.dtype, [piece.length / width], piece);
      // Named by its place in the whole tensor.
      if (!this.isSound(part)) this.checked(await this.source.read());
      yield piece;
    }
  }

  private isSound(tensor: Tensor): boolean {
    return allFinite(tensor) && (!this.isVariance || tensor.toFloat64().every((v) => v >= 0));
  }

  private get isVariance(): boolean {
    return this.key.endsWith("running_var");
  }

  private checked(tensor: Tensor): Tensor {
    if (this.isSound(tensor)) return tensor;
    return refuseValue(this.where, this.key, tensor, (v) => !Number.isFinite(v) || (this.isVariance && v < 0));
  }
}

/** Refuses a tensor by its first value that is wrong. */
function refuseValue(where: string, key: string, tensor: Tensor, isWrong: (value: number) => boolean): never {
  const values = tensor.toFloat64();
  const at = values.findIndex(isWrong);
  const place = stridesOf(tensor.shape).map((stride, axis) => Math.floor(at / stride) % tensor.shape[axis]);
  const is = Number.isFinite(values[at]) ? "a variance below 0" : "not finite";
  return refuse(
    "not-finite",
    `${where}: tensor "${shortened(key)}" is ${is}: its value at [${place.join(", ")}] is ${values[at]}. ` +
      "Training had gone wrong before it was saved; give an earlier checkpoint.",
  );
}

/**
 * Refuses weights of an ONNX model as {@link asWeights} does those of a checkpoint. Its other constants may be infinite
 * (masks, limits), but not NaN.
 *
 * @param tensors    one is in memory at a time
 * @param isWeight   whether a layer multiplies or adds with the tensor of this name
 * @throws RepmlpError `checkpoint/not-finite` naming the tensor
 */
export async function mustBeFiniteTensors(
  where: string,
  tensors: Iterable<readonly [name: string, source: TensorSource]>,
  isWeight: (name: string) => boolean,
): Promise<void> {
  for (const [name, source] of tensors) {
    if (!isFloating(source.dtype)) continue;
    const tensor = await source.read();
    if (allFinite(tensor)) continue;
    const isWrong = isWeight(name) ? (v: number) => !Number.isFinite(v) : Number.isNaN;
    if (tensor.toFloat64().some(isWrong)) refuseValue(where, name, tensor, isWrong);
  }
}

/** Exponent bits of a floating-point type, and the lowest of them, in the words that values are looked at in. */
const exponents: Partial<Record<DType, readonly [mask: number, lowest: number]>> = {
  float32: [0x7f800000, 0x00800000],
  float64: [0x7ff00000, 0x00100000],
  float16: [0x7c00, 0x0400],
  bfloat16: [0x7f80, 0x0080],
};

/**
 * Whether no value is NaN or infinite. The exponent of those is all ones, so that adding one to it carries over into the
 * sign's place; no branch per value, which is as fast as the memory is read.
 */
export function allFinite({ dtype, data }: Tensor): boolean {
  const exponent = exponents[dtype];
  if (!exponent) return true;
  const [mask, lowest] = exponent;
  let carried = 0;
  if (data instanceof Uint16Array) for (let i = 0; i < data.length; i++) carried |= (data[i] & mask) + lowest;
  else {
    const words = new Int32Array(data.buffer, data.byteOffset, data.byteLength / 4);
    const step = dtype === "float64" ? 2 : 1;
    for (let i = step - 1; i < words.length; i += step) carried |= ((words[i] & mask) + lowest) | 0;
  }
  return dtype === "float16" || dtype === "bfloat16" ? (carried & 0x8000) === 0 : carried >= 0;
}
