import { fmt, must } from "../../errors.ts";
import { broadcastShapes, broadcastsTo } from "../emitter.ts";
import { defineOp, mustRank, type Value } from "../value.ts";
import { unbroadcast } from "./broadcast.ts";
import { add } from "./elementwise.ts";
import { transpose } from "./shape.ts";

const matmulOp = defineOp<Record<string, never>>({
  name: "matmul",
  inputs: ["a", "b"],
  infer: ([a, b]) => {
    must(
      a.shape.length >= 2 && b.shape.length >= 2 && a.shape.at(-1) === b.shape.at(-2) && a.dtype === b.dtype,
      "matmul/shape",
      () =>
        `matmul: ${fmt(a.shape)} ${a.dtype} times ${fmt(b.shape)} ${b.dtype}; the last axis of a must equal the last but one of b`,
    );
    const batches = [a, b].map((t) => t.shape.slice(0, -2));
    const batch = batches.reduce(broadcastShapes);
    must(
      batches.every((s) => broadcastsTo(s, batch)),
      "matmul/broadcast",
      () => `matmul: ${fmt(a.shape)} times ${fmt(b.shape)}: the axes before the last two do not broadcast`,
    );
    return { dtype: a.dtype, shape: [...batch, a.shape[a.shape.length - 2], b.shape[b.shape.length - 1]] };
  },
  vjp: ({ inputs: [a, b], dy }) => [
    unbroadcast(matmul(dy, swapLast(b)), a.shape),
    unbroadcast(matmul(swapLast(a), dy), b.shape),
  ],
  lower: (lowering, { inputs: [a, b] }) => ({
    handle: lowering.emit.matmul(lowering.read(a), lowering.read(b)),
    layout: "natural",
  }),
});

/** Swaps the last two axes. */
export const swapLast = (x: Value): Value => {
  const rank = x.shape.length;
  return transpose(x, [...Array.from({ length: rank - 2 }, (_, i) => i), rank - 1, rank - 2]);
};

/** Matrix product of the last two axes, the others broadcast. */
export const matmul = (a: Value, b: Value): Value => matmulOp([a, b], {});

const linearOp = defineOp<Record<string, never>>({
  name: "linear",
  inputs: ["x", "weight"],
  infer: ([x, w]) => {
    mustRank("linear", "x", x, 2);
    mustRank("linear", "weight", w, 2);
    must(
      x.shape[1] === w.shape[1] && x.dtype === w.dtype,
      "linear/features",
      () =>
        `linear: x ${fmt(x.shape)} has ${x.shape[1]} features (${x.dtype}), weight ${fmt(w.shape)} expects ${w.shape[1]} (${w.dtype})`,
    );
    return { dtype: x.dtype, shape: [x.shape[0], w.shape[0]] };
  },
  vjp: ({ inputs: [x, w], dy }) => [
    linear(dy, transpose(w, [1, 0])),
    linear(transpose(dy, [1, 0]), transpose(x, [1, 0])),
  ],
  lower: (lowering, { inputs: [x, w] }) => {
    const { emit } = lowering;
    if (lowering.layoutOf(x) === "batchLast")
      return { handle: emit.gemm(lowering.read(w), lowering.read(x, "batchLast"), false, false), layout: "batchLast" };
    return { handle: emit.gemm(lowering.read(x), lowering.read(w), false, true), layout: "natural" };
  },
});

/** x · weightᵀ (+ bias): `[N, D]`, `[O, D]`, `[O]` → `[N, O]`. */
export const linear = (x: Value, weight: Value, bias?: Value): Value => {
  const y = linearOp([x, weight], {});
  return bias ? add(y, bias) : y;
};
