import type { OnnxNode } from "../../onnx/index.ts";
import { HostAlgebra, type HostTensor } from "../../reparam/host.ts";
import { sizeOf, Tensor, type TensorSource } from "../../tensor/index.ts";
import { FOLD_LIMIT, fold } from "./fold.ts";
import { affine, after, type Form, identity, type Window } from "./form.ts";
import { type GraphView, nameOf } from "./graph.ts";
import { commonDivisor, numbers, regrouped, valuesOf, viewed, widened } from "./kernels.ts";
import { each, formOf, isPlain, isPrivate, isScale, type Layer, layerAt, valueRead } from "./layers.ts";
import type { Rewrite, RewriteRule, Sight } from "./rewrite.ts";
import { throughParts } from "./through-parts.ts";
import { written } from "./write.ts";

const k = new HostAlgebra();

const VIEWS = new Set(["Reshape", "Flatten", "Squeeze", "Unsqueeze"]);

const product = (dims: readonly (number | undefined)[]): number | undefined =>
  dims.some((d) => d === undefined) ? undefined : sizeOf(dims as readonly number[]);

/**
 * How many values of a channel follow one another on axis 1 behind a node that leaves channels in order: 1 where axis 1
 * stays what it is, more where pixels are laid beside one another. `undefined` for other nodes.
 */
function passes(graph: GraphView, node: OnnxNode | undefined): number | undefined {
  if (!node || node.domain || node.outputs.length !== 1) return undefined;
  const [x, y] = [graph.shapeOf(node.inputs[0]), graph.shapeOf(node.outputs[0])];
  if (!x || !y || x.length < 2 || y.length < 2 || x[1] === undefined || y[1] === undefined) return undefined;
  if (node.opType === "GlobalAveragePool") return 1;
  if (!VIEWS.has(node.opType)) return undefined;
  const [pixels, left] = [product(x.slice(2)), product(y.slice(2))];
  const repeat = y[1] / x[1];
  return pixels !== undefined &&
    left !== undefined &&
    Number.isInteger(repeat) &&
    pixels === repeat * left &&
    (repeat === 1 || left === 1)
    ? repeat
    : undefined;
}

/** A scale and shift with each channel's numbers so many times, whatever axes there are. */
const repeated = ({ scale, bias, inputs = 1 }: Form, repeat: number): Form => {
  const each = (t: HostTensor | undefined) => t && k.repeatOutputs(widened(k, t, inputs), repeat);
  return affine(undefined, inputs * repeat, { scale: each(scale), shift: each(bias) });
};

/** A scale and shift merged through what leaves channels in order: reshaping, flattening, global average pooling. */
export const throughViews: RewriteRule = {
  name: "through reshaping or global pooling",
  rewrite(sight, node) {
    const { graph } = sight;
    const form = formOf(sight, node);
    // What follows leaves the second axis in order, not the last one.
    if (!isScale(form) || form.inputs === undefined || form.layout === "last") return undefined;
    return ahead(sight, node, form) ?? behind(graph, sight, node, form);
  },
};

/** What puts values in another order or shape. */
const MOVES = new Set([...VIEWS, "Transpose"]);

/**
 * Which channel each column of a matrix holds that some nodes make of a value by putting it in another order;
 * `undefined` where that differs from row to row. Found by moving the numbers of channels.
 */
