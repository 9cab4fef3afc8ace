import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { convertCheckpointFile } from "../../src/convert/node/checkpoint-file.ts";
import { Comparison } from "../../src/inference/index.ts";
import { compileModel, openCheckpointFile, openClassifier, openOnnx, saveOnnx, Tensor, train } from "../../src/node.ts";
import { parseRecipe } from "../../src/recipes/recipe.ts";
import { operatorsOf } from "../convert/onnx-models.ts";
import { tinyRecipe, writeCifar } from "../recipes/support.ts";
import { quantizable } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "repmlp-qat-"));
const at = (...parts: string[]): string => join(folder, ...parts);
const recipe = (changes: object) => parseRecipe(JSON.stringify({ ...tinyRecipe, epochs: 1, ...changes }), "my.json");

test("a recipe trains for integers, from nothing and from a merged network, and leaves a file of them", async () => {
  const data = writeCifar(at("cifar"), { train: 64, test: 20 });
  const first = await train({ data, folder: at("first"), recipe: recipe({ quantize: { batches: 2 } }), threads: 1 });
  const { path, layers, sqnr } = first.quantized!;
  expect(layers.length).toBeGreaterThan(4);
  expect(sqnr).toBeGreaterThan(15);
  expect(operatorsOf(await openOnnx(path)).DequantizeLinear).toBeGreaterThan(layers.length);
  expect(await openClassifier(path)).toMatchObject({
    ...{ dtype: "int8", form: "deploy", classes: 10 },
    task: { kind: "classification" },
  });
  // The weights are an ordinary checkpoint; the run's own also holds the ranges.
  using weights = await openCheckpointFile(first.weights!);
  using last = await openCheckpointFile(at("first", "last.safetensors"));
  expect([...weights.entries.keys()].some((key) => key.startsWith("quantize."))).toBe(false);
  expect([...last.entries.keys()].some((key) => key.startsWith("quantize."))).toBe(true);
  const arch = tinyRecipe.arch;
  (await openClassifier(at("first", "best.safetensors"))).close();
  await convertCheckpointFile(first.weights!, at("deploy.pth"), { arch });
  const second = await train({
    ...{ data, folder: at("second"), arch, init: at("deploy.pth"), trainingForm: "insertedNorms", threads: 1 },
    recipe: recipe({ quantize: { batches: 2, target: "vnni", activations: "learned" }, ema: { decay: 0.9 } }),
  });
  expect(second.quantized!.layers).toHaveLength(layers.length);
  expect(second.quantized!.sqnr).toBeGreaterThan(15);
});

test("an ONNX model is trained for integers, and written in float and in integers", async () => {
  const data = writeCifar(at("onnx-cifar"), { train: 64, test: 20 });
  await saveOnnx(at("net.onnx"), quantizable(["N", 3, 32, 32]));
  const { arch: _, model: __, ...rest } = tinyRecipe;
  const { onnx, quantized } = await train({
    ...{ data, folder: at("onnx"), init: at("net.onnx"), threads: 1 },
    recipe: parseRecipe(JSON.stringify({ ...rest, epochs: 1, quantize: { batches: 2 } }), "my.json"),
  });
  expect(quantized!.layers).toHaveLength(5);
  expect(quantized!.sqnr).toBeGreaterThan(15);
  expect(await openClassifier(quantized!.path)).toMatchObject({ dtype: "int8", classes: 10 });
  expect(operatorsOf(await openOnnx(onnx!)).DequantizeLinear).toBeUndefined();
  // Both files are the same network.
  const pictures = Tensor.float32(
    [4, 3, 32, 32],
    Float64Array.from({ length: 4 * 3072 }, (___, i) => Math.sin(i)),
  );
  const [float, integers] = await Promise.all(
    [onnx!, quantized!.path].map(async (path) => {
      const model = await openOnnx(path);
      await using program = await compileModel(model, { threads: 1 });
      return Object.values(await program.run({ [model.inputs[0].name]: pictures }))[0].toFloat64();
    }),
  );
  expect(new Comparison().add(float, integers).maxRel).toBeLessThan(0.2);
});

test.each([
  [{ quantize: { target: "gpu" } }, /^my\.json: quantize\.target: /],
  [{ quantize: { freezeBatchNorm: 2 } }, /^my\.json: quantize\.freezeBatchNorm: .*<=1 but received 2/],
  [{ quantize: { bits: 4 } }, 'my.json: there is no entry "quantize.bits". See'],
])("%j is refused", (changes, message) => {
  expect(() => recipe(changes)).toThrow(message);
});
