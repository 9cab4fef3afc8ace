import { listed, must } from "../errors.ts";

/*
 * Class lists are text files with one class per line: plain names in the order of the network's outputs, or columns
 * separated by tabs, among them the index, e.g. `0	n01440764	tench`. Where several columns are numbers, the one that is
 * the index is found from what the others must be, or named `index` in a first line of column names.
 */

interface Line {
  /** From 1. */
  readonly number: number;
  readonly columns: readonly string[];
}

interface Row {
  readonly index: number;
  /** The columns that are no index. */
  readonly columns: readonly string[];
}

/** What the lines say if a certain column is the index. */
type Reading = readonly Row[];

const isIndex = (column: string | undefined): boolean => column !== undefined && /^\d+$/.test(column);

/** All readings of a list, of which there is one unless several columns are numbers. */
function readingsOf(text: string, where: string): Reading[] {
  const all = text
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .map((line, i): Line => ({ number: i + 1, columns: line.split("\t").map((c) => c.trim()) }))
    .filter(({ columns }) => columns.some((c) => c !== ""));
  const header = all[0]?.columns.findIndex((c) => c.toLowerCase() === "index") ?? -1;
  const isNamed = header >= 0 && all[0].columns.length > 1;
  const lines = isNamed ? all.slice(1) : all;
  must(lines.length > 0, "classes/empty", () => `${where}: holds no classes`, "file");
  const isPlain = lines.every(({ columns }) => columns.length === 1);
  if (isPlain) return [lines.map(({ columns }, index) => ({ index, columns }))];
  const width = Math.max(...lines.map(({ columns }) => columns.length));
  const candidates = isNamed ? [header] : Array.from({ length: width }, (_, c) => c);
  const numbers = candidates.filter((c) => lines.every(({ columns }) => isIndex(columns[c])));
  must(
    numbers.length > 0,
    "classes/line",
    () => {
      const most = (c: number): number => lines.filter(({ columns }) => isIndex(columns[c])).length;
      const best = candidates.reduce((a, b) => (most(b) > most(a) ? b : a));
      const bad = lines.find(({ columns }) => !isIndex(columns[best]))!;
      return `${where}: line ${bad.number} has columns but no class index: ${listed([bad.columns.join(" ")])}. Put the index into the same column of every line, or names alone into all lines.`;
    },
    "file",
  );
  return numbers.map((at) =>
    lines.map(({ columns }) => ({ index: Number(columns[at]), columns: columns.filter((_, c) => c !== at) })),
  );
}

/** The only reading that fits, or several that say the same. */
function theOne<T>(fitting: readonly T[], same: (a: T, b: T) => boolean, where: string): T {
  must(
    fitting.every((reading) => same(reading, fitting[0])),
    "classes/ambiguous",
    () =>
      `${where}: several columns are numbers, and each can be the index. Name the columns in a first line, the index "index", with a tab between: folder	index.`,
    "file",
  );
  return fitting[0];
}

/**
 * Class names by output index, from a list of names or from columns (the last one that is not the index is the name).
 *
 * @throws RepmlpError `classes/line`, `classes/index` when the indices are not 0 … n−1, each once, `classes/ambiguous`
 */
export function parseClassNames(text: string, where: string): string[] {
  const readings = readingsOf(text, where);
  const isWhole = (rows: Reading): boolean => {
    const indices = new Set(rows.map(({ index }) => index));
    return indices.size === rows.length && rows.every(({ index }) => index < rows.length);
  };
  const fitting = readings.filter(isWhole);
  if (fitting.length === 0) {
    const [rows] = readings;
    const bad = rows.find(({ index }, i) => index >= rows.length || rows.findIndex((r) => r.index === index) !== i);
    must(
      false,
      "classes/index",
      () =>
        `${where}: ${rows.length} classes need the indices 0 to ${rows.length - 1}, each once; ${bad?.index} does not fit`,
      "file",
    );
  }
  const lists = fitting.map((rows) => {
    const names = new Array<string>(rows.length);
    for (const { index, columns } of rows) names[index] = columns.at(-1)!;
    return names;
  });
  return theOne(lists, (a, b) => a.every((name, i) => name === b[i]), where);
}

/**
 * Class index by folder name, from columns: the index and, first of the others, the folder's name (a WordNet id).
 *
 * @param folders  names that the map must know; where several columns are numbers, they tell which is the index
 * @throws RepmlpError `classes/line`, `classes/repeated`, `classes/unknown` naming folders that are not there,
 *   `classes/ambiguous`
 */
export function parseClassMap(text: string, where: string, folders: readonly string[] = []): Map<string, number> {
  const readings = readingsOf(text, where);
  const maps = readings.map((rows) => new Map(rows.map(({ index, columns }) => [columns[0], index])));
  const isUnique = (i: number): boolean => maps[i].size === readings[i].length;
  const fitting = maps.filter((map, i) => isUnique(i) && folders.every((name) => map.has(name)));
  if (fitting.length > 0)
    return theOne(
      fitting,
      (a, b) => (folders.length ? folders : [...a.keys(), ...b.keys()]).every((name) => a.get(name) === b.get(name)),
      where,
    );
  const best = Math.max(
    0,
    maps.findIndex((_, i) => isUnique(i)),
  );
  const names = readings[best].map(({ columns }) => columns[0]);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  must(twice === undefined, "classes/repeated", () => `${where}: ${listed([twice!])} is there twice`, "file");
  const unknown = folders.filter((name) => !maps[best].has(name));
  must(
    unknown.length === 0,
    "classes/unknown",
    () => `${where}: does not know ${listed(unknown)}. Add a line for each, or remove the folders.`,
    "file",
  );
  return maps[best];
}

/**
 * Class index of folders by the class names of a network.
 *
 * @param labels  class names by output
 * @returns undefined when the names are others, or when a folder's name belongs to two outputs
 */
export function indicesByName(labels: readonly string[], folders: readonly string[]): number[] | undefined {
  const indices = folders.map((name) => labels.indexOf(name));
  const isClear = indices.every((index, i) => index >= 0 && labels.indexOf(folders[i], index + 1) < 0);
  return isClear ? indices : undefined;
}
