// What other tools make of the ONNX files of a folder, beside what `repmlp convert` does, as a table in Markdown.
// Usage: npx tsx scripts/compare-onnx-tools.ts FOLDER [PYTHON]
// A file NAME.deploy.onnx beside NAME.onnx is the form that the same exporter gives for the merged network. PYTHON is an
// interpreter that has some of onnxoptimizer, onnxsim and onnxslim; without it only ONNX Runtime is compared.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mergeOnnx, openOnnx } from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";

const ort = createRequire(import.meta.url)("onnxruntime-node") as typeof import("onnxruntime-common");

/** Writes what a tool makes of one file to another. */
type Tool = (load: string, save: string) => Promise<void> | void;

const runtime =
  (graphOptimizationLevel: "basic" | "extended"): Tool =>
  async (load, save) => {
    const options = { graphOptimizationLevel, optimizedModelFilePath: save, logSeverityLevel: 3 as const };
    await (await ort.InferenceSession.create(load, options)).release();
  };

const [folder, python] = process.argv.slice(2);

const script =
  (body: string): Tool =>
  (load, save) =>
    void execFileSync(python, ["-c", `import sys, onnx\nload, save = sys.argv[1:]\n${body}`, load, save], {
      stdio: ["ignore", "ignore", "pipe"],
    });

const tools: ReadonlyMap<string, Tool> = new Map([
  ["ONNX Runtime, basic", runtime("basic")],
  ["ONNX Runtime, extended", runtime("extended")],
  ...(python
    ? ([
        [
          "onnxoptimizer",
          script(
            "import onnxoptimizer as o\nonnx.save(o.optimize(onnx.load(load), o.get_fuse_and_elimination_passes()), save)",
          ),
        ],
        ["onnxsim", script("import onnxsim\nonnx.save(onnxsim.simplify(onnx.load(load))[0], save)")],
        ["onnxslim", script("import onnxslim\nonnxslim.slim(load, save)")],
      ] satisfies [string, Tool][])
    : []),
]);

/** Nodes in all, convolutions (fused with an activation ones, too), batch norms. */
function counted({ nodes }: Pick<OnnxModel, "nodes">): string {
  const count = (pattern: RegExp): number => nodes.filter(({ opType }) => pattern.test(opType)).length;
  return `${nodes.length} (${count(/^(Fused)?Conv$|^(Fused)?Gemm$|^MatMul$/)}, ${count(/^BatchNorm/)})`;
}

const temporary = mkdtempSync(join(tmpdir(), "compare-onnx-"));
try {
  console.log(`| file | as it is | ${[...tools.keys()].join(" | ")} | repmlp | exported merged |`);
  console.log(`| --- |${" --- |".repeat(tools.size + 3)}`);
  for (const name of readdirSync(folder).sort()) {
    if (!name.endsWith(".onnx") || name.endsWith(".deploy.onnx")) continue;
    const path = join(folder, name);
    const model = await openOnnx(path, { keep: true });
    const cells = [counted(model)];
    for (const tool of tools.values()) {
      const save = join(temporary, "made.onnx");
      rmSync(save, { force: true });
      await tool(path, save);
      cells.push(counted(await openOnnx(save, { keep: true })));
    }
    cells.push(counted(mergeOnnx(model).model));
    const deploy = path.replace(/\.onnx$/, ".deploy.onnx");
    cells.push(existsSync(deploy) ? counted(await openOnnx(deploy, { keep: true })) : "–");
    console.log(`| ${name.replace(".onnx", "")} | ${cells.join(" | ")} |`);
  }
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
