import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";

const script = fileURLToPath(new URL("../../scripts/check-rooms.mjs", import.meta.url));
const folders: string[] = [];

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** Runs the check over files given as source text; returns its exit code and lines. */
function check(files: Record<string, string>): { code: number | null; lines: string[] } {
  const folder = mkdtempSync(join(tmpdir(), "repmlp-rooms-"));
  folders.push(folder);
  for (const [path, source] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), source);
  }
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, "."], { cwd: folder, encoding: "utf8" });
  return { code: status, lines: `${stdout}${stderr}`.trim().split("\n") };
}

const nodeOnly = (what: string, chain: string): string =>
  `${what} is for Node only, but ${chain} is for browsers. Move it to a node/ folder and export it from src/node.ts.`;

test.for<{ name: string; files: Record<string, string>; lines: string[] }>([
  {
    name: "upward",
    files: {
      "tensor/a.ts": '// first line\nimport { n } from "../nn/n.ts";\n',
      "nn/n.ts": "export const n = 1;\n",
    },
    lines: ["tensor/a.ts:2: tensor imports upward from nn. Move the code to nn, or what it needs below tensor."],
  },
  {
    name: "upward, types only, over several lines",
    files: {
      "graph/a.ts": 'import type {\n  A,\n  B,\n} from "../runtime/r.ts";\n',
      "runtime/r.ts": "export type A = 1;\nexport type B = 2;\n",
    },
    lines: ["graph/a.ts:4: graph imports upward from runtime. Move the code to runtime, or what it needs below graph."],
  },
  {
    name: "re-export upward",
    files: { "data/index.ts": 'export * from "../cli/main.ts";\n', "cli/main.ts": "" },
    lines: ["data/index.ts:1: data imports upward from cli. Move the code to cli, or what it needs below data."],
  },
  {
    name: "sideways",
    files: { "onnx/o.ts": 'import "../checkpoint/c.ts";\n', "checkpoint/c.ts": "" },
    lines: ["onnx/o.ts:1: onnx and checkpoint share a floor. Move what both need to a lower room."],
  },
  {
    name: "entry point used by a room",
    files: { "nn/n.ts": 'import { x } from "../index.ts";\n', "index.ts": "export const x = 1;\n" },
    lines: ["nn/n.ts:1: nn imports upward from index.ts. Move the code to index.ts, or what it needs below nn."],
  },
  {
    name: "shared file that uses a room",
    files: { "errors.ts": 'import { t } from "./tensor/t.ts";\n', "tensor/t.ts": "" },
    lines: [
      "errors.ts:1: errors.ts imports upward from tensor. Move the code to tensor, or what it needs below errors.ts.",
    ],
  },
  {
    name: "unknown room",
    files: { "attic/a.ts": "" },
    lines: ['attic/a.ts:1: room "attic" has no floor. Add it to the table in scripts/check-rooms.mjs.'],
  },
  {
    name: "missing file",
    files: { "nn/a.ts": 'import { b } from "./b";\n', "nn/b.ts": "" },
    lines: ['nn/a.ts:1: "./b" does not exist. Name the file with its .ts extension.'],
  },
  {
    name: "cycle of three",
    files: {
      "nn/a.ts": 'import "./b.ts";\n',
      "nn/b.ts": 'export { c } from "./c.ts";\n',
      "nn/c.ts": '\nimport { a } from "./a.ts";\n',
    },
    lines: [
      "nn/c.ts:2: import cycle nn/a.ts -> nn/b.ts -> nn/c.ts -> nn/a.ts. Move the shared part to a file of its own.",
    ],
  },
  {
    name: "cycle of types",
    files: {
      "nn/a.ts": 'import type { B } from "./b.ts";\n',
      "nn/b.ts": 'import type { A } from "./a.ts";\n',
    },
    lines: ["nn/b.ts:1: import cycle nn/a.ts -> nn/b.ts -> nn/a.ts. Move the shared part to a file of its own."],
  },
  {
    name: "Node module in the core",
    files: {
      "index.ts": 'export * from "./data/index.ts";\n',
      "data/index.ts": 'export * from "./d.ts";\n',
      "data/d.ts": 'import { readFile } from "node:fs/promises";\n',
    },
    lines: [`data/d.ts:1: ${nodeOnly('"node:fs/promises"', "index.ts -> data/index.ts -> data/d.ts")}`],
  },
  {
    name: "Node module without its prefix, loaded late",
    files: { "web.ts": 'export const os = () => import("os");\n' },
    lines: [`web.ts:1: ${nodeOnly('"os"', "web.ts")}`],
  },
  {
    name: "Node-only files in the core",
    files: {
      "index.ts": 'export * from "./data/node/d.ts";\nexport * from "./node.ts";\n',
      "data/node/d.ts": "",
      "node.ts": "",
    },
    lines: [`index.ts:1: ${nodeOnly("d.ts", "index.ts")}`, `index.ts:2: ${nodeOnly("node.ts", "index.ts")}`],
  },
])("finds: $name", ({ files, lines }) => {
  expect(check(files)).toEqual({ code: 1, lines });
});

test("accepts downward imports, late imports, Node behind its own entry, and imports in comments", () => {
  const { code, lines } = check({
    "errors.ts": "",
    "tensor/t.ts":
      '/**\n * import { x } from "../cli/main.ts";\n */\n// import "../cli/main.ts";\nimport "../errors.ts";\n',
    "nn/a.ts": 'import "../tensor/t.ts";\n',
    "nn/b.ts": 'import { a } from "./a.ts";\nexport const late = () => import("./c.ts");\n',
    "nn/c.ts": 'import { late } from "./b.ts";\nimport type { Stats } from "node:fs";\n',
    "data/node/d.ts": 'import "node:fs";\n',
    "index.ts": 'export * from "./nn/b.ts";\n',
    "node.ts": 'export * from "./index.ts";\nexport * from "./data/node/d.ts";\n',
    "cli/main.ts": 'import "../node.ts";\n',
  });
  expect({ code, lines }).toEqual({ code: 0, lines: ["rooms: 9 files, 11 imports, all downward"] });
});
