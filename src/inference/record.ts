import * as v from "valibot";
import { listed, must } from "../errors.ts";
import { byCodePoint } from "../text.ts";
import { addCounts, averages, type Counts, noCounts } from "./counts.ts";

const count = v.pipe(v.number(), v.integer(), v.minValue(0));

const recordSchema = v.object({
  /** Kind and version of the file. */
  format: v.literal("repmlp-test/1"),
  model: v.object({
    name: v.string(),
    form: v.string(),
    /** File name and SHA-256 of the weights. */
    weights: v.string(),
    sha256: v.string(),
    /** Trainable values. */
    parameters: count,
    dtype: v.string(),
  }),
  data: v.object({
    /** Name of the folder. */
    name: v.string(),
    /** Pictures in the whole data set. */
    images: count,
    /** Class folders. */
    classes: count,
    /** SHA-256 of paths and class indices. */
    labelsSha256: v.string(),
  }),
  input: v.object({
    imageSize: count,
    /** Part of the resized picture that the crop keeps. */
    cropPct: v.number(),
    interpolation: v.string(),
    /** All of the preprocessing in words. */
    text: v.string(),
  }),
  batchSize: count,
  provider: v.string(),
  /** Which part of the batches was run; `index` from 1. */
  shard: v.object({ index: count, count }),
  counts: v.object({ total: count, correct: count, correctTop5: count, lossUnits: v.string() }),
  /** Pictures that could not be read and are not counted, by their paths below `val`. */
  unreadable: v.array(v.string()),
  /** Wall time of the run in seconds; of merged parts the sum. */
  seconds: v.number(),
  /** Seconds of it spent waiting for pictures. */
  waiting: v.number(),
});

/** The result of an evaluation, or of one shard of it, as kept in a file. */
export type TestRecord = v.InferOutput<typeof recordSchema>;

/** Counts as they are kept in a record, and back. */
export const writeCounts = ({ lossUnits, ...rest }: Counts): TestRecord["counts"] => ({
  ...rest,
  lossUnits: `${lossUnits}`,
});
export const readCounts = ({ counts: { lossUnits, ...rest } }: TestRecord): Counts => ({
  ...rest,
  lossUnits: BigInt(lossUnits),
});

/** Reads a record. Throws `test/record` naming the file. */
export function parseTestRecord(text: string, where: string): TestRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const result = v.safeParse(recordSchema, value);
  must(
    result.success && /^\d+$/.test(result.output.counts.lossUnits),
    "test/record",
    () => {
      const issue = result.issues?.[0];
      return `${where}: is no result of repmlp test (${issue ? `${v.getDotPath(issue) ?? "the file"}: ${issue.message}` : "lossUnits"}). Write it with repmlp test -o.`;
    },
    "file",
  );
  return result.output;
}

/** A record and the file it is from. */
export interface NamedRecord {
  readonly where: string;
  readonly record: TestRecord;
}

/**
 * Adds up the shards of one evaluation. Counters are added, not averages, so the result is that of a single run, to the
 * last digit; only the times are sums over the machines.
 *
 * @throws RepmlpError `merge/different` for parts of different evaluations, `merge/repeated`, `merge/missing`,
 *   `merge/total` when the parts do not hold every picture
 */
export function mergeTestRecords(parts: readonly NamedRecord[]): TestRecord {
  must(parts.length > 0, "merge/empty", () => "merge: no parts given", "usage");
  const [first] = parts;
  for (const part of parts) mustBeSame(first, part);
  const { count } = first.record.shard;
  const byIndex = new Map<number, NamedRecord>();
  for (const part of parts) {
    const { index } = part.record.shard;
    const other = byIndex.get(index);
    must(
      !other,
      "merge/repeated",
      () => `merge: ${other?.where} and ${part.where} are both shard ${index}/${count}. Give each shard once.`,
      "file",
    );
    byIndex.set(index, part);
  }
  const missing = Array.from({ length: count }, (_, i) => i + 1).filter((i) => !byIndex.has(i));
  must(
    !missing.length,
    "merge/missing",
    () =>
      `merge: shard ${listed(missing.map((i) => `${i}/${count}`))} ${missing.length > 1 ? "are" : "is"} missing. Run repmlp test with --shard for the rest.`,
    "file",
  );
  const records = [...byIndex].sort(([a], [b]) => a - b).map(([, { record }]) => record);
  const counts = records.map(readCounts).reduce(addCounts, noCounts);
  const { images } = first.record.data;
  const unreadable = records.flatMap((r) => r.unreadable);
  must(
    counts.total + unreadable.length === images,
    "merge/total",
    () =>
      `merge: the parts hold ${counts.total + unreadable.length} pictures, the data set ${images}. A part is from a broken run.`,
    "file",
  );
  const sum = (key: "seconds" | "waiting"): number => records.reduce((n, r) => n + r[key], 0);
  return {
    ...first.record,
    shard: { index: 1, count: 1 },
    counts: writeCounts(counts),
    unreadable: unreadable.sort(byCodePoint),
    seconds: sum("seconds"),
    waiting: sum("waiting"),
  };
}

/** Everything that decides the counts must be the same in all parts. */
function mustBeSame(a: NamedRecord, b: NamedRecord): void {
  const essence = ({ model, data, input, batchSize, shard }: TestRecord): Record<string, unknown> => ({
    weights: model.sha256,
    form: model.form,
    labels: data.labelsSha256,
    preprocessing: input.text,
    "batch size": batchSize,
    "number of shards": shard.count,
  });
  const [x, y] = [essence(a.record), essence(b.record)];
  const different = Object.keys(x).find((key) => x[key] !== y[key]);
  must(
    different === undefined,
    "merge/different",
    () =>
      `merge: ${a.where} and ${b.where} are of different evaluations: ${different} is ${x[different!]} and ${y[different!]}`,
    "file",
  );
}

const csvColumns = [
  ...["model", "img_size", "top1", "top1_err", "top5", "top5_err", "param_count", "crop_pct", "interpolation"],
  ...["correct", "total", "dtype", "provider", "seconds"],
];

/** First line of the results file: timm's columns, then ours. */
export const testCsvHeader = csvColumns.join(",");

/** A record as one line of the results file; percentages with 4 digits and millions of parameters, as in timm. */
export function testCsvRow(record: TestRecord): string {
  const { model, input, provider, seconds } = record;
  const counts = readCounts(record);
  const { top1, top5 } = averages(counts);
  const values: Record<string, string | number> = {
    model: model.name,
    img_size: input.imageSize,
    top1: top1.toFixed(4),
    top1_err: (100 - top1).toFixed(4),
    top5: top5.toFixed(4),
    top5_err: (100 - top5).toFixed(4),
    param_count: (model.parameters / 1e6).toFixed(2),
    crop_pct: input.cropPct,
    interpolation: input.interpolation,
    correct: counts.correct,
    total: counts.total,
    dtype: model.dtype,
    provider,
    seconds: seconds.toFixed(2),
  };
  return csvColumns.map((column) => quoted(`${values[column]}`)).join(",");
}

const quoted = (text: string): string => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
