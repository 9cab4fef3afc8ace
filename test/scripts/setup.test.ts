import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";

const repository = fileURLToPath(new URL("../..", import.meta.url));
let folder: string;

const write = (path: string, text: string): void => {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), text);
};

const lock = (version: string, extra = {}): string =>
  JSON.stringify({
    packages: { "": { name: "p" }, "node_modules/a": { version, integrity: `sha-${version}` }, ...extra },
  });

const installed = (version: string): void => {
  const { packages } = JSON.parse(lock(version)) as { packages: Record<string, unknown> };
  delete packages[""];
  write("node_modules/.package-lock.json", JSON.stringify({ packages }));
};

/** Stands in for npm: notes its arguments and, as npm does, what it installed. */
const fakeNpm = (exitCode = 0): void =>
  write(
    "npm-cli.js",
    `const fs = require("node:fs");
     fs.writeFileSync("npm-was-called", process.argv.slice(2).join(" "));
     const { packages } = JSON.parse(fs.readFileSync("package-lock.json", "utf8"));
     delete packages[""];
     fs.writeFileSync("node_modules/.package-lock.json", JSON.stringify({ packages }));
     process.exitCode = ${exitCode};`,
  );

/** Stands in for the build: copies src/ to dist/, and fails where a source says so. */
const fakeBuild = (): void =>
  write(
    "scripts/build.mjs",
    `import { cpSync, readdirSync, readFileSync, rmSync } from "node:fs";
     rmSync("dist", { recursive: true, force: true });
     cpSync("src", "dist", { recursive: true });
     const files = readdirSync("src", { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
     for (const { parentPath, path, name } of files)
       if (readFileSync((parentPath ?? path) + "/" + name, "utf8").includes("mistake")) {
         console.error(name + " holds a mistake");
         process.exitCode = 1;
       }`,
  );

function setup(...nodeOptions: string[]): { code: number | null; text: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...nodeOptions, "scripts/setup.mjs"], {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, npm_execpath: join(folder, "npm-cli.js") },
  });
  return { code: status, text: `${stdout}${stderr}` };
}

const compiling = "setup: compiling src/ to dist/ …\n";
const installing = "setup: installing the packages of package-lock.json (npm ci) …\n";

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "repmlp-setup-"));
  cpSync(join(repository, "scripts/setup.mjs"), join(folder, "scripts/setup.mjs"));
  write("package.json", '{ "type": "commonjs" }');
  write("package-lock.json", lock("1.0.0"));
  write("tsconfig.json", "{}");
  write("tsconfig.build.json", "{}");
  write("src/room/a.ts", "export const a: number = 1;\n");
  installed("1.0.0");
  fakeNpm();
  fakeBuild();
});

afterEach(() => rmSync(folder, { recursive: true }));

test("compiles once, again after a change, and forgets files that are gone", () => {
  expect(setup()).toEqual({ code: 0, text: compiling });
  expect(readFileSync(join(folder, "dist/room/a.ts"), "utf8")).toContain("a: number = 1");
  expect(setup()).toEqual({ code: 0, text: "" });
  rmSync(join(folder, "src/room/a.ts"));
  write("src/b.ts", "export const b = 2;\n");
  expect(setup()).toEqual({ code: 0, text: compiling });
  expect([existsSync(join(folder, "dist/room/a.ts")), existsSync(join(folder, "dist/b.ts"))]).toEqual([false, true]);
  rmSync(join(folder, "dist"), { recursive: true });
  expect(setup().text).toBe(compiling);
  expect(existsSync(join(folder, "npm-was-called"))).toBe(false);
});

test("a changed build is run again", () => {
  setup();
  write(
    "scripts/build.mjs",
    readFileSync(join(folder, "scripts/build.mjs"), "utf8").replace('"dist", {', '"./dist", {'),
  );
  expect(setup()).toEqual({ code: 0, text: compiling });
});

test("code that does not compile fails every time", () => {
  write("src/room/a.ts", "export const mistake = 1;\n");
  for (let i = 0; i < 2; i++) {
    const { code, text } = setup();
    expect(code).toBe(1);
    expect(text).toContain("a.ts holds a mistake\nsetup: src/ does not compile. The errors are above.\n");
  }
});

test.for([
  { name: "a changed lock file", prepare: () => write("package-lock.json", lock("1.0.1")) },
  { name: "a package that was installed by hand", prepare: () => installed("1.2.0") },
  { name: "no record of an installation", prepare: () => rmSync(join(folder, "node_modules/.package-lock.json")) },
])("installs after $name", ({ prepare }) => {
  prepare();
  expect(setup()).toEqual({ code: 0, text: installing + compiling });
  expect(readFileSync(join(folder, "npm-was-called"), "utf8")).toMatch(/^ci /);
  expect(setup()).toEqual({ code: 0, text: "" });
});

test("an optional package of another platform is not missed", () => {
  write("package-lock.json", lock("1.0.0", { "node_modules/b": { version: "1.0.0", optional: true } }));
  expect(setup()).toEqual({ code: 0, text: compiling });
});

test("a failed installation stops", () => {
  write("package-lock.json", lock("1.0.1"));
  fakeNpm(3);
  expect(setup()).toEqual({
    code: 1,
    text: `${installing}setup: npm ci failed. Its messages are above; run \`npm ci\` to try again.\n`,
  });
});

test.for(["18.20.4", "20.18.3"])("Node %s is too old", (version) => {
  const pretend = `Object.defineProperty(process, "versions", { value: { node: "${version}" } })`;
  expect(setup("--import", `data:text/javascript,${encodeURIComponent(pretend)}`)).toEqual({
    code: 1,
    text: `setup: Node 20.19 or newer is needed, this is ${version}. Install it from nodejs.org.\n`,
  });
});
