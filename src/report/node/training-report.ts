import type { Equivalence } from "../../inference/index.ts";
import { defaultTask } from "../../tasks/index.ts";
import { leadingNumber, recordKey, shownValue } from "../../tasks/shown.ts";
import type { EpochRecord } from "../../training/index.ts";
import { escapeHtml } from "../html.ts";
import { type LineChartOptions, lineChart, type Series, seriesColors } from "./chart.ts";
import { learningCurves } from "./curves.ts";

/** One form of the network in the comparison. */
export interface FormFigures {
  readonly accuracy: number;
  readonly parameters: number;
  readonly macs: number;
  readonly imagesPerSecond: number;
  readonly fileBytes: number;
}

export interface Prediction {
  /** Data URI of the picture. */
  readonly picture: string;
  readonly truth: string;
  readonly predicted: string;
  /** Probability of the predicted class. */
  readonly confidence: number;
}

export interface TrainingReport {
  readonly title: string;
  /** Loss of every step; of a resumed run only those since then. */
  readonly losses: readonly number[];
  readonly history: readonly EpochRecord[];
  readonly train: FormFigures;
  readonly deploy: FormFigures;
  readonly equivalence: Equivalence;
  readonly predictions: readonly Prediction[];
  /** FC3 of one channel before and after the merge, as data URIs. */
  readonly kernels: { readonly layer: string; readonly before: string; readonly after: string };
  /** Facts in a list at the end: versions, settings. */
  readonly facts: Readonly<Record<string, string>>;
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;
const count = (n: number): string => n.toLocaleString("en-US");
const mega = (n: number): string => `${(n / 1e6).toFixed(2)} M`;

const style = `
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; } td, th { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
figcaption { font-size: .85rem; opacity: .8; } img { image-rendering: pixelated; }
.pictures { gap: 1rem; } .pictures figure { width: 84px; } .pictures img { width: 84px; height: 84px; border: 1px solid var(--line); }
.wrong { color: light-dark(#c0392b, #ff8a7a); } .kernel img { width: 440px; max-width: 100%; border: 1px solid var(--line); }
svg { max-width: 100%; height: auto; } details { margin-top: 1rem; overflow-x: auto; }
.key { display: inline-block; width: 1.2em; height: .25em; margin-right: .4em; vertical-align: middle; }
`;

/** The results of a training run and its conversion as one HTML page that needs nothing else. */
export async function trainingReport(report: TrainingReport): Promise<string> {
  const { title, train, deploy, equivalence: e, facts } = report;
  const rows: [string, string, string][] = [
    ["Test accuracy", percent(train.accuracy), percent(deploy.accuracy)],
    ["Parameters", count(train.parameters), count(deploy.parameters)],
    ["Multiply-adds per picture", mega(train.macs), mega(deploy.macs)],
    ["Pictures per second", train.imagesPerSecond.toFixed(0), deploy.imagesPerSecond.toFixed(0)],
    ["Checkpoint", `${(train.fileBytes / 1e6).toFixed(1)} MB`, `${(deploy.fileBytes / 1e6).toFixed(1)} MB`],
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title><style>${style}</style></head><body>
<h1>${escapeHtml(title)}</h1>
<h2>Both forms</h2>
<table><thead><tr><th></th><th>training form</th><th>deploy form</th></tr></thead><tbody>
${rows.map((r) => `<tr>${r.map((cell) => `<td>${escapeHtml(cell)}</td>`).join("")}</tr>`).join("\n")}
</tbody></table>
<p>Outputs differ by at most <b>${e.maxAbs.toExponential(2)}</b> (${e.maxRel.toExponential(2)} of the largest output);
the same class on <b>${e.top1.agree} of ${e.top1.total}</b> test pictures.</p>
<h2>Learning curves</h2>
<div class="row">${await curves(report)}</div>
${epochs(report.history)}
<h2>The fully connected kernel before and after the merge</h2>
<p>Weights of ${escapeHtml(report.kernels.layer)} between one output and one input channel. Each small panel belongs to one output
pixel and shows which input pixels it looks at (red positive, blue negative, same scale in both). The merge adds the
local convolutions, so the weight gathers around each pixel's own position.</p>
<div class="row kernel">
<figure><img src="${report.kernels.before}" alt="kernel before the merge"><figcaption>FC3 with its batch norm, alone</figcaption></figure>
<figure><img src="${report.kernels.after}" alt="kernel after the merge"><figcaption>merged with the local convolutions</figcaption></figure>
</div>
<h2>Predictions of the deploy form</h2>
<div class="row pictures">${report.predictions.map(prediction).join("\n")}</div>
<h2>Details</h2>
<table><tbody>${Object.entries(facts)
    .map(([k, v]) => `<tr><td>${escapeHtml(k)}</td><td>${escapeHtml(v)}</td></tr>`)
    .join("\n")}</tbody></table>
</body></html>
`;
}

function prediction({ picture, truth, predicted, confidence }: Prediction): string {
  const wrong = truth !== predicted;
  const sure = `${(100 * confidence).toFixed(1)}&nbsp;%`;
  const caption = wrong
    ? `<span class="wrong">${escapeHtml(predicted)}</span><br>${sure}<br>is: ${escapeHtml(truth)}`
    : `${escapeHtml(predicted)}<br>${sure}`;
  return `<figure><img src="${picture}" alt="${escapeHtml(truth)}"><figcaption>${caption}</figcaption></figure>`;
}

/** A chart with its legend. */
async function figure(series: readonly Series[], options: LineChartOptions): Promise<string> {
  const legend = series.map(
    ({ name }, i) => `<span class="key" style="background:${seriesColors[i]}"></span>${escapeHtml(name)}`,
  );
  return `<figure>${await lineChart(series, options)}<figcaption>${legend.join("&emsp;")}</figcaption></figure>`;
}

const curves = async (report: TrainingReport): Promise<string> =>
  (await Promise.all(learningCurves(report).map(({ series, options }) => figure(series, options)))).join("\n");

/** Every epoch in numbers, folded away. */
function epochs(history: readonly EpochRecord[]): string {
  const leading = leadingNumber(defaultTask);
  const dash = (value: number | undefined, write: (v: number) => string): string =>
    value === undefined ? "–" : write(value);
  const columns: readonly (readonly [string, (r: EpochRecord) => string])[] = [
    ["epoch", (r) => String(r.epoch)],
    ["training loss", (r) => r.trainLoss.toFixed(4)],
    [`training ${leading.label}`, (r) => dash(r[recordKey("train", leading.name)], (v) => shownValue(leading, v))],
    ["test loss", (r) => dash(r.validationLoss, (v) => v.toFixed(4))],
    [`test ${leading.label}`, (r) => dash(r[recordKey("validation", leading.name)], (v) => shownValue(leading, v))],
    ["pictures / s", (r) => r.imagesPerSecond.toFixed(0)],
    ["waited for data", (r) => `${(100 * r.dataWait).toFixed(1)} %`],
  ];
  return `<details><summary>All epochs in numbers</summary><table><thead><tr>${columns.map(([name]) => `<th>${name}</th>`).join("")}</tr></thead><tbody>
${history.map((r) => `<tr>${columns.map(([, cell]) => `<td>${cell(r)}</td>`).join("")}</tr>`).join("\n")}
</tbody></table></details>`;
}
