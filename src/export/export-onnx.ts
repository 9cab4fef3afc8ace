import { must } from "../errors.ts";
import { type ExportMetadata, writeMetadata } from "../inference/metadata.ts";
import type { Net } from "../nn/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import { type ConversionEntry, convertToDeploy, isReparameterizable } from "../reparam/index.ts";
import type { CompileOptions } from "../runtime/index.ts";
import type { Shape } from "../tensor/index.ts";
import { checkExport, type ExportCheck } from "./check.ts";
import { type ExportDType, inferenceGraph } from "./graph.ts";
import { opsets } from "./opset.ts";
import { formatOf } from "./task-format.ts";

export interface ExportOnnxOptions {
  /** One input without the batch, `[C, H, W]`. */
  readonly inputShape: Shape;
  /** Pictures per run. Default `dynamic`: any number. */
  readonly batch?: number | "dynamic";
  /** ONNX operator set, 17 to 23. Default 17, which every runtime of today knows. */
  readonly opset?: number;
  /** Type of the weights and of the arithmetic; input and output stay float32. Default `float32`. */
  readonly dtype?: ExportDType;
  /** Leaves the branches of the training form as they are instead of merging them. Default false. */
  readonly keepBranches?: boolean;
  /** What the file says of itself beside what the export knows. */
  readonly metadata?: Omit<ExportMetadata, "form" | "dtype" | "checkMaxAbsDiff">;
  /** Runs the result on random input beside the network itself and compares. Default true. */
  readonly check?: boolean;
  /** Name of the task that the network is for, which says what is exported. Default `classification`: the network. */
  readonly task?: string;
  /** Where the check runs. */
  readonly compile?: CompileOptions;
}

/** A network as an ONNX model, ready to be written. */
export interface OnnxExport {
  readonly model: OnnxModel;
  /** What became of each block that has branches, in tree order. */
  readonly blocks: readonly ConversionEntry[];
  /** Blocks that are still in training form. */
  readonly left: number;
  /** Absent where it was not asked for. */
  readonly check?: ExportCheck;
}

/**
 * Writes a network as an ONNX model for inference: merged (unless `keepBranches`), input `pixel_values`, output
 * `logits`, parameters as initializers under their state-dict names, the shape of every tensor, and metadata that
 * {@link readMetadata} understands. The network is not changed.
 *
 * @throws RepmlpError `export/training` for a network in training mode, `export/check` when the result computes
 *   something else, `export/opset`, `export/batch`
 * @example
 * const { model } = await exportOnnx(net, { inputShape: [3, 224, 224] });
 * const bytes = encodeOnnx(model);
 */
export async function exportOnnx(given: Net, options: ExportOnnxOptions): Promise<OnnxExport> {
  const { inputShape, batch = "dynamic", opset = opsets.lowest, dtype = "float32", metadata = {} } = options;
  const net = formatOf(options.task).exported?.(given) ?? given;
  must(
    !net.training,
    "export/training",
    () => "export: the model is in training mode, where batch norm uses batch statistics. Call model.eval() first.",
    "model",
  );
  net.initialize();
  const blocks: ConversionEntry[] = [];
  const written = options.keepBranches ? net : convertToDeploy(net, { explain: (entry) => blocks.push(entry) });
  const left = branchedBlocks(written);
  const graph = inferenceGraph(written, { inputShape, batch, opset, dtype });
  const check =
    options.check === false
      ? undefined
      : await checkExport(net, graph, { inputShape, batch, dtype, compile: options.compile });
  const complete: ExportMetadata = {
    ...metadata,
    form: left ? "train" : "deploy",
    dtype,
    ...(check && { checkMaxAbsDiff: check.maxAbsDiff }),
  };
  const model = { ...graph, metadata: writeMetadata(complete), ...(metadata.arch && { name: metadata.arch }) };
  return { model, blocks, left, ...(check && { check }) };
}

/** Number of blocks that could be merged. */
const branchedBlocks = (net: Net): number =>
  [...net.modules()].filter(([, m]) => isReparameterizable(m) && "merged" in m.merge()).length;
