// What other tools make of the ONNX files of a folder, beside what `repmlp convert` does, as a table in Markdown.
// Usage: npx tsx scripts/compare-onnx-tools.ts FOLDER [PYTHON]
// A file NAME.deploy.onnx beside NAME.onnx is the form that the same exporter gives for the merged network. PYTHON is an
// interpreter that has onnx and some of onnxoptimizer, onnxsim, onnxslim and onnxscript; without it only ONNX Runtime is
// compared.
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

/** Tools of Python: what makes `model` of `model`, the modules that it needs being there. */
const inPython: readonly (readonly [name: string, imports: string, body: string])[] = [
  [
    "onnxoptimizer",
    "onnxoptimizer",
    "model = onnxoptimizer.optimize(model, onnxoptimizer.get_fuse_and_elimination_passes())",
  ],
  ["onnxsim", "onnxsim", "model, _ = onnxsim.simplify(model)"],
  ["onnxslim", "onnxslim", "model = onnxslim.slim(model)"],
  [
    "onnxscript",
    "onnxscript.optimizer, onnxscript.rewriter, onnxscript.rewriter.rules.common as rules",
    "model = onnxscript.optimizer.optimize(model)\n" +
      "model = onnxscript.rewriter.rewrite(model, [rules.fuse_batchnorm_into_conv_rule, rules.fuse_batchnorm_into_conv_transpose_rule, rules.fuse_batchnorm_into_gemm_rule])\n" +
      "model = onnxscript.optimizer.optimize(onnxscript.rewriter.rewrite(model))",
  ],
];

const runs = (code: string, ...args: readonly string[]): void =>
  void execFileSync(python, ["-c", `import sys, onnx\n${code}`, ...args], { stdio: "ignore" });

const isThere = (imports: string): boolean => {
  try {
    runs(`import ${imports}`);
    return true;
  } catch {
    return false;
  }
};

const tools: ReadonlyMap<string, Tool> = new Map([
  ["ONNX Runtime, basic", runtime("basic")],
  ["ONNX Runtime, extended", runtime("extended")],
  ...inPython
    .filter(([, imports]) => python !== undefined && isThere(imports))
    .map(([name, imports, body]): [string, Tool] => [
      name,
      (load, save) =>
        runs(`import ${imports}\nmodel = onnx.load(sys.argv[1])\n${body}\nonnx.save(model, sys.argv[2])`, load, save),
    ]),
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
