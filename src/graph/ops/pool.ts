import { fmt, must } from "../../errors.ts";
import { type Shape, Tensor } from "../../tensor/index.ts";
import type { Emitter, Handle } from "../emitter.ts";
import { constant, defineOp, mustRank, type Op, type TensorType, type Value } from "../value.ts";
import { expand, reshape } from "./broadcast.ts";
import { convTranspose2d, windowOutput } from "./conv.ts";
import { type Pair, pair } from "./conv-options.ts";
import { div, mul } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { reduceMax, reduceMean } from "./reduce.ts";
import { concat, slice } from "./shape.ts";

export interface PoolOptions {
  readonly kernelSize: number | Pair;
  /** Default: the kernel size. */
  readonly stride?: number | Pair;
  /** On both sides, at most half the kernel. Default 0. */
  readonly padding?: number | Pair;
}

interface PoolAttrs {
  readonly kernel: Pair;
  readonly stride: Pair;
  readonly padding: Pair;
}

const poolAttrs = ({ kernelSize, stride = kernelSize, padding = 0 }: PoolOptions): PoolAttrs => ({
  kernel: pair(kernelSize),
  stride: pair(stride),
  padding: pair(padding),
});

function inferPool(op: string, x: TensorType, attrs: PoolAttrs): TensorType {
  mustRank(op, "x", x, 4);
  const { kernel, padding } = attrs;
  must(
    padding.every((p, i) => 2 * p <= kernel[i]),
    `${op}/padding`,
    () => `${op}: padding ${fmt(padding)} must be at most half of the kernel ${fmt(kernel)}`,
  );
  const out = windowOutput(x.shape.slice(2), kernel, { ...attrs, dilation: [1, 1] });
  must(
    out.every((d) => d > 0),
    `${op}/empty`,
    () => `${op}: kernel ${fmt(kernel)} does not fit in ${fmt(x.shape.slice(2))} with padding ${fmt(padding)}`,
  );
  return { dtype: x.dtype, shape: [x.shape[0], x.shape[1], ...out] };
}

const onnxAttrs = ({ kernel, stride, padding: [ph, pw] }: PoolAttrs) => ({
  kernel_shape: [...kernel],
  strides: [...stride],
  pads: [ph, pw, ph, pw],
});

// --- maximum -------------------------------------------------------------------------------------------------------

/** Windows that tile the image, or a device without indices: the maximum is taken tap by tap. */
const tiles = ({ kernel, stride, padding }: PoolAttrs): boolean =>
  kernel.every((k, i) => k === stride[i] && padding[i] === 0);

const maxPoolOp = defineOp<PoolAttrs>({
  name: "maxPool2d",
  inputs: ["x"],
  infer: ([x], attrs) => inferPool("maxPool2d", x, attrs),
  vjp: ({ inputs: [x], outputs: [y], dy, attrs }) => [maxPoolGradOp([x, y, dy], attrs)],
  lower: (lowering, { inputs: [x], outputs: [y] }, attrs) => {
    const { emit } = lowering;
    if (lowering.layoutOf(x) === "batchLast" && tiles(attrs)) {
      const parts = windowTaps(emit, lowering.read(x, "batchLast"), attrs, [1, 2], y.shape);
      return { handle: parts.map((t) => t.part).reduce((a, b) => emit.binary("Max", a, b)), layout: "batchLast" };
    }
    return {
      handle: emit.node("MaxPool", [emit.poolInput(lowering.read(x))], onnxAttrs(attrs), y.shape),
      layout: "natural",
    };
  },
});

interface Tap {
  readonly tap: Pair;
  readonly part: Handle;
}

/** The k² strided views of x, one per tap, each of the output's size; `axes` are those of height and width. */
function windowTaps(emit: Emitter, x: Handle, { kernel, stride, padding }: PoolAttrs, axes: Pair, y: Shape): Tap[] {
  const before = x.shape.map((_, i) => (i === axes[0] ? padding[0] : i === axes[1] ? padding[1] : 0));
  const padded = emit.pad(x, before, before, Number.NEGATIVE_INFINITY);
  const taps: Tap[] = [];
  for (let i = 0; i < kernel[0]; i++)
    for (let j = 0; j < kernel[1]; j++) {
      const ranges = [i, j].map((start, k) => ({
        axis: axes[k],
        start,
        end: start + (y[k + 2] - 1) * stride[k] + 1,
        step: stride[k],
      }));
      taps.push({ tap: [i, j], part: emit.slice(padded, ...ranges) });
    }
  return taps;
}

