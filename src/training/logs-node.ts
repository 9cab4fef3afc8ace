import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { must, RepmlpError } from "../errors.ts";
import type { TrainingCallback, TrainingEvent } from "./events.ts";
import { csvHeader, csvLine, csvUntil, jsonLinesUntil } from "./logs.ts";

/**
 * Writes a run's events to `<folder>/log.jsonl` (every event) and `<folder>/log.csv` (one line per epoch). A resumed run
 * continues the files from the step it goes on at: what they tell of later steps, which a crash has undone, is taken
 * out, so that no step and no epoch is there twice.
 *
 * @throws `log/write` when the files cannot be written, `log/columns` when a file to continue was written differently
 */
export function fileLogs(folder: string): TrainingCallback {
  const [jsonl, csv] = ["log.jsonl", "log.csv"].map((name) => join(folder, name));
  const read = (path: string): string => (existsSync(path) ? readFileSync(path, "utf8") : "");
  writing(folder, () => mkdirSync(folder, { recursive: true }));
  return (event) => {
    if (event.type === "start") {
      const { resumedAt } = event;
      const epochs = resumedAt ? csvUntil(read(csv), resumedAt) : `${csvHeader}\n`;
      must(
        epochs !== undefined,
        "log/columns",
        () => `${csv}: has other columns than ${csvHeader}. Move it to another place.`,
        "file",
      );
      writing(csv, () => writeFileSync(csv, epochs));
      writing(jsonl, () => writeFileSync(jsonl, resumedAt ? jsonLinesUntil(read(jsonl), resumedAt) : ""));
    }
    if (event.type === "epoch") writing(csv, () => appendFileSync(csv, `${csvLine(event)}\n`));
    writing(jsonl, () => appendFileSync(jsonl, `${JSON.stringify(event)}\n`));
  };
}

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
