import { sizeOf, Tensor } from "../../tensor/index.ts";
import type { Pair } from "../ops/conv-options.ts";
import { mul } from "../ops/elementwise.ts";
import { avgPool2d, maxPool2d } from "../ops/pool.ts";
import { reduceMax, reduceMean } from "../ops/reduce.ts";
import { pad } from "../ops/shape.ts";
import { constant, type Value } from "../value.ts";
import type { NodeContext, Reader } from "./context.ts";
import { asImages, isSymmetric, likeInput, readWindow, spatialPair, type Window } from "./window.ts";

interface Pool {
  readonly x: Value;
  readonly window: Window;
  /** Rows and columns after the padding that the last windows reach because sizes are rounded up. */
  readonly extra: Pair;
  readonly size: Pair;
}

/** Geometry of a pooling node; its output has `size`. */
function readPool(node: NodeContext): Pool {
  const x = asImages(node.input(0));
  if (x.shape.length !== 4) node.fail("rank", `an input of rank ${x.shape.length} is not supported.`);
  const input: Pair = [x.shape[2], x.shape[3]];
  const window = readWindow(node, input, spatialPair(node, node.intList("kernel_shape"), 1));
  if (window.dilation.some((d) => d !== 1)) node.fail("dilations", `dilation ${window.dilation} is not supported.`);
  const { kernel, stride, before, after } = window;
  const ceil = node.int("ceil_mode", 0) === 1;
  const along = [0, 1].map((i) => {
    const padded = input[i] + before[i] + after[i];
    const steps = (padded - kernel[i]) / stride[i];
    const count = Math.floor(steps) + 1;
    if (!ceil || Number.isInteger(steps)) return { count, extra: 0 };
    // A window that would start in the padding after the image is left out.
    if (count * stride[i] >= input[i] + before[i]) return { count, extra: 0 };
    return { count: count + 1, extra: count * stride[i] + kernel[i] - padded };
  });
  return { x, window, extra: [along[0].extra, along[1].extra], size: [along[0].count, along[1].count] };
}

/** Whether our pools take the padding as it is: equal on both sides, at most half the kernel. */
const isPlain = ({ window, extra }: Pool): boolean =>
  isSymmetric(window) && extra.every((e) => e === 0) && window.before.every((p, i) => 2 * p <= window.kernel[i]);

const padded = ({ x, window: { before, after }, extra }: Pool, value: number): Value =>
  pad(x, [0, 0, ...before], [0, 0, after[0] + extra[0], after[1] + extra[1]], value);

function readMaxPool(node: NodeContext): Value {
  node.onlyOutputs(1, "the indices");
  const pool = readPool(node);
  const { kernel: kernelSize, stride, before: padding } = pool.window;
  const y = isPlain(pool)
    ? maxPool2d(pool.x, { kernelSize, stride, padding })
    : maxPool2d(padded(pool, Number.NEGATIVE_INFINITY), { kernelSize, stride });
  return likeInput(y, node.input(0));
}

/** Pixels that count in each window along one axis. */
function counts({ x, window, size }: Pool, axis: 0 | 1, includePadding: boolean): number[] {
  const [before, after] = [window.before[axis], window.after[axis]];
  const [low, high] = includePadding ? [-before, x.shape[axis + 2] + after] : [0, x.shape[axis + 2]];
  return Array.from({ length: size[axis] }, (_, o) => {
    const start = o * window.stride[axis] - before;
    return Math.min(start + window.kernel[axis], high) - Math.max(start, low);
  });
}

function readAveragePool(node: NodeContext): Value {
  const pool = readPool(node);
  const { kernel: kernelSize, stride, before: padding } = pool.window;
  const countIncludePad = node.int("count_include_pad", 0) === 1;
  if (isPlain(pool))
    return likeInput(avgPool2d(pool.x, { kernelSize, stride, padding, countIncludePad }), node.input(0));
  // Means over zeros and all, corrected by how much of each window counts.
  const [rows, columns] = [counts(pool, 0, countIncludePad), counts(pool, 1, countIncludePad)];
  const whole = sizeOf(kernelSize);
  const factors = rows.flatMap((r) => columns.map((c) => whole / (r * c)));
  const y = avgPool2d(padded(pool, 0), { kernelSize, stride });
  return likeInput(mul(y, constant(Tensor.of(y.dtype, [1, 1, ...pool.size], factors))), node.input(0));
}

const overPixels =
  (f: typeof reduceMean): Reader =>
  (node) => {
    const x = node.input(0);
    return f(x, x.shape.map((_, i) => i).slice(2), { keepDims: true });
  };

export const poolReaders: Readonly<Record<string, Reader>> = {
  AveragePool: readAveragePool,
  GlobalAveragePool: overPixels(reduceMean),
  GlobalMaxPool: overPixels(reduceMax),
  MaxPool: readMaxPool,
};
