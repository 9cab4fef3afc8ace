import { must } from "../errors.ts";

/*
 * Class lists are text files with one class per line: plain names in the order of the network's outputs, or columns
 * separated by tabs, among them the index, e.g. `0	n01440764	tench`.
 */

interface Row {
  readonly index: number;
  /** The columns that are no index. */
  readonly columns: readonly string[];
}

function rowsOf(text: string, where: string): Row[] {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  const rows = lines.map((line, i): Row => {
    const columns = line.split("\t").map((c) => c.trim());
    if (columns.length === 1) return { index: i, columns };
    const at = columns.findIndex((c) => /^\d+$/.test(c));
    must(
      at >= 0,
      "classes/line",
      () =>
        `${where}: line ${i + 1} has columns but no class index: "${line.slice(0, 60)}". Put the index in one column.`,
      "file",
    );
    return { index: Number(columns[at]), columns: columns.filter((_, k) => k !== at) };
  });
  must(rows.length > 0, "classes/empty", () => `${where}: holds no classes`, "file");
  return rows;
}

/**
 * Class names by output index, from a list of names or from columns (the last one that is not the index is the name).
 *
 * @throws RepmlpError `classes/line`, `classes/index` when the indices are not 0 … n−1, each once
 */
export function parseClassNames(text: string, where: string): string[] {
  const rows = rowsOf(text, where);
  const names = new Array<string>(rows.length);
  for (const { index, columns } of rows) {
    must(
      index < rows.length && names[index] === undefined,
      "classes/index",
      () =>
        `${where}: ${rows.length} classes need the indices 0 to ${rows.length - 1}, each once; ${index} does not fit`,
      "file",
    );
    names[index] = columns.at(-1)!;
  }
  return names;
}

/**
 * Class index by folder name, from columns: the index and, first of the others, the folder's name (a WordNet id).
 *
 * @throws RepmlpError `classes/line`, `classes/repeated`
 */
export function parseClassMap(text: string, where: string): Map<string, number> {
  const map = new Map<string, number>();
  for (const { index, columns } of rowsOf(text, where)) {
    must(!map.has(columns[0]), "classes/repeated", () => `${where}: ${columns[0]} is there twice`, "file");
    map.set(columns[0], index);
  }
  return map;
}
