import { must } from "../errors.ts";

/** Two pictures, and whether they show one person. */
export interface FacePair {
  readonly a: string;
  readonly b: string;
  readonly same: boolean;
}

/**
 * A list of pairs of pictures: CSV with the columns `label,a,b` (label 1 for one person, 0 for two, paths below the folder
 * of the pictures), or LFW's `pairs.txt` (`name 1 4` for pictures 1 and 4 of a person, `name 1 other 2` for two people,
 * pictures `name/name_0001.jpg`).
 *
 * @param where  file name, for messages
 * @throws `pairs/line` naming the line
 */
export function parsePairs(text: string, where: string): readonly FacePair[] {
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  const isCsv = lines.some((line) => line.includes(","));
  const pairs = lines.flatMap((line, i) => {
    // LFW's first line says how many there are.
    if (!line || (i === 0 && (isCsv ? /^label,/i.test(line) : /^\d+(\s+\d+)?$/.test(line)))) return [];
    const pair = isCsv ? csvPair(line) : lfwPair(line);
    must(
      pair,
      "pairs/line",
      () =>
        `${where}: line ${i + 1} is no pair: "${line.slice(0, 80)}". Expected "label,a,b" with label 0 or 1, or LFW's "name 1 4" and "name 1 other 2".`,
      "file",
    );
    return [pair];
  });
  must(pairs.length > 0, "pairs/line", () => `${where}: holds no pairs`, "file");
  return pairs;
}

function csvPair(line: string): FacePair | undefined {
  const [label, a, b, ...more] = line.split(",").map((part) => part.trim());
  return (label === "0" || label === "1") && a && b && !more.length ? { a, b, same: label === "1" } : undefined;
}

const lfwName = (name: string, number: string): string => `${name}/${name}_${number.padStart(4, "0")}.jpg`;

function lfwPair(line: string): FacePair | undefined {
  const parts = line.split(/\s+/);
  const isNumber = (text: string | undefined): boolean => text !== undefined && /^\d+$/.test(text);
  if (parts.length === 3 && isNumber(parts[1]) && isNumber(parts[2]))
    return { a: lfwName(parts[0], parts[1]), b: lfwName(parts[0], parts[2]), same: true };
  if (parts.length === 4 && isNumber(parts[1]) && isNumber(parts[3]))
    return { a: lfwName(parts[0], parts[1]), b: lfwName(parts[2], parts[3]), same: false };
  return undefined;
}
