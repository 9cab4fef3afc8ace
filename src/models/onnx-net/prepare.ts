import type { OnnxModel, OnnxNode } from "../../onnx/index.ts";
import { isFloating, sizeOf, Tensor, type TensorSource } from "../../tensor/index.ts";

/**
 * Gives every weight a tensor of its own: exporters write equal ones once (the biases of new batch norms, even scales and
 * variances together) and pass them on by `Identity` nodes that carry the other names.
 */
export function untied(model: OnnxModel): OnnxModel {
  const initializers = new Map(model.initializers);
  const outputs = new Set(model.outputs.map(({ name }) => name));
  const nodes = model.nodes.filter(({ opType, domain, inputs: [from], outputs: [to] }) => {
    const source = opType === "Identity" && !domain ? initializers.get(from) : undefined;
    if (!source || !isFloating(source.dtype) || outputs.has(to)) return true;
    initializers.set(to, source);
    return false;
  });
  if (nodes.length === model.nodes.length) return model;
  const used = new Set([...nodes.flatMap(({ inputs }) => inputs), ...outputs]);
  return { ...model, nodes, initializers: new Map([...initializers].filter(([name]) => used.has(name))) };
}

/** The values of a tensor that the file itself states: an initializer, or the output of a `Constant`. */
export function statedTensor({ initializers, nodes }: OnnxModel, name: string): TensorSource | undefined {
  const found = initializers.get(name);
  if (found) return found;
  const value = nodes.find(({ opType, outputs }) => opType === "Constant" && outputs[0] === name)?.attrs.value;
  return value instanceof Tensor ? value : undefined;
}

/** The node that makes a tensor. */
export const producerOf = ({ nodes }: OnnxModel, name: string): OnnxNode | undefined =>
  nodes.find(({ outputs }) => outputs.includes(name));

/** The nodes that depend on a tensor, in order. */
export function dependents({ nodes }: OnnxModel, name: string): OnnxNode[] {
  const reached = new Set([name]);
  return nodes.filter(({ inputs, outputs }) => {
    const depends = inputs.some((input) => reached.has(input));
    if (depends) for (const output of outputs) reached.add(output);
    return depends;
  });
}

/** A model in which some Reshapes have other targets. `change` gives the new target, or the old one. */
export function withReshapes(
  model: OnnxModel,
  nodes: readonly OnnxNode[],
  change: (target: readonly number[]) => readonly number[],
): OnnxModel {
  const initializers = new Map(model.initializers);
  const changed = new Map<OnnxNode, OnnxNode>();
  for (const node of nodes) {
    const target = node.opType === "Reshape" ? statedTensor(model, node.inputs[1] ?? "") : undefined;
    if (!target || sizeOf(target.shape) > 8) continue;
    const before = [...target.readSync().toFloat64()];
    const after = change(before);
    if (before.every((d, i) => d === after[i])) continue;
    let name = `${node.inputs[1]}.changed`;
    while (initializers.has(name)) name += "_";
    initializers.set(name, Tensor.of("int64", [after.length], after));
    changed.set(node, { ...node, inputs: [node.inputs[0], name] });
  }
  return { ...model, nodes: model.nodes.map((node) => changed.get(node) ?? node), initializers };
}

/**
 * The model for any number of pictures, if it was written for a fixed one: the first axis of its input is opened, and
 * Reshapes of what depends on the input take that size over where their target states it. Exporters leave nothing else.
 */
export function openedFirstAxis(model: OnnxModel, input: string): OnnxModel {
  const fixed = model.inputs.find(({ name }) => name === input)?.shape?.[0];
  if (typeof fixed !== "number") return model;
  const opened = withReshapes(model, dependents(model, input), (target) =>
    target[0] === fixed ? [target.slice(1).includes(-1) ? 0 : -1, ...target.slice(1)] : target,
  );
  const inputs = model.inputs.map((info) =>
    info.name === input && info.shape ? { ...info, shape: ["", ...info.shape.slice(1)] } : info,
  );
  return { ...opened, inputs };
}
