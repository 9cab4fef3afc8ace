import { type AttributeValue, elementTypes, type OnnxNode } from "../onnx/index.ts";
import {
  type DType,
  derived,
  isFloating,
  type Shape,
  sameShape,
  sizeOf,
  Tensor,
  type TensorSource,
  type TypedArray,
} from "../tensor/index.ts";

/** A tensor of the ONNX graph being written: its name and its physical shape. */
export interface Handle {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
}

type Attrs = Readonly<Record<string, AttributeValue>>;
interface OutputType {
  readonly shape: Shape;
  readonly dtype: DType;
}

interface Range {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
  readonly step?: number;
}

/** Another look at a tensor's values: transposed, or under another shape; with `one`, a shape known at run time. */
interface View {
  readonly from: Handle;
  readonly perm?: readonly number[];
  readonly one?: Handle;
}

/** What a constant is called that is some rows of another. */
export const rowsName = (name: string, start: number, end: number): string => `${name}[${start}:${end}]`;

/** Of which constant, and which rows of it, a constant of {@link Emitter.constantRows} is; nothing for any other name. */
export function rowsOf(
  name: string,
): { readonly of: string; readonly start: number; readonly end: number } | undefined {
  const [, of, start, end] = /^(.*)\[(\d+):(\d+)\](?:_\d+)?$/.exec(name) ?? [];
  return of === undefined ? undefined : { of, start: Number(start), end: Number(end) };
}

/**
 * Writes ONNX nodes. Equal nodes (same op, inputs and attributes) are written once, so everything that two lowerings
 * have in common — a padded input, an im2col, a mask — is shared without anyone arranging it. Reshapes and transposes
 * compose and vanish when they do nothing.
 */
export class Emitter {
  readonly nodes: OnnxNode[] = [];
  readonly initializers = new Map<string, TensorSource>();
  readonly handles: Handle[] = [];
  /** Prefix of node names: layer path and op. */
  scope = "";
  /** Names that are taken by inputs, outputs and parameters: no tensor made here gets one of them. */
  readonly reserved = new Set<string>();
  private readonly memo = new Map<string, readonly Handle[]>();
  private readonly sources = new Map<TensorSource, Handle>();
  private readonly zeroPads = new Map<
    string,
    { readonly x: Handle; readonly before: readonly number[]; readonly after: readonly number[] }
  >();
  private readonly views = new Map<string, View>();
  private counter = 0;
  /** 1 as int64 `[1]`, where shapes are to be known only at run time. */
  private one: Handle | undefined;

  /**
   * From now on shapes depend on `input`, which may not be empty. The runtime then frees each tensor after its last use;
   * of shapes that it foresees it keeps the memory for a later tensor of the same shape.
   */
  hideShapes(input: Handle): void {
    this.one = this.oneAfter([input]);
  }

  /** An int64 `[1]` of value 1, there once these tensors are; none of them may be empty. */
  oneAfter(tensors: readonly Handle[]): Handle {
    const sizes = tensors.map((x) => this.node("Size", [x], {}, [], "int64"));
    return this.node("Min", [...sizes, this.int64([1])], {}, [1], "int64");
  }

  /** A node with any number of outputs. `unique` nodes are never shared. */
  nodeAll(
    opType: string,
    inputs: readonly (Handle | undefined)[],
    attrs: Attrs,
    outputs: readonly OutputType[],
    options: { readonly unique?: boolean } = {},
  ): readonly Handle[] {
    const names = inputs.map((t) => t?.name ?? "");
    const key = JSON.stringify([opType, names, attrs, outputs.length]);
    const known = options.unique ? undefined : this.memo.get(key);
    if (known) return known;
    const name = this.fresh(`${this.scope}${opType}`);
    const made = outputs.map(({ dtype, shape }, i) => ({ name: i ? `${name}:${i}` : name, dtype, shape }));
    this.nodes.push({ opType, inputs: names, outputs: made.map((t) => t.name), name, attrs });
    this.handles.push(...made);
    if (!options.unique) this.memo.set(key, made);
    return made;
  }

