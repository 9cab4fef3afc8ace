import { intAttr, type OnnxNode } from "../../onnx/index.ts";
import { HostAlgebra, type HostTensor } from "../../reparam/host.ts";
import { affine, after, type Form } from "./form.ts";
import { numbers, someRows, widened } from "./kernels.ts";
import { each, formOf, isPlain, isPrivate, isScale, type Layer, layerAt, valueRead } from "./layers.ts";
import type { Rewrite, RewriteRule, Sight } from "./rewrite.ts";
import type { Written } from "./write.ts";

const k = new HostAlgebra();

const CONCAT = new Set(["Concat"]);
const SUMS = new Set(["Add", "Sub", "Sum"]);

/**
 * A scale and shift where values of different origin come together. Behind them: into each of the layers that make them
 * (a batch norm after the two halves of a CSP block). In front: of one of them, into the layer that reads all.
 */
export const throughParts: RewriteRule = {
  name: "through concatenation or sum",
  rewrite(sight, node) {
    const form = formOf(sight, node);
    if (!isScale(form)) return undefined;
    return behind(sight, node, form) ?? ahead(sight, node, form);
  },
};

/** Whether an axis is that of the channels of a form, where it has any. */
function isChannelAxis(sight: Sight, concat: OnnxNode, layout: Form["layout"]): boolean {
  const rank = sight.graph.shapeOf(concat.outputs[0])?.length;
  if (rank === undefined) return false;
  const axis = intAttr(concat, "axis", 1);
  const at = axis < 0 ? axis + rank : axis;
  return (
    at === (layout === "last" ? rank - 1 : 1) && (layout === undefined || layout === "last" || layout === rank - 2)
  );
}

function behind(sight: Sight, node: OnnxNode, form: Form): Rewrite | string | undefined {
  const { graph } = sight;
  const value = valueRead(sight, node);
  const join = isPrivate(graph, value) ? graph.producer(value) : undefined;
  if (!join) return undefined;
  const isConcat = isPlain(join, CONCAT);
  if (!isConcat && !isPlain(join, SUMS)) return undefined;
  if (join.inputs.length < 2 || new Set(join.inputs).size < join.inputs.length) return undefined;
  if (isConcat && !isChannelAxis(sight, join, form.layout)) return undefined;
  const layers: Layer[] = [];
  for (const name of join.inputs) {
    const layer = isPrivate(graph, name) ? layerAt(sight, name) : undefined;
    if (!layer)
      return layers.length ? `"${name}" is not made by a layer of its own that it could be merged into` : undefined;
    if (form.layout !== undefined && layer.form.layout !== form.layout) return "channels lie on different axes";
    layers.push(layer);
  }
  const outputs = layers.map((layer) => layer.form.outputs ?? Number.NaN);
  const { inputs } = form;
  if (
    isConcat
      ? !(inputs === undefined || outputs.reduce((a, b) => a + b) === inputs)
      : !outputs.every((n) => n === (inputs ?? outputs[0]))
  )
    return undefined;
  const made: (Written & { readonly removed?: readonly OnnxNode[] })[] = [];
  let start = 0;
  for (const [i, layer] of layers.entries()) {
    const own = isConcat ? someOf(form, start, outputs[i]) : i ? { ...form, bias: undefined } : form;
    start += outputs[i];
    const change = layer.write((f, part) => after(f, each(own, part)), join.inputs[i]);
    if (typeof change === "string") return change;
    made.push(change);
  }
  const gone = [...layers.flatMap((layer) => layer.nodes), ...made.flatMap((m) => m.removed ?? []), join, node];
  return {
    removed: gone.map((n) => ({ node: n, rule: throughParts.name })),
    nodes: [...made.flatMap((m) => m.nodes), { ...join, outputs: node.outputs }],
    constants: new Map(made.flatMap((m) => [...m.constants])),
    input: layers[0].input,
  };
}

/** The channels from `start` on of a scale and shift. */
function someOf({ scale, bias }: Form, start: number, count: number): Form {
  const part = (t: HostTensor | undefined) => (t && t.shape[0] > 1 ? someRows(t, start, count) : t);
  return affine(undefined, undefined, { scale: part(scale), shift: part(bias) });
}

function ahead(sight: Sight, node: OnnxNode, form: Form): Rewrite | string | undefined {
  const { graph } = sight;
  const [value] = node.outputs;
  if (!isPrivate(graph, value)) return undefined;
  const [concat] = graph.consumers(value);
  if (!isPlain(concat, CONCAT) || !isPrivate(graph, concat.outputs[0])) return undefined;
  const [reader] = graph.consumers(concat.outputs[0]);
  const layer = layerAt(sight, reader.outputs[0]);
  if (layer?.input !== concat.outputs[0] || layer.nodes.length !== 1) return undefined;
  const { layout } = layer.form;
  if (!isChannelAxis(sight, concat, layout) || (form.layout !== undefined && form.layout !== layout)) return undefined;
  const at = layout === "last" ? -1 : 1;
  const sizes = concat.inputs.map((name) => graph.shapeOf(name)?.at(at));
  if (sizes.some((n) => n === undefined)) return "the number of channels that are put side by side is not known";
  const around = (t: HostTensor | undefined, other: number): HostTensor | undefined => {
    if (!t) return undefined;
    const [first, ...rest] = concat.inputs.map((name, i) =>
      widened(k, name === value ? t : numbers([other]), sizes[i] as number),
    );
    return k.concatOutputs(first, ...rest);
  };
  const whole = affine(layout, layer.form.inputs, { scale: around(form.scale, 1), shift: around(form.bias, 0) });
  const made = layer.write((own) => after(whole, own), reader.outputs[0]);
  if (typeof made === "string") return made;
  const from = valueRead(sight, node);
  return {
    removed: [node, concat, reader].map((n) => ({ node: n, rule: throughParts.name })),
    nodes: [...made.nodes, { ...concat, inputs: concat.inputs.map((name) => (name === value ? from : name)) }],
    constants: made.constants,
    input: from,
  };
}
