import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { flagOf, inFlags } from "../../src/cli/failure.ts";
import type { OptionSpec } from "../../src/cli/spec.ts";
import { type CommandName, commands } from "../../src/cli/table.ts";

/*
 * A message of the library names the library's options as `imageSize`; on the command line the command's own option takes
 * the place, --image-size. What a message advises must be there for whoever can see it.
 */
const root = join(dirname(fileURLToPath(import.meta.url)), "../../src");

/** The commands that show messages of a file or folder in which an option is named. */
const shownBy: Readonly<Record<string, readonly CommandName[]>> = {
  "models/onnx-net/": ["train", "trainable"],
  "models/detect.ts": ["convert", "verify", "export", "predict", "test", "train"],
  "models/fc3-batch-norm.ts": ["train"],
  ...Object.fromEntries(
    ["acnet-cifar", "face-resnet", "repmlp-cifar", "repmlp-resnet", "repmlpnet"].map((name) => [
      `models/${name}.ts`,
      ["convert", "verify", "export", "predict", "test", "train", "prune", "quantize"],
    ]),
  ),
  "blocks/": ["train"],
  "data/": ["train"],
  "tasks/node/": ["test", "predict"],
  "tasks/": ["train"],
  "training/": ["train", "prune"],
  "prune/": ["prune"],
  "recipes/node/onnx-start.ts": ["train"],
  "recipes/node/registry-start.ts": ["train"],
  "recipes/node/train.ts": ["train"],
  "inference/node/folder.ts": ["test"],
  "quantize/node/": ["quantize"],
  "quantize/quantize-onnx.ts": ["quantize"],
};

const files = readdirSync(root, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .map((file) => ({ file: relative(root, join(root, file)), text: readFileSync(join(root, file), "utf8") }));

/** String and template literals of a file, without its comments. */
const literals = (text: string): string[] => {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  return code.match(/"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`/g) ?? [];
};

interface Advice {
  readonly file: string;
  /** A flag, or the name of an option of the library. */
  readonly named: string;
  /** The command that the text itself names before it. */
  readonly command?: string;
}

/** What the texts of a file advise to give: flags anywhere, options of the library between backticks. */
function adviceIn({ file, text }: { readonly file: string; readonly text: string }): Advice[] {
  return literals(text).flatMap((literal) => {
    const inside = literal.slice(1, -1).replaceAll("\\`", "`");
    const names = [...inside.matchAll(/(?<![\w-])--[a-z][a-z0-9-]+|`[a-z][A-Za-z0-9]*`/g)];
    // What another program is started with.
    const own = names.filter(({ index }) => !/srun $/.test(inside.slice(0, index)));
    return own.map(({ 0: found, index }) => {
      const command = /repmlp ([a-z]+)(?:(?!repmlp ).)*$/s.exec(inside.slice(0, index))?.[1];
      const named = found.replaceAll("`", "");
      return { file, named, ...(command !== undefined && { command }) };
    });
  });
}

/**
 * Texts that are no messages: style sheets, and the README of a model folder with code in it. `detect.ts` names `--prefix`,
 * which no command has yet: to be taken out of this list with the option.
 */
const noMessages = ["report/", "export/model-card.ts", "models/detect.ts"];
const library = files.filter(({ file }) => !file.startsWith("cli/") && !noMessages.some((n) => file.startsWith(n)));
const advised = library.flatMap(adviceIn);

const has = (command: string, named: string): boolean => {
  const { options } = commands[command as CommandName];
  if (!named.startsWith("--")) return flagOf(named, options) !== undefined;
  return Object.values<OptionSpec<unknown>>(options).some(
    ({ flags, opposite }) =>
      flags.split(/[ ,]+/).includes(named) || (opposite && flags.replace("--", "--no-") === named),
  );
};

describe("what messages of the library advise", () => {
  test("is found at all", () => {
    expect(advised.length).toBeGreaterThan(12);
  });

  test.each(advised)("$named in $file is an option of every command that shows it", ({ file, named, command }) => {
    const [, places = []] = Object.entries(shownBy).find(([name]) => file.startsWith(name)) ?? [];
    const shown: readonly string[] = command === undefined ? places : [command];
    if (!shown.length) {
      // Who shows an option of the library has to be said above; a flag must be one of some command at least.
      expect(named, `${file} names \`${named}\`: say in shownBy which commands show it`).toMatch(/^--/);
      expect(Object.keys(commands).some((name) => has(name, named))).toBe(true);
    }
    expect(shown.filter((name) => !has(name, named))).toEqual([]);
  });
});

describe("options in messages", () => {
  /** Messages that nobody at a command sees, or that mean an entry of a recipe. */
  const others = new Set([
    "data/loader.ts imageShape",
    "graph/read-onnx.ts inputShapes",
    "inference/verify.ts inputShape",
    "quantize/training/quantized-net.ts keepFloat",
    "recipes/node/train.ts imageSize",
  ]);
  const names = [
    ...Object.values(commands).flatMap(({ options }) =>
      Object.entries<OptionSpec<unknown>>(options).flatMap(([name, { library = [] }]) => [name, ...library]),
    ),
    ...["inputShapes", "inputShape"],
  ].filter((name) => /[A-Z]/.test(name));
  const unmarked = library
    .filter(({ file }) => !file.startsWith("web/"))
    .flatMap(({ file, text }) =>
      literals(text)
        .filter((literal) => literal.includes(" "))
        .flatMap((literal) => {
          const words = literal
            .slice(1, -1)
            .replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, "")
            .replace(/\\?`[^`]*`/g, "");
          return names
            .filter((name) => new RegExp(`(?<![\\w.-])${name}(?!\\w)`).test(words))
            .map((n) => `${file} ${n}`);
        }),
    );

  test("stand between backticks, so that a command can name its own", () => {
    expect(new Set(unmarked)).toEqual(others);
  });
});

describe("what commands advise", () => {
  const own = files.filter(({ file }) => /^cli\/commands\/|^cli\/(failure|io|reexec|interrupt|test-result)/.test(file));
  test.each(own.flatMap(adviceIn).filter(({ named }) => named.startsWith("--")))(
    "$named in $file",
    ({ file, named, command }) => {
      // A command may take several files: convert-blocks.ts is a part of convert.
      const [, itself] = /commands\/([a-z]+)[^/]*\.ts$/.exec(file) ?? [];
      const candidates = command ? [command] : itself ? [itself] : Object.keys(commands);
      expect(candidates.some((name) => named === "--help" || has(name, named))).toBe(true);
    },
  );
});

describe("an option of the library on the command line", () => {
  const { train, trainable, verify } = commands;
  test.each([
    ["Say it with `imageSize`.", train.options, "Say it with --image-size."],
    ["Say it with `imageShape`.", trainable.options, "Say it with --image-size."],
    ["Ask for `numClasses` 5, or `head`.", train.options, "Ask for --num-classes 5, or --head."],
    ["`batchSize` and `arch`", train.options, "--batch-size and --arch"],
    ["no option of it: `imageShape`", verify.options, "no option of it: `imageShape`"],
    ["`repmlp models` lists them, `a.png`", train.options, "`repmlp models` lists them, `a.png`"],
  ])("%s", (text, options, said) => {
    expect(inFlags(text, options)).toBe(said);
  });
});
