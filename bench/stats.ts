/** What is known of a contestant after its rounds. Times in seconds per run. */
export interface Outcome {
  readonly name: string;
  readonly median: number;
  readonly min: number;
  /** Quartiles over the rounds. */
  readonly q1: number;
  readonly q3: number;
  /** One value per round: the median of the runs in it. */
  readonly rounds: readonly number[];
  /** Runs in a round. */
  readonly runsPerRound: number;
  /** Getting ready: loading, tracing, compiling. */
  readonly prepareSeconds: number | undefined;
  /** Largest resident size of the process so far in MB. */
  readonly peakMb: number | undefined;
  /** What it said of itself: a check value, multiply-adds, the best rates that it measured. */
  readonly facts: Readonly<Record<string, number>>;
  readonly items?: { readonly count: number; readonly unit: string };
}

/** Linear interpolation between the sorted values; `q` in 0 … 1. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (at - below);
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** Slope of log y over log x by least squares: y grows as x to this power. */
export function growthExponent(points: readonly (readonly [x: number, y: number])[]): number {
  const logs = points.map(([x, y]) => [Math.log(x), Math.log(y)]);
  const mean = (i: number): number => logs.reduce((sum, p) => sum + p[i], 0) / logs.length;
  const [mx, my] = [mean(0), mean(1)];
  const over = logs.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  return over / logs.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
}
