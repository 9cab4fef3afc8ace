import { appendFile, stat } from "node:fs/promises";
import { writeFileAtomically } from "../checkpoint/node/index.ts";
import { listed, RepmlpError } from "../errors.ts";
import { averages } from "../inference/counts.ts";
import { readCounts, type TestRecord, testCsvHeader, testCsvRow } from "../inference/record.ts";
import { finalLine } from "../inference/report.ts";
import type { Io } from "./io.ts";
import { readText } from "./read-text.ts";

/** Where the result of a test goes. */
export interface TestOutputs {
  readonly output?: string;
  readonly csv?: string;
  /** Percent. */
  readonly minTop1?: number;
}

/** Prints and writes the result of `test` or `merge`; 1 when the accuracy is below the wanted one. */
export async function reportTest(record: TestRecord, outputs: TestOutputs, io: Io): Promise<1 | undefined> {
  const counts = readCounts(record);
  const { total, correct, correctTop5 } = counts;
  const { shard, seconds, waiting } = record;
  if (total === 0) io.note(`shard ${shard.index}/${shard.count} has no batch: there are more shards than batches`);
  const speed = { imagesPerSecond: total / seconds, waitingShare: waiting / seconds };
  const result = total ? { ...averages(counts), ...speed } : {};
  io.result({ type: "result", ...record, ...result }, () => {
    if (!total) return "0 pictures";
    const { loss } = averages(counts);
    return [
      `input: ${record.input.text}`,
      ...unreadableLine(record.unreadable),
      `correct: ${correct} of ${total} top-1, ${correctTop5} of ${total} top-5; mean loss ${loss.toFixed(6)}` +
        `${shard.count > 1 ? ` (shard ${shard.index} of ${shard.count})` : ""}`,
      `time: ${seconds.toFixed(1)} s, ${speed.imagesPerSecond.toFixed(1)} pictures/s, ` +
        `${(100 * speed.waitingShare).toFixed(1)} % of it waiting for pictures`,
      finalLine(counts),
    ].join("\n");
  });
  const { output, csv, minTop1 } = outputs;
  if (output !== undefined) await writeText(output, `${JSON.stringify(record, undefined, 2)}\n`);
  if (csv !== undefined) await addRow(csv, record);
  if (minTop1 === undefined || averages(counts).top1 >= minTop1) return undefined;
  io.warn(`top-1 is ${averages(counts).top1.toFixed(3)} %, below the ${minTop1} % asked for`);
  return 1;
}

/** How many pictures could not be read, if any, with their names. */
export const unreadableLine = (names: readonly string[]): string[] =>
  names.length ? [`not counted: ${names.length} unreadable (${listed(names)})`] : [];

const writeText = (path: string, text: string): Promise<void> =>
  writeFileAtomically(path, async (sink) => sink.write(new TextEncoder().encode(text)));

/** Adds a line; a file with other columns is left alone. */
async function addRow(path: string, record: TestRecord): Promise<void> {
  const exists = (await stat(path).catch(() => undefined))?.size;
  if (!exists) return writeText(path, `${testCsvHeader}\n${testCsvRow(record)}\n`);
  const [header] = (await readText(path)).split(/\r?\n/, 1);
  if (header !== testCsvHeader)
    throw new RepmlpError("test/csv", `${path}: has other columns than ${testCsvHeader}. Name another file.`, "file");
  await appendFile(path, `${testCsvRow(record)}\n`);
}
