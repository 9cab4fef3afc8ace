/** One case in bench/RESULTS.md: what stands below its heading. */
export interface Section {
  readonly name: string;
  readonly body: string;
}

/** Cases that were measured together. */
export interface Earlier {
  /** Date, machine, threads and rounds. */
  readonly where: string;
  /** Table of versions. */
  readonly versions: string;
  readonly sections: readonly Section[];
}

/** The runs that a document written by `resultsDocument` holds; one without cases holds none. */
export function earlierIn(document: string): readonly Earlier[] {
  return document.split(/^# .*$/m).flatMap((part): Earlier[] => {
    const [head, ...cases] = part.split(/^## /m);
    const where = /^(\d{4}-\d\d-\d\d, .*)\.$/m.exec(head)?.[1];
    const versions = /^\| {2}\| version \|\n(?:\|.*\n)+/m.exec(head)?.[0].trim();
    if (where === undefined || versions === undefined || !cases.length) return [];
    const sections = cases.map((text): Section => {
      const end = text.indexOf("\n");
      return { name: text.slice(0, end).trim(), body: text.slice(end).trim() };
    });
    return [{ where, versions, sections }];
  });
}

/** Cells of a line of a table. */
const cellsOf = (line: string): string[] =>
  line
    .replace(/^\| ?| ?\|$/g, "")
    .split(/ ?(?<!\\)\| ?/)
    .map((cell) => cell.replaceAll("\\|", "|").trim());

/** The figures of a case of which something is asked: what was done, the figure, its number, floor, aim, what became of it. */
export function summaryRows({ body }: Section): string[][] {
  const [about] = body.split("\n", 1);
  const work = about.replace(/\.$/, "").replace(/^[A-Z][a-z]*(?=[ ,])/, (word) => word.toLowerCase());
  const table = /^\| figure \|.*\n\|-.*\n((?:\|.*(?:\n|$))*)/m.exec(body);
  return (table?.[1] ?? "")
    .split("\n")
    .filter(Boolean)
    .map(cellsOf)
    .filter(([, , floor, aim]) => floor || aim)
    .map((cells) => [work, ...cells]);
}
