import type { OnnxModel } from "../onnx/index.ts";
import { escapeHtml } from "../report/html.ts";
import { type CompileOptions, compileModel, type Program } from "../runtime/index.ts";
import { fmtBytes, sizeOf, Tensor } from "../tensor/index.ts";
import type { StreamingHistogram } from "./histogram.ts";
import { decibels } from "./noise.ts";
import type { QuantizedOnnx, QuantizedTensor } from "./quantize-onnx.ts";

/** An activation of a quantized model beside that of the float model. */
export interface TensorNoise extends QuantizedTensor {
  /** Signal to noise before it is rounded itself, in decibels: what all before it has added up to. */
  readonly sqnr: number;
  /** Share of the calibration's values beyond the range. */
  readonly clipped: number;
}

export interface QuantizationReport {
  /** The worst first. */
  readonly tensors: readonly TensorNoise[];
  /** Milliseconds of a run on one input: the median of interleaved runs. */
  readonly milliseconds: { readonly float: number; readonly integers: number };
}

/** Runs of each model that are timed. */
const TIMED = 15;

/** The integer that the smallest number of a range is: those of an asymmetric range begin at 0, or at −128 where they have signs. */
const firstInteger = ({ signed }: QuantizedTensor): number => (signed ? -128 : 0);

/** Compares a quantized model with its float model, tensor by tensor, on what the statistics have kept of the data. */
export async function quantizationReport(
  { float, model, tensors, statistics }: QuantizedOnnx,
  compile: CompileOptions = {},
): Promise<QuantizationReport> {
  const inputs = new Set(float.inputs.map(({ name }) => name));
  const names = tensors.map(({ name }) => name).filter((name) => !inputs.has(name));
  const sums = new Map(
    names.map((name): [string, { error: number; signal: number }] => [name, { error: 0, signal: 0 }]),
  );
  {
    await using exact = await compileModel(withOutputs(float, names), compile);
    await using rounded = await compileModel(withOutputs(model, names), compile);
    for (const { feeds } of statistics.compared) {
      const [a, b] = [await exact.run(feeds), await rounded.run(feeds)];
      for (const [name, sum] of sums) {
        const other = b[name].toFloat64();
        for (const [i, v] of a[name].toFloat64().entries()) {
          sum.error += (v - other[i]) ** 2;
          sum.signal += v ** 2;
        }
      }
    }
  }
  const noise = tensors.map((tensor): TensorNoise => {
    const sum = sums.get(tensor.name);
    const histogram = statistics.histograms.get(tensor.name)!;
    const low = firstInteger(tensor);
    const [min, max] = [low, low + 255].map((q) => (q - tensor.zeroPoint) * tensor.scale);
    return {
      ...tensor,
      sqnr: sum ? decibels(sum.signal > 0 ? sum.error / sum.signal : sum.error) : Number.POSITIVE_INFINITY,
      clipped: beyond(histogram, min, max),
    };
  });
  return {
    tensors: noise.sort((a, b) => a.sqnr - b.sqnr),
    milliseconds: await timed(float, model, statistics.compared[0].feeds, compile),
  };
}

function withOutputs(model: OnnxModel, names: readonly string[]): OnnxModel {
  const own = new Set(model.outputs.map(({ name }) => name));
  const more = names.filter((name) => !own.has(name)).map((name) => ({ name, dtype: "float32" as const }));
  return { ...model, outputs: [...model.outputs, ...more] };
}

/** Share of a histogram's values outside of [min, max]; a bin counts by its middle. */
function beyond({ positive, negative, width, count }: StreamingHistogram, min: number, max: number): number {
  let out = 0;
  for (let i = 0; i < positive.length; i++) {
    const middle = (i + 0.5) * width;
    if (middle > max) out += positive[i];
    if (-middle < min) out += negative[i];
  }
  return count ? out / count : 0;
}

async function timed(
  float: OnnxModel,
  integers: OnnxModel,
  feeds: Parameters<Program["run"]>[0],
  compile: CompileOptions,
): Promise<{ readonly float: number; readonly integers: number }> {
  const one = Object.fromEntries(
    Object.entries(feeds).map(([name, t]) => {
      const fixed = typeof float.inputs.find((v) => v.name === name)?.shape?.[0] === "number";
      const [rows, ...rest] = t.shape;
      return [name, fixed || !rows ? t : firstRow(t, rest)];
    }),
  );
  await using a = await compileModel(float, compile);
  await using b = await compileModel(integers, compile);
  const times: readonly [number[], number[]] = [[], []];
  for (let i = 0; i < TIMED + 2; i++)
    for (const [k, program] of [a, b].entries()) {
      const begin = performance.now();
      await program.run(one);
      // The first two runs warm up.
      if (i >= 2) times[k].push(performance.now() - begin);
    }
  const median = (list: readonly number[]): number => list.toSorted((x, y) => x - y)[Math.floor(list.length / 2)];
  return { float: median(times[0]), integers: median(times[1]) };
}

const firstRow = ({ dtype, data }: Tensor, rest: readonly number[]): Tensor =>
  new Tensor(dtype, [1, ...rest], data.slice(0, sizeOf(rest)) as Tensor["data"]);

/** What a page says beside the report. */
export interface ReportPage {
  readonly title: string;
  /** Facts about the run, as label and value. */
  readonly facts: readonly (readonly [label: string, value: string])[];
  /** Sizes of both files. */
  readonly bytes: readonly [float: number, integers: number];
  /** Pictures that both models were tested on, and how many each gave the right class. */
  readonly accuracy?:
    | { readonly folder: string; readonly total: number; readonly float: number; readonly integers: number }
    | undefined;
}

