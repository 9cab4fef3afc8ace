import { must } from "../../errors.ts";
import { Tensor } from "../../tensor/index.ts";
import { type SharedBatch, sharedBatch } from "../trace.ts";
import { attrsIf, constant, defineOp, type Value } from "../value.ts";
import { reshape } from "./broadcast.ts";
import { add, mul, stopGradient, sub } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { reduceMax } from "./reduce.ts";
import { concat, pad, slice } from "./shape.ts";

const sumOverProcessesOp = defineOp<{ readonly size: number }>({
  name: "sumOverProcesses",
  inputs: ["x"],
  infer: ([x]) => x,
  // The losses of all processes add up, so that what x does to all of them does.
  vjp: ({ dy, attrs: { size } }) => [sumOverProcesses(dy, size)],
  lower: (lowering, { inputs: [x] }, { size }) => {
    must(
      size === 1,
      "internal/processes",
      () => "internal: a sum over processes cannot be part of one ONNX graph; see runtime/stages.ts",
      "model",
    );
    const layout = lowering.layoutOf(x);
    return { handle: lowering.read(x, layout), layout };
  },
});

/**
 * The sum of the values that `size` processes have for x, all of which compute the same graph. The gradient is that of the
 * sum of their losses. A graph with it is cut into stages there, between which the processes exchange values.
 */
export const sumOverProcesses = (x: Value, size: number): Value => sumOverProcessesOp([x], { size });

/** Whether a value is such a sum of several processes. */
export const isExchanged = (v: Value): boolean => (attrsIf(v, sumOverProcessesOp)?.size ?? 1) > 1;

/** A vector `[n]` of every process as rows of one matrix `[size, n]`. */
export function gatherRows(x: Value, rank: number, size: number): Value {
  const row = pad(reshape(x, [1, x.shape[0]]), [rank, 0], [size - 1 - rank, 0]);
  return sumOverProcesses(row, size);
}

/** The largest value of x `[1]`: of those that all processes have for it where they share a batch; no gradient. */
export function largestOfBatch(x: Value): Value {
  const own = reshape(reduceMax(stopGradient(x)), [1]);
  const batch = sharedBatch();
  return batch ? reduceMax(gatherRows(own, batch.rank, batch.shares.length), 0) : own;
}

/** Mean and biased variance per channel, `[C]` each. */
export interface ChannelMoments {
  readonly mean: Value;
  readonly variance: Value;
}

/**
 * Moments of a batch that processes share, from those of this one's share (Chan, Golub and LeVeque 1979): no mean is
 * subtracted from a mean of squares, so that none hides what varies.
 */
export function sharedMoments({ mean, variance }: ChannelMoments, { rank, shares }: SharedBatch): ChannelMoments {
  const [channels] = mean.shape;
  const all = gatherRows(concat([mean, variance], 0), rank, shares.length);
  const weights = constant(Tensor.of(mean.dtype, [1, shares.length], shares));
  const weighted = (rows: Value): Value => matmul(weights, rows);
  const part = (i: number): Value => slice(all, [{ axis: 1, start: i * channels, end: (i + 1) * channels }]);
  const whole = weighted(part(0));
  const apart = sub(part(0), whole);
  const spread = weighted(add(part(1), mul(apart, apart)));
  return { mean: reshape(whole, [channels]), variance: reshape(spread, [channels]) };
}
