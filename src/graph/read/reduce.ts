import { reduceSum, reshape } from "../ops/broadcast.ts";
import { abs, add, exp, log, mul, neg, sqrt, sub } from "../ops/elementwise.ts";
import { reduceMax, reduceMean } from "../ops/reduce.ts";
import { slice } from "../ops/shape.ts";
import type { Value } from "../value.ts";
import { axisOf, type NodeContext, type Reader } from "./context.ts";

type Reduction = (x: Value, axes: readonly number[]) => Value;

const keep = { keepDims: true } as const;
const sum: Reduction = (x, axes) => reduceSum(x, axes, keep);
const max: Reduction = (x, axes) => reduceMax(x, axes, keep);

/** Stable for large values. */
const logSumExp: Reduction = (x, axes) => {
  const highest = max(x, axes);
  return add(log(sum(exp(sub(x, highest)), axes)), highest);
};

/** Factors multiplied one by one, as many as products of sizes have. */
const LONGEST_PRODUCT = 64;

/** A reduction that keeps its axes, with the axes and `keepdims` of the node. */
const reader =
  (since: number, f: Reduction): Reader =>
  (node) => {
    const x = node.input(0);
    const given = node.ints("axes", 1, since);
    const none = !given?.length;
    // With this attribute no axis is reduced, but each number goes through the function (a square, a logarithm).
    const all = node.int("noop_with_empty_axes", 0) === 1 ? [] : x.shape.map((_, i) => i);
    const axes = none ? all : given.map((a) => axisOf(node, a, x.shape.length));
    const y = f(x, axes);
    if (node.int("keepdims", 1) === 1) return y;
    return reshape(
      y,
      x.shape.filter((_, i) => !axes.includes(i)),
    );
  };

function product(node: NodeContext, x: Value, axes: readonly number[]): Value {
  return axes.reduce((y, axis) => {
    const d = y.shape[axis];
    if (d > LONGEST_PRODUCT)
      node.fail("product", `a product of ${d} numbers is not supported, only of up to ${LONGEST_PRODUCT}.`);
    const parts = Array.from({ length: d }, (_, i) => slice(y, [{ axis, start: i, end: i + 1 }]));
    return parts.reduce((a, b) => mul(a, b));
  }, x);
}

export const reduceReaders: Readonly<Record<string, Reader>> = {
  ReduceL1: reader(18, (x, axes) => sum(abs(x), axes)),
  ReduceL2: reader(18, (x, axes) => sqrt(sum(mul(x, x), axes))),
  ReduceLogSum: reader(18, (x, axes) => log(sum(x, axes))),
  ReduceLogSumExp: reader(18, logSumExp),
  ReduceMax: reader(18, max),
  ReduceMean: reader(18, (x, axes) => reduceMean(x, axes, keep)),
  ReduceMin: reader(18, (x, axes) => neg(max(neg(x), axes))),
  ReduceProd: (node) => reader(18, (x, axes) => product(node, x, axes))(node),
  ReduceSum: reader(13, sum),
  ReduceSumSquare: reader(18, (x, axes) => sum(mul(x, x), axes)),
};