  private fresh(base: string): string {
    const name = `${base}_${this.counter++}`;
    return this.reserved.has(name) ? this.fresh(base) : name;
  }

  /** A node with one output; dtype is that of its first input unless given. */
  node(
    opType: string,
    inputs: readonly (Handle | undefined)[],
    attrs: Attrs,
    shape: Shape,
    dtype = inputs[0]!.dtype,
  ): Handle {
    return this.nodeAll(opType, inputs, attrs, [{ shape, dtype }])[0];
  }

  /** A constant; small ones are shared by value, large ones by identity. */
  constant(source: TensorSource, name?: string): Handle {
    const known = this.sources.get(source);
    if (known) return known;
    if (source instanceof Tensor && source.size <= 64 && !name) {
      const key = `constant ${source.dtype} ${source.shape} ${source.data.join()}`;
      const shared = this.memo.get(key)?.[0] ?? this.addConstant(source, this.fresh("const"));
      this.memo.set(key, [shared]);
      return shared;
    }
    const handle = this.addConstant(source, name ?? this.fresh("const"));
    this.sources.set(source, handle);
    return handle;
  }

  private addConstant(source: TensorSource, name: string): Handle {
    this.initializers.set(name, source);
    return { name, dtype: source.dtype, shape: source.shape };
  }

  int64(values: readonly number[]): Handle {
    return this.constant(Tensor.of("int64", [values.length], values));
  }

  /** A constant scalar as a tensor of `rank` unit dimensions: rank-0 operands are pathologically slow on the CPU. */
  scalar(value: number, dtype: DType, rank = 1): Handle {
    return this.constant(Tensor.of(dtype, new Array<number>(rank).fill(1), [value]));
  }

  /**
   * Rows `start` … `end` of a constant, under another shape, as a constant of its own that is read when needed. Of a
   * computed tensor, a slice.
   */
  constantRows(x: Handle, start: number, end: number, shape: Shape): Handle {
    const source = this.initializers.get(x.name);
    if (!source) return this.reshape(this.slice(x, { axis: 0, start, end }), shape);
    const key = `rows ${x.name} ${start} ${end} ${shape}`;
    const known = this.memo.get(key)?.[0];
    if (known) return known;
    const width = sizeOf(x.shape) / x.shape[0];
    const rows =
      source.rows?.(start, end, shape) ??
      derived(
        x.dtype,
        shape,
        [source],
        (t) => new Tensor(t.dtype, shape, t.data.subarray(start * width, end * width) as TypedArray),
      );
    const handle = this.addConstant(rows, this.fresh(rowsName(x.name, start, end)));
    this.memo.set(key, [handle]);
    return handle;
  }

  /** A constant vector of one value; one per value and length. */
  constantVector(value: number, length: number, dtype: DType): Handle {
    const key = `vector ${dtype} ${length} ${value}`;
    const known = this.memo.get(key)?.[0];
    if (known) return known;
    const handle = this.addConstant(Tensor.full(dtype, [length], value), this.fresh("const"));
    this.memo.set(key, [handle]);
    return handle;
  }

  reshape(x: Handle, shape: Shape): Handle {
    if (sameShape(x.shape, shape)) return x;
    const view = this.views.get(x.name);
    if (view && !view.perm) return view.one ? this.view(view.from, shape, view.one) : this.reshape(view.from, shape);
    const constant = this.initializers.get(x.name);
    if (constant instanceof Tensor && constant.size <= 64) return this.constant(constant.reshape(shape));
    return this.view(x, shape, this.one);
  }

  /** `x`, there once `one` is: see {@link oneAfter}. */
  delayed(x: Handle, one: Handle): Handle {
    const view = this.views.get(x.name);
    return this.view(view && !view.perm && !view.one ? view.from : x, x.shape, one);
  }

