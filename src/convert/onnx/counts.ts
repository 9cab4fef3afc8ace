import { intAttr, type OnnxModel, type OnnxNode } from "../../onnx/index.ts";
import { isFloating, type Shape, sizeOf, Tensor } from "../../tensor/index.ts";
import type { Dims } from "./dims.ts";
import { GraphView, withSizes } from "./graph.ts";

/** How large a model is. */
export interface OnnxCounts {
  readonly nodes: number;
  /** Nodes by operator, most frequent first. */
  readonly operators: Readonly<Record<string, number>>;
  /** Floating values of all weights, those in `Constant` nodes among them. */
  readonly parameters: number;
  /** Multiply-adds of convolutions and matrix products; absent where a size is not known. */
  readonly multiplyAdds?: number;
}

/** Counts a model; `inputs` gives the sizes of its inputs, where the file leaves them open. */
export function countOnnx(model: OnnxModel, inputs: Readonly<Record<string, Shape>> = {}): OnnxCounts {
  const graph = new GraphView(withSizes(model, inputs));
  const operators = new Map<string, number>();
  let [parameters, multiplyAdds] = [0, 0];
  for (const node of model.nodes) {
    const name = node.domain ? `${node.domain}.${node.opType}` : node.opType;
    operators.set(name, (operators.get(name) ?? 0) + 1);
    const { value } = node.attrs;
    if (node.opType === "Constant" && value instanceof Tensor && isFloating(value.dtype)) parameters += value.size;
    multiplyAdds += costOf(graph, node);
  }
  for (const { dtype, shape } of model.initializers.values()) if (isFloating(dtype)) parameters += sizeOf(shape);
  const sorted = [...operators].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  return {
    nodes: model.nodes.length,
    operators: Object.fromEntries(sorted),
    parameters,
    ...(Number.isFinite(multiplyAdds) && { multiplyAdds }),
  };
}

const size = (dims: Dims | undefined): number =>
  dims?.every((d) => d !== undefined) ? sizeOf(dims as Shape) : Number.NaN;

/** Multiply-adds of a node; not a number where a size is not known. */
function costOf(graph: GraphView, node: OnnxNode): number {
  if (node.domain) return 0;
  const [x, w] = [graph.shapeOf(node.inputs[0]), graph.shapeOf(node.inputs[1] ?? "")];
  const y = graph.shapeOf(node.outputs[0]);
  switch (node.opType) {
    case "Conv":
      return size(y) * size(w?.slice(1));
    case "ConvTranspose":
      return size(x) * size(w?.slice(1));
    case "Gemm":
      return size(y) * ((intAttr(node, "transA", 0) ? x?.[0] : x?.[1]) ?? Number.NaN);
    case "MatMul":
      return size(y) * (x?.at(-1) ?? Number.NaN);
    default:
      return 0;
  }
}
