import { intAttr, type OnnxNode } from "../../onnx/index.ts";
import type { HostTensor } from "../../reparam/host.ts";
import type { Shape } from "../../tensor/index.ts";
import { affine, type Form, identity } from "./form.ts";
import type { GraphView } from "./graph.ts";
import { someRows } from "./kernels.ts";
import type { Sight } from "./rewrite.ts";
import { type Written, written } from "./write.ts";

export const isPlain = (node: OnnxNode | undefined, operators: ReadonlySet<string>): boolean =>
  node !== undefined && !node.domain && operators.has(node.opType) && node.outputs.length === 1;

/** Whether a value is read by one node only and is no output. */
export const isPrivate = (graph: GraphView, value: string): boolean =>
  !graph.isOutput(value) && graph.consumers(value).size === 1;

/** The value that a node with one input maps, which need not be its first. */
export const valueRead = (sight: Sight, node: OnnxNode): string => {
  const step = sight.step(node);
  return typeof step === "object" ? step.inputs[0] : node.inputs[0];
};

/** The form of one node, if it is linear. */
export function formOf(sight: Sight, node: OnnxNode | undefined): Form | undefined {
  const step = node && sight.step(node);
  if (typeof step !== "object" || step.inputs.length !== 1 || step.nodes.length !== 1) return undefined;
  const form = step.apply([identity]);
  return typeof form === "string" ? undefined : form;
}

/** What becomes of a layer, of which `part` picks the rows that concern it out of a tensor of all outputs, or all inputs. */
export type Change = (form: Form, part: (t: HostTensor) => HostTensor) => Form | string;

/** A convolution or matrix product into which others can be merged. */
export interface Layer {
  /** Its sizes and geometry. */
  readonly form: Omit<Form, "weight" | "bias">;
  readonly kernel: Shape;
  readonly input: string;
  /** The nodes that are written anew. */
  readonly nodes: readonly OnnxNode[];
  write(change: Change, output: string): (Written & { readonly removed?: readonly OnnxNode[] }) | string;
}

export function layerAt(sight: Sight, value: string): Layer | undefined {
  const node = sight.graph.producer(value);
  const step = node && sight.step(node);
  if (!node || typeof step !== "object") return undefined;
  if (!step.anchor) return layerInParts(sight, node);
  const form = formOf(sight, node);
  if (!form?.weight) return undefined;
  const [input] = node.inputs;
  const write = (change: Change, output: string) => {
    const made = change(form, (t) => t);
    return typeof made === "string" ? made : written(sight.graph, made, node, input, output);
  };
  return { form, kernel: form.weight.shape, input, nodes: [node], write };
}

/** A layer of groups, of which exporters make one product each: of a part of the channels, put side by side again. */
function layerInParts(sight: Sight, concat: OnnxNode): Layer | undefined {
  const { graph } = sight;
  const groups = concat.inputs.length;
  if (concat.opType !== "Concat" || intAttr(concat, "axis", 1) !== 1 || groups < 2) return undefined;
  const parts = concat.inputs.map((name) => {
    const node = isPrivate(graph, name) ? graph.producer(name) : undefined;
    const step = node && sight.step(node);
    const form = typeof step === "object" && step.anchor ? formOf(sight, node) : undefined;
    return node && form?.layout === 0 && form.weight ? { node, form } : undefined;
  });
  const inputs = parts[0]?.form.inputs;
  const outputs = parts[0]?.form.outputs;
  if (!inputs || !outputs || !parts.every((p) => p?.form.inputs === inputs && p.form.outputs === outputs))
    return undefined;
  const all = parts as readonly { node: OnnxNode; form: Form }[];
  const from = all.map(({ node }, i) => partOf(graph, node.inputs[0], i * inputs, (i + 1) * inputs));
  const [input] = from;
  if (input === undefined || from.some((name) => name !== input)) return undefined;
  if (graph.shapeOf(input)?.[1] !== inputs * groups) return undefined;
  const write = (change: Change, output: string) => {
    const made: Written[] = [];
    for (const [i, { node, form }] of all.entries()) {
      const part = (t: HostTensor): HostTensor => {
        const count = t.shape[0] / groups;
        return t.shape[0] === 1 ? t : someRows(t, i * count, count);
      };
      const own = change(form, part);
      if (typeof own === "string") return own;
      made.push(written(graph, own, node, node.inputs[0], node.outputs[0]));
    }
    const moved = output === concat.outputs[0] ? [] : [{ ...concat, outputs: [output] }];
    return {
      nodes: [...made.flatMap((m) => m.nodes), ...moved],
      constants: new Map(made.flatMap((m) => [...m.constants])),
      removed: moved.length ? [concat] : [],
    };
  };
  const form = { ...all[0].form, inputs: inputs * groups, outputs: outputs * groups, groups };
  return { form, kernel: [outputs * groups, inputs, 1, 1], input, nodes: all.map(({ node }) => node), write };
}

/** The value of which another is the channels from `start` to `end`. */
function partOf(graph: GraphView, value: string, start: number, end: number): string | undefined {
  const node = graph.producer(value);
  if (node?.domain || node?.opType !== "Slice" || graph.opset < 10) return undefined;
  const [from, to, axes, steps] = [1, 2, 3, 4].map((i) => (node.inputs[i] ? graph.listOf(node.inputs[i]) : undefined));
  const isPart =
    from?.length === 1 && from[0] === start && to?.[0] === end && axes?.[0] === 1 && (steps?.[0] ?? 1) === 1;
  return isPart ? node.inputs[0] : undefined;
}

export const isScale = (form: Form | undefined): form is Form =>
  form !== undefined &&
  !form.weight &&
  form.windows.every((w) => w.kernel === 1 && w.stride === 1 && !w.begin && !w.end);

/** That of some of the channels. */
export const each = ({ scale, bias }: Form, part: (t: HostTensor) => HostTensor): Form =>
  affine(undefined, undefined, { scale: scale && part(scale), shift: bias && part(bias) });
