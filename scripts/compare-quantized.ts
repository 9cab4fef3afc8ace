/**
 * Runs quantized networks in onnxruntime-node, in PyTorch (fake quantization) and in Chromium (onnxruntime-web), and compares
 * the integers of every layer and the classes: `npx tsx scripts/compare-quantized.ts DATA IMAGENETTE [resnet20] [mobileone]
 * [repmlp] [--count 50] [--target vnni] [--python python3] [--no-chromium]`. See scripts/quantized-networks.ts for the
 * folders. Exit code 1 where a layer differs by more than one step or a class differs.
 *
 * In PyTorch the network runs twice: freely, and with ONNX Runtime's integers in the place of each layer's own, so that
 * layers are compared one by one.
 */
import { execFileSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  compileModel,
  openCheckpointFile,
  type QuantizationTargetName,
  quantizeOnnx,
  saveCheckpointFile,
  Tensor,
} from "../src/node.ts";
import { encodeOnnx, type OnnxModel } from "../src/onnx/index.ts";
import { exactKernels } from "../src/quantize/exact.ts";
import { buildAndServe, launch } from "../test/browser/harness.ts";
import type { Tools } from "../test/browser/probe.ts";
import { BATCH, classesOf, type QuantizedNetworkName, quantizedNetworks, rows } from "./quantized-networks.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: "string", default: "50" },
    target: { type: "string", default: "portable" },
    python: { type: "string", default: "python3" },
    "no-chromium": { type: "boolean", default: false },
  },
});
const [data, pictures, ...chosen] = positionals;
if (data === undefined || pictures === undefined) throw new Error("usage: see the head of this file");
const names = chosen.length
  ? (chosen as QuantizedNetworkName[])
  : (Object.keys(quantizedNetworks) as QuantizedNetworkName[]);

/** A model that also gives the integers of every layer. */
function withIntegers(model: OnnxModel): OnnxModel {
  const { valueInfo: _, ...rest } = model;
  const integers = model.nodes
    .filter(({ opType }) => opType === "QuantizeLinear")
    .map(({ inputs, outputs: [name] }) => ({ name, dtype: model.initializers.get(inputs[2])!.dtype }));
  return { ...rest, outputs: [...model.outputs, ...integers] };
}

/** All outputs for all pictures, put together. */
async function inNode(model: OnnxModel, images: Tensor): Promise<Map<string, Tensor>> {
  await using program = await compileModel(model, exactKernels());
  const parts = new Map<string, Tensor[]>();
  for (let at = 0; at < images.shape[0]; at += BATCH)
    for (const [name, part] of Object.entries(
      await program.run({ [model.inputs[0].name]: rows(images, at, at + BATCH) }),
    ))
      parts.set(name, [...(parts.get(name) ?? []), part]);
  return new Map([...parts].map(([name, list]) => [name, together(list)]));
}

function together(list: readonly Tensor[]): Tensor {
  const [{ dtype, shape }] = list;
  const count = list.reduce((n, t) => n + t.shape[0], 0);
  const whole = Tensor.zeros(dtype, [count, ...shape.slice(1)]);
  let at = 0;
  for (const { data: part } of list) {
    (whole.data as Float32Array).set(part as Float32Array, at);
    at += part.length;
  }
  return whole;
}

const alike = (a: readonly number[], b: readonly number[]): number => a.filter((v, i) => v === b[i]).length;

/** Integers of 64 bits, tensors and float attributes as plain numbers. */
const asJson = (_: string, value: unknown): unknown => {
  if (typeof value === "bigint") return Number(value);
  if (value instanceof Tensor) return Array.from(value.toFloat64());
  const { float, floats } = (value ?? {}) as { readonly float?: number; readonly floats?: readonly number[] };
  return float ?? floats ?? value;
};

interface InPyTorch {
  readonly torch: string;
  /** By layer: the largest difference in steps with ONNX Runtime's integers as its input, and the share that differs. */
  readonly layers: Readonly<Record<string, { readonly steps: number; readonly share: number; readonly free: number }>>;
}

