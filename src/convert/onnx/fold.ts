import { dtypeOfElementType, intAttr, intsAttr, type OnnxNode } from "../../onnx/index.ts";
import {
  type DType,
  dtypes,
  isFloating,
  type Shape,
  sameShape,
  sizeOf,
  stridesOf,
  Tensor,
} from "../../tensor/index.ts";
import { type Dims, onAxis, squeezed, unsqueezed } from "./dims.ts";

/** Values of one folded tensor at most; a few bytes of a file can ask for any size. */
export const FOLD_LIMIT = 1 << 20;

/** What a node computes of constants. `undefined` stands for an input that is left out. */
interface Folding {
  readonly node: OnnxNode;
  readonly opset: number;
  readonly inputs: readonly (Tensor | undefined)[];
  /** Sizes of the inputs, of which only these may be known. */
  readonly dims: readonly (Dims | undefined)[];
}

type Fold = (context: Folding) => Tensor | undefined;

/** A tensor of numbers that its type can hold exactly; others are left to the runtime. */
function tensor(dtype: DType, shape: Shape, values: ArrayLike<number>): Tensor | undefined {
  if (!isFloating(dtype))
    for (let i = 0; i < values.length; i++) if (!Number.isSafeInteger(values[i])) return undefined;
  return Tensor.of(dtype, shape, values);
}

const fits = (shape: Shape): boolean =>
  shape.every((d) => Number.isSafeInteger(d) && d >= 0) && sizeOf(shape) <= FOLD_LIMIT;

const blank = ({ dtype }: Tensor, size: number): Tensor["data"] => new dtypes[dtype].array(size);

