import type { IntegerRange } from "../graph/index.ts";
import { affineQuantization, integerRanges, roundHalfEven } from "./affine.ts";
import type { StreamingHistogram } from "./histogram.ts";

/** Real numbers that integers stand for; what lies outside is clamped. */
export interface RealRange {
  readonly min: number;
  readonly max: number;
}

/** Chooses the range of a tensor from a histogram of its values. */
export type Calibrator = (histogram: StreamingHistogram, range: IntegerRange) => RealRange;

const fullRange = ({ count, min, max }: StreamingHistogram): RealRange =>
  count ? { min: Math.min(min, 0), max: Math.max(max, 0) } : { min: 0, max: 0 };

/** The full range cut to [−threshold, threshold]. */
function within(histogram: StreamingHistogram, threshold: number): RealRange {
  const { min, max } = fullRange(histogram);
  return { min: Math.max(min, -threshold), max: Math.min(max, threshold) };
}

/** The values' own range. */
export const minMaxCalibrator: Calibrator = (histogram) => fullRange(histogram);

/**
 * The range that leaves out the smallest and the largest (100 − percent) / 2 % of all values, linear within a bin.
 *
 * @param percent  default 99.999, as ONNX Runtime's
 */
export const percentileCalibrator =
  (percent = 99.999): Calibrator =>
  (histogram) => {
    const { width, count, positive, negative } = histogram;
    const cut = ((100 - percent) / 200) * count;
    const edge = (counts: Float64Array): number => {
      let left = cut;
      for (let i = counts.length - 1; i >= 0; i--) {
        if (counts[i] > left) return width * (i + 1 - left / counts[i]);
        left -= counts[i];
      }
      return 0;
    };
    const { min, max } = fullRange(histogram);
    return { min: Math.max(min, -edge(negative)), max: Math.min(max, edge(positive)) };
  };

/**
 * TensorRT's calibration by entropy: of all thresholds, the one at which the distribution of absolute values, cut there with
 * the rest moved into the last bin, loses the least information (Kullback-Leibler divergence) when it is stored in `levels`
 * steps. Exact zeros have no error and are left out.
 *
 * @param levels  default 128, TensorRT's
 */
export const entropyCalibrator =
  (levels = 128): Calibrator =>
  (histogram) => {
    const counts = histogram.absolute();
    if (counts.length <= levels) return fullRange(histogram);
    const total = counts.reduce((n, c) => n + c, 0);
    let [best, threshold] = [Number.POSITIVE_INFINITY, counts.length];
    let inside = 0;
    for (let i = 0; i < levels - 1; i++) inside += counts[i];
    for (let end = levels; end <= counts.length; end++) {
      inside += counts[end - 1];
      const loss = divergence(counts, end, total - inside, levels);
      if (loss < best) [best, threshold] = [loss, end];
    }
    return within(histogram, threshold * histogram.width);
  };

/** KL divergence of the first `end` bins, `outliers` added to the last one, from the same without them in `levels` steps. */
function divergence(counts: Float64Array, end: number, outliers: number, levels: number): number {
  let sumP = outliers;
  let sumQ = 0;
  for (let i = 0; i < end; i++) {
    sumP += counts[i];
    sumQ += counts[i];
  }
  if (sumQ === 0) return Number.POSITIVE_INFINITY;
  let loss = 0;
  for (let level = 0; level < levels; level++) {
    const from = Math.floor((level * end) / levels);
    const to = Math.floor(((level + 1) * end) / levels);
    let [sum, filled] = [0, 0];
    for (let i = from; i < to; i++) {
      sum += counts[i];
      if (counts[i] > 0) filled++;
    }
    for (let i = from; i < to; i++) {
      const p = (counts[i] + (i === end - 1 ? outliers : 0)) / sumP;
      if (p === 0) continue;
      // Where only outliers lie in the last bin, they take the place of a value that was not there.
      const q = counts[i] > 0 ? sum / filled / sumQ : 1e-9 / sumQ;
      loss += p * Math.log(p / q);
    }
  }
  return loss;
}

/** Shares of the full range that {@link mseCalibrator} tries. */
const SHARES = 100;

/**
 * The range with the least mean squared error of rounding and clamping, of the full range and 99 shares of it that get
 * smaller by 1 %. Values of a bin count as its middle.
 */
export const mseCalibrator: Calibrator = (histogram, range) => {
  const full = fullRange(histogram);
  let [best, chosen] = [Number.POSITIVE_INFINITY, full];
  for (let share = SHARES; share > 0; share--) {
    const part = share / SHARES;
    const candidate = { min: full.min * part, max: full.max * part };
    const error = squaredError(histogram, candidate, range);
    if (error < best) [best, chosen] = [error, candidate];
  }
  return chosen;
};

/** Mean squared error of storing a histogram's values with the integers of `range` standing for `real`. */
export function squaredError(
  { positive, negative, width, count }: StreamingHistogram,
  { min, max }: RealRange,
  range: IntegerRange,
): number {
  const { scale, zeroPoint } = affineQuantization(min, max, range);
  const { qmin, qmax } = range;
  let sum = 0;
  for (const [counts, sign] of [
    [positive, 1],
    [negative, -1],
  ] as const)
    for (let i = 0; i < counts.length; i++) {
      if (counts[i] === 0) continue;
      const x = sign * (i + 0.5) * width;
      const q = Math.min(qmax, Math.max(qmin, roundHalfEven(x / scale) + zeroPoint));
      sum += counts[i] * ((q - zeroPoint) * scale - x) ** 2;
    }
  return count ? sum / count : 0;
}

/** The calibrators by name, with the settings of their sources. */
export const calibrators = {
  minmax: minMaxCalibrator,
  percentile: percentileCalibrator(),
  entropy: entropyCalibrator(),
  mse: mseCalibrator,
} as const satisfies Readonly<Record<string, Calibrator>>;

export type CalibratorName = keyof typeof calibrators;

/** The quantization of a tensor by one of the calibrators; default integers are uint8's. */
export function calibrated(
  histogram: StreamingHistogram,
  name: CalibratorName,
  range: IntegerRange = integerRanges.uint8,
) {
  const { min, max } = calibrators[name](histogram, range);
  return affineQuantization(min, max, range);
}
