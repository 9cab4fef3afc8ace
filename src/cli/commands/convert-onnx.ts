import { writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { convertOnnxFile } from "../../convert/node/onnx-file.ts";
import { readInputs } from "../../convert/node/onnx-inputs.ts";
import { type OnnxConversion, onnxReport } from "../../convert/onnx/index.ts";
import type { OnnxModel } from "../../onnx/index.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { fmtBytes } from "../../tensor/index.ts";
import type { Run } from "../table.ts";
import { grouped, scientific, textTable } from "../text-table.ts";

/** Merges an ONNX file and says what became of what. */
export const convertOnnx: Run<"convert"> = async ({ args: { load, save }, options, io }) => {
  const start = performance.now();
  registerNode();
  const { verify = true, tolerance, force } = options;
  const inputs = options.inputs.length ? (model: OnnxModel) => readInputs(options.inputs, model, io.warn) : undefined;
  const result = await convertOnnxFile(load, save, { verify, tolerance, force, inputs });
  if (options.report !== undefined)
    await writeFile(options.report, onnxReport([basename(load), basename(save)], result));
  const seconds = (performance.now() - start) / 1000;
  const { counts, bytes, proof, kept, merges, paths } = result;
  io.result(
    {
      load,
      save,
      paths,
      merges: options.explain ? merges : merges.length,
      kept: options.explain ? kept : kept.length,
      before: { ...counts[0], bytes: bytes[0] },
      after: { ...counts[1], bytes: bytes[1] },
      verification: proof ?? null,
      tolerance: result.tolerance,
      seconds,
    },
    () => [...(options.explain ? [explained(result), ""] : []), ...summary(load, save, result)].join("\n"),
  );
  return undefined;
};

function explained({ merges, kept }: OnnxConversion): string {
  const rows = merges.map(({ into, nodes }) => [
    into,
    nodes.map((n) => `${n.operator} ${n.name} (${n.rule})`).join("\n"),
  ]);
  const left = kept.map(({ name, operator, reason }) => [`${operator} ${name}`, reason]);
  return [
    ...(rows.length ? [textTable([["node", "what became it"], ...lined(rows)], "ll")] : []),
    ...(left.length ? ["", textTable([["left", "why"], ...left], "ll")] : []),
  ].join("\n");
}

/** Rows whose second cell has lines, as rows of a line each. */
const lined = (rows: readonly string[][]): string[][] =>
  rows.flatMap(([name, text]) => text.split("\n").map((line, i) => [i ? "" : name, line]));

function summary(
  load: string,
  save: string,
  { counts, bytes, proof, merges, kept, tolerance }: OnnxConversion,
): string[] {
  const [before, after] = counts;
  const row = (what: string, a: string, b: string): string[] => [what, a, b];
  const rows = [
    ["", basename(load), basename(save)],
    row("nodes", grouped(before.nodes), grouped(after.nodes)),
    ...["Conv", "BatchNormalization", "Add"]
      .filter((op) => before.operators[op])
      .map((op) => row(`  ${op}`, grouped(before.operators[op]), grouped(after.operators[op] ?? 0))),
    row("parameters", grouped(before.parameters), grouped(after.parameters)),
    ...(before.multiplyAdds !== undefined && after.multiplyAdds !== undefined
      ? [row("multiply-adds", grouped(before.multiplyAdds), grouped(after.multiplyAdds))]
      : []),
    row("size", fmtBytes(bytes[0]), fmtBytes(bytes[1])),
    ...(proof ? [row("one run", ...(proof.milliseconds.map((ms) => `${ms.toFixed(2)} ms`) as [string, string]))] : []),
  ];
  const outputs = (proof?.outputs ?? []).map(
    ({ name, maxAbs, maxRel, rounding }) =>
      `  ${name}: ${scientific(maxAbs)} (${scientific(maxRel)} of its largest value)` +
      (rounding === undefined ? "" : `; the model's own rounding is ${scientific(rounding)}`),
  );
  const sizes = new Set(
    proof?.sizes.map((s) =>
      Object.values(s)
        .map((shape) => shape.join("×"))
        .join(" and "),
    ),
  );
  return [
    `${merges.length} merges; ${kept.length} nodes were looked at and left`,
    textTable(rows, "lrr"),
    ...(proof
      ? [`largest difference on inputs of ${[...sizes].join("; ")} (${scientific(tolerance)} is allowed):`, ...outputs]
      : []),
    `wrote ${save}`,
  ];
}
