import type { Value } from "../value.ts";
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