  /**
   * A shape that waits for `one` is a product with it. The runtime fails where it merges such a `Reshape` with the next
   * one, so views of views are written as views of the first.
   */
  private view(x: Handle, shape: Shape, one: Handle | undefined): Handle {
    const dims = this.int64(shape);
    const y = this.node("Reshape", [x, one ? this.mul(dims, one) : dims], {}, shape);
    this.views.set(y.name, { from: x, one });
    return y;
  }

  transpose(x: Handle, perm: readonly number[]): Handle {
    const shape = perm.map((i) => x.shape[i]);
    // Moving only unit axes moves no element.
    const moved = perm.filter((i) => x.shape[i] !== 1);
    if (moved.every((axis, i) => i === 0 || moved[i - 1] < axis)) return this.reshape(x, shape);
    const view = this.views.get(x.name);
    if (view?.perm) {
      const inner = view.perm;
      return this.transpose(
        view.from,
        perm.map((i) => inner[i]),
      );
    }
    const y = this.node("Transpose", [x], { perm: [...perm] }, shape);
    this.views.set(y.name, { from: x, perm });
    return y;
  }

  slice(x: Handle, ...ranges: readonly Range[]): Handle {
    const real = ranges.filter((r) => r.start !== 0 || r.end !== x.shape[r.axis] || (r.step ?? 1) !== 1);
    if (!real.length) return x;
    const shape = [...x.shape];
    for (const { axis, start, end, step = 1 } of real) shape[axis] = Math.max(0, Math.ceil((end - start) / step));
    const starts = real.map((r) => r.start);
    // An end before element 0, when stepping backwards, is written as a large negative number.
    const ends = real.map((r) => (r.end < 0 ? -(2 ** 31) : r.end));
    const inputs = [x, this.int64(starts), this.int64(ends), this.int64(real.map((r) => r.axis))];
    if (real.some((r) => (r.step ?? 1) !== 1)) inputs.push(this.int64(real.map((r) => r.step ?? 1)));
    return this.node("Slice", inputs, {}, shape);
  }

  concat(xs: readonly Handle[], axis: number): Handle {
    if (xs.length === 1) return xs[0];
    const shape = [...xs[0].shape];
    shape[axis] = xs.reduce((n, x) => n + x.shape[axis], 0);
    return this.node("Concat", xs, { axis }, shape);
  }

  /** Zero (or constant) padding; `before` and `after` per axis, all ≥ 0. */
  pad(x: Handle, before: readonly number[], after: readonly number[], value = 0): Handle {
    if (before.every((p) => p === 0) && after.every((p) => p === 0)) return x;
    const shape = x.shape.map((d, i) => d + before[i] + after[i]);
    const inputs = [x, this.int64([...before, ...after])];
    if (value !== 0) inputs.push(this.constant(Tensor.of(x.dtype, [], [value])));
    const y = this.node("Pad", inputs, {}, shape);
    if (value === 0) this.zeroPads.set(y.name, { x, before, after });
    return y;
  }

  /**
   * The same values for a pooling node. ONNX Runtime merges a zero `Pad` of [N, C, H, W] into the pooling that reads it,
   * which turns zeros into minus infinity for `MaxPool` and fails where they exceed the kernel; it does not see a pad
   * of [N·C, H, W].
   */
  poolInput(y: Handle): Handle {
    const made = this.zeroPads.get(y.name);
    if (!made || y.shape.length !== 4) return y;
    const { x, before, after } = made;
    if ([before[0], before[1], after[0], after[1]].some((p) => p > 0)) return y;
    const [n, c, h, w] = x.shape;
    const images = this.reshape(x, [n * c, h, w]);
    return this.reshape(this.pad(images, [0, ...before.slice(2)], [0, ...after.slice(2)]), y.shape);
  }

