import { defaultTask, type ShownNumber, type ShownTask } from "../tasks/index.ts";
import { leadingNumber, recordKey, scaled, shownValue, trainingNumbers } from "../tasks/shown.ts";
import type { EpochEvent, EpochRecord } from "./events.ts";

interface Column {
  readonly name: string;
  readonly value: (record: EpochRecord) => number | undefined;
}

/** Columns of the CSV log: timm's names first. */
function columnsOf(task: ShownTask): readonly Column[] {
  const column = (name: string, value: Column["value"]): Column => ({ name, value });
  const numbers = (part: "train" | "validation", shown: readonly ShownNumber[], prefix: string): Column[] =>
    shown.map((n) => column(`${prefix}_${n.name}`, (r) => scaled(n, r[recordKey(part, n.name)])));
  return [
    column("epoch", (r) => r.epoch),
    column("train_loss", (r) => r.trainLoss),
    column("eval_loss", (r) => r.validationLoss),
    ...numbers("validation", task.shows.numbers, "eval"),
    column("lr", (r) => r.lr),
    ...numbers("train", trainingNumbers(task), "train"),
    column("step", (r) => r.step),
    column("seconds", (r) => r.seconds),
    column("images_per_second", (r) => r.imagesPerSecond),
    column("data_wait", (r) => r.dataWait),
  ];
}

/** First line of the CSV log. */
export const csvHeader = (task: ShownTask = defaultTask): string =>
  columnsOf(task)
    .map(({ name }) => name)
    .join(",");

/** An epoch as a line of the CSV log; shares in percent, numbers with 6 significant digits. */
export const csvLine = (record: EpochRecord, task: ShownTask = defaultTask): string =>
  columnsOf(task)
    .map(({ value }) => {
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
export function csvUntil(text: string, step: number, task: ShownTask = defaultTask): string | undefined {
  const [header, ...lines] = text.split("\n");
  const own = csvHeader(task);
  if (text !== "" && header !== own) return undefined;
  const at = columnsOf(task).findIndex(({ name }) => name === "step");
  // A line without a number there was cut off.
  const kept = lines.filter((line) => Number.parseInt(line.split(",")[at], 10) <= step);
  return `${[own, ...kept].join("\n")}\n`;
}

/** An epoch as one line for people: the losses, and the number that leads. */
export function epochLine(r: EpochEvent, task: ShownTask = defaultTask): string {
  const leading = leadingNumber(task);
  const number = (part: "train" | "validation"): string[] => {
    const value = r[recordKey(part, leading.name)];
    return value === undefined ? [] : [`${leading.label} ${shownValue(leading, value)}`];
  };
  const validation = number("validation");
  const testLoss =
    r.validationLoss === undefined ? (validation.length ? ["test"] : []) : [`test loss ${r.validationLoss.toFixed(4)}`];
  return [
    `epoch ${String(r.epoch).padStart(String(r.epochs).length)}/${r.epochs}`,
    `loss ${r.trainLoss.toFixed(4)}`,
    ...number("train"),
    ...testLoss,
    ...validation.map((text) => text + (r.best ? " (best)" : "")),
    `${r.imagesPerSecond.toFixed(0)} images/s`,
    `${r.seconds.toFixed(1)} s`,
  ].join("  ");
}