/** Values at positions `offset + Σ index · stride` of a tensor's own. */
function picked(x: Tensor, shape: Shape, strides: readonly number[], offset = 0): Tensor | undefined {
  if (!fits(shape)) return undefined;
  const source = x.data;
  const data = blank(x, sizeOf(shape));
  const index = shape.map(() => 0);
  let at = offset;
  for (let i = 0; i < data.length; i++) {
    data[i] = source[at];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += strides[axis];
      if (++index[axis] < shape[axis]) break;
      at -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return new Tensor(x.dtype, shape, data);
}

export function broadcastShape(...shapes: readonly Shape[]): Shape | undefined {
  const rank = Math.max(...shapes.map((s) => s.length));
  const out: number[] = [];
  for (let i = 0; i < rank; i++) {
    const sizes = shapes.map((s) => s[i - rank + s.length] ?? 1);
    const size = sizes.find((d) => d !== 1) ?? 1;
    if (sizes.some((d) => d !== 1 && d !== size)) return undefined;
    out.push(size);
  }
  return out;
}

function expanded(x: Tensor, shape: Shape): Tensor | undefined {
  const own = stridesOf(x.shape);
  const lead = shape.length - x.shape.length;
  return picked(
    x,
    shape,
    shape.map((_, i) => (i < lead || x.shape[i - lead] === 1 ? 0 : own[i - lead])),
  );
}

const elementwise =
  (f: (...values: number[]) => number, dtype?: DType): Fold =>
  ({ inputs }) => {
    if (!inputs.length || inputs.some((t) => !t)) return undefined;
    const tensors = inputs as readonly Tensor[];
    const shape = broadcastShape(...tensors.map((t) => t.shape));
    if (!shape || !fits(shape)) return undefined;
    const all = tensors.map((t) => expanded(t, shape)?.toFloat64());
    const out = new Float64Array(sizeOf(shape));
    for (let i = 0; i < out.length; i++) out[i] = f(...all.map((v) => v![i]));
    return tensor(dtype ?? tensors.at(-1)!.dtype, shape, out);
  };

/** Integers are divided towards zero. */
const divided: Fold = (context) => {
  const whole = !isFloating(context.inputs[0]?.dtype ?? "float32");
  return elementwise((a, b) => (whole ? Math.trunc(a / b) : a / b))(context);
};

const nested = (f: (a: number, b: number) => number): Fold => elementwise((...values) => values.reduce(f));

/** A list that was an attribute up to operator set `since` − 1 and is an input from then on. */
export function listOf(
  { node, opset, inputs }: Folding,
  key: string,
  input: number,
  since: number,
): readonly number[] | undefined {
  if (opset >= since) return inputs[input] && [...inputs[input].toFloat64()];
  const value = node.attrs[key];
  if (Array.isArray(value) && typeof value[0] === "bigint") return value.map(Number);
  return value === undefined ? undefined : intsAttr(node, key);
}

/** The shape that Reshape makes of a size: 0 keeps an axis, −1 takes what is left. */
export function reshaped(from: Shape, to: readonly number[], allowZero: boolean): Shape | undefined {
  const shape = to.map((d, i) => (d === 0 && !allowZero ? from[i] : d));
  const rest = shape.indexOf(-1);
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
  if (rest >= 0) shape[rest] = sizeOf(from) / known;
  return fits(shape) && sizeOf(shape) === sizeOf(from) ? shape : undefined;
}

/** Which part of an axis a Slice takes. */
export function sliceOf(size: number, start: number, end: number, step: number): { from: number; count: number } {
  const clamp = (v: number, low: number, high: number): number => Math.min(high, Math.max(low, v < 0 ? v + size : v));
  const [from, to] =
    step > 0 ? [clamp(start, 0, size), clamp(end, 0, size)] : [clamp(start, 0, size - 1), clamp(end, -1, size - 1)];
  return { from, count: Math.max(0, Math.ceil((to - from) / step)) };
}

const slice: Fold = (context) => {
  const [x] = context.inputs;
  const [starts, ends] = [listOf(context, "starts", 1, 10), listOf(context, "ends", 2, 10)];
  if (!x || !starts || !ends) return undefined;
  const axes = listOf(context, "axes", 3, 10) ?? starts.map((_, i) => i);
  const steps = context.inputs[4] ? [...context.inputs[4].toFloat64()] : starts.map(() => 1);
  const [shape, strides] = [[...x.shape], stridesOf(x.shape)];
  let offset = 0;
  for (const [i, axis] of axes.entries()) {
    const at = onAxis(axis, shape.length);
    if (shape[at] === undefined || !steps[i]) return undefined;
    const { from, count } = sliceOf(x.shape[at], starts[i], ends[i], steps[i]);
    offset += from * strides[at];
    strides[at] *= steps[i];
    shape[at] = count;
  }
  return picked(x, shape, strides, sizeOf(shape) ? offset : 0);
};

const gather: Fold = ({ node, inputs: [x, index] }) => {
  if (!x || !index) return undefined;
  const axis = onAxis(intAttr(node, "axis", 0), x.shape.length);
  const size = x.shape[axis];
  const rows = [...index.toFloat64()].map((v) => (v < 0 ? v + size : v));
  if (size === undefined || !rows.every((v) => Number.isInteger(v) && v >= 0 && v < size)) return undefined;
  const inner = sizeOf(x.shape.slice(axis + 1));
  const outer = sizeOf(x.shape.slice(0, axis));
  const shape = [...x.shape.slice(0, axis), ...index.shape, ...x.shape.slice(axis + 1)];
  if (!fits(shape)) return undefined;
  const data = blank(x, sizeOf(shape));
  for (let o = 0, to = 0; o < outer; o++)
    for (const row of rows)
      for (let i = 0, from = (o * size + row) * inner; i < inner; i++) data[to++] = x.data[from++];
  return new Tensor(x.dtype, shape, data);
};

const concatenated: Fold = ({ node, inputs }) => {
  if (!inputs.length || inputs.some((t) => !t)) return undefined;
  const parts = inputs as readonly Tensor[];
  const [first] = parts;
  const axis = onAxis(intAttr(node, "axis", 0), first.shape.length);
  const rest = (shape: Shape): Shape => shape.toSpliced(axis, 1);
  if (!parts.every((t) => t.dtype === first.dtype && sameShape(rest(t.shape), rest(first.shape)))) return undefined;
  const shape = first.shape.with(
    axis,
    parts.reduce((n, t) => n + t.shape[axis], 0),
  );
  if (!fits(shape)) return undefined;
  const data = blank(first, sizeOf(shape));
  const row = shape[axis] * sizeOf(shape.slice(axis + 1));
  let column = 0;
  for (const part of parts) {
    const width = part.shape[axis] * sizeOf(shape.slice(axis + 1));
    for (let i = 0; i < part.size; i++) data[Math.floor(i / width) * row + column + (i % width)] = part.data[i];
    column += width;
  }
  return new Tensor(first.dtype, shape, data);
};

const sized = (x: Tensor | undefined, shape: readonly (number | undefined)[] | undefined): Tensor | undefined =>
  x && shape?.every((d) => d !== undefined) && sizeOf(shape) === x.size ? x.reshape(shape) : undefined;

/** What ConstantOfShape fills with where nothing is said. */
const ZERO = Tensor.float32([1], [0]);

const folds: Readonly<Record<string, Fold>> = {
  Identity: ({ inputs: [x] }) => x,
  Cast: ({ node, inputs: [x] }) => {
    const dtype = dtypeOfElementType(intAttr(node, "to", 0));
    if (!x || !dtype) return undefined;
    return dtype === "bool"
      ? Tensor.of("bool", x.shape, x.toFloat64())
      : tensor(dtype, x.shape, x.toFloat64().map(isFloating(dtype) ? Number : Math.trunc));
  },
  Shape: ({ node, dims: [dims] }) => {
    if (!dims?.every((d) => d !== undefined)) return undefined;
    const part = dims.slice(intAttr(node, "start", 0), intAttr(node, "end", dims.length)) as number[];
    return Tensor.of("int64", [part.length], part);
  },
  Size: ({ dims: [dims] }) =>
    dims?.every((d) => d !== undefined) ? tensor("int64", [], [sizeOf(dims as Shape)]) : undefined,
  ConstantOfShape: ({ node, inputs: [shape] }) => {
    const sizes = shape && [...shape.toFloat64()];
    const value = node.attrs.value instanceof Tensor ? node.attrs.value : ZERO;
    return sizes && fits(sizes) && value.size === 1 ? expanded(value.reshape([]), sizes) : undefined;
  },
  Gather: gather,
  Slice: slice,
  Concat: concatenated,
  Unsqueeze: (c) => {
    const axes = listOf(c, "axes", 1, 13);
    return sized(c.inputs[0], axes && c.inputs[0] && unsqueezed(c.inputs[0].shape, axes));
  },
  Squeeze: (c) => {
    const [x] = c.inputs;
    return sized(x, x && squeezed(x.shape, listOf(c, "axes", 1, 13)));
  },
  Reshape: ({ node, inputs: [x, to] }) =>
    x && to && sized(x, reshaped(x.shape, [...to.toFloat64()], intAttr(node, "allowzero", 0) === 1)),
  Flatten: ({ node, inputs: [x] }) => {
    if (!x) return undefined;
    const axis = onAxis(intAttr(node, "axis", 1), x.shape.length);
    return sized(x, [sizeOf(x.shape.slice(0, axis)), sizeOf(x.shape.slice(axis))]);
  },
  Transpose: ({ node, inputs: [x] }) => {
    if (!x) return undefined;
    const perm = intsAttr(
      node,
      "perm",
      x.shape.map((_, i) => x.shape.length - 1 - i),
    );
    const strides = stridesOf(x.shape);
    if (perm.length !== x.shape.length || perm.some((p) => x.shape[p] === undefined)) return undefined;
    return picked(
      x,
      perm.map((p) => x.shape[p]),
      perm.map((p) => strides[p]),
    );
  },
  Expand: ({ inputs: [x, to] }) => {
    const shape = x && to && broadcastShape(x.shape, [...to.toFloat64()]);
    return shape && fits(shape) ? expanded(x, shape) : undefined;
  },
  Tile: ({ inputs: [x, repeats] }) => {
    const times = repeats && [...repeats.toFloat64()];
    if (!x || times?.length !== x.shape.length) return undefined;
    const strides = stridesOf(x.shape);
    const shape = x.shape.flatMap((d, i) => [times[i], d]);
    const made = picked(
      x,
      shape,
      strides.flatMap((s) => [0, s]),
    );
    return sized(
      made,
      x.shape.map((d, i) => d * times[i]),
    );
  },
  Range: ({ inputs: [start, limit, delta] }) => {
    if (!start || !limit || !delta) return undefined;
    const [from, to, step] = [start, limit, delta].map((t) => t.toFloat64()[0]);
    const count = Math.max(0, Math.ceil((to - from) / step));
    if (!fits([count])) return undefined;
    return tensor(
      start.dtype,
      [count],
      Float64Array.from({ length: count }, (_, i) => from + i * step),
    );
  },
  Where: ({ inputs: [condition, a, b], ...rest }) => {
    if (!condition || !a || !b) return undefined;
    return elementwise((c, x, y) => (c ? x : y))({ ...rest, inputs: [condition, a, b] });
  },
  Add: nested((a, b) => a + b),
  Sub: nested((a, b) => a - b),
  Mul: nested((a, b) => a * b),
  Div: divided,
  Min: nested(Math.min),
  Max: nested(Math.max),
  Pow: ({ inputs: [a, b], ...rest }) => a && b && elementwise((x, y) => x ** y, a.dtype)({ ...rest, inputs: [a, b] }),
  Sqrt: elementwise(Math.sqrt),
  Reciprocal: elementwise((v) => 1 / v),
  Neg: elementwise((v) => -v),
  Abs: elementwise(Math.abs),
  Floor: elementwise(Math.floor),
  Ceil: elementwise(Math.ceil),
  Exp: elementwise(Math.exp),
  Equal: elementwise((a, b) => (a === b ? 1 : 0), "bool"),
  Less: elementwise((a, b) => (a < b ? 1 : 0), "bool"),
  Greater: elementwise((a, b) => (a > b ? 1 : 0), "bool"),
  Not: elementwise((a) => (a ? 0 : 1), "bool"),
  And: elementwise((a, b) => (a && b ? 1 : 0), "bool"),
  Or: elementwise((a, b) => (a || b ? 1 : 0), "bool"),
};

/** Whether a node may be computed here: all but these are left to the runtime. */
export const canFold = ({ opType, domain, outputs }: OnnxNode): boolean =>
  !domain && outputs.length === 1 && Object.hasOwn(folds, opType);

/** Needs only the sizes of its input. */
export const readsSizes = ({ opType }: OnnxNode): boolean => opType === "Shape" || opType === "Size";

/** The output of a node whose inputs are known; `undefined` where it is not computed here. */
export const fold = (context: Folding): Tensor | undefined => folds[context.node.opType](context);