/** A report as a page of its own: the facts, and every tensor with its noise, its range and a histogram, the worst first. */
export function reportPage(
  { tensors, milliseconds }: QuantizationReport,
  { statistics, kept, sqnr, agreement }: QuantizedOnnx,
  { title, facts, bytes, accuracy }: ReportPage,
): string {
  const shown = (v: number): string => (Number.isFinite(v) ? v.toPrecision(4) : "—");
  const rows = tensors.map(
    (t) => `<tr><td>${escapeHtml(t.name)}</td><td class="n">${shown(t.sqnr)}</td><td>${t.calibrator}</td>
<td class="n">${shown(t.min)} … ${shown(t.max)}</td><td class="n">${shown(t.scale)}, ${t.zeroPoint}</td>
<td class="n">${(100 * t.clipped).toPrecision(2)}</td><td>${histogramSvg(statistics.histograms.get(t.name)!, t)}</td></tr>`,
  );
  const beside = [
    ...(accuracy
      ? [
          [
            `correct of ${accuracy.total} pictures of ${accuracy.folder}`,
            ...[accuracy.float, accuracy.integers].map((n) => `${n} (${((100 * n) / accuracy.total).toFixed(1)} %)`),
            points(((accuracy.integers - accuracy.float) * 100) / accuracy.total),
          ],
        ]
      : []),
    [
      "one input, ms",
      ...[milliseconds.float, milliseconds.integers].map((t) => t.toFixed(2)),
      ratio(milliseconds.float, milliseconds.integers),
    ],
    ["file", ...bytes.map(fmtBytes), ratio(...bytes)],
  ];
  const all = [
    ...facts,
    ["classes as in float", `${(100 * agreement).toFixed(1)} %, on inputs that calibrated`],
    ["signal to noise of the outputs", `${shown(sqnr)} dB`],
  ] as const;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escapeHtml(title)}</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884; }
td:first-child { overflow-wrap: anywhere; } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.beside { margin-bottom: 1.5rem; } svg { display: block; }
</style></head><body>
<h1>${escapeHtml(title)}</h1>
<table class="beside"><tr><th></th><th class="n">float</th><th class="n">integers</th><th class="n"></th></tr>
${beside.map(([label, ...cells]) => `<tr><th>${escapeHtml(label)}</th>${cells.map((c) => `<td class="n">${escapeHtml(c)}</td>`).join("")}</tr>`).join("\n")}
</table>
<table class="facts">${all.map(([label, value]) => `<tr><th>${escapeHtml(label)}</th><td>${escapeHtml(value)}</td></tr>`).join("\n")}</table>
${kept.length ? `<h2>Layers in float</h2><ul>${kept.map((k) => `<li>${escapeHtml(`${k.operator} ${k.name}: ${k.reason}`)}</li>`).join("")}</ul>` : ""}
<h2>Activations, the worst first</h2>
<table><tr><th>tensor</th><th class="n">SQNR, dB</th><th>calibrator</th><th class="n">values</th><th class="n">scale, zero point</th><th class="n">clipped, %</th><th>histogram and range</th></tr>
${rows.join("\n")}
</table></body></html>
`;
}

const ratio = (float: number, integers: number): string => `× ${(integers / float).toFixed(2)}`;

const points = (difference: number): string => `${difference < 0 ? "−" : "+"}${Math.abs(difference).toFixed(1)} points`;

const [WIDTH, HEIGHT, BARS] = [240, 40, 60];

/** Bars of the values, by the logarithm of their number, and the range that integers cover. */
function histogramSvg({ positive, negative, width, min, max, zeros }: StreamingHistogram, t: QuantizedTensor): string {
  const [low, high] = [Math.min(min, 0), Math.max(max, 0)];
  const span = high - low || 1;
  const bars = new Float64Array(BARS);
  const add = (value: number, count: number): void => {
    const at = Math.min(BARS - 1, Math.max(0, Math.floor(((value - low) / span) * BARS)));
    bars[at] += count;
  };
  add(0, zeros);
  for (let i = 0; i < positive.length; i++) {
    if (positive[i]) add((i + 0.5) * width, positive[i]);
    if (negative[i]) add(-(i + 0.5) * width, negative[i]);
  }
  const top = Math.log1p(Math.max(...bars)) || 1;
  const rects = [...bars].map((count, i) => {
    const height = (HEIGHT * Math.log1p(count)) / top;
    return count
      ? `<rect x="${((i * WIDTH) / BARS).toFixed(1)}" y="${(HEIGHT - height).toFixed(1)}" width="${(WIDTH / BARS - 0.5).toFixed(1)}" height="${height.toFixed(1)}"/>`
      : "";
  });
  const place = (q: number): string => {
    const x = (((q - t.zeroPoint) * t.scale - low) / span) * WIDTH;
    return Math.min(WIDTH, Math.max(0, x)).toFixed(1);
  };
  const first = firstInteger(t);
  const edges = [first, first + 255].map(
    (q) => `<line x1="${place(q)}" x2="${place(q)}" y1="0" y2="${HEIGHT}" stroke="#e0812b"/>`,
  );
  return `<svg width="${WIDTH}" height="${HEIGHT}" role="img" aria-label="histogram of ${escapeHtml(t.name)}"><g fill="#3b82c4">${rects.join("")}</g>${edges.join("")}</svg>`;
}
