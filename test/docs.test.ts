import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { runProgram } from "../src/cli/program.ts";
import { type CommandName, commands } from "../src/cli/table.ts";
import { type CodeBlock, codeBlocks, documents } from "./code-blocks.ts";

/*
 * Everything that the documents tell a reader to type works: code blocks marked `run` are compiled and executed, the
 * program's command lines are parsed as it parses them, npm scripts and linked files exist.
 */

const root = join(import.meta.dirname, "..");
const files = documents();
const blocks = codeBlocks();

describe("code that is marked to run", () => {
  const code = blocks.filter((b) => b.language === "ts" && b.marks.includes("run"));
  // Examples write their files beside themselves.
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "repmlp-docs-")));
  const fileOf = (b: CodeBlock): string => join(folder, `${b.at.replace(/[^\w-]/g, "_")}.mts`);
  const entry = JSON.stringify(join(root, "src/node.ts"));
  const home = process.cwd();

  beforeAll(() => {
    for (const b of code) writeFileSync(fileOf(b), b.text.replace(/from "repmlp(\/node)?"/g, `from ${entry}`));
    process.chdir(folder);
  });
  afterAll(() => {
    process.chdir(home);
    rmSync(folder, { recursive: true, force: true });
  });

  test("is there", () => expect(code.length).toBeGreaterThan(0));

  test("compiles", () => {
    const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
    const own = {
      noUnusedLocals: false,
      rewriteRelativeImportExtensions: false,
      allowImportingTsExtensions: true,
      typeRoots: ["node_modules/@types"],
    };
    const { options } = ts.convertCompilerOptionsFromJson({ ...config.compilerOptions, ...own }, root);
    const program = ts.createProgram(code.map(fileOf), options);
    const complaints = code.flatMap((b) => {
      const source = program.getSourceFile(fileOf(b));
      return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map(
        (d) => `${b.at}: ${ts.flattenDiagnosticMessageText(d.messageText, "\n")}`,
      );
    });
    expect(complaints).toEqual([]);
  });

  test.for(code)("runs: $at", async (b) => {
    const log = vi.spyOn(console, "log").mockImplementation(() => {});
    await import(pathToFileURL(fileOf(b)).href);
    expect(log, "an example shows something").toHaveBeenCalled();
    log.mockRestore();
  });
});

describe("commands", () => {
  const lines = blocks
    .filter((b) => b.language === "sh")
    .flatMap((b) =>
      b.text
        .replaceAll("\\\n", " ")
        .split("\n")
        .map((line) => ({ at: b.at, line: line.trim() })),
    );
  const words = (line: string): string[] =>
    [...line.replace(/(^|\s)#.*$/, "").matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((m) => m[1] ?? m[2] ?? m[3]);

  /** Accepts or refuses a command line without doing the work. */
  async function parse(argv: readonly string[]): Promise<string> {
    let errors = "";
    const streams = {
      stdout: { write: () => true },
      stderr: {
        write: (text: string) => {
          errors += text;
          return true;
        },
      },
    };
    const idle = async () => ({ run: async () => undefined });
    const loaders = Object.fromEntries((Object.keys(commands) as CommandName[]).map((name) => [name, idle]));
    const code = await runProgram(argv, loaders as never, () => "0", streams as never);
    return code === 0 ? "" : errors;
  }

  // Behind what starts it several times, too; what follows `:::` are the values for the braces.
  const starts = /^((npx|mpirun|srun|parallel)\b.*? )?repmlp\b/;
  const own = lines.filter(({ line }) => starts.test(line));
  test.for(own)("$at: $line", async ({ line }) => {
    const argv = words(line.replace(starts, "").replace(/ ::: .*$/, ""));
    expect(await parse(argv)).toBe("");
  });

  const scripts: Record<string, string> = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).scripts;
  const npm = lines.filter(({ line }) => /^npm (run|test|start)\b/.test(line));
  test.for(npm)("$at: $line", ({ line }) => {
    const [, verb, name] = words(line);
    expect(Object.keys(scripts)).toContain(verb === "run" ? name : verb);
  });

  test("one that does not exist is noticed", async () => {
    expect(await parse(["convert", "a.pth", "b.pth", "--fast"])).toContain("--fast");
    expect(await parse(["konvert"])).toContain("Did you mean convert");
  });
});

describe("links to files lead somewhere", () => {
  const links = files.flatMap((file) =>
    [...readFileSync(join(root, file), "utf8").matchAll(/\]\(([^)#\s]+)[^)]*\)/g)]
      .map((m) => m[1])
      .filter((target) => !/^[a-z]+:/.test(target))
      .map((target) => ({ file, target })),
  );
  test.for(links.length ? links : [{ file: "README.md", target: "README.md" }])(
    "$file: $target",
    ({ file, target }) => {
      expect(existsSync(join(root, dirname(file), target))).toBe(true);
    },
  );
});