/** dy routed to the first maximum of each window, as PyTorch does. */
const maxPoolGradOp: Op<PoolAttrs> = defineOp<PoolAttrs>({
  name: "maxPool2dGrad",
  inputs: ["x", "y", "dy"],
  infer: ([x]) => x,
  // Linear in dy: the adjoint picks the values at the maxima.
  vjp: ({ inputs: [x, y], dy: z, attrs }) => [undefined, undefined, maxPoolPickOp([x, y, z], attrs)],
  lower: (lowering, { inputs: [x, y, dy] }, attrs) => {
    const { emit, target } = lowering;
    const batchLast = tiles(attrs) && lowering.layoutOf(x) === "batchLast";
    if (batchLast || target.device === "webgpu" || x.dtype !== "float32") {
      const layout = batchLast ? "batchLast" : "natural";
      const axes: Pair = batchLast ? [1, 2] : [2, 3];
      const [xs, ys, d] = [x, y, dy].map((v) => lowering.read(v, layout));
      const taps = windowTaps(emit, xs, attrs, axes, y.shape);
      const routed = firstMaxima(emit, taps, ys).map(({ tap, part }) => ({ tap, part: emit.mul(part, d) }));
      return { handle: placeTaps(emit, routed, attrs, axes, xs.shape), layout };
    }
    const [xs, d] = [emit.poolInput(lowering.read(x)), lowering.read(dy)];
    const size = x.shape.reduce((a, b) => a * b, 1);
    const count = y.shape.reduce((a, b) => a * b, 1);
    const [, indices] = emit.nodeAll("MaxPool", [xs], onnxAttrs(attrs), [
      { shape: y.shape, dtype: x.dtype },
      { shape: y.shape, dtype: "int64" },
    ]);
    const zeros = emit.node(
      "ConstantOfShape",
      [emit.int64([size])],
      { value: Tensor.zeros(x.dtype, [1]) },
      [size],
      x.dtype,
    );
    const sum = emit.node(
      "ScatterElements",
      [zeros, emit.reshape(indices, [count]), emit.reshape(d, [count])],
      { axis: 0, reduction: "add" },
      [size],
    );
    return { handle: emit.reshape(sum, x.shape), layout: "natural" };
  },
});

/** 0/1 masks of the taps that hold the window's first maximum. */
function firstMaxima(emit: Emitter, taps: readonly Tap[], y: Handle): Tap[] {
  let rest: Handle | undefined;
  return taps.map(({ tap, part }) => {
    const isMax = emit.nonNegative(emit.sub(part, y));
    const mask = rest ? emit.mul(isMax, rest) : isMax;
    const one = emit.scalar(1, y.dtype, y.shape.length);
    rest = rest ? emit.sub(rest, mask) : emit.sub(one, mask);
    return { tap, part: mask };
  });
}

/** The adjoint of {@link windowTaps}: adds every tap's values back to their places. */
function placeTaps(emit: Emitter, taps: readonly Tap[], attrs: PoolAttrs, axes: Pair, shape: Shape): Handle {
  const { kernel, stride, padding } = attrs;
  const out = axes.map((a) => taps[0].part.shape[a]);
  // Padded positions in whole strides, enough for the last tap.
  const counts = axes.map((a, k) =>
    Math.max(Math.ceil((shape[a] + 2 * padding[k]) / stride[k]), out[k] + Math.floor((kernel[k] - 1) / stride[k])),
  );
  const phase = (r: number, s: number): Handle => {
    const parts = taps
      .filter(({ tap }) => tap[0] % stride[0] === r && tap[1] % stride[1] === s)
      .map(({ tap, part }) => {
        const lead = tap.map((t, k) => Math.floor(t / stride[k]));
        const before = part.shape.map((_, i) => (axes.includes(i) ? lead[axes.indexOf(i)] : 0));
        const after = part.shape.map((_, i) =>
          axes.includes(i) ? counts[axes.indexOf(i)] - out[axes.indexOf(i)] - lead[axes.indexOf(i)] : 0,
        );
        return emit.pad(part, before, after);
      });
    const [a] = axes;
    const size = [...shape.slice(0, a), counts[0], 1, counts[1], 1, ...shape.slice(a + 2)];
    if (parts.length) return emit.reshape(emit.sum(parts), size);
    return emit.node("Expand", [emit.scalar(0, taps[0].part.dtype, size.length), emit.int64(size)], {}, size);
  };
  const [a] = axes;
  const rows = Array.from({ length: stride[0] }, (_, r) =>
    emit.concat(
      Array.from({ length: stride[1] }, (_, s) => phase(r, s)),
      a + 3,
    ),
  );
  const joined = [...shape.slice(0, a), counts[0] * stride[0], counts[1] * stride[1], ...shape.slice(a + 2)];
  const full = emit.reshape(emit.concat(rows, a + 1), joined);
  return emit.slice(full, ...axes.map((axis, k) => ({ axis, start: padding[k], end: padding[k] + shape[axis] })));
}