async function inPyTorch(model: OnnxModel, input: string, images: Tensor, node: ReadonlyMap<string, Tensor>) {
  const folder = await mkdtemp(join(tmpdir(), "repmlp-compare-"));
  try {
    const constants = [...model.initializers].map(([name, t]) => [`constant:${name}`, t.readSync()] as const);
    const expected = [...node].map(([name, t]) => [`expected:${name}`, t] as const);
    await saveCheckpointFile(join(folder, "tensors.pth"), new Map([...constants, ...expected, ["input", images]]));
    const graph = { input, outputs: model.outputs.map(({ name }) => name), nodes: model.nodes };
    await writeFile(join(folder, "graph.json"), JSON.stringify(graph, asJson));
    const script = join(import.meta.dirname, "compare_quantized_torch.py");
    const said = execFileSync(values.python, [script, folder], { encoding: "utf8", maxBuffer: 2 ** 28 });
    using results = await openCheckpointFile(join(folder, "result.pth"));
    const free = await results.entries.get(model.outputs[0].name)!.read();
    return { ...(JSON.parse(said) as InPyTorch), free };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The first output in Chromium, for all pictures. */
async function inChromium(model: OnnxModel, images: Tensor): Promise<Tensor> {
  const site = await buildAndServe();
  const browser = await launch();
  try {
    const page = await browser.newPage();
    await page.goto(site.url);
    await page.addScriptTag({ url: "probe/probe.js", type: "module" });
    const bytes = encodeOnnx(model);
    await page.route("**/model.onnx", (route) => route.fulfill({ body: Buffer.from(bytes) }));
    const parts: Tensor[] = [];
    for (let at = 0; at < images.shape[0]; at += BATCH) {
      const some = rows(images, at, at + BATCH);
      const { buffer, byteOffset, byteLength } = some.data as Float32Array;
      await page.route("**/input.f32", (route) => route.fulfill({ body: Buffer.from(buffer, byteOffset, byteLength) }));
      const [made] = await page.evaluate(
        (shape) => (globalThis as unknown as Tools).runModel("model.onnx", "input.f32", shape),
        some.shape,
      );
      await page.unroute("**/input.f32");
      parts.push(Tensor.float32(made.shape, made.values));
    }
    return together(parts);
  } finally {
    await browser.close();
    await site.close();
  }
}

const largest = (a: Tensor, b: Tensor): number => {
  const other = b.toFloat64();
  return a.toFloat64().reduce((most, v, i) => Math.max(most, Math.abs(v - other[i])), 0);
};

let good = true;
for (const name of names) {
  const network = await quantizedNetworks[name](data, pictures);
  const target = values.target as QuantizationTargetName;
  const { model } = await quantizeOnnx(network.model, network.calibration(), { target, calibrator: "mse" });
  const { images, labels } = await network.test(Number(values.count));
  const node = await inNode(withIntegers(model), images);
  const logits = node.get(model.outputs[0].name)!;
  const classes = classesOf(logits);
  const total = classes.length;
  console.log(`${name}, ${target}: ${total} pictures, ${alike(classes, labels)} correct in onnxruntime-node`);
  const { torch, layers, free } = await inPyTorch(model, model.inputs[0].name, images, node);
  const all = Object.values(layers);
  const steps = Math.max(...all.map((l) => l.steps));
  const share = Math.max(...all.map((l) => l.share));
  const same = alike(classes, classesOf(free));
  console.log(
    `  PyTorch ${torch}: ${all.length} layers, each with the same input within ${steps} steps (at most ${(100 * share).toFixed(3)} % of a layer differ); run freely within ${Math.max(...all.map((l) => l.free))}, ${same} of ${total} classes the same`,
  );
  good &&= steps <= 1 && same === total;
  if (!values["no-chromium"]) {
    const web = await inChromium(model, images);
    const equal = alike(classes, classesOf(web));
    console.log(
      `  onnxruntime-web in Chromium: ${equal} of ${total} classes the same, logits within ${largest(logits, web).toExponential(1)}`,
    );
    good &&= equal === total;
  }
}
process.exitCode = good ? 0 : 1;