  matmul(a: Handle, b: Handle): Handle {
    const batch = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2));
    return this.node("MatMul", [a, b], {}, [...batch, a.shape[a.shape.length - 2], b.shape[b.shape.length - 1]]);
  }

  /** 2-D product, `a` and `b` optionally transposed; transposes that lead to `a` and `b` are absorbed. */
  gemm(a: Handle, b: Handle, transA: boolean, transB: boolean, c?: Handle): Handle {
    const flipA = this.untransposed(a);
    if (flipA) return this.gemm(flipA, b, !transA, transB, c);
    const flipB = this.untransposed(b);
    if (flipB) return this.gemm(a, flipB, transA, !transB, c);
    const shape = [a.shape[transA ? 1 : 0], b.shape[transB ? 0 : 1]];
    const inputs = c ? [a, b, c] : [a, b];
    if (!transA && !transB && !c) return this.node("MatMul", [a, b], {}, shape);
    return this.node("Gemm", inputs, { transA: transA ? 1 : 0, transB: transB ? 1 : 0 }, shape);
  }

  private untransposed(x: Handle): Handle | undefined {
    const view = this.views.get(x.name);
    return view?.perm && x.shape.length === 2 ? view.from : undefined;
  }

  binary(opType: string, a: Handle, b: Handle, dtype = a.dtype): Handle {
    return this.node(opType, [a, b], {}, broadcastShapes(a.shape, b.shape), dtype);
  }

  unary(opType: string, x: Handle, attrs: Attrs = {}): Handle {
    return this.node(opType, [x], attrs, x.shape);
  }

  add(a: Handle, b: Handle): Handle {
    return this.binary("Add", a, b);
  }

  sub(a: Handle, b: Handle): Handle {
    return this.binary("Sub", a, b);
  }

  mul(a: Handle, b: Handle): Handle {
    return this.binary("Mul", a, b);
  }

  sum(xs: readonly Handle[]): Handle {
    return xs.reduce((total, x) => this.add(total, x));
  }

  /** `ReduceSum`, `ReduceMean`, `ReduceMax`, … over physical axes. */
  reduce(opType: string, x: Handle, axes: readonly number[], keepDims: boolean): Handle {
    const shape = keepDims
      ? x.shape.map((d, i) => (axes.includes(i) ? 1 : d))
      : x.shape.filter((_, i) => !axes.includes(i));
    const keepdims = keepDims ? 1 : 0;
    // Up to opset 17 only ReduceSum takes its axes as an input.
    return opType === "ReduceSum"
      ? this.node(opType, [x, this.int64(axes)], { keepdims }, shape)
      : this.node(opType, [x], { axes: [...axes], keepdims }, shape);
  }

  cast(x: Handle, dtype: DType): Handle {
    return x.dtype === dtype ? x : this.node("Cast", [x], { to: elementTypes[dtype] }, x.shape, dtype);
  }

  /** 1 where `x` > 0, else 0. For float32 one cheap pass: a hard sigmoid so steep that only |x| < 1e-38 differs. */
  positive(x: Handle): Handle {
    return this.steep(x, 0);
  }

  /** 1 where `x` ≥ 0, else 0; as {@link positive}. */
  nonNegative(x: Handle): Handle {
    return this.steep(x, 1);
  }

  private steep(x: Handle, beta: number): Handle {
    if (x.dtype === "float32")
      return this.node("HardSigmoid", [x], { alpha: { float: 1e38 }, beta: { float: beta } }, x.shape);
    const zero = this.scalar(0, x.dtype, x.shape.length);
    return this.cast(this.binary(beta ? "GreaterOrEqual" : "Greater", x, zero, "bool"), x.dtype);
  }
}

/** Whether a shape broadcasts to another one (NumPy's rule). */
export const broadcastsTo = (shape: Shape, out: Shape): boolean =>
  shape.length <= out.length && shape.every((d, i) => d === 1 || d === out[out.length - shape.length + i]);

/** NumPy broadcasting of two shapes; where they do not fit, one of them no longer {@link broadcastsTo} the result. */
export function broadcastShapes(a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    return x === 1 ? y : x;
  });
}

export const isFloat = (t: Handle): boolean => isFloating(t.dtype);
export const elements = (t: Handle): number => sizeOf(t.shape);
