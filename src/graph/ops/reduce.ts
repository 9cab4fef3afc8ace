import { must } from "../../errors.ts";
import { isFloating, sizeOf } from "../../tensor/index.ts";
import { defineOp, type Value } from "../value.ts";
import { defineReduce, expand, reducer, reduceSum } from "./broadcast.ts";
import { div, mul, nonNegative, sub } from "./elementwise.ts";

const count = (x: Value, axes: readonly number[]): number => axes.reduce((n, a) => n * x.shape[a], 1);

const meanOp = defineReduce("reduceMean", "ReduceMean", (x, _, dy, axes) => expand(div(dy, count(x, axes)), x.shape));
// Equal maxima share the gradient evenly, as PyTorch's amax does.
const maxOp = defineReduce("reduceMax", "ReduceMax", (x, y, dy, axes) => {
  const isMax = nonNegative(sub(x, expand(y, x.shape)));
  return mul(expand(div(dy, reduceSum(isMax, axes, { keepDims: true })), x.shape), isMax);
});

/** Mean over `axes` (default: all). */
export const reduceMean = reducer(meanOp);
/** Maximum over `axes` (default: all). */
export const reduceMax = reducer(maxOp);

const kthLargestOp = defineOp<{ readonly k: number }>({
  name: "kthLargest",
  inputs: ["x"],
  infer: ([x], { k }) => {
    const size = sizeOf(x.shape);
    must(isFloating(x.dtype), "kthLargest/dtype", () => `kthLargest: x is ${x.dtype}. Cast it to a floating type.`);
    must(
      Number.isInteger(k) && k >= 1 && k <= size,
      "kthLargest/k",
      () => `kthLargest: k must be an integer from 1 to the number of values, ${size}, got ${k}`,
    );
    return { dtype: x.dtype, shape: [1] };
  },
  // Equal values share the gradient evenly, as for the maximum.
  vjp: ({ inputs: [x], outputs: [y], dy }) => {
    const isIt = mul(nonNegative(sub(x, y)), nonNegative(sub(y, x)));
    return [mul(isIt, div(dy, reduceSum(isIt)))];
  },
  lower: (lowering, { inputs: [x] }, { k }) => {
    const { emit } = lowering;
    const flat = emit.reshape(lowering.read(x, "natural"), [sizeOf(x.shape)]);
    const types = [
      { dtype: x.dtype, shape: [k] },
      { dtype: "int64", shape: [k] },
    ] as const;
    const [largest] = emit.nodeAll("TopK", [flat, emit.int64([k])], { axis: 0, largest: 1, sorted: 0 }, types);
    return { handle: emit.reduce("ReduceMin", largest, [0], true), layout: "natural" };
  },
});

/** The k-th largest of all values of `x`, `[1]`; k counts from 1. On WebGPU it is computed by the host. */
export const kthLargest = (x: Value, k: number): Value => kthLargestOp([x], { k });
