/**
 * Order of names by Unicode code point, as Python sorts. (`sort()` alone goes by UTF-16 units, which puts U+1F600 before
 * U+FF21.)
 */
export function byCodePoint(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  let i = 0;
  while (i < length && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  if (i === length) return a.length - b.length;
  return rank(a.charCodeAt(i)) - rank(b.charCodeAt(i));
}

/** UTF-16 units in the order of what they stand for: surrogates come last. */
const rank = (unit: number): number => (unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit);

/**
 * What must not reach a terminal or hide in a message: control characters, line separators, marks that turn the
 * direction of text round, halves of surrogate pairs.
 */
const unsafe = /[\p{Cc}\p{Cs}\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

const named: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** The text with everything that cannot be seen, or does something to a terminal, written as `\n`, `\x1b`, `\u202e`. */
export const visible = (text: string): string =>
  text.replace(unsafe, (c) => {
    const code = c.codePointAt(0)!;
    return named[c] ?? (code < 256 ? `\\x${hex(code, 2)}` : `\\u${hex(code, 4)}`);
  });

/** {@link visible} line by line: line ends and indentation stay. */
export const visibleLines = (text: string): string =>
  text
    .split("\n")
    .map((line) => line.split("\t").map(visible).join("\t"))
    .join("\n");

const hex = (code: number, digits: number): string => code.toString(16).padStart(digits, "0");

/** The text with its middle left out where it is longer than `max` characters, saying how long it is. */
export function shortened(text: string, max: number): string {
  if (text.length <= max) return text;
  const mark = ` … (${text.length} characters) … `;
  const head = Math.ceil((2 * max) / 3);
  // No pair of surrogates is cut.
  return (text.slice(0, head) + mark + text.slice(text.length - (max - head))).replace(/\p{Cs}/gu, "");
}

/** A name out of a file or a folder, as it may be printed: {@link visible}, and {@link shortened} to 160 characters. */
export const shown = (name: string): string => visible(shortened(name, 160));

/** Whether a name fits a pattern in which `*` stands for anything. */
export const fitsPattern = (name: string, pattern: string): boolean =>
  new RegExp(`^${pattern.split("*").map(escapeRegExp).join(".*")}$`).test(name);

/** A text as a regular expression that only fits itself. */
export const escapeRegExp = (text: string): string => text.replace(/[.+?^${}()|[\]\\]/g, "\\$&");
