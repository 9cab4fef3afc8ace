import { sizeOf, Tensor } from "../../tensor/index.ts";
import { expand, reshape } from "../ops/broadcast.ts";
import { concat, flip, gather, pad, type SliceRange, slice, transpose } from "../ops/shape.ts";
import { constant, type Value } from "../value.ts";
import { axisOf, type NodeContext, type Reader } from "./context.ts";

const int64 = (values: readonly number[]): Value => constant(Tensor.of("int64", [values.length], values));

function readReshape(node: NodeContext): Value {
  const x = node.input(0);
  const wanted = node.ints("shape", 1, 5) ?? node.fail("shape", "the shape is missing. The file is damaged.");
  const zeroCopies = node.int("allowzero", 0) === 0;
  return reshape(
    x,
    wanted.map((d, i) => (d === 0 && zeroCopies ? x.shape[i] : d)),
  );
}

function readFlatten(node: NodeContext): Value {
  const x = node.input(0);
  const rank = x.shape.length;
  const axis = node.int("axis", 1);
  const split = axis === rank ? rank : axisOf(node, axis, rank);
  return reshape(x, [sizeOf(x.shape.slice(0, split)), sizeOf(x.shape.slice(split))]);
}

function readSqueeze(node: NodeContext): Value {
  const x = node.input(0);
  const axes = node.ints("axes", 1, 13)?.map((a) => axisOf(node, a, x.shape.length));
  const kept = x.shape.filter((d, i) => (axes ? !axes.includes(i) : d !== 1));
  return reshape(x, kept);
}

function readUnsqueeze(node: NodeContext): Value {
  const x = node.input(0);
  const list = node.ints("axes", 1, 13) ?? node.fail("axes", "the axes are missing. The file is damaged.");
  const rank = x.shape.length + list.length;
  const axes = list.map((a) => axisOf(node, a, rank));
  const sizes = [...x.shape];
  return reshape(
    x,
    Array.from({ length: rank }, (_, i) => (axes.includes(i) ? 1 : sizes.shift()!)),
  );
}

function readTranspose(node: NodeContext): Value {
  const x = node.input(0);
  return transpose(x, node.intList("perm") ?? x.shape.map((_, i) => x.shape.length - 1 - i));
}

/** Empty tensors, as exporters leave them between sizes, add nothing. */
function readConcat(node: NodeContext): Value {
  const parts = node.inputs();
  const axis = axisOf(node, node.int("axis"), parts[0].shape.length);
  const full = parts.filter((v) => v.shape[axis] !== 0);
  return full.length ? concat(full, axis) : parts[0];
}

function readSplit(node: NodeContext): Value[] {
  const x = node.input(0);
  const axis = axisOf(node, node.int("axis", 0), x.shape.length);
  const count = node.node.outputs.length;
  const even = Math.ceil(x.shape[axis] / count);
  const sizes =
    node.ints("split", 1, 13) ?? Array.from({ length: count }, (_, i) => Math.min(even, x.shape[axis] - i * even));
  let start = 0;
  return sizes.map((size) => {
    const range = { axis, start, end: start + size };
    start = range.end;
    return slice(x, [range]);
  });
}

/** The axis reversed and cut where the step is negative, cut otherwise. */
function sliceAxis(node: NodeContext, x: Value, axis: number, from: number, to: number, step: number): Value {
  const d = x.shape[axis];
  const clamp = (v: number, low: number, high: number): number => Math.max(low, Math.min(high, v < 0 ? v + d : v));
  if (step === 0) node.fail("step", "a step of 0 is not allowed. The file is damaged.");
  if (step < 0) {
    const [start, end] = [clamp(from, -1, d - 1), to < -d ? -1 : clamp(to, -1, d - 1)];
    node.sane(d, "positions");
    return sliceAxis(node, flip(x, axis), axis, d - 1 - start, d - 1 - end, -step);
  }
  const range: SliceRange = { axis, start: clamp(from, 0, d), end: clamp(to, 0, d), step };
  if (range.start < range.end) return slice(x, [range]);
  return constant(Tensor.zeros(x.dtype, x.shape.with(axis, 0)));
}

function readSlice(node: NodeContext): Value {
  const x = node.input(0);
  const starts = node.ints("starts", 1, 10) ?? [];
  const ends = node.ints("ends", 2, 10) ?? [];
  const axes = node.ints("axes", 3, 10) ?? starts.map((_, i) => i);
  const steps = node.opset >= 10 && node.has(4) ? node.numbers(4) : starts.map(() => 1);
  return axes.reduce((y, a, i) => sliceAxis(node, y, axisOf(node, a, x.shape.length), starts[i], ends[i], steps[i]), x);
}

/** Where a position outside of an axis of `size` reads, for the padding modes that repeat the tensor. */
const mirrored: Readonly<Record<string, (i: number, size: number) => number>> = {
  edge: (i, size) => Math.max(0, Math.min(size - 1, i)),
  reflect: (i, size) => {
    const period = Math.max(1, 2 * (size - 1));
    const at = ((i % period) + period) % period;
    return at < size ? at : period - at;
  },
  wrap: (i, size) => ((i % size) + size) % size,
};

