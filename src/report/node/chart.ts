export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Marks each point with a dot. Default false. */
  readonly dots?: boolean;
}

export interface LineChartOptions {
  /** Read out for those who cannot see the chart. */
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  /** Ends of the x axis, whole numbers; only whole numbers are marked. */
  readonly xRange: readonly [from: number, to: number];
  /** Powers of ten on the y axis; all values must be positive. Default false. */
  readonly yLog?: boolean;
}

/** Colours of the series in order; readable on white and on black. */
export const seriesColors: readonly string[] = ["#3b82c4", "#e0812b", "#4b9e5f", "#b0508e", "#9c7a3c", "#6b7280"];

/** Whole numbers from `from` to `to`, at most about ten. */
function wholeTicks([from, to]: readonly [number, number]): number[] {
  const steps = [1, 2, 5].flatMap((s) => [s, 10 * s, 100 * s, 1000 * s]).sort((a, b) => a - b);
  const step = steps.find((s) => (to - from) / s <= 10) ?? to - from;
  return Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, i) => from + i * step);
}

/**
 * A line chart as an SVG picture of its own, in the text colour of the page around it. It has no legend: name the series
 * beside it with {@link seriesColors}.
 */
export async function lineChart(series: readonly Series[], options: LineChartOptions): Promise<string> {
  // Loaded here: they take longer to load than the rest of the package.
  const [Plot, { parseHTML }] = await Promise.all([import("@observablehq/plot"), import("linkedom")]);
  const { title, xLabel, yLabel, xRange, yLog = false } = options;
  const { document } = parseHTML("<html><body></body></html>");
  const rows = series.flatMap(({ name, points, dots }) => points.map(([x, y]) => ({ name, x, y, dots })));
  const chart = Plot.plot({
    document: document as unknown as Document,
    width: 460,
    height: 280,
    marginLeft: 48,
    marginBottom: 42,
    ariaLabel: title,
    style: { background: "none", color: "currentColor", fontSize: "12px" },
    x: { label: xLabel, labelOffset: 38, domain: [...xRange], tickFormat: "d", ticks: wholeTicks(xRange) },
    y: { label: yLabel, grid: true, ...(yLog && { type: "log", tickFormat: "~e" }) },
    color: { domain: series.map((s) => s.name), range: [...seriesColors] },
    marks: [
      Plot.line(rows, { x: "x", y: "y", z: "name", stroke: "name", strokeWidth: 2 }),
      Plot.dot(
        rows.filter((r) => r.dots),
        { x: "x", y: "y", fill: "name", r: 3 },
      ),
    ],
  });
  chart.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  chart.setAttribute("role", "img");
  return chart.outerHTML;
}
