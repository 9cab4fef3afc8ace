import { averages, type Counts } from "./counts.ts";
import type { BatchResult } from "./evaluate.ts";

/** Python's `%w.df`. */
const fixed = (x: number, width: number, digits: number): string => x.toFixed(digits).padStart(width);

/** Python's `%.4e`: at least two digits in the exponent. */
const scientific = (x: number): string => x.toExponential(4).replace(/e([+-])(\d)$/, "e$10$2");

/**
 * The progress line of the original test program, which log scrapers know:
 * `Test: [ 10/391]	Time  0.123 ( 0.130)	Loss 1.2345e+00 (1.2345e+00)	Acc@1  70.00 ( 69.10)	Acc@5 …`.
 */
export function progressLine({ batch, batches, counts, sum, seconds, sumSeconds }: BatchResult): string {
  const [now, mean] = [averages(counts), averages(sum)];
  const accuracy = (name: string, key: "top1" | "top5"): string =>
    `${name} ${fixed(now[key], 6, 2)} (${fixed(mean[key], 6, 2)})`;
  return [
    `Test: [${String(batch).padStart(String(batches).length)}/${batches}]`,
    `Time ${fixed(seconds, 6, 3)} (${fixed(sumSeconds / (batch + 1), 6, 3)})`,
    `Loss ${scientific(now.loss)} (${scientific(mean.loss)})`,
    accuracy("Acc@1", "top1"),
    accuracy("Acc@5", "top5"),
  ].join("\t");
}

/** The last line of the original test program: ` * Acc@1 76.488 Acc@5 93.456`. */
export function finalLine(counts: Counts): string {
  const { top1, top5 } = averages(counts);
  return ` * Acc@1 ${top1.toFixed(3)} Acc@5 ${top5.toFixed(3)}`;
}
