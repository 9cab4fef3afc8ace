import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import ts from "typescript";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { codeBlocks } from "../code-blocks.ts";

/*
 * The package as its users meet it: what npm would publish, unpacked into an empty project that has the package's own
 * dependencies and nothing else of this repository.
 */

const root = join(import.meta.dirname, "../..");
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  readonly version: string;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
};

let project: string;

beforeAll(() => {
  project = realpathSync(mkdtempSync(join(tmpdir(), "repmlp-packed-")));
  const packed = npm("pack", "--ignore-scripts", "--pack-destination", project);
  const archive = basename(packed.trim().split("\n").at(-1)!);
  const modules = join(project, "node_modules");
  mkdirSync(join(modules, ".bin"), { recursive: true });
  expect(spawnSync("tar", ["-xzf", archive], { cwd: project }).status).toBe(0);
  spawnSync("mv", ["package", "node_modules/repmlp"], { cwd: project });
  for (const name of [...Object.keys(manifest.dependencies), "@types/node", "undici-types"]) link(name);
  // As npm links it.
  symlinkSync("../repmlp/dist/cli/main.js", join(modules, ".bin", "repmlp"));
  writeFileSync(join(project, "package.json"), '{ "type": "module" }');
});
afterAll(() => rmSync(project, { recursive: true, force: true }));

function npm(...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync("npm", args, { cwd: root, encoding: "utf8" });
  expect(status, stderr).toBe(0);
  return stdout;
}

/** Installs a package of this repository into the project. */
function link(name: string): void {
  const path = join(project, "node_modules", name);
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(realpathSync(join(root, "node_modules", name)), path, "junction");
}

describe("in Node", () => {
  const run = (...args: readonly string[]): ReturnType<typeof spawnSync> =>
    spawnSync(process.execPath, args, { cwd: project, encoding: "utf8" });

  test.for(["repmlp", "repmlp/node"])("import %s", (name) => {
    const code = `import { openCheckpointFile, selfCheck, RepMLP } from "${name}"; console.log(typeof openCheckpointFile, typeof RepMLP);`;
    const { stdout, stderr } = run("--input-type=module", "--eval", code);
    expect([stdout, stderr]).toEqual(["function function\n", ""]);
  });

  test("the command line, by the link that npm makes", () => {
    const call = (...args: readonly string[]): string => {
      const { status, stdout, stderr } = spawnSync(join(project, "node_modules/.bin/repmlp"), args, {
        cwd: project,
        encoding: "utf8",
      });
      expect(status, stderr).toBe(0);
      return stdout;
    };
    expect(call("--version")).toBe(`${manifest.version}\n`);
    expect(call("models")).toContain("RepMLP-Res50-light-224");
    expect(JSON.parse(call("selfcheck", "--json"))).toMatchObject({ passed: true });
  });

  test("what comes with the package is found: recipes, pictures", () => {
    const code = `import { fashionMnistSmall } from "repmlp"; console.log((await fashionMnistSmall("test")).length);`;
    expect(run("--input-type=module", "--eval", code).stdout).toBe("1000\n");
    for (const file of ["recipes/fine-tune.json", "LICENSE", "README.md", "dist/THIRD-PARTY-LICENSES.txt"])
      expect(existsSync(join(project, "node_modules/repmlp", file)), file).toBe(true);
    expect(readdirSync(join(project, "node_modules/repmlp"))).not.toContain("src");
  });
});

