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

/** Share of the rows of pairs of tensors `[N, …]` whose largest value is at the same place. */
export function agreementOf(pairs: Iterable<readonly [exact: Tensor, other: Tensor]>): number {
  let [same, all] = [0, 0];
  for (const [exact, other] of pairs) {
    const rows = exact.shape[0] ?? 1;
    const [a, b] = [exact.toFloat64(), other.toFloat64()];
    const width = a.length / rows;
    for (let i = 0; i < rows; i++) {
      const place = (values: Float64Array): number => {
        const row = values.subarray(i * width, (i + 1) * width);
        return row.indexOf(row.reduce((x, y) => Math.max(x, y), Number.NEGATIVE_INFINITY));
      };
      if (place(a) === place(b)) same++;
      all++;
    }
  }
  return all ? same / all : 1;
}
