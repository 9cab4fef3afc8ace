import { cast, type Graph, input, lower, type ParameterRef, substitute, targets } from "../graph/index.ts";
import { type Net, parameterNames, toDtype, traceModel } from "../nn/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import type { Shape } from "../tensor/index.ts";
import { openBatch } from "./dynamic-batch.ts";
import { foldBiases } from "./fold-biases.ts";
import { withOpset } from "./opset.ts";

/** Names that transformers.js and the rest of the Hugging Face world expect of an image classifier. */
export const ioNames = { input: "pixel_values", output: "logits" } as const;

/** Type of an export's weights. Input and output are float32 either way. */
export type ExportDType = "float32" | "float16";

export interface GraphOptions {
  /** One input without the batch, `[C, H, W]`. */
  readonly inputShape: Shape;
  /** Pictures per run, or any number. */
  readonly batch: number | "dynamic";
  readonly opset: number;
  readonly dtype: ExportDType;
}

/** Two batch sizes that no other size of a network is likely to equal. */
const TRIAL_BATCHES = [211, 223] as const;

/** A network in evaluation mode as an ONNX graph: `pixel_values` `[batch, C, H, W]` → `logits` `[batch, classes]`. */
export function inferenceGraph(model: Net, { inputShape, batch, opset, dtype }: GraphOptions): OnnxModel {
  const net = dtype === "float32" ? model : resolved(toDtype(model, dtype));
  const lowered = (size: number): OnnxModel => {
    const { graph, names } = traced(net, [size, ...inputShape], dtype);
    return lower(graph, { target: targets.inference, names }).model;
  };
  const [first, second] = (batch === "dynamic" ? TRIAL_BATCHES : [batch]).map((size) => ({
    model: lowered(size),
    batch: size,
  }));
  const graph = second ? openBatch(first, second) : first.model;
  const keys = new Set([...model.state()].map(([key]) => key));
  return withOpset(foldBiases(graph, keys), opset);
}

/** In half precision the casts from and to float32 are part of the graph. */
function traced(
  net: Net,
  shape: Shape,
  dtype: ExportDType,
): { graph: Graph; names: ReadonlyMap<ParameterRef, string> } {
  const trace = traceModel(net, shape, { inputName: ioNames.input, dtype });
  const feed = cast(input(ioNames.input, shape, "float32"), dtype);
  const [logits] = substitute([trace.output], new Map([[trace.input, feed]]));
  return { graph: { outputs: { [ioNames.output]: cast(logits, "float32") } }, names: parameterNames(net) };
}

/** Casts once instead of whenever a value is read. */
function resolved(net: Net): Net {
  for (const [, p] of net.state()) p.set(p.data);
  return net;
}
