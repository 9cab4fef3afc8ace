import { mergeTestRecords, parseTestRecord } from "../../inference/record.ts";
import { readText } from "../read-text.ts";
import type { Run } from "../table.ts";
import { reportTest } from "../test-result.ts";

/** Adds up the parts of a sharded test. */
export const run: Run<"merge"> = async ({ args: { part }, options, io }) => {
  const parts = await Promise.all(
    part.map(async (where) => ({ where, record: parseTestRecord(await readText(where), where) })),
  );
  return reportTest(mergeTestRecords(parts), options, io);
};