/** Values of z at the first maximum of each window of x: the adjoint of the gradient. */
const maxPoolPickOp: Op<PoolAttrs> = defineOp<PoolAttrs>({
  name: "maxPool2dPick",
  inputs: ["x", "y", "z"],
  infer: ([, y]) => y,
  vjp: ({ inputs: [x, y], dy, attrs }) => [undefined, undefined, maxPoolGradOp([x, y, dy], attrs)],
  lower: (lowering, { inputs: [x, y, z] }, attrs) => {
    const { emit } = lowering;
    const [xs, ys, zs] = [x, y, z].map((v) => lowering.read(v));
    const masks = firstMaxima(emit, windowTaps(emit, xs, attrs, [2, 3], y.shape), ys);
    // Padding is never a maximum, so its minus infinity must not be multiplied: pad z with zeros instead.
    const [ph, pw] = attrs.padding;
    const padded = emit.pad(zs, [0, 0, ph, pw], [0, 0, ph, pw]);
    const values = windowTaps(emit, padded, { ...attrs, padding: [0, 0] }, [2, 3], y.shape);
    return { handle: emit.sum(masks.map(({ part }, i) => emit.mul(part, values[i].part))), layout: "natural" };
  },
});

/** Maximum of each window: `[N, C, H, W]` → `[N, C, H', W']`. Ties give the gradient to the first. */
export const maxPool2d = (x: Value, options: PoolOptions): Value => maxPoolOp([x], poolAttrs(options));

// --- average -------------------------------------------------------------------------------------------------------

interface AvgPoolAttrs extends PoolAttrs {
  readonly countIncludePad: boolean;
}

const avgPoolOp = defineOp<AvgPoolAttrs>({
  name: "avgPool2d",
  inputs: ["x"],
  infer: ([x], attrs) => inferPool("avgPool2d", x, attrs),
  vjp: ({ inputs: [x], dy, attrs }) => [avgPoolGrad(dy, x.shape, attrs)],
  lower: (lowering, { inputs: [x], outputs: [y] }, attrs) => {
    const { emit } = lowering;
    const [n, c, h, w] = x.shape;
    const [kh, kw] = attrs.kernel;
    const exact = tiles(attrs) && h % kh === 0 && w % kw === 0;
    if (exact && lowering.layoutOf(x) === "batchLast") {
      const windows = emit.reshape(lowering.read(x, "batchLast"), [c, h / kh, kh, w / kw, kw, n]);
      return { handle: emit.reduce("ReduceMean", windows, [2, 4], false), layout: "batchLast" };
    }
    const pool = { ...onnxAttrs(attrs), count_include_pad: attrs.countIncludePad ? 1 : 0 };
    const handle = lowering.read(x);
    if (x.dtype !== "float64")
      return { handle: emit.node("AveragePool", [emit.poolInput(handle)], pool, y.shape), layout: "natural" };
    // No float64 kernel: windows tap by tap, divided by what they cover.
    const [ph, pw] = attrs.padding;
    const padded = emit.pad(handle, [0, 0, ph, pw], [0, 0, ph, pw]);
    const taps = windowTaps(emit, padded, { ...attrs, padding: [0, 0] }, [2, 3], y.shape);
    const weights = emit.constant(coverage(x.shape, y.shape, attrs, x.dtype));
    return { handle: emit.mul(emit.sum(taps.map((t) => t.part)), weights), layout: "natural" };
  },
});

/** 1 / (number of pixels that count) for every output position, `[1, 1, H', W']`. */
function coverage(x: Shape, y: Shape, attrs: AvgPoolAttrs, dtype: Tensor["dtype"]): Tensor {
  const { kernel, stride, padding, countIncludePad } = attrs;
  const along = [0, 1].map((k) =>
    Array.from({ length: y[k + 2] }, (_, o) => {
      const start = o * stride[k] - padding[k];
      return countIncludePad ? kernel[k] : Math.min(start + kernel[k], x[k + 2]) - Math.max(start, 0);
    }),
  );
  const values = along[0].flatMap((a) => along[1].map((b) => 1 / (a * b)));
  return Tensor.of(dtype, [1, 1, y[2], y[3]], values);
}

