import { onnxTrainable } from "../../recipes/node/trainable.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { describeGaps } from "../../training/index.ts";
import type { Run } from "../table.ts";
import { grouped } from "../text-table.ts";

/** Whether an ONNX model can be trained: a thin call of {@link onnxTrainable}. */
export const run: Run<"trainable"> = async ({ args: { model }, options, io }) => {
  registerNode();
  const { train, freeze, imageSize, ...rest } = options;
  const result = await onnxTrainable(model, {
    ...rest,
    ...(train.length && { train }),
    freeze,
    ...(imageSize !== undefined && { imageShape: [3, imageSize, imageSize] }),
  });
  const { ok, output, classes, head, headProblem, parameters, trained, values } = result;
  for (const remark of result.remarks) io.warn(`${model}: ${remark}`);
  io.result({ type: "result", model, ...result }, () =>
    [
      `output   ${output}, ${classes} classes`,
      `head     ${[head.join(", "), headProblem && `cannot be replaced: ${io.advice(headProblem)}`].filter(Boolean).join("; ")}`,
      `weights  ${parameters.length}, ${grouped(values)} values`,
      `trained  ${trained.length}`,
      ...(result.gaps.length || result.unreached.length ? [`stops    ${describeGaps(result)}`] : []),
      ok ? "can be trained" : "cannot be trained so: freeze what lies before, or have the exporter replace the op",
    ].join("\n"),
  );
  return ok ? undefined : 1;
};
