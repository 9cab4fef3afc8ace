/**
 * Size and speed of a network in float, in int8 and with 4-bit weights, side by side:
 *
 *     npx tsx scripts/bench-quantized.ts prepare FOLDER [ARCH]
 *     npx tsx scripts/bench-quantized.ts measure FOLDER [NAME…] [--batch 1,8] [--runs 15] [--threads N]
 *
 * `prepare` writes ONNX files of ARCH (default RepMLP-Res50-light-224, merged, values of the goldens' formula, ranges of
 * pictures of noise), `measure` runs them in turns and prints medians: nothing else should run then. NAMEs are the names
 * of files without their ending; `NAME:4` asks MatMulNBits for products of integers (accuracy_level 4).
 */
import { mkdir, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cpuFeatures } from "../src/cli/cpu-features.ts";
import {
  compileModel,
  createModel,
  exportOnnx,
  type Feeds,
  modelInfo,
  openOnnx,
  type Program,
  quantizeOnnx,
  quantizeWeights,
  randomInputs,
  saveOnnx,
} from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { fillByFormula } from "./conformance/formula.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    batch: { type: "string", default: "1,8" },
    runs: { type: "string", default: "15" },
    threads: { type: "string" },
  },
});
const [phase, folder, ...rest] = positionals;
if (folder === undefined || (phase !== "prepare" && phase !== "measure"))
  throw new Error("usage: see the head of this file");

async function prepare(arch = "RepMLP-Res50-light-224"): Promise<void> {
  const net = fillByFormula(createModel(arch));
  const { inputSize } = modelInfo(arch).preprocessing({});
  const { model } = await exportOnnx(net.eval(), { inputShape: inputSize, check: false });
  const [{ name }] = model.inputs;
  const calibration: Feeds[] = [0, 1, 2, 3].map((seed) => ({ [name]: randomInputs(inputSize, 4, seed) }));
  await mkdir(folder, { recursive: true });
  const save = async (file: string, made: OnnxModel): Promise<void> => {
    await saveOnnx(join(folder, `${file}.onnx`), made);
    console.log(`wrote ${file}`);
  };
  await save("float", model);
  for (const target of ["vnni", "portable"] as const)
    await save(target, (await quantizeOnnx(model, calibration, { target, calibrator: "minmax" })).model);
  for (const blockSize of [32, 64, 128])
    await save(`int4-${blockSize}`, quantizeWeights(model, { type: "int4", blockSize }).model);
}

const withLevel = (model: OnnxModel, level: number): OnnxModel => ({
  ...model,
  nodes: model.nodes.map((node) =>
    node.opType === "MatMulNBits" ? { ...node, attrs: { ...node.attrs, accuracy_level: level } } : node,
  ),
});

const median = (list: readonly number[]): number => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

async function measure(asked: readonly string[]): Promise<void> {
  const found = (await readdir(folder)).filter((file) => file.endsWith(".onnx")).map((file) => file.slice(0, -5));
  const names = asked.length ? asked : found.sort();
  const compile = values.threads === undefined ? {} : { threads: Number(values.threads) };
  const programs = new Map<string, Program>();
  let input: { readonly name: string; readonly size: readonly number[] } | undefined;
  for (const name of names) {
    const [file, level] = name.split(":");
    const model = await openOnnx(join(folder, `${file}.onnx`));
    input ??= { name: model.inputs[0].name, size: model.inputs[0].shape!.slice(1).map(Number) };
    programs.set(name, await compileModel(level ? withLevel(model, Number(level)) : model, compile));
  }
  const first = (await stat(join(folder, `${names[0].split(":")[0]}.onnx`))).size;
  console.log(`CPU: ${cpuFeatures()?.join(", ")}; ${values.runs} runs in turns, medians; shares are of ${names[0]}`);
  console.log("| file | MB | share | batch | ms | share |");
  console.log("| --- | ---: | ---: | ---: | ---: | ---: |");
  for (const batch of values.batch.split(",").map(Number)) {
    const feeds = { [input!.name]: randomInputs(input!.size, batch, 9) };
    const times = new Map<string, number[]>(names.map((name) => [name, []]));
    for (let run = -2; run < Number(values.runs); run++)
      for (const [name, program] of programs) {
        const begin = performance.now();
        await program.run(feeds);
        // The first two warm up.
        if (run >= 0) times.get(name)!.push(performance.now() - begin);
      }
    const reference = median(times.get(names[0])!);
    for (const [name, list] of times) {
      const { size } = await stat(join(folder, `${name.split(":")[0]}.onnx`));
      const ms = median(list);
      const cells = [
        name,
        (size / 1e6).toFixed(1),
        (size / first).toFixed(3),
        batch,
        ms.toFixed(1),
        (ms / reference).toFixed(2),
      ];
      console.log(`| ${cells.join(" | ")} |`);
    }
  }
  for (const program of programs.values()) await program.dispose();
}

await (phase === "prepare" ? prepare(rest[0]) : measure(rest));
