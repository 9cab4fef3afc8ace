import { must } from "../errors.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";

/** Operator sets that an export can be written for. */
export const opsets = { lowest: 17, highest: 23 } as const;

/** Reductions whose axes became an input in operator set 18. */
const reductions = new Set(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"]);

/**
 * Rewrites a graph of operator set 17 for a later one. Of the ops that this library writes, only reductions changed.
 *
 * @throws RepmlpError `export/opset` outside 17 … 23
 */
export function withOpset(model: OnnxModel, opset: number): OnnxModel {
  must(
    Number.isInteger(opset) && opset >= opsets.lowest && opset <= opsets.highest,
    "export/opset",
    () => `export: opset must be ${opsets.lowest} to ${opsets.highest}, got ${opset}`,
    "usage",
  );
  if (opset === model.opset) return model;
  const initializers = new Map<string, TensorSource>(model.initializers);
  const nodes = model.nodes.map((node) => axesAsInput(node, initializers));
  return { ...model, opset, nodes, initializers };
}

function axesAsInput(node: OnnxNode, initializers: Map<string, TensorSource>): OnnxNode {
  const { axes, ...attrs } = node.attrs;
  if (!reductions.has(node.opType) || !Array.isArray(axes)) return node;
  const name = `axes_${axes.join("_")}`;
  initializers.set(name, Tensor.of("int64", [axes.length], axes as number[]));
  return { ...node, attrs, inputs: [...node.inputs, name] };
}
