import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";

/*
 * What scripts/build.mjs makes of the package. Times differ from machine to machine, so the files that a start loads
 * are counted: each costs about a millisecond.
 */

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Notes the address of every module that is loaded, those of CommonJS included. */
const recorder = `
  import { appendFileSync } from "node:fs";
  import Module, { register } from "node:module";
  const note = (address) => appendFileSync(process.env.LOADED, address + "\\n");
  const load = Module._load;
  Module._load = function (request, parent, isMain) {
    note("require " + request);
    return load.call(this, request, parent, isMain);
  };
  const hooks = \`
    import { appendFileSync } from "node:fs";
    export async function load(url, context, next) {
      appendFileSync(process.env.LOADED, url + "\\\\n");
      return next(url, context);
    }\`;
  register("data:text/javascript," + encodeURIComponent(hooks));
`;

/** Files that a start of Node loads, relative to the repository, and modules that are required. */
function filesLoadedBy(...args: readonly string[]): string[] {
  const folder = mkdtempSync(join(tmpdir(), "repmlp-load-"));
  const [log, hook] = [join(folder, "loaded"), join(folder, "recorder.mjs")];
  writeFileSync(hook, recorder);
  const { status, stderr } = spawnSync(process.execPath, ["--import", pathToFileURL(hook).href, ...args], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, LOADED: log },
  });
  expect(status, stderr).toBe(0);
  const loaded = readFileSync(log, "utf8").split("\n");
  rmSync(folder, { recursive: true });
  const files = loaded.filter((address) => address.startsWith("file:")).map((address) => fileURLToPath(address));
  const required = loaded.filter((address) => /^require (?!node:)/.test(address));
  return [...files.map((file) => relative(root, file).split(sep).join("/")), ...required].sort();
}

describe("what a start loads", () => {
  test.for([
    {
      name: "import 'repmlp'",
      args: ["--input-type=module", "--eval", "import 'repmlp'"],
      files: ["dist/cli/rolldown-runtime.js", "dist/node/base.js", "dist/node/index.js", "dist/node/library.js"],
    },
    {
      name: "repmlp --help",
      args: ["dist/cli/main.js", "--help"],
      files: ["dist/cli/main.js", "dist/cli/rolldown-runtime.js", "dist/node/base.js"],
    },
    {
      name: "repmlp --version",
      args: ["dist/cli/main.js", "--version"],
      files: ["dist/cli/main.js", "dist/cli/rolldown-runtime.js", "dist/node/base.js"],
    },
  ])("$name", ({ args, files }) => expect(filesLoadedBy(...args)).toEqual(files));
});

describe("the bundle for Node", () => {
  test("classes and functions keep their names, which tables and messages show", async () => {
    const built = (await import(
      pathToFileURL(join(root, "dist/node/index.js")).href
    )) as typeof import("../../src/node.ts");
    const named = Object.entries({ ...built, ...built.nn }).filter(([, value]) => typeof value === "function");
    expect(named.length).toBeGreaterThan(100);
    for (const [key, value] of named) expect((value as { name: string }).name, key).toMatch(/^\w+$/);
    expect(new built.nn.Conv2d(1, 1, { kernelSize: 1 }).constructor.name).toBe("Conv2d");
  });

  test("passes on the licences of what it holds", () => {
    const text = readFileSync(join(root, "dist/THIRD-PARTY-LICENSES.txt"), "utf8");
    for (const name of ["commander", "valibot"])
      expect(text).toMatch(new RegExp(`^${name} \\d[\\s\\S]*?Permission is hereby granted, free of charge`, "m"));
  });
});

test("nothing is left of a build that does not compile", () => {
  const folder = mkdtempSync(join(tmpdir(), "repmlp-build-"));
  const write = (path: string, text: string): void => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  };
  mkdirSync(join(folder, "scripts"));
  cpSync(join(root, "scripts/build.mjs"), join(folder, "scripts/build.mjs"));
  const compilerOptions = { module: "NodeNext", lib: ["ES5"], types: [], rootDir: "src", outDir: "dist" };
  write("tsconfig.build.json", JSON.stringify({ compilerOptions, include: ["src"] }));
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"), "junction");
  write("package.json", '{ "type": "module" }');
  for (const path of ["src/node.ts", "src/web.ts", "src/cli/main.ts", "src/data/node/decode-worker.ts"])
    write(path, 'export const a: number = "x";\n');
  write("dist/old.js", "");
  const { status, stdout } = spawnSync(process.execPath, ["scripts/build.mjs"], { cwd: folder, encoding: "utf8" });
  expect(stdout).toMatch(/node\.ts\(1,14\): error TS2322/);
  expect([status, existsSync(join(folder, "dist"))]).toEqual([1, false]);
  rmSync(folder, { recursive: true });
});
