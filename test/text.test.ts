import { PassThrough } from "node:stream";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createIo } from "../src/cli/io.ts";
import { textTable } from "../src/cli/text-table.ts";
import { fmt, listed, RepmlpError } from "../src/errors.ts";
import { modelCard } from "../src/export/model-card.ts";
import { shown } from "../src/text.ts";

/** What no message may hold: whatever a terminal obeys, or hides. */
const unsafe = /[\p{Cc}\p{Cs}\u200e\u200f\u2028-\u202e\u2066-\u2069]/u;
const nasty = [
  "\x1b[2J\x1b[31m",
  "a\rb",
  "a\nb",
  "\x9b2J",
  "\x07",
  "\u202egnp.exe",
  "\u2028",
  "\ud800",
  "x".repeat(100_000),
];

describe("names from files in messages", () => {
  test("are visible and short: anything", () => {
    const text = fc.oneof(fc.string({ unit: "binary", maxLength: 400 }), fc.constantFrom(...nasty));
    fc.assert(
      fc.property(text, (name) => {
        for (const written of [
          shown(name),
          listed([name, name]),
          fmt([name, 3]),
          textTable([["a"], [name]]).slice(2),
        ]) {
          expect(written).not.toMatch(unsafe);
          expect(written.length).toBeLessThan(2000);
        }
        const { message } = new RepmlpError("x", `${name}: is wrong. Do this.`);
        expect(message.replace(/[\n\t]/g, "")).not.toMatch(unsafe);
        expect(message.length).toBeLessThan(7000);
        expect(message.endsWith(": is wrong. Do this.")).toBe(true);
      }),
    );
  });

  test("ordinary names stay as they are", () => {
    for (const name of ["layer1.0.weight", "Größe/猫 😀.png", "C:\\data\\x y", 'say "a"', "cafe\u0301"])
      expect(shown(name)).toBe(name);
    expect(shown("a\x1b[31mb\tc\nd\u202e")).toBe("a\\x1b[31mb\\tc\\nd\\u202e");
    expect(shown("x".repeat(100_000))).toMatch(/^x{107} … \(100000 characters\) … x{53}$/);
  });

  test("what the command line prints, but for its own colours", () => {
    const [stdout, stderr] = [new PassThrough(), new PassThrough()];
    const io = createIo({ stdout, stderr } as never, { json: false, quiet: false }, () => new AbortController().signal);
    for (const name of nasty.slice(0, -1)) {
      io.result({}, () => `  ${name}\t1`);
      io.note(name);
      io.warn(name);
    }
    const printed = `${stdout.read()}${stderr.read()}`;
    expect(printed.replace(/[\n\t]/g, "")).not.toMatch(unsafe);
    expect(printed).toContain("warning: \\x1b[2J\\x1b[31m\n");
  });
});

describe("a model card with any names", () => {
  const card = (name: string): string =>
    modelCard({
      arch: name,
      description: "a network",
      license: name,
      preprocessing: { inputSize: [3, 8, 8], mean: [0, 0, 0], std: [1, 1, 1] },
      parameters: 1,
      classes: 2,
      files: [{ name, bytes: 1 }],
      form: "Deploy form.",
      source: { name, sha256: "00" },
      checks: [],
      evaluation: { dataset: name, correct: 1, correctTop5: 1, total: 2 },
    });
  const usual = card("name").split("\n");

  test.for([
    "a|b",
    "<script>alert(1)</script>",
    "a\nb\n---\nlicense: mit",
    "`a``b`",
    "# x",
    "![](http://x)",
    "1. a",
    "\\|",
    '"',
    "---",
    "&lt;",
    "$x$",
  ])("keeps its shape: %j", (name) => {
    const lines = card(name).split("\n");
    expect(lines).toHaveLength(usual.length);
    const cells = (line: string): number => line.replace(/\\./g, "").split("|").length;
    for (const [i, line] of lines.entries()) {
      expect(cells(line), line).toBe(usual[i].startsWith("|") ? cells(usual[i]) : cells(line));
      if (!usual[i].includes("`name`") && !line.includes('"')) expect(line).not.toMatch(/(^|[^\\])[<`](script|a)/);
    }
    const [, front] = card(name).split(/^---$/m);
    const values = front.split("\n").filter((line, i) => line && line !== usual[i]);
    for (const line of values) expect(JSON.parse(line.slice(line.indexOf(":") + 2))).toBe(name);
    expect(values).toHaveLength(3);
  });

  test("ordinary names are not escaped in a way that shows", () => {
    expect(card("RepMLP-Res50-light-224")).toContain("# RepMLP-Res50-light-224\n");
    expect(card("a`b")).toContain("Made from ``a`b`` (SHA-256 `00`)");
  });
});