function avgPoolGrad(dy: Value, shape: Shape, attrs: AvgPoolAttrs): Value {
  const { kernel, stride, padding } = attrs;
  const [n, c, h, w] = shape;
  const [kh, kw] = kernel;
  if (tiles(attrs) && h % kh === 0 && w % kw === 0) {
    const spread = expand(reshape(div(dy, kh * kw), [n, c, h / kh, 1, w / kw, 1]), [n, c, h / kh, kh, w / kw, kw]);
    return reshape(spread, shape);
  }
  const weighted = mul(dy, constant(coverage(shape, dy.shape, attrs, dy.dtype)));
  const ones = constant(Tensor.full(dy.dtype, [c, 1, kh, kw], 1));
  const size = [h, w];
  const outputPadding = size.map((d, k) => d - ((dy.shape[k + 2] - 1) * stride[k] - 2 * padding[k] + kernel[k])) as [
    number,
    number,
  ];
  return convTranspose2d(weighted, ones, { stride, padding, groups: c, outputPadding });
}

/** Mean of each window: `[N, C, H, W]` → `[N, C, H', W']`. Padding counts as zeros unless `countIncludePad` is false. */
export const avgPool2d = (
  x: Value,
  { countIncludePad = true, ...options }: PoolOptions & { readonly countIncludePad?: boolean },
): Value => avgPoolOp([x], { ...poolAttrs(options), countIncludePad });

/** Mean over height and width: `[N, C, H, W]` → `[N, C]`. */
export const globalAvgPool = (x: Value): Value => reduceMean(x, [2, 3]);
/** Maximum over height and width: `[N, C, H, W]` → `[N, C]`. */
export const globalMaxPool = (x: Value): Value => reduceMax(x, [2, 3]);

/** First and last + 1 input position of bin i of `out` bins over `size` positions (PyTorch's adaptive pooling). */
const adaptiveBin = (i: number, size: number, out: number): Pair => [
  Math.floor((i * size) / out),
  Math.ceil(((i + 1) * size) / out),
];

/** Mean over `size[0]` × `size[1]` bins that cover the image, as PyTorch's AdaptiveAvgPool2d. */
export function adaptiveAvgPool2d(x: Value, size: number | Pair): Value {
  mustRank("adaptiveAvgPool2d", "x", x.type, 4);
  const out = pair(size);
  const [, , h, w] = x.shape;
  if (h % out[0] === 0 && w % out[1] === 0) return avgPool2d(x, { kernelSize: [h / out[0], w / out[1]] });
  const averaging = (d: number, o: number): Value => {
    const m = new Float64Array(o * d);
    for (let i = 0; i < o; i++) {
      const [start, end] = adaptiveBin(i, d, o);
      m.fill(1 / (end - start), i * d + start, i * d + end);
    }
    return constant(Tensor.of(x.dtype, [o, d], m));
  };
  return separable(x, averaging(h, out[0]), averaging(w, out[1]));
}

/** Applies `[H', H]` to the rows and `[W', W]` to the columns of every image. */
export const separable = (x: Value, vertical: Value, horizontal: Value): Value =>
  matmul(matmul(vertical, x), transposed(horizontal));

const transposed = (m: Value): Value => {
  const source = m.node.attrs as { source: Tensor };
  const [rows, cols] = m.shape;
  const values = source.source.toFloat64();
  const flipped = new Float64Array(values.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) flipped[j * rows + i] = values[i * cols + j];
  return constant(Tensor.of(m.dtype, [cols, rows], flipped));
};

/** Maximum over `size[0]` × `size[1]` bins that cover the image, as PyTorch's AdaptiveMaxPool2d. */
export function adaptiveMaxPool2d(x: Value, size: number | Pair): Value {
  mustRank("adaptiveMaxPool2d", "x", x.type, 4);
  const out = pair(size);
  const [, , h, w] = x.shape;
  if (h % out[0] === 0 && w % out[1] === 0) return maxPool2d(x, { kernelSize: [h / out[0], w / out[1]] });
  const along = (v: Value, axis: number, o: number): Value =>
    concat(
      Array.from({ length: o }, (_, i) => {
        const [start, end] = adaptiveBin(i, v.shape[axis], o);
        return reduceMax(slice(v, [{ axis, start, end }]), axis, { keepDims: true });
      }),
      axis,
    );
  return along(along(x, 2, out[0]), 3, out[1]);
}
