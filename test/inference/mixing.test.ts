import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { MIXES, remarksOnBatches } from "../../src/inference/index.ts";
import { compileModel, openClassifier, pruneFile, saveOnnx } from "../../src/node.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import { Builder } from "../convert/onnx-models.ts";

const image = [3, 8, 8] as const;
const preprocessing = JSON.stringify({ inputSize: image, resize: 8, mean: [0, 0, 0], std: [1, 1, 1] });

/** A convolution, a step of its own, and a classifier, for any number of pictures or a fixed one. */
function network(step: (b: Builder, x: string) => string, batch: number | string = "N"): OnnxModel {
  const b = new Builder(4, [batch, ...image]);
  const made = step(b, b.conv("x", [3, 6], [3, 3], { bias: true }));
  const flat = b.node("Flatten", [b.node("GlobalAveragePool", [made])], { axis: 1 });
  const logits = b.node("Gemm", [flat, b.constant([5, 6]), b.constant([5])], { transB: 1 });
  return { ...b.model([logits], 2), metadata: { preprocessing } };
}

const plain = (b: Builder, x: string): string => b.node("Relu", [x]);
/** Takes the mean over the pictures of the batch away. */
const mixing = (b: Builder, x: string): string =>
  b.node("Sub", [x, b.node("ReduceMean", [x], { axes: [0], keepdims: 1 })]);

describe("a model that mixes the pictures of a batch", () => {
  test.each([
    ["for any number of them", "N", mixing, [MIXES]],
    ["for two", 2, mixing, [MIXES]],
    ["for one, which has none beside it", 1, mixing, []],
    ["is told from one that does not, for any number", "N", plain, []],
    ["is told from one that does not, for two", 2, plain, []],
  ] as const)("%s", async (_, batch, step, remarks) => {
    expect(await remarksOnBatches(network(step, batch), image, "net.onnx")).toEqual(remarks);
  });

  test("is told of by whoever opens its file", async () => {
    const folder = mkdtempSync(join(tmpdir(), "repmlp-mixing-"));
    await saveOnnx(join(folder, "net.onnx"), network(mixing));
    expect((await openClassifier(join(folder, "net.onnx"))).remarks).toEqual([MIXES]);
    await saveOnnx(join(folder, "plain.onnx"), network(plain));
    expect((await openClassifier(join(folder, "plain.onnx"))).remarks).toEqual([]);
    expect((await pruneFile(join(folder, "net.onnx"), join(folder, "cut.onnx"), { flops: 0.8 })).remarks).toEqual([
      MIXES,
    ]);
  });
});

test("an operator that the runtime has not in the model's type is named, with a way out", async () => {
  const b = new Builder(4, [1, ...image]);
  const wide = b.node("Cast", ["x"], { to: 11 });
  const weight = b.node("Cast", [b.constant([2, 3, 3, 3])], { to: 11 });
  const made = b.node("Conv", [wide, weight]);
  await expect(compileModel(b.model([b.node("Cast", [made], { to: 1 })]))).rejects.toThrow(
    /^runtime: ONNX Runtime has no Conv in the type that the model computes in there \(node Conv\d+\), .* Write the model in float32\.$/,
  );
});
