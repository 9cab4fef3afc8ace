import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

const markdownIn = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: folder !== "." })
    .map((file) => join(folder, String(file)))
    .filter((file) => file.endsWith(".md"));

/** The documents that people read, by path relative to the repository. */
export const documents = (): string[] => [...markdownIn("."), ...markdownIn("docs")].sort();

/** A fenced block of code in a document. */
export interface CodeBlock {
  /** Where it is: `docs/guides/convert.md:12`. */
  readonly at: string;
  readonly language: string;
  /** Words behind the language, such as `run`. */
  readonly marks: readonly string[];
  readonly text: string;
}

/** Every block of code of the documents. */
export const codeBlocks = (): CodeBlock[] => documents().flatMap(blocksOf);

function blocksOf(file: string): CodeBlock[] {
  const text = readFileSync(join(root, file), "utf8");
  return [...text.matchAll(/^```(\w+)(.*)\n([\s\S]*?)^```$/gm)].map(({ 1: language, 2: marks, 3: body, index }) => ({
    at: `${file}:${text.slice(0, index).split("\n").length}`,
    language,
    marks: marks.trim().split(/\s+/),
    text: body,
  }));
}
