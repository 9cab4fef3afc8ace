import { shown } from "../text.ts";

/**
 * Columns of text; the first row is the heading. Cells may be names from files.
 *
 * @param align  `l` or `r` per column. Default: the first left, the others right
 */
export function textTable(cells: readonly (readonly string[])[], align = ""): string {
  const rows = cells.map((row) => row.map(shown));
  const widths = rows[0].map((_, c) => Math.max(...rows.map((row) => row[c].length)));
  const left = (c: number): boolean => (align[c] ?? (c ? "r" : "l")) === "l";
  return rows
    .map((row) => row.map((cell, c) => (left(c) ? cell.padEnd(widths[c]) : cell.padStart(widths[c]))).join("  "))
    .map((line) => line.trimEnd())
    .join("\n");
}

/** A small number for people: `1.2e-6`, `0` for zero. */
export const scientific = (x: number): string => (x === 0 ? "0" : x.toExponential(1));

/** A whole number for people: `87,038,248`. (toLocaleString takes 20 ms to find out about languages.) */
export const grouped = (n: number): string => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
