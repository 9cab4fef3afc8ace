import type { CurveChart } from "./curves.ts";

/** Rates of accepted pairs, 0 … 1. */
export interface RocSeries {
  readonly name: string;
  readonly fpr: readonly number[];
  readonly tpr: readonly number[];
}

/** True against false accept rates of several networks, in percent. */
export const rocChart = (series: readonly RocSeries[]): CurveChart => ({
  series: series.map(({ name, fpr, tpr }) => ({
    name,
    points: fpr.map((far, i) => [100 * far, 100 * tpr[i]] as const),
  })),
  options: { title: "ROC", xLabel: "false accept rate, %", yLabel: "true accept rate, %", xRange: [0, 100] },
});
