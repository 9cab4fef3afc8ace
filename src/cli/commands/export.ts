import { basename } from "node:path";
import { RepmlpError } from "../../errors.ts";
import { type ExportOnnxOptions, exportOnnx, type OnnxExport } from "../../export/export-onnx.ts";
import type { ExportDType } from "../../export/graph.ts";
import type { CardEvaluation } from "../../export/model-card.ts";
import { exportHub } from "../../export/node/hub.ts";
import { parseClassNames } from "../../inference/class-names.ts";
import type { ExportSource } from "../../inference/metadata.ts";
import { fileSha256 } from "../../inference/node/classifier.ts";
import { saveOnnx } from "../../inference/node/onnx-file.ts";
import { openModelFile } from "../../inference/node/open-model.ts";
import type { OpenedModel } from "../../inference/open-model.ts";
import { parseTestRecord, readCounts } from "../../inference/record.ts";
import { modelInfo } from "../../models/index.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { fmtBytes } from "../../tensor/index.ts";
import { readText } from "../read-text.ts";
import type { Call, Run } from "../table.ts";
import { scientific } from "../text-table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";

const exportDTypes = { float32: "float32", float16: "float16", fp32: "float32", fp16: "float16" } as const;

/** Writes an ONNX file or a model folder. */
export const run: Run<"export"> = async (call) => {
  registerNode();
  const { weights } = call.args;
  const source = { name: basename(weights), sha256: await fileSha256(weights) };
  const opened = await openModelFile(weights, weightsOptions(call.options));
  noteRemarks(call.io, weights, opened.remarks);
  try {
    await (call.options.layout === "hub" ? writeFolder(call, opened, source) : writeOne(call, opened, source));
  } finally {
    opened.close();
  }
  return undefined;
};

const graphOptions = ({ keepBranches, opset, batch, check }: Call<"export">["options"]) =>
  ({ keepBranches, opset, batch, check }) satisfies Partial<ExportOnnxOptions>;

/** Class names: those that are asked for, else those that the checkpoint has. */
async function labelsOf(path: string | undefined, { classes }: OpenedModel): Promise<{ labels?: readonly string[] }> {
  const labels = path === undefined ? classes : parseClassNames(await readText(path), path);
  return labels ? { labels } : {};
}

async function writeOne({ args, options, io }: Call<"export">, opened: OpenedModel, source: ExportSource) {
  const { net, arch, preprocessing, task } = opened;
  const { opset, batch } = options;
  const dtype: ExportDType = exportDTypes[options.dtype ?? "float32"];
  const { model, ...result } = await exportOnnx(net, {
    ...graphOptions(options),
    dtype,
    inputShape: preprocessing.inputSize,
    task: task.kind,
    metadata: { arch, preprocessing, source, task, ...(await labelsOf(options.labels, opened)) },
  });
  const { paths, bytes } = await saveOnnx(args.out, model);
  const { form } = model.metadata ?? {};
  const counts = blockCounts(result);
  io.result({ arch, form, dtype, opset, batch, paths, bytes, ...counts, check: result.check ?? null }, () =>
    [
      `${paths.join(" and ")}: ${fmtBytes(bytes)}, ${arch}, ${form} form, ${dtype}, operator set ${opset}, ` +
        `${batch === "dynamic" ? "any batch size" : `batch size ${batch}`}`,
      blockSentence(result),
      ...checkSentence(result),
    ].join("\n"),
  );
}

async function writeFolder({ args, options, io }: Call<"export">, opened: OpenedModel, source: ExportSource) {
  const { net, arch, preprocessing, task } = opened;
  const { license, results } = options;
  const dtypes: readonly ExportDType[] = options.dtype ? [exportDTypes[options.dtype]] : ["float32", "float16"];
  const { files, exports } = await exportHub(net, args.out, {
    ...graphOptions(options),
    ...{ arch, preprocessing, source, dtypes, license, task: task.kind, taskMetadata: task },
    ...(await labelsOf(options.labels, opened)),
    ...(results !== undefined && { evaluation: await evaluationOf(results, source) }),
    description: modelInfo(arch).description,
    onFile: (name) => io.note(`writing ${name} …`),
  });
  const [first] = exports.values();
  const checks = Object.fromEntries([...exports].map(([type, { check }]) => [type, check ?? null]));
  io.result({ arch, folder: args.out, files, ...blockCounts(first), checks }, () =>
    [
      ...files.map(({ name, bytes }) => `${args.out}/${name}: ${fmtBytes(bytes)}`),
      blockSentence(first),
      ...[...exports].flatMap(([type, e]) => checkSentence(e).map((line) => `${type}: ${line}`)),
    ].join("\n"),
  );
}

type Written = Pick<OnnxExport, "blocks" | "left" | "check">;

const blockCounts = ({ blocks, left }: Written) => ({ merged: blocks.filter((b) => b.merged).length, left });

function blockSentence(written: Written): string {
  const { merged, left } = blockCounts(written);
  const before = written.blocks.length - merged;
  return `${merged} blocks merged, ${left} left${before ? ` (${before} were merged already)` : ""}`;
}

const checkSentence = ({ check }: Written): string[] =>
  check
    ? [
        `checked at batch size ${check.batches.join(" and ")}: largest difference ${scientific(check.maxAbsDiff)}, ` +
          `logits up to ${check.scale.toPrecision(3)}`,
      ]
    : [];

/** Accuracy for the card: only of this very file, and only of a whole run. */
async function evaluationOf(path: string, source: ExportSource): Promise<CardEvaluation> {
  const record = parseTestRecord(await readText(path), path);
  const { total, correct, correctTop5 } = readCounts(record);
  if (record.model.sha256 !== source.sha256)
    throw new RepmlpError(
      "export/results",
      `${path}: is the result of ${record.model.weights} (SHA-256 ${record.model.sha256.slice(0, 12)}…), not of ` +
        `${source.name} (${source.sha256.slice(0, 12)}…). Test this file.`,
    );
  if (total !== record.data.images)
    throw new RepmlpError(
      "export/results",
      `${path}: is of ${total} of ${record.data.images} pictures. Merge all shards first.`,
    );
  return { dataset: record.data.name, correct, correctTop5, total };
}