function readPad(node: NodeContext): Value {
  const x = node.input(0);
  const amounts = node.ints("pads", 1, 11) ?? node.fail("pads", "the amounts are missing. The file is damaged.");
  const rank = x.shape.length;
  const axes = node.opset >= 18 && node.has(3) ? node.numbers(3).map((a) => axisOf(node, a, rank)) : undefined;
  const listed = axes ?? x.shape.map((_, i) => i);
  const along = (first: number): number[] =>
    x.shape.map((_, i) => (listed.includes(i) ? amounts[first + listed.indexOf(i)] : 0));
  const [before, after] = [along(0), along(listed.length)];
  // Negative amounts crop.
  const cropped = slice(
    x,
    x.shape.map((d, axis) => ({ axis, start: Math.max(0, -before[axis]), end: d - Math.max(0, -after[axis]) })),
  );
  const [b, a] = [before, after].map((list) => list.map((v) => Math.max(0, v)));
  const mode = node.text("mode", "constant");
  if (mode === "constant") return pad(cropped, b, a, node.number("value", 2, 11) ?? 0);
  const source = mirrored[mode] ?? node.fail("mode", `padding mode ${mode} is not supported.`);
  return cropped.shape.reduce<Value>((y, d, axis) => {
    if (!b[axis] && !a[axis]) return y;
    const positions = Array.from({ length: node.sane(b[axis] + d + a[axis], "positions") }, (_, i) =>
      source(i - b[axis], d),
    );
    return gather(y, positions, axis);
  }, cropped);
}

/** Unlike ours, ONNX's Expand leaves a size of the tensor where the shape says 1. */
function readExpand(node: NodeContext): Value {
  const x = node.input(0);
  const wanted = node.numbers(1);
  const rank = Math.max(wanted.length, x.shape.length);
  const at = (shape: readonly number[], i: number): number => shape[i - rank + shape.length] ?? 1;
  return expand(
    x,
    Array.from({ length: rank }, (_, i) => (at(wanted, i) === 1 ? at(x.shape, i) : at(wanted, i))),
  );
}

function readTile(node: NodeContext): Value {
  return node.numbers(1).reduce((x, times, axis) => {
    if (times === 1) return x;
    const [lead, rest] = [x.shape.slice(0, axis), x.shape.slice(axis)];
    return reshape(expand(reshape(x, [...lead, 1, ...rest]), [...lead, times, ...rest]), [
      ...lead,
      times * rest[0],
      ...rest.slice(1),
    ]);
  }, node.input(0));
}

function readShape(node: NodeContext): Value {
  const { shape } = node.input(0);
  const rank = shape.length;
  const end = "end" in node.node.attrs ? node.int("end") : rank;
  return int64(shape.slice(node.int("start", 0), end));
}

function readConstant(node: NodeContext): Value {
  const { value } = node.node.attrs;
  if (value instanceof Tensor) return constant(value);
  const { attrs } = node.node;
  if ("value_float" in attrs) return constant(Tensor.scalar(node.float("value_float")));
  if ("value_int" in attrs) return constant(Tensor.scalar(node.int("value_int"), "int64"));
  if ("value_ints" in attrs) return int64(node.intList("value_ints")!);
  const { value_floats: floats } = attrs;
  if (typeof floats === "object" && "floats" in floats)
    return constant(Tensor.float32([floats.floats.length], floats.floats));
  return node.fail("constant", "it holds neither a tensor nor numbers.");
}

function readConstantOfShape(node: NodeContext): Value {
  const { value } = node.node.attrs;
  const one = value instanceof Tensor ? value : Tensor.scalar(0);
  return expand(constant(one.reshape([])), node.numbers(0));
}

function readRange(node: NodeContext): Value {
  const [start, limit, delta] = [0, 1, 2].map((i) => node.numbers(i)[0]);
  const count = node.sane(Math.max(0, Math.ceil((limit - start) / delta)), "numbers");
  const { dtype } = node.tensor(0);
  return constant(
    Tensor.of(
      dtype,
      [count],
      Array.from({ length: count }, (_, i) => start + i * delta),
    ),
  );
}

/** Depth and blocks are exchanged by one permutation of [N, …, H, W] seen with the blocks as axes of their own. */
function readDepthToSpace(node: NodeContext): Value {
  const x = node.input(0);
  const [n, c, h, w] = x.shape;
  const b = node.int("blocksize");
  const depth = c / (b * b);
  const columnsFirst = node.text("mode", "DCR") === "CRD";
  const cut = reshape(x, columnsFirst ? [n, depth, b, b, h, w] : [n, b, b, depth, h, w]);
  return reshape(transpose(cut, columnsFirst ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2]), [n, depth, h * b, w * b]);
}

function readSpaceToDepth(node: NodeContext): Value {
  const x = node.input(0);
  const [n, c, h, w] = x.shape;
  const b = node.int("blocksize");
  const cut = reshape(x, [n, c, h / b, b, w / b, b]);
  return reshape(transpose(cut, [0, 3, 5, 1, 2, 4]), [n, c * b * b, h / b, w / b]);
}

/** Since operator set 12 it may be told to drop values wherever it runs. */
function readDropout(node: NodeContext): Value {
  node.onlyOutputs(1, "the mask");
  const training = node.opset >= 12 && node.has(2) && node.numbers(2)[0] !== 0;
  if (training && (node.number("ratio", 1, 12) ?? 0.5) !== 0)
    node.fail("training", "it drops values at random. Export the model in evaluation mode.");
  return node.input(0);
}

export const shapeReaders: Readonly<Record<string, Reader>> = {
  Concat: readConcat,
  Constant: readConstant,
  ConstantOfShape: readConstantOfShape,
  DepthToSpace: readDepthToSpace,
  Dropout: readDropout,
  Expand: readExpand,
  Flatten: readFlatten,
  Gather: (node) => gather(node.input(0), node.input(1), node.int("axis", 0)),
  Pad: readPad,
  Range: readRange,
  Reshape: readReshape,
  Shape: readShape,
  Size: (node) => constant(Tensor.scalar(sizeOf(node.input(0).shape), "int64")),
  Slice: readSlice,
  SpaceToDepth: readSpaceToDepth,
  Split: readSplit,
  Squeeze: readSqueeze,
  Tile: readTile,
  Transpose: readTranspose,
  Unsqueeze: readUnsqueeze,
};
