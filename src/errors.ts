import { shortened, shown, visibleLines } from "./text.ts";

/** What kind of failure an error is; the CLI turns `usage` into exit code 2 and the rest into 1. */
export type ErrorKind = "usage" | "shape" | "file" | "model" | "runtime" | "training";

/**
 * Every error this library raises on purpose.
 *
 * The message reads `<where>: <what is wrong, with both values>. <what to do>.`; `code` is stable for programs. Names
 * from files may be anything: what a terminal would obey is written out, and a message without end loses its middle.
 */
export class RepmlpError extends Error {
  override readonly name: string = "RepmlpError";
  constructor(
    /** Stable identifier, e.g. `conv2d/channels`. */
    readonly code: string,
    message: string,
    readonly kind: ErrorKind = "model",
    options?: { cause?: unknown },
  ) {
    super(shortened(visibleLines(message), 6000), options);
  }
}

/** Throws a {@link RepmlpError} unless `condition` holds; the message is only built when needed. */
export function must(
  condition: unknown,
  code: string,
  message: () => string,
  kind: ErrorKind = "shape",
): asserts condition {
  if (!condition) throw new RepmlpError(code, message(), kind);
}

/** Writes a shape for people: `[2, 3, 14, 14]`. */
export const fmt = (shape: readonly (number | string)[]): string =>
  `[${shape.map((d) => (typeof d === "string" ? shown(d) : d)).join(", ")}]`;

/** Joins a list for a message, cut after `max` entries with a count of the rest; each name as {@link shown}. */
export function listed(names: readonly string[], max = 5): string {
  const first = names.slice(0, max).map(shown).join(", ");
  return names.length <= max ? first : `${first} … and ${names.length - max} more`;
}

/** The `max` candidates nearest to `wanted` by edit distance, for "did you mean" hints. */
export function nearest(wanted: string, candidates: readonly string[], max = 3): string[] {
  const distance = (a: string, b: string): number => {
    let row = Array.from({ length: b.length + 1 }, (_, j) => j);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++)
        next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
      row = next;
    }
    return row[b.length];
  };
  return [...candidates]
    .map((name) => ({ name, d: distance(wanted.toLowerCase(), name.toLowerCase()) }))
    .sort((x, y) => x.d - y.d)
    .slice(0, max)
    .map(({ name }) => name);
}
