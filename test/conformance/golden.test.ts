import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type BlockCase, checkBlock } from "../../scripts/conformance/blocks.ts";
import { checkHead, type HeadCase } from "../../scripts/conformance/heads.ts";
import { checkMetrics, type MetricsCase } from "../../scripts/conformance/metrics.ts";
import { checkPruning, type PruningCase } from "../../scripts/conformance/pruning.ts";
import { checkQuantization, type QuantizationCase } from "../../scripts/conformance/quantization.ts";
import { checkRepOptimizer, type RepOptimizerCase } from "../../scripts/conformance/repoptimizer.ts";
import { type CaseResult, readCase } from "../../scripts/conformance/report.ts";
import { checkTraining, type TrainingCase } from "../../scripts/conformance/training.ts";
import { openCheckpointFile } from "../../src/node.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";

const folder = join(import.meta.dirname, "../fixtures/golden");
const { blocks, training, repoptimizer, quantization, heads, metrics, pruning } = JSON.parse(
  readFileSync(join(folder, "cases.json"), "utf8"),
) as {
  readonly blocks: readonly BlockCase[];
  readonly training: readonly TrainingCase[];
  readonly repoptimizer: readonly RepOptimizerCase[];
  readonly quantization: readonly QuantizationCase[];
  readonly heads: readonly HeadCase[];
  readonly metrics: readonly MetricsCase[];
  readonly pruning: readonly PruningCase[];
};
const open = async (file: string): Promise<ReadonlyMap<string, TensorSource>> =>
  (await openCheckpointFile(join(folder, file))).entries;

/** The detail is the message: it names the tensor, its error and its tolerance. */
const expectPassed = ({ status, detail }: CaseResult): void =>
  expect({ status, detail }).toEqual({ status: "passed", detail });

describe("blocks equal the original's: both forms, merged weights, gradients and statistics", () => {
  const exact = (id: string): Promise<ReadonlyMap<string, TensorSource>> | undefined =>
    existsSync(join(folder, "float64", `${id}.safetensors`)) ? open(`float64/${id}.safetensors`) : undefined;
  test.for(blocks)("$id", async (c) => expectPassed(await checkBlock(c, await open(c.file), await exact(c.id))));
});

describe("training repeats the original's losses, updates and final logits of both forms", () => {
  test.for(training)("$id", async (c) => expectPassed(await checkTraining(c, await open(c.file))));
});

describe("a plain network under RepOptimizer repeats the original's losses, gradients and updates", () => {
  test.for(repoptimizer)("$id", async (c) => expectPassed(await checkRepOptimizer(c, await open(c.file))));
});

describe("fake quantization, learned steps and parameters of ranges equal PyTorch's", () => {
  test.for(quantization)("$id", async (c) => expectPassed(await checkQuantization(c, await open(c.file))));
});

describe("margin heads equal the formulas: cosines, logits, losses and gradients in both precisions", () => {
  test.for(heads)("$id", async (c) => expectPassed(await checkHead(c, await open(c.file))));
});

describe("metrics of segmentation and verification equal those of the original codes", () => {
  test.for(metrics)("$id", async (c) => expectPassed(await checkMetrics(c, await open(c.file))));
});

describe("pruning repeats the original programs' gradients, masks and merges", () => {
  test.for(pruning)("$id", async (c) => expectPassed(await checkPruning(c, await open(c.file))));
});

describe("the checks themselves", () => {
  const [first] = blocks;
  const spoilt = async (key: string, change: (values: Float64Array) => void): Promise<CaseResult> => {
    const entries = new Map(await open(first.file));
    const original = entries.get(key)!.readSync();
    const values = original.toFloat64().slice();
    change(values);
    return checkBlock(first, entries.set(key, Tensor.of(original.dtype, original.shape, values)));
  };

  test("notice one wrong value", async () => {
    const { status, detail } = await spoilt("deploy.fc3.weight", (values) => {
      values[values.length - 1] += 1e-3;
    });
    expect(status).toBe("failed");
    expect(detail).toContain("deploy.fc3.weight: error 1.00e-3");
  });

  test("name a tensor that the file lacks", async () => {
    const entries = new Map(await open(first.file));
    entries.delete("deploy.output");
    expect(await checkBlock(first, entries)).toMatchObject({
      status: "failed",
      detail: 'the file of the case holds no tensor "deploy.output"',
    });
  });

  test("judge training mode by the original's float64, where there is one", async () => {
    const entries = await open(first.file);
    const golden = entries.get("trainmode.output")!.readSync();
    const far = Tensor.of(
      "float64",
      golden.shape,
      golden.toFloat64().map((v) => v + 1),
    );
    const { status, detail } = await checkBlock(first, entries, new Map([["output", far]]));
    // The golden is 1 from it, so that up to 4 passes; nothing passes against the golden itself when it is the one moved.
    expect(status, detail).toBe("passed");
    const moved = new Map(entries).set("trainmode.output", far);
    expect(await checkBlock(first, moved)).toMatchObject({ status: "failed" });
  });

  test("fail a case with an argument that they do not know", async () => {
    const args = { ...first.args, dilation: 2 };
    const { status, detail } = await checkBlock({ ...first, args }, await open(first.file));
    expect([status, detail]).toEqual(["failed", "args not understood: dilation"]);
  });

  test("fail a case whose file is missing", async () => {
    const result = await readCase(
      "x",
      () => open("repmlp/none.safetensors"),
      (entries) => checkBlock(first, entries),
    );
    expect(result).toMatchObject({ id: "x", status: "failed" });
    expect(result.detail).toContain("none.safetensors: there is no such file");
  });
});
