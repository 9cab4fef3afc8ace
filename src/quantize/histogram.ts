import { must } from "../errors.ts";

/**
 * A histogram of a stream of numbers, positive and negative apart, in bins of one width from 0 outwards. The first numbers
 * set the width so that the largest falls into the last bin; when a larger one comes, bins are joined in pairs until it has a
 * place, so that no number is looked at twice and none is lost. Exact zeros are counted apart: they are always exact.
 */
export class StreamingHistogram {
  /** Counts of (0, width], (width, 2·width], … and of their negatives. */
  positive: Float64Array;
  negative: Float64Array;
  width = 0;
  zeros = 0;
  count = 0;
  min = Number.POSITIVE_INFINITY;
  max = Number.NEGATIVE_INFINITY;

  /** @param bins  on each side; even. Default 2048 */
  constructor(readonly bins: number = 2048) {
    must(
      Number.isInteger(bins) && bins >= 2 && bins % 2 === 0,
      "quantize/bins",
      () => `histogram: bins must be an even number from 2, got ${bins}`,
      "usage",
    );
    this.positive = new Float64Array(bins);
    this.negative = new Float64Array(bins);
  }

  /** The largest absolute value. */
  get maxAbs(): number {
    return this.count ? Math.max(-this.min, this.max) : 0;
  }

  /**
   * Counts numbers.
   *
   * @throws RepmlpError `quantize/finite` at NaN or an infinity; `what` says whose they are
   */
  add(values: ArrayLike<number>, what = "a tensor"): this {
    let { min, max } = this;
    for (let i = 0; i < values.length; i++) {
      const v = values[i];
      must(
        Number.isFinite(v),
        "quantize/finite",
        () => `quantize: ${what} holds ${v}, so it has no range. Look for the layer that makes it.`,
        "model",
      );
      if (v < min) min = v;
      if (v > max) max = v;
    }
    this.min = min;
    this.max = max;
    this.count += values.length;
    this.reach(this.maxAbs);
    for (let i = 0; i < values.length; i++) {
      const v = values[i];
      if (v === 0) this.zeros++;
      else (v > 0 ? this.positive : this.negative)[this.binOf(Math.abs(v))]++;
    }
    return this;
  }

  private binOf(size: number): number {
    return Math.max(0, Math.min(this.bins, Math.ceil(size / this.width)) - 1);
  }

  /** Makes room for a value. */
  private reach(value: number): void {
    if (value === 0) return;
    if (this.width === 0) this.width = value / this.bins;
    // A subnormal maximum has no width; every value then falls into the last bin.
    if (this.width === 0) this.width = Number.MIN_VALUE;
    while (value > this.width * this.bins) {
      this.positive = joined(this.positive);
      this.negative = joined(this.negative);
      this.width *= 2;
    }
  }

  /** Counts of absolute values, up to the last bin that has some. */
  absolute(): Float64Array {
    const both = this.positive.map((n, i) => n + this.negative[i]);
    let end = both.length;
    while (end > 0 && both[end - 1] === 0) end--;
    return both.subarray(0, end);
  }
}

function joined(counts: Float64Array): Float64Array {
  const half = counts.length / 2;
  const next = new Float64Array(counts.length);
  for (let i = 0; i < half; i++) next[i] = counts[2 * i] + counts[2 * i + 1];
  return next;
}