describe("in TypeScript", () => {
  const forNode = 'import { type Checkpoint, openCheckpointFile, RepMLP, nn, type Value } from "repmlp";\n';
  const forPage = 'import { decodePictureWeb, openCheckpoint, RepMLP, nn, type Value } from "repmlp";\n';
  const uses = "export const block = (v: Value): [Value, typeof RepMLP, typeof nn] => [v, RepMLP, nn];\n";
  const opens =
    'export async function count(): Promise<number> {\n  using file: Checkpoint = await openCheckpointFile("x.pth");\n  return file.entries.size;\n}\n';
  const inPage = "export const own = [decodePictureWeb, openCheckpoint];\n";

  /** Complaints about the given sources and about the package's declarations; not about those of its dependencies. */
  function complaints(sources: Readonly<Record<string, string>>, options: ts.CompilerOptions): string[] {
    const files = Object.entries(sources).map(([name, text]) => {
      const file = join(project, name);
      writeFileSync(file, text);
      return file;
    });
    const program = ts.createProgram(files, {
      ...{ strict: true, noEmit: true, skipLibCheck: true, target: ts.ScriptTarget.ES2022 },
      ...options,
    });
    const own = (file: ts.SourceFile | undefined): boolean =>
      !file || (file.fileName.startsWith(project) && !/node_modules\/(?!repmlp\/)/.test(file.fileName));
    return ts
      .getPreEmitDiagnostics(program)
      .filter(({ file }) => own(file))
      .map(
        (d) => `${d.file?.fileName.slice(project.length + 1)}: ${ts.flattenDiagnosticMessageText(d.messageText, "\n")}`,
      );
  }

  const { Node16, NodeNext, Bundler } = ts.ModuleResolutionKind;
  const node = { lib: ["lib.es2022.d.ts"], types: ["node"] };
  const nodeNext = { ...node, skipLibCheck: false, module: ts.ModuleKind.NodeNext, moduleResolution: NodeNext };
  const page = {
    lib: ["lib.es2022.d.ts", "lib.dom.d.ts"],
    types: [],
    module: ts.ModuleKind.ES2022,
  };

  test.for<readonly [string, Readonly<Record<string, string>>, ts.CompilerOptions]>([
    ["a Node project, nodenext", { "a.ts": forNode + uses + opens }, nodeNext],
    [
      "a Node project, node16",
      { "a.ts": forNode + uses + opens },
      { ...node, module: ts.ModuleKind.Node16, moduleResolution: Node16 },
    ],
    [
      "a Node project, bundler, by name",
      { "a.ts": forNode.replace('"repmlp"', '"repmlp/node"') + uses + opens },
      { ...node, module: ts.ModuleKind.ES2022, moduleResolution: Bundler },
    ],
    [
      "a Node project, bundler, by condition",
      { "a.ts": forNode + uses + opens },
      { ...node, module: ts.ModuleKind.ES2022, moduleResolution: Bundler, customConditions: ["node"] },
    ],
    [
      "a browser project, bundler",
      { "a.ts": forPage + uses + inPage },
      { ...page, skipLibCheck: false, moduleResolution: Bundler },
    ],
    [
      "a browser project, nodenext, by name",
      { "a.ts": forPage.replace('"repmlp"', '"repmlp/web"') + uses + inPage },
      { ...page, module: ts.ModuleKind.NodeNext, moduleResolution: NodeNext },
    ],
  ])("%s", ([, sources, options]) => {
    expect(complaints(sources, options)).toEqual([]);
  });

  test("a browser project is not offered what only Node has", () => {
    expect(complaints({ "a.ts": forNode + uses }, { ...page, moduleResolution: Bundler })).toEqual([
      expect.stringContaining("'openCheckpointFile'"),
    ]);
  });

  test("every example of the documents that is run", () => {
    const examples = codeBlocks().filter((b) => b.language === "ts" && b.marks.includes("run"));
    expect(examples.length).toBeGreaterThan(5);
    const sources = Object.fromEntries(examples.map((b) => [`${b.at.replace(/[^\w-]/g, "_")}.mts`, b.text]));
    expect(complaints(sources, { ...nodeNext, skipLibCheck: true })).toEqual([]);
  });
});

describe("in a page", () => {
  const entry = 'import { RepMLP, compile } from "repmlp"; globalThis.repmlp = [RepMLP, compile];\n';

  async function built(): Promise<string> {
    writeFileSync(join(project, "page.ts"), entry);
    const result = await build({
      ...{ root: project, configFile: false, logLevel: "silent" },
      build: { write: false, minify: false, rolldownOptions: { input: join(project, "page.ts") } },
    });
    const outputs = Array.isArray(result) ? result : [result];
    return outputs
      .flatMap((o) => ("output" in o ? o.output : []))
      .map((o) => (o.type === "chunk" ? o.code : ""))
      .join("\n");
  }

  test("without the runtime for browsers, an error names the package to add", async () => {
    const text = await built().catch((error: Error) => error.message);
    expect(text).toMatch(/onnxruntime-web.*could not be loaded|[Cc]ould not resolve.*onnxruntime-web/s);
    expect(text).toContain("npm install onnxruntime-web");
  });

  test("with it, a bundler builds the page and takes nothing of Node", async () => {
    for (const name of Object.keys(manifest.peerDependencies)) link(name);
    const code = await built();
    expect(code).toMatch(/RepMLP = class|class RepMLP/);
    expect(code).not.toMatch(/onnxruntime-node|node:fs/);
  });
});
