import { must, RepmlpError } from "../../errors.ts";
import { floatAttr, intAttr, intsAttr, type OnnxNode, stringAttr } from "../../onnx/index.ts";
import { type DType, isFloating, sizeOf, Tensor, type TensorSource } from "../../tensor/index.ts";
import type { ConvAttrs } from "../ops/conv-options.ts";
import { cast } from "../ops/elementwise.ts";
import { currentPath } from "../path.ts";
import { asConstant, constant, type Value } from "../value.ts";
import { inType } from "./widen.ts";

/** Reads the nodes of one ONNX operator as ops of the graph; the values of its outputs, in order. */
export type Reader = (node: NodeContext) => Value | readonly Value[];

/** A batch norm of the file, as it was trained. */
export interface BatchNormNode {
  readonly x: Value;
  readonly weight: Value;
  readonly bias: Value;
  readonly mean: Value;
  readonly variance: Value;
  readonly eps: number;
  /** Share of a new batch in the running statistics, as in PyTorch: ONNX states what is left of the old ones. */
  readonly momentum: number;
}

/** A convolution of the file, of pictures `[N, C, H, W]` padded alike on both sides. */
export interface ConvNode extends ConvAttrs {
  readonly x: Value;
  /** Names of the initializers that are its weight and bias. */
  readonly weight: string;
  readonly bias: string | undefined;
}

/** The tensors of the model being read. */
export interface Tensors {
  /** The value of a name, if it was made by then. */
  value(name: string): Value | undefined;
  /** An initializer, whatever it is used for. */
  initializer(name: string): TensorSource | undefined;
  /** The type in which a node with these inputs computes what the file has in `dtype`. */
  computed(dtype: DType, inputs: readonly string[]): DType;
}

/** One node of the model, with typed access to its inputs and attributes; what does not fit throws `read-onnx/…`. */
export class NodeContext {
  constructor(
    readonly node: OnnxNode,
    /** Version of the standard operator set. */
    readonly opset: number,
    private readonly tensors: Tensors,
    private readonly usedOutputs: ReadonlySet<string>,
    /** Another reading of batch norms; `undefined` leaves one as it is. */
    readonly batchNorm?: (node: BatchNormNode) => Value | undefined,
    /** Another reading of convolutions; `undefined` leaves one as it is. */
    readonly conv?: (node: ConvNode) => Value | undefined,
  ) {}

  /** Throws, naming the node. */
  fail(code: string, problem: string, cause?: unknown): never {
    throw new RepmlpError(`read-onnx/${code}`, `read-onnx: ${describe(this.node)}: ${problem}`, "file", { cause });
  }

  /** Number of inputs, left-out ones at the end not counted. */
  get inputCount(): number {
    return this.node.inputs.findLastIndex((name) => name !== "") + 1;
  }

  has(i: number): boolean {
    return (this.node.inputs[i] ?? "") !== "";
  }

  input(i: number): Value {
    const name = this.node.inputs[i] ?? "";
    if (name === "") this.fail("input", `input ${i} is missing. The file is damaged.`);
    const value = this.tensors.value(name);
    if (!value) this.fail("input", `it reads "${name}" before any node makes it. The file is damaged.`);
    const type = this.computed(value.dtype);
    if (type === value.dtype) return value;
    const source = asConstant(value)?.source;
    return source ? constant(inType(source, type)) : cast(value, type);
  }

  /** The type in which this node computes what the file has in `dtype`. */
  computed(dtype: DType): DType {
    return this.tensors.computed(dtype, this.node.inputs);
  }

  optional(i: number): Value | undefined {
    return this.has(i) ? this.input(i) : undefined;
  }

  /** Number of outputs, left-out ones not counted. */
  get outputCount(): number {
    return this.node.outputs.filter((name) => name !== "").length;
  }

  /** All inputs. */
  inputs(): Value[] {
    return Array.from({ length: this.inputCount }, (_, i) => this.input(i));
  }

  /** The values of an input that must be known now: a shape, axes, scales. */
  tensor(i: number): Tensor {
    const name = this.node.inputs[i] ?? "";
    const source = this.tensors.initializer(name) ?? knownTensor(this.input(i));
    if (!source && sizeOf(this.input(i).shape) > FOLD_LIMIT)
      this.fail(
        "size",
        `input "${name}" would be ${sizeOf(this.input(i).shape)} values, at most ${FOLD_LIMIT} are computed while a file is read. The file is damaged.`,
      );
    if (!source)
      this.fail(
        "dynamic",
        `input "${name}" must be constant, but depends on what is fed. Export the model with fixed shapes, or fold its constants first.`,
      );
    return source.readSync();
  }

  /** As {@link tensor}, as numbers. */
  numbers(i: number): number[] {
    return [...this.tensor(i).toFloat64()];
  }

  /** A list that was an attribute up to opset `since` − 1 and is input `i` from then on; absent if it is left out. */
  ints(key: string, i: number, since: number): readonly number[] | undefined {
    if (this.opset >= since) return this.has(i) ? this.numbers(i) : undefined;
    return this.intList(key);
  }

