import { fmt, must } from "../../errors.ts";
import { type Layout, toBatchLast } from "../layout.ts";

/** Negative axes counted from the end, sorted, checked; none means all. */
export function normalizeAxes(op: string, rank: number, axes?: readonly number[] | number): number[] {
  const list = axes === undefined ? Array.from({ length: rank }, (_, i) => i) : [axes].flat();
  const positive = [...new Set(list.map((a) => (a < 0 ? a + rank : a)))].sort((a, b) => a - b);
  must(
    positive.every((a) => Number.isInteger(a) && a >= 0 && a < rank),
    `${op}/axis`,
    () => `${op}: axes ${fmt(list)} are outside a tensor of rank ${rank}`,
  );
  return positive;
}

/** Batch-last order of a list that has one entry per axis. */
export const permuteEntries = <T>(entries: readonly T[], layout: Layout): T[] =>
  layout === "batchLast" && entries.length >= 2 ? toBatchLast(entries.length).map((i) => entries[i]) : [...entries];
