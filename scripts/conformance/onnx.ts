import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import { openOnnx } from "../../src/inference/node/index.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import { compileModel } from "../../src/runtime/index.ts";
import type { Tensor, TensorSource } from "../../src/tensor/index.ts";
import { type CaseResult, reader, runCase } from "./report.ts";

/** A case of the goldens' list `onnx`: a network exported in its training form. */
export interface OnnxCase {
  readonly id: string;
  readonly file: string;
  readonly data_file: string;
  /** How many nodes of these operators are left by a complete merge. */
  readonly complete_merge: Readonly<Record<string, number>>;
  readonly suggested_abs_tol: number;
}

const countOf = ({ nodes }: OnnxModel, operator: string): number =>
  nodes.filter(({ opType }) => opType === operator).length;

async function outputOf(model: OnnxModel, input: Tensor): Promise<Tensor> {
  const program = await compileModel(model);
  try {
    return Object.values(await program.run({ [model.inputs[0].name]: input }))[0];
  } finally {
    await program.dispose();
  }
}

/** Merges the file and compares the nodes that are left and the outputs. */
export function checkOnnx(c: OnnxCase, path: string, tensors: ReadonlyMap<string, TensorSource>): Promise<CaseResult> {
  return runCase(c.id, async (check) => {
    const read = reader(tensors);
    const { model } = mergeOnnx(await openOnnx(path, { keep: true }));
    for (const [operator, count] of Object.entries(c.complete_merge))
      if (operator !== "Add") check.equal(`nodes ${operator}`, countOf(model, operator), count);
    // Sums of shape arithmetic are no branches, so that fewer are as good.
    const sums = countOf(model, "Add");
    if (sums > (c.complete_merge.Add ?? sums)) check.fail(`nodes Add: ${sums}, expected ${c.complete_merge.Add}`);
    check.near("output", await outputOf(model, read("input")), read("output"), c.suggested_abs_tol);
    for (const suffix of ["batch1"])
      if (tensors.has(`input_${suffix}`))
        check.near(
          `output ${suffix}`,
          await outputOf(model, read(`input_${suffix}`)),
          read(`output_${suffix}`),
          c.suggested_abs_tol,
        );
  });
}
