import { defaultTask, type ShownTask } from "../../tasks/index.ts";
import { leadingNumber, recordKey, scaled } from "../../tasks/shown.ts";
import type { EpochRecord } from "../../training/index.ts";
import { escapeHtml } from "../html.ts";
import { type LineChartOptions, lineChart, type Series, seriesColors } from "./chart.ts";

export interface Curves {
  /** Loss of every step; of a resumed run perhaps only those since then. */
  readonly losses: readonly number[];
  readonly history: readonly EpochRecord[];
}

export interface CurveChart {
  readonly series: readonly Series[];
  readonly options: LineChartOptions;
}

/** Loss and leading number of a training run over its epochs, as two charts. */
export function learningCurves({ losses, history }: Curves, task: ShownTask = defaultTask): readonly CurveChart[] {
  const leading = leadingNumber(task);
  const { label, title = label, percent } = leading;
  const last = history[history.length - 1];
  const perEpoch = last.step / last.epoch;
  const before = last.step - losses.length;
  // About ten points an epoch, each the mean of the steps before it.
  const window = Math.max(1, Math.round(perEpoch / 10));
  const smooth = losses.flatMap((_, i): [number, number][] => {
    if ((i + 1) % window) return [];
    const part = losses.slice(i + 1 - window, i + 1);
    return [[(before + i + 1) / perEpoch, part.reduce((a, b) => a + b, 0) / part.length]];
  });
  const of = (name: string, value: (r: EpochRecord) => number | undefined): Series => ({
    name,
    dots: true,
    points: history.flatMap((r): [number, number][] => {
      const y = value(r);
      return y === undefined ? [] : [[r.epoch, y]];
    }),
  });
  const x = { xLabel: "epoch", xRange: [0, last.epoch] } as const;
  const charts = [
    {
      series: [{ name: "training, mean of some steps", points: smooth }, of("test", (r) => r.validationLoss)],
      options: { ...x, title: "Loss", yLabel: task.shows.loss },
    },
    {
      series: [
        of("training, during the epoch", (r) => scaled(leading, r[recordKey("train", leading.name)])),
        of("test", (r) => scaled(leading, r[recordKey("validation", leading.name)])),
      ],
      options: { ...x, title, yLabel: percent ? `${label}, %` : label },
    },
  ];
  return charts.map(({ series, options }) => ({ series: series.filter(({ points }) => points.length > 0), options }));
}

/** Height of the line of text under a chart. */
const LEGEND = 26;

/** Charts side by side, with their legends, as one SVG picture that needs nothing else. */
export async function chartsSvg(title: string, charts: readonly CurveChart[]): Promise<string> {
  const [width, height] = [460, 280];
  const drawn = charts.map(async ({ series, options }, i) => {
    const legend = series.map(
      ({ name }, s) =>
        `<tspan fill="${seriesColors[s % seriesColors.length]}">● </tspan><tspan>${escapeHtml(name)}&#160;&#160;&#160;</tspan>`,
    );
    return `<g transform="translate(${i * width} 30)">${await lineChart(series, options)}<text x="48" y="${height + LEGEND / 2}">${legend.join("")}</text></g>`;
  });
  const parts = await Promise.all(drawn);
  const total = charts.length * width;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${total}" height="${30 + height + LEGEND}" viewBox="0 0 ${total} ${30 + height + LEGEND}" font-family="system-ui, sans-serif" font-size="12" color="#222" fill="#222">
<rect width="100%" height="100%" fill="white"/><text x="12" y="20" font-size="15">${escapeHtml(title)}</text>
${parts.join("\n")}
</svg>
`;
}
