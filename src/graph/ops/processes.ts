import { must } from "../../errors.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";
import { attrsIf, constant, defineOp, type Value } from "../value.ts";
import { reduceSum, reshape } from "./broadcast.ts";
import { add, div, mul, sub } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { concat, pad, slice } from "./shape.ts";

/** A batch of which several processes have a share each. */
export interface SharedBatch {
  /** This process among them. */
  readonly rank: number;
  /** Part of the batch's pictures that each has; they add up to 1. */
  readonly shares: readonly number[];
}

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

/**
 * Mean and biased variance per channel (axis 1) of a batch that processes share, from those of the shares (Chan, Golub and
 * LeVeque 1979): no mean is subtracted from a mean of squares, so that none hides what varies.
 *
 * @param centred  this process's share minus `shift` per channel, such that little of a mean is left in it
 */
export function sharedMoments(
  centred: Value,
  shift: Value,
  { rank, shares }: SharedBatch,
): { readonly mean: Value; readonly variance: Value } {
  const channels = centred.shape[1];
  const count = sizeOf(centred.shape) / channels;
  const axes = centred.shape.map((_, i) => i).filter((i) => i !== 1);
  const meanHere = div(reduceSum(centred, axes), count);
  const varianceHere = sub(div(reduceSum(mul(centred, centred), axes), count), mul(meanHere, meanHere));
  const all = gatherRows(concat([add(shift, meanHere), varianceHere], 0), rank, shares.length);
  const weights = constant(Tensor.of(centred.dtype, [1, shares.length], shares));
  const weighted = (rows: Value): Value => matmul(weights, rows);
  const part = (i: number): Value => slice(all, [{ axis: 1, start: i * channels, end: (i + 1) * channels }]);
  const mean = weighted(part(0));
  const apart = sub(part(0), mean);
  const variance = weighted(add(part(1), mul(apart, apart)));
  return { mean: reshape(mean, [channels]), variance: reshape(variance, [channels]) };
}
