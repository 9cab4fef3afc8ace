import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type BlockCase, checkBlock } from "../../scripts/conformance/blocks.ts";
import { checkRepOptimizer, type RepOptimizerCase } from "../../scripts/conformance/repoptimizer.ts";
import { type CaseResult, readCase } from "../../scripts/conformance/report.ts";
import { checkTraining, type TrainingCase } from "../../scripts/conformance/training.ts";
import { openCheckpointFile } from "../../src/node.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";

const folder = join(import.meta.dirname, "../fixtures/golden");
const { blocks, training, repoptimizer } = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8")) as {
  readonly blocks: readonly BlockCase[];
  readonly training: readonly TrainingCase[];
  readonly repoptimizer: readonly RepOptimizerCase[];
};
const open = async (file: string): Promise<ReadonlyMap<string, TensorSource>> =>
  (await openCheckpointFile(join(folder, file))).entries;

/** The detail is the message: it names the tensor, its error and its tolerance. */
const expectPassed = ({ status, detail }: CaseResult): void =>
  expect({ status, detail }).toEqual({ status: "passed", detail });

describe("blocks equal the original's: both forms, merged weights, gradients and statistics", () => {
  test.for(blocks)("$id", async (c) => expectPassed(await checkBlock(c, await open(c.file))));
});

describe("training repeats the original's losses, updates and final logits of both forms", () => {
  test.for(training)("$id", async (c) => expectPassed(await checkTraining(c, await open(c.file))));
});

describe("a plain network under RepOptimizer repeats the original's losses, gradients and updates", () => {
  test.for(repoptimizer)("$id", async (c) => expectPassed(await checkRepOptimizer(c, await open(c.file))));
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