function columnsBehind(graph: GraphView, moves: readonly OnnxNode[], channels: number): readonly number[] | undefined {
  const [, own, ...pixels] = graph.shapeOf(moves[0].inputs[0]) ?? [];
  const area = product(pixels);
  if (own !== channels || area === undefined) return undefined;
  // As few samples as every reshaping can be made with: those of pictures in parts are a multiple of the parts.
  const each = area * channels;
  const least = moves.reduce((n, { inputs }) => {
    const parts = (graph.listOf(inputs[1] ?? "") ?? []).reduce<number>(
      (size, d) => size * (d !== undefined && d > 1 ? d : 1),
      1,
    );
    const needed = parts / commonDivisor([parts, each]);
    return (n * needed) / commonDivisor([n, needed]);
  }, 1);
  if (!(2 * least * each <= FOLD_LIMIT)) return undefined;
  const moved = (samples: number): readonly number[] | undefined => {
    const ids = Float64Array.from({ length: samples * channels * area }, (_, i) => Math.floor(i / area) % channels);
    let t: Tensor | undefined = Tensor.of("float32", [samples, channels, ...(pixels as readonly number[])], ids);
    for (const node of moves) {
      const others = node.inputs.slice(1).map((name) => graph.constant(name)?.readSync());
      t = t && fold({ node, opset: graph.opset, inputs: [t, ...others], dims: [] });
    }
    if (t?.shape.length !== 2) return undefined;
    const values = [...t.toFloat64()];
    const columns = values.slice(0, t.shape[1]);
    return values.every((v, i) => v === columns[i % columns.length]) ? columns : undefined;
  };
  const columns = moved(least);
  return columns && moved(2 * least)?.every((v, i) => v === columns[i]) ? columns : undefined;
}

/** A scale and shift of other channels. */
function rearranged({ scale, bias }: Form, columns: readonly number[]): Form {
  const pick = (t: HostTensor | undefined): HostTensor | undefined => {
    const values = t && valuesOf(t);
    return values && numbers(columns.map((c) => values[values.length === 1 ? 0 : c]));
  };
  return affine(undefined, columns.length, { scale: pick(scale), shift: pick(bias) });
}

/** Into the convolution or matrix product that comes after. */
function ahead(sight: Sight, node: OnnxNode, form: Form): Rewrite | undefined {
  const { graph } = sight;
  const path: OnnxNode[] = [];
  let [value] = node.outputs;
  let repeat = 1;
  /** Number of nodes before the first one that puts values in another order. */
  let ordered: number | undefined;
  for (; path.length < 8 && isPrivate(graph, value); [value] = path.at(-1)!.outputs) {
    const [reader] = graph.consumers(value);
    if (reader.inputs[0] !== value || reader.inputs.lastIndexOf(value) !== 0) return undefined;
    const times = passes(graph, reader);
    if (times !== undefined && ordered === undefined) {
      repeat *= times;
      path.push(reader);
      continue;
    }
    if (isPlain(reader, MOVES)) {
      ordered ??= path.length;
      path.push(reader);
      continue;
    }
    const layer = path.length ? layerAt(sight, reader.outputs[0]) : undefined;
    if (!layer || layer.input !== value) return undefined;
    const moves = path.slice(ordered ?? path.length);
    const columns = moves.length ? columnsBehind(graph, moves, form.inputs! * repeat) : undefined;
    if ((moves.length && !columns) || layer.form.inputs !== (columns?.length ?? form.inputs! * repeat))
      return undefined;
    const spread = columns ? rearranged(repeated(form, repeat), columns) : repeated(form, repeat);
    const [first, ...rest] = path;
    const moved = { ...first, inputs: [valueRead(sight, node), ...first.inputs.slice(1)] };
    const made = layer.write((own, part) => after(each(spread, part), own), reader.outputs[0]);
    if (typeof made === "string") return undefined;
    return {
      removed: [node, reader, first].map((n) => ({ node: n, rule: throughViews.name })),
      nodes: [...made.nodes, moved],
      constants: made.constants,
      input: rest.at(-1)?.outputs[0] ?? moved.outputs[0],
    };
  }
  return undefined;
}

