import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { convertOnnxFile } from "../../src/convert/node/onnx-file.ts";
import { mustHaveFiniteWeights, writeMetadata } from "../../src/inference/index.ts";
import { openClassifier, saveOnnx } from "../../src/inference/node/index.ts";
import { decodeOnnx, encodeOnnx, type OnnxModel } from "../../src/onnx/index.ts";
import { pruneFile } from "../../src/prune/node/prune-file.ts";
import { quantizeFile, quantizeWeightsFile } from "../../src/quantize/node/quantize-file.ts";
import { onnxStart } from "../../src/recipes/node/onnx-start.ts";
import { onnxTrainable } from "../../src/recipes/node/trainable.ts";
import { parseRecipe } from "../../src/recipes/recipe.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { writeFiles } from "../cli/colours.ts";
import { tinyRecipe } from "../recipes/support.ts";

registerNode();
const folder = mkdtempSync(join(tmpdir(), "onnx-weights-"));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);

const preprocessing = { inputSize: [3, 8, 8], resize: [8, 8], mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] } as const;
const filled = (shape: number[], value = 0.5): Tensor => Tensor.full("float32", shape, value);

type Changes = Readonly<Record<string, Tensor>>;

/** Convolution, batch norm, a mask that may be infinite, and a classifier; its bias in a node where that is asked for. */
function modelOf(changes: Changes = {}, inNode = false): OnnxModel {
  const weights: Record<string, Tensor> = {
    ...{ cw: filled([6, 3, 3, 3]), s: filled([6]), b: filled([6]), m: filled([6]), v: filled([6]) },
    ...{ low: Tensor.scalar(Number.NEGATIVE_INFINITY), fw: filled([4, 6]), fb: filled([4]), ...changes },
  };
  const { fb, ...others } = weights;
  const node = (opType: string, inputs: string[], output: string, attrs: OnnxModel["nodes"][number]["attrs"] = {}) => ({
    ...{ opType, name: `/${output}`, inputs, outputs: [output], attrs },
  });
  return {
    opset: 17,
    inputs: [{ name: "x", dtype: "float32", shape: ["n", 3, 8, 8] }],
    outputs: [{ name: "y", dtype: "float32", shape: ["n", 4] }],
    nodes: [
      ...(inNode ? [node("Constant", [], "fb", { value: fb })] : []),
      node("Conv", ["x", "cw"], "c"),
      node("BatchNormalization", ["c", "s", "b", "m", "v"], "d"),
      node("Max", ["d", "low"], "r"),
      node("GlobalAveragePool", ["r"], "g"),
      node("Flatten", ["g"], "f"),
      node("Gemm", ["f", "fw", "fb"], "y", { transB: 1 }),
    ],
    initializers: new Map(Object.entries(inNode ? others : weights)),
    metadata: writeMetadata({ preprocessing, form: "deploy" }),
  };
}

const nan = Tensor.float32([4], [0, Number.NaN, 0, 0]);

describe("weights of ONNX models that are not finite are named", () => {
  test.for<[string, Changes, string]>([
    ["NaN in a bias", { fb: nan }, 'tensor "fb" is not finite: its value at [1] is NaN'],
    ["NaN anywhere", { low: Tensor.scalar(Number.NaN) }, 'tensor "low" is not finite: its value at [] is NaN'],
    ["an infinite kernel", { cw: filled([6, 3, 3, 3], Number.POSITIVE_INFINITY) }, 'tensor "cw" is not finite'],
    ["an infinite mean", { m: filled([6], Number.NEGATIVE_INFINITY) }, 'tensor "m" is not finite'],
    ["in half precision", { fw: filled([4, 6], Number.NaN).cast("float16") }, 'tensor "fw" is not finite'],
  ])("%s", async ([, changes, says]) => {
    for (const model of [modelOf(changes), decodeOnnx(encodeOnnx(modelOf(changes)))])
      await expect(mustHaveFiniteWeights(model, "net.onnx")).rejects.toMatchObject({
        code: "checkpoint/not-finite",
        message: expect.stringContaining(`net.onnx: ${says}`),
      });
  });

  test("in nodes, too; limits and masks may be infinite", async () => {
    await expect(mustHaveFiniteWeights(modelOf({ fb: nan }, true), "net.onnx")).rejects.toThrow('"fb" is not finite');
    await expect(mustHaveFiniteWeights(modelOf(), "net.onnx")).resolves.toBeUndefined();
  });
});

describe("by everything that takes a model", () => {
  const pictures = writeFiles(at("pictures"), { "1.ppm": "cat", "2.ppm": "dog" });
  const ways: Readonly<Record<string, (path: string) => Promise<unknown>>> = {
    trainable: (path) => onnxTrainable(path),
    train: (path) => onnxStart(path, { recipe: parseRecipe(JSON.stringify(tinyRecipe), "recipe.json") }),
    prune: (path) => pruneFile(path, at("out.onnx"), { flops: 0.9, method: "l1" }),
    "quantize --calib": (path) => quantizeFile(path, at("out.onnx"), { calib: pictures }),
    "quantize --weight-only": (path) => quantizeWeightsFile(path, at("out.onnx"), { type: "int8" }),
    "convert --no-verify": (path) => convertOnnxFile(path, at("out.onnx"), { verify: false }),
    "predict and test": async (path) => {
      const compiled = await (await openClassifier(path)).compile();
      try {
        return await compiled.run(filled([1, 3, 8, 8]));
      } finally {
        await compiled.dispose();
      }
    },
  };
  test.for(Object.entries(ways))("%s", async ([, way]) => {
    await saveOnnx(at("bad.onnx"), modelOf({ fb: nan }));
    await expect(way(at("bad.onnx"))).rejects.toThrow(`${at("bad.onnx")}: tensor "fb" is not finite`);
    await saveOnnx(at("good.onnx"), modelOf());
    await expect(way(at("good.onnx"))).resolves.toBeDefined();
  });
});