  /** The only number of such a list's input or attribute. */
  number(key: string, i: number, since: number): number | undefined {
    if (this.opset >= since) return this.has(i) ? this.numbers(i)[0] : undefined;
    return key in this.node.attrs ? floatAttr(this.node, key) : undefined;
  }

  int(key: string, fallback?: number): number {
    return intAttr(this.node, key, fallback);
  }

  intList(key: string): readonly number[] | undefined {
    const value = this.node.attrs[key];
    if (value === undefined) return undefined;
    // "To the end" is written as the largest integer, which a number holds well enough.
    if (Array.isArray(value) && value.some((v) => typeof v === "bigint")) return value.map(Number);
    return intsAttr(this.node, key);
  }

  float(key: string, fallback?: number): number {
    return floatAttr(this.node, key, fallback);
  }

  text(key: string, fallback?: string): string {
    return stringAttr(this.node, key, fallback);
  }

  /** Refuses lists of a length that only a damaged or hostile file asks for; all that a file asks for is added up. */
  sane(count: number, what: string): number {
    if (!(count <= FOLD_LIMIT)) this.fail("size", `${count} ${what} are more than ${FOLD_LIMIT}. The file is damaged.`);
    charge(count);
    return count;
  }

  /** Refuses the node when anyone reads its outputs from number `from` on. */
  onlyOutputs(from: number, what: string): void {
    const used = this.node.outputs.slice(from).find((name) => this.usedOutputs.has(name));
    if (used !== undefined) this.fail("output", `its output "${used}" (${what}) is used, which is not supported.`);
  }

  /** Refuses an attribute that is there and has another value than the only supported one. */
  only(key: string, value: number | string): void {
    const found = typeof value === "number" ? this.int(key, value) : this.text(key, value);
    if (found !== value) this.fail("attribute", `${key} ${found} is not supported, only ${value}.`);
  }
}

/** How a node is named in messages: `Conv node "/stem/Conv"`. */
export const describe = ({ opType, name, outputs, domain }: OnnxNode): string =>
  `${domain ? `${domain}.` : ""}${opType} node "${name || outputs[0]}"`;

/** Larger constants are not computed on the host unless a shape depends on them. */
const EAGER_LIMIT = 65_536;

/** Nor ever above this: a few bytes of a file can ask for any size. */
const FOLD_LIMIT = 1 << 22;

/** What may be computed while one file is read, in values: small files could otherwise ask for it node by node. */
const READING_LIMIT = 1 << 23;

let left = Number.POSITIVE_INFINITY;

/** Runs the reading of one file with a budget of its own. */
export function withReadingLimit<T>(read: () => T): T {
  const before = left;
  left = READING_LIMIT;
  try {
    return read();
  } finally {
    left = before;
  }
}

function charge(values: number): void {
  left -= values;
  must(
    left >= 0,
    "read-onnx/size",
    () =>
      `read-onnx: node "${currentPath()}": more than ${READING_LIMIT} values would be computed to read the file up to here. It is damaged.`,
    "file",
  );
}

/** What each value amounts to; `undefined` for those that depend on what is fed. */
const known = new WeakMap<Value, Tensor | undefined>();

/** The values of a constant, or of a function of constants that can be computed on the host. */
export function knownTensor(value: Value): Tensor | undefined {
  if (known.has(value)) return known.get(value);
  const source = asConstant(value)?.source;
  const made = source ? constantTensor(source) : foldNode(value);
  known.set(value, made);
  return made;
}

const constantTensor = (source: TensorSource): Tensor | undefined =>
  source instanceof Tensor || !isFloating(source.dtype) ? source.readSync() : undefined;

function foldNode({ node, shape }: Value): Tensor | undefined {
  if (!node.op.fold || !node.inputs.length || sizeOf(shape) > FOLD_LIMIT) return undefined;
  const inputs: Tensor[] = [];
  for (const v of node.inputs) {
    const tensor = knownTensor(v);
    if (!tensor) return undefined;
    inputs.push(tensor);
  }
  charge(sizeOf(shape));
  return node.op.fold(inputs, node.attrs as never);
}

/** The value itself, or the constant that it amounts to. */
export function simplified(value: Value): Value {
  if (asConstant(value) || sizeOf(value.shape) > EAGER_LIMIT) return value;
  const tensor = knownTensor(value);
  return tensor ? constant(tensor) : value;
}

/** An axis counted from the front. */
export function axisOf(node: NodeContext, axis: number, rank: number): number {
  const at = axis < 0 ? axis + rank : axis;
  must(
    Number.isInteger(at) && at >= 0 && at < rank,
    "read-onnx/axis",
    () => `read-onnx: ${describe(node.node)}: axis ${axis} is outside a tensor of rank ${rank}. The file is damaged.`,
    "file",
  );
  return at;
}
