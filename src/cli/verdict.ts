import type { Verdict, WeightDifference } from "../inference/index.ts";
import { scientific } from "./text-table.ts";

/** A verdict on two forms in one line. */
export const verdictLine = ({ passed, differs }: Verdict, tolerance: number): string =>
  passed
    ? "passed"
    : `FAILED: above ${scientific(tolerance)}${differs === null ? "" : `; the first block that differs is ${differs}`}`;

/** Which value of a tensor is wrong: `rep1.fc3.weight[3, 17] is 0.0101, the merge gives 0.01`. */
export const weightSentence = ({ key, index, found, expected }: WeightDifference): string =>
  `${key}[${index.join(", ")}] is ${Number(found.toPrecision(6))}, the merge gives ${Number(expected.toPrecision(6))}`;
