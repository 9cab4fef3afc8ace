import type { Tensor } from "../tensor/index.ts";

/** Squared differences of pairs of an exact tensor and another, by the squares of the exact ones. */
export function squaredShare(pairs: Iterable<readonly [exact: Tensor, other: Tensor]>): number {
  let [error, signal] = [0, 0];
  for (const [exact, other] of pairs) {
    const [a, b] = [exact.toFloat64(), other.toFloat64()];
    for (let i = 0; i < a.length; i++) {
      error += (a[i] - b[i]) ** 2;
      signal += a[i] ** 2;
    }
  }
  return signal > 0 ? error / signal : error;
}

/** Signal to noise of such a share. */
export const decibels = (share: number): number => (share > 0 ? -10 * Math.log10(share) : Number.POSITIVE_INFINITY);

/** The class, the largest value, of each row `[N, C]`, or of each pixel `[N, C, H, W]`. Other tensors are rows of all their values. */
function classesIn(t: Tensor): number[] {
  const values = t.toFloat64();
  const rows = t.shape[0] ?? 1;
  const pixels = t.shape.length === 4 ? t.shape[2] * t.shape[3] : 1;
  const classes = values.length / rows / pixels;
  return Array.from({ length: rows * pixels }, (_, i) => {
    const at = Math.floor(i / pixels) * classes * pixels + (i % pixels);
    let best = 0;
    for (let c = 1; c < classes; c++) if (values[at + c * pixels] > values[at + best * pixels]) best = c;
    return best;
  });
}

/** Share of the rows or pixels of pairs of tensors whose class is the same. */
export function agreementOf(pairs: Iterable<readonly [exact: Tensor, other: Tensor]>): number {
  let [same, all] = [0, 0];
  for (const [exact, other] of pairs) {
    const [a, b] = [classesIn(exact), classesIn(other)];
    same += a.filter((c, i) => c === b[i]).length;
    all += a.length;
  }
  return all ? same / all : 1;
}
