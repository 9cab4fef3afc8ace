import type { EpochEvent, EpochRecord } from "./events.ts";

/** Columns of the CSV log: timm's names first. */
const columns: readonly (readonly [name: string, value: (r: EpochRecord) => number | undefined])[] = [
  ["epoch", (r) => r.epoch],
  ["train_loss", (r) => r.trainLoss],
  ["eval_loss", (r) => r.validationLoss],
  ["eval_top1", (r) => percent(r.validationTop1)],
  ["eval_top5", (r) => percent(r.validationTop5)],
  ["lr", (r) => r.lr],
  ["train_top1", (r) => percent(r.trainTop1)],
  ["step", (r) => r.step],
  ["seconds", (r) => r.seconds],
  ["images_per_second", (r) => r.imagesPerSecond],
  ["data_wait", (r) => r.dataWait],
];

/** A share in percent. */
export const percent = (share: number | undefined): number | undefined =>
  share === undefined ? undefined : 100 * share;

/** First line of the CSV log. */
export const csvHeader = columns.map(([name]) => name).join(",");

/** An epoch as a line of the CSV log; accuracies in percent, numbers with 6 significant digits. */
export const csvLine = (record: EpochRecord): string =>
  columns
    .map(([, value]) => {
      const v = value(record);
      return v === undefined ? "" : String(Number(v.toPrecision(6)));
    })
    .join(",");

/** The lines of a JSON Lines log up to a step; later ones and a last line that is cut off are left out. */
export const jsonLinesUntil = (text: string, step: number): string =>
  text
    .split("\n")
    .filter((line) => {
      const at = stepOfJson(line);
      return at !== undefined && at <= step;
    })
    .map((line) => `${line}\n`)
    .join("");

/** Step that a line tells of, 0 for those that belong to no step; `undefined` when it is no event. */
function stepOfJson(line: string): number | undefined {
  try {
    const event = JSON.parse(line) as { readonly type?: unknown; readonly step?: unknown; readonly steps?: unknown };
    const step = event.type === "done" ? event.steps : event.step;
    return typeof event.type !== "string" ? undefined : typeof step === "number" ? step : 0;
  } catch {
    return undefined;
  }
}

/** A CSV log with its header and the epochs up to a step; `undefined` when it has other columns. */
export function csvUntil(text: string, step: number): string | undefined {
  const [header, ...lines] = text.split("\n");
  if (text !== "" && header !== csvHeader) return undefined;
  const at = columns.findIndex(([name]) => name === "step");
  // A line without a number there was cut off.
  const kept = lines.filter((line) => Number.parseInt(line.split(",")[at], 10) <= step);
  return `${[csvHeader, ...kept].join("\n")}\n`;
}

/** An epoch as one line for people. */
export function epochLine(r: EpochEvent): string {
  const accuracy = (share: number): string => `${(100 * share).toFixed(2)} %`;
  const validation =
    r.validationTop1 === undefined
      ? ""
      : `  test loss ${r.validationLoss?.toFixed(4)}  top-1 ${accuracy(r.validationTop1)}${r.best ? " (best)" : ""}`;
  const epoch = `epoch ${String(r.epoch).padStart(String(r.epochs).length)}/${r.epochs}`;
  return `${epoch}  loss ${r.trainLoss.toFixed(4)}  top-1 ${accuracy(r.trainTop1)}${validation}  ${r.imagesPerSecond.toFixed(0)} images/s  ${r.seconds.toFixed(1)} s`;
}