/** Into the one that comes before. */
function behind(graph: GraphView, sight: Sight, node: OnnxNode, form: Form): Rewrite | undefined {
  const path: OnnxNode[] = [];
  for (let value = valueRead(sight, node); path.length < 8 && isPrivate(graph, value); [value] = path.at(-1)!.inputs) {
    const maker = graph.producer(value);
    if (passes(graph, maker) === 1) {
      path.push(maker!);
      continue;
    }
    const layer = path.length ? layerAt(sight, value) : undefined;
    if (!layer) return undefined;
    const [last] = path;
    const made = layer.write((own, part) => after(own, each(repeated(form, 1), part)), value);
    if (typeof made === "string") return undefined;
    return {
      removed: [...layer.nodes, last, node].map((n) => ({ node: n, rule: throughViews.name })),
      nodes: [...made.nodes, { ...last, outputs: node.outputs }],
      constants: made.constants,
      input: layer.input,
    };
  }
  return undefined;
}

/** The value that reshaping starts from, and the nodes that do it, last first. */
function unviewed(graph: GraphView, value: string, privately: boolean): { source: string; path: OnnxNode[] } {
  const path: OnnxNode[] = [];
  let source = value;
  for (let node = graph.producer(source); node && path.length < 8; node = graph.producer(source)) {
    if (!isPlain(node, VIEWS) || (privately && !isPrivate(graph, source))) break;
    path.push(node);
    [source] = node.inputs;
  }
  return { source, path };
}

/** A branch that is reshaped, goes through one linear node, and is reshaped again. */
interface Branch extends Layer {
  readonly output: string;
  /** What reshapes its output. */
  readonly up: readonly OnnxNode[];
  readonly root: string;
}

function branchOf(sight: Sight, value: string): Branch | undefined {
  const { graph } = sight;
  const { source, path: up } = unviewed(graph, value, true);
  const layer = isPrivate(graph, source) ? layerAt(sight, source) : undefined;
  return layer && { ...layer, output: source, up, root: unviewed(graph, layer.input, false).source };
}

/** A kernel with zeros in between and around it, so that it is odd and its padding the same on both sides. */
function centred(weight: HostTensor, [down, along]: Form["windows"]): HostTensor {
  const half = (w: Window): number => Math.max(w.begin, w.end);
  const size = [2 * half(down) + 1, 2 * half(along) + 1] as const;
  const at = [half(down) - down.begin, half(along) - along.begin] as const;
  return k.padKernel(k.dilate(weight, [down.dilation, along.dilation]), size, at);
}

/**
 * A convolution of pictures of a fixed size beside a fully connected layer over all their pixels, as in RepMLP (arXiv
 * 2105.01883, section 3.3): it is written into the layer's matrix.
 */
export const convToFc: RewriteRule = {
  name: "convolution as fully connected layer",
  rewrite(sight, node) {
    const { graph } = sight;
    if (node.domain || node.opType !== "Add" || node.inputs[0] === node.inputs[1]) return undefined;
    const [a, b] = node.inputs.map((value) => branchOf(sight, value));
    if (!a || !b || a.root !== b.root || a.output === b.output) return undefined;
    for (const [fc, conv] of [
      [a, b],
      [b, a],
    ]) {
      const size = graph.shapeOf(conv.input)?.slice(2);
      const [h, w] = size ?? [];
      if (h === undefined || w === undefined || size?.length !== 2 || h * w < 2) continue;
      const taken = graph.shapeOf(fc.input);
      const [x, y] = [conv.kernel, fc.kernel];
      const isFc =
        y[2] * y[3] === 1 && (fc.form.layout === 0 || (taken?.[2] === 1 && taken[3] === 1)) && !fc.form.fixed;
      if (!isFc || y[0] !== x[0] * h * w || fc.form.inputs !== (conv.form.inputs ?? 0) * h * w) continue;
      const { windows } = conv.form;
      const same = windows.every(
        (v) => v.stride === 1 && v.begin >= 0 && v.end >= 0 && (v.kernel - 1) * v.dilation === v.begin + v.end,
      );
      const own = formOf(sight, conv.nodes[0]);
      if (!same || conv.form.fixed || conv.nodes.length !== 1 || !own?.weight)
        return "its convolution is not known to give one pixel in the place of each that it takes";
      if (conv.form.groups % fc.form.groups) return "its layer has groups that the convolution lies across";
      const [p, q] = [graph.shapeOf(node.inputs[0]), graph.shapeOf(node.inputs[1])];
      if (!p || p.length !== q?.length || p.some((d, i) => d !== q[i]))
        return "its inputs are not known to be of one size";
      const kernel = regrouped(centred(own.weight, windows), own.groups, fc.form.groups);
      const matrix = k.convToFc(kernel, [h, w]);
      const bias = own.bias && k.repeatOutputs(own.bias, h * w);
      const [last] = fc.up;
      const made = fc.write(
        (form, part) => {
          const [rows, shift] = [part(matrix), bias && part(bias)];
          return {
            ...form,
            weight: k.add(viewed(form.weight!, rows.shape), rows),
            bias: form.bias && shift ? k.add(form.bias, shift) : (form.bias ?? shift),
          };
        },
        last ? fc.output : node.outputs[0],
      );
      if (typeof made === "string") return made;
      const gone = [...fc.nodes, ...(made.removed ?? []), ...conv.nodes, ...conv.up, node, ...(last ? [last] : [])];
      return {
        removed: gone.map((n) => ({ node: n, rule: convToFc.name })),
        nodes: last ? [...made.nodes, { ...last, outputs: node.outputs }] : made.nodes,
        constants: made.constants,
        input: fc.input,
      };
    }
    return undefined;
  },
};

