import { must } from "../errors.ts";
import { rankOf, rowLoss } from "./predictor.ts";

/** Losses are summed in whole units of 2^-32, so that sums do not depend on the order of their parts. */
const LOSS_UNIT = 2 ** 32;

/** What was counted over a number of pictures; counts of parts add up to those of the whole. */
export interface Counts {
  readonly total: number;
  /** Pictures whose class came first. */
  readonly correct: number;
  /** Pictures whose class was among the first five. */
  readonly correctTop5: number;
  /** Sum of the cross entropies, in units of 2^-32. */
  readonly lossUnits: bigint;
}

export const noCounts: Counts = { total: 0, correct: 0, correctTop5: 0, lossUnits: 0n };

export const addCounts = (a: Counts, b: Counts): Counts => ({
  total: a.total + b.total,
  correct: a.correct + b.correct,
  correctTop5: a.correctTop5 + b.correctTop5,
  lossUnits: a.lossUnits + b.lossUnits,
});

/** Counts over the rows of `[N, classes]` logits. */
export function countLogits(logits: Float32Array, labels: ArrayLike<number>): Counts {
  const classes = logits.length / labels.length;
  const counts = { total: labels.length, correct: 0, correctTop5: 0, lossUnits: 0n };
  for (let i = 0; i < labels.length; i++) {
    const row = logits.subarray(i * classes, (i + 1) * classes);
    const rank = rankOf(row, labels[i]);
    if (rank < 1) counts.correct++;
    if (rank < 5) counts.correctTop5++;
    const loss = rowLoss(row, labels[i]);
    must(
      Number.isFinite(loss),
      "evaluate/not-finite",
      () => `evaluate: the loss of a picture of class ${labels[i]} is ${loss}; the network has ${classes} outputs`,
      "model",
    );
    counts.lossUnits += BigInt(Math.round(loss * LOSS_UNIT));
  }
  return counts;
}

/** Accuracies in percent and the mean cross entropy. */
export interface Averages {
  readonly top1: number;
  readonly top5: number;
  readonly loss: number;
}

export const averages = ({ total, correct, correctTop5, lossUnits }: Counts): Averages => ({
  top1: (100 * correct) / total,
  top5: (100 * correctTop5) / total,
  loss: Number(lossUnits) / LOSS_UNIT / total,
});
