import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { must, RepmlpError } from "../../errors.ts";
import { defaultTask, type ShownNumber, type ShownTask } from "../../tasks/index.ts";
import { recordKey, scaled, trainingNumbers } from "../../tasks/shown.ts";
import type { TrainingEvent } from "../events.ts";
import { csvHeader, csvLine, csvUntil, jsonLinesUntil } from "../logs.ts";
import { recordsUntil, scalarsRecord, versionRecord } from "../tensorboard.ts";

/** A taker of a run's events; the task says which numbers there are. Default classification. */
export type EventLog = (event: TrainingEvent, task?: ShownTask) => void;

/**
 * Writes a run's events to `<folder>/log.jsonl` (every event) and `<folder>/log.csv` (one line per epoch). A resumed run
 * continues the files from the step it goes on at: what they tell of later steps, which a crash has undone, is taken
 * out, so that no step and no epoch is there twice.
 *
 * @throws `log/write` when the files cannot be written, `log/columns` when a file to continue was written differently
 */
export function fileLogs(folder: string): EventLog {
  const [jsonl, csv] = ["log.jsonl", "log.csv"].map((name) => join(folder, name));
  const read = (path: string): string => (existsSync(path) ? readFileSync(path, "utf8") : "");
  writing(folder, () => mkdirSync(folder, { recursive: true }));
  return (event, task = defaultTask) => {
    if (event.type === "start") {
      const { resumedAt } = event;
      const header = csvHeader(task);
      const epochs = resumedAt ? csvUntil(read(csv), resumedAt, task) : `${header}\n`;
      must(
        epochs !== undefined,
        "log/columns",
        () => `${csv}: has other columns than ${header}. Move it to another place.`,
        "file",
      );
      writing(csv, () => writeFileSync(csv, epochs));
      writing(jsonl, () => writeFileSync(jsonl, resumedAt ? jsonLinesUntil(read(jsonl), resumedAt) : ""));
    }
    if (event.type === "epoch") writing(csv, () => appendFileSync(csv, `${csvLine(event, task)}\n`));
    writing(jsonl, () => appendFileSync(jsonl, `${JSON.stringify(event)}\n`));
  };
}

/** Name of the file that {@link tensorBoardLog} writes; TensorBoard takes every file with `tfevents` in its name. */
export const eventsFile = "events.out.tfevents.repmlp";

export interface TensorBoardOptions {
  /** Steps between two entries of the training curves. Default 10. */
  readonly every?: number;
}

/**
 * Writes a run's curves to `<folder>/events.out.tfevents.repmlp`, for TensorBoard and what reads its files: `train/loss`,
 * `train/lr`, `images/s` and, where it is computed, `train/gradient_norm` of every tenth step; for every epoch
 * `epoch/train_loss`, `epoch/images/s`, `val/loss` and the task's numbers, `epoch/train_top1`, `val/top1` and `val/top5` (in
 * percent) of a classification.
 * A resumed run continues the file from the step it goes on at, as {@link fileLogs} does; a record that a crash has cut
 * off is forgotten.
 *
 * @throws `log/write` when the file cannot be written, `log/options` unless `every` is a positive integer
 */
export function tensorBoardLog(folder: string, { every = 10 }: TensorBoardOptions = {}): EventLog {
  must(
    Number.isInteger(every) && every > 0,
    "log/options",
    () => `tensorBoardLog: every must be a positive integer, got ${every}`,
    "usage",
  );
  const path = join(folder, eventsFile);
  const now = (): number => Date.now() / 1000;
  writing(folder, () => mkdirSync(folder, { recursive: true }));
  return (event, task = defaultTask) => {
    if (event.type === "start")
      writing(path, () => {
        const old = event.resumedAt && existsSync(path) ? readFileSync(path) : new Uint8Array(0);
        const kept = recordsUntil(new Uint8Array(old), event.resumedAt);
        writeFileSync(path, kept.length ? kept : versionRecord(now()));
      });
    const scalars = scalarsOf(event, every, task);
    if (scalars && "step" in event)
      writing(path, () => appendFileSync(path, scalarsRecord(now(), event.step, scalars)));
  };
}

/** What an event adds to the curves. */
function scalarsOf(event: TrainingEvent, every: number, task: ShownTask): Record<string, number> | undefined {
  if (event.type === "step" && event.step % every === 0) {
    const { loss, lr, gradientNorm, imagesPerSecond } = event;
    return defined({
      "train/loss": loss,
      "train/lr": lr,
      "train/gradient_norm": gradientNorm,
      "images/s": imagesPerSecond,
    });
  }
  if (event.type !== "epoch") return undefined;
  const numbers = (part: "train" | "validation", shown: readonly ShownNumber[], prefix: string) =>
    Object.fromEntries(shown.map((n) => [prefix + n.name, scaled(n, event[recordKey(part, n.name)])]));
  return defined({
    "epoch/train_loss": event.trainLoss,
    ...numbers("train", trainingNumbers(task), "epoch/train_"),
    "epoch/images/s": event.imagesPerSecond,
    "val/loss": event.validationLoss,
    ...numbers("validation", task.shows.numbers, "val/"),
  });
}

const defined = (values: Readonly<Record<string, number | undefined>>): Record<string, number> =>
  Object.fromEntries(Object.entries(values).flatMap(([name, v]) => (v === undefined ? [] : [[name, v]])));

/** Loss of every step in the log that {@link fileLogs} wrote; of a resumed run also those before. */
export function loggedLosses(folder: string): number[] {
  const path = join(folder, "log.jsonl");
  const lines = existsSync(path) ? readFileSync(path, "utf8").trimEnd().split("\n") : [];
  return lines.flatMap((line) => {
    const event = JSON.parse(line) as TrainingEvent;
    return event.type === "step" ? [event.loss] : [];
  });
}

function writing(path: string, action: () => void): void {
  try {
    action();
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new RepmlpError("log/write", `${path}: cannot be written (${reason}). Choose another folder.`, "file", {
      cause,
    });
  }
}