/**
 * Several scales and shifts before a convolution with padding, whose shift cannot go into it: y = W ∗ (s · x + t) is
 * (W · s) ∗ (x + t / s), with one shift left.
 */
export const scaleApart: RewriteRule = {
  name: "scale before padding",
  rewrite(sight, node) {
    const { graph } = sight;
    const step = sight.step(node);
    const own = typeof step === "object" && step.anchor ? formOf(sight, node) : undefined;
    if (!own?.weight || own.fixed) return undefined;
    const path: OnnxNode[] = [];
    let form: Form = identity;
    let [value] = node.inputs;
    while (path.length < 8 && isPrivate(graph, value)) {
      const maker = graph.producer(value);
      const part = formOf(sight, maker);
      if (!isScale(part)) break;
      const joined = after(part, form);
      if (typeof joined === "string") return joined;
      form = joined;
      path.push(maker!);
      value = valueRead(sight, maker!);
    }
    const { scale, bias } = form;
    const dims = graph.shapeOf(value);
    if (path.length < 2 || !scale || !bias || !dims) return undefined;
    const [s, t] = [valuesOf(scale), valuesOf(bias)];
    const shift = Float64Array.from(
      { length: Math.max(s.length, t.length) },
      (_, i) => t[i % t.length] / s[i % s.length],
    );
    const { dtype } = graph.constant(node.inputs[1])!;
    const shape = shift.length === 1 ? [] : [shift.length, ...dims.slice(2).map(() => 1)];
    const stored = Tensor.of(dtype, shape, shift);
    if (!stored.toFloat64().every(Number.isFinite)) return "it is scaled by zero, or nearly so, before it is padded";
    const joined = after({ ...form, bias: undefined }, own);
    if (typeof joined === "string") return joined;
    const made = written(graph, joined, node, path[0].outputs[0], node.outputs[0]);
    const name = graph.uniqueName(`${path[0].outputs[0]}.shift`);
    const added = { opType: "Add", name: nameOf(path[0]), inputs: [value, name], outputs: path[0].outputs, attrs: {} };
    return {
      removed: [...path, node].map((n) => ({ node: n, rule: scaleApart.name })),
      nodes: [...made.nodes, added],
      constants: new Map<string, TensorSource>([...made.constants, [name, stored]]),
      input: path[0].outputs[0],
    };
  },
};

export const rewriteRules: readonly RewriteRule[] = [throughViews, throughParts, convToFc, scaleApart];
