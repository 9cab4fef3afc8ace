import { must } from "../errors.ts";
import { type AttributeValue, floatAttr, intAttr, intsAttr, type OnnxModel, type OnnxNode } from "../onnx/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";
import { nameOf } from "./plan.ts";
import { namer } from "./qdq.ts";

/** The operator set that models are raised to: the first with a scale per channel. */
const RAISED = 13;
/** The lowest that is raised. */
const LOWEST = 9;

/** Operators whose meaning changed in ways that are not written anew here. */
const refused = new Set([
  "Resize",
  "Upsample",
  "Scatter",
  "TopK",
  "NonMaxSuppression",
  "LSTM",
  "GRU",
  "RNN",
  "Hardmax",
]);

/**
 * An ONNX model of operator set 9 to 12 as one of 13: what were attributes and are inputs now becomes constants. A softmax
 * over the last axis means the same in both; one over several is refused, for its axes were joined.
 *
 * @throws RepmlpError `quantize/raise-opset` for an operator set below 9, or an operator that changed more than that
 */
export function raiseOpset(model: OnnxModel, where: string): OnnxModel {
  if (model.opset >= RAISED) return model;
  const refuse = (what: string): never => {
    must(
      false,
      "quantize/raise-opset",
      () => `${where}: ${what}. Export the model with opset_version=${RAISED} or higher.`,
      "model",
    );
  };
  if (model.opset < LOWEST) refuse(`operator set ${model.opset} is too old to be raised, ${LOWEST} is the lowest`);
  const unique = namer(model);
  const added = new Map<string, TensorSource>();
  const constant = (base: string, tensor: Tensor): string => {
    const name = unique(base);
    added.set(name, tensor);
    return name;
  };
  const ints = (node: OnnxNode, what: string, values: readonly number[]): string =>
    constant(`${nameOf(node)}.${what}`, Tensor.of("int64", [values.length], values));
  const without = (node: OnnxNode, ...keys: string[]): Record<string, AttributeValue> =>
    Object.fromEntries(Object.entries(node.attrs).filter(([key]) => !keys.includes(key)));
  const raised = (node: OnnxNode): OnnxNode => {
    const { opType, inputs, attrs } = node;
    if (node.domain) return node;
    if (refused.has(opType)) refuse(`${opType} ${nameOf(node)} means something else in operator set ${RAISED}`);
    switch (opType) {
      case "Squeeze":
      case "Unsqueeze":
      case "ReduceSum":
        return attrs.axes === undefined
          ? node
          : {
              ...node,
              inputs: [inputs[0], ints(node, "axes", intsAttr(node, "axes"))],
              attrs: without(node, "axes"),
            };
      case "Split":
        return attrs.split === undefined
          ? node
          : {
              ...node,
              inputs: [inputs[0], ints(node, "split", intsAttr(node, "split"))],
              attrs: without(node, "split"),
            };
      case "Slice": {
        if (attrs.starts === undefined) return node;
        const [starts, ends] = [intsAttr(node, "starts"), intsAttr(node, "ends")];
        const axes = intsAttr(
          node,
          "axes",
          starts.map((_, i) => i),
        );
        const lists = Object.entries({ starts, ends, axes }).map(([what, list]) => ints(node, what, list));
        return {
          ...node,
          inputs: [inputs[0], ...lists],
          attrs: without(node, "starts", "ends", "axes"),
        };
      }
      case "Clip": {
        if (inputs.length > 1 || model.opset >= 11) return node;
        const bound = (key: "min" | "max"): string =>
          attrs[key] === undefined ? "" : constant(`${nameOf(node)}.${key}`, Tensor.scalar(floatAttr(node, key)));
        return {
          ...node,
          inputs: [inputs[0], bound("min"), bound("max")],
          attrs: without(node, "min", "max"),
        };
      }
      case "Pad": {
        if (attrs.pads === undefined) return node;
        const value = constant(`${nameOf(node)}.value`, Tensor.scalar(floatAttr(node, "value", 0)));
        const list = [inputs[0], ints(node, "pads", intsAttr(node, "pads")), value];
        return { ...node, inputs: list, attrs: without(node, "pads", "value") };
      }
      case "Dropout":
        return {
          ...node,
          opType: "Identity",
          inputs: [inputs[0]],
          outputs: [node.outputs[0]],
          attrs: {},
        };
      case "Softmax":
      case "LogSoftmax": {
        const axis = intAttr(node, "axis", 1);
        const rank = model.valueInfo?.find(({ name }) => name === inputs[0])?.shape?.length;
        const isLast = axis === -1 || (rank !== undefined && axis === rank - 1);
        // Where the rank is not stated, an axis that is given is taken for what it says.
        if (rank !== undefined ? !isLast : attrs.axis === undefined)
          refuse(`${opType} ${nameOf(node)} goes over several axes at once`);
        return { ...node, attrs: { ...attrs, axis } };
      }
      default:
        return node;
    }
  };
  const nodes = model.nodes.map(raised);
  return {
    ...model,
    opset: RAISED,
    nodes,
    initializers: new Map([...model.initializers, ...added]),
  };
}
