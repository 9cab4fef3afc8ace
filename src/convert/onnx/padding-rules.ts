import { floatAttr, intsAttr, type OnnxNode, stringAttr } from "../../onnx/index.ts";
import type { HostTensor } from "../../reparam/host.ts";
import { isFloating, sizeOf, type TensorSource } from "../../tensor/index.ts";
import { listOf, sliceOf } from "./fold.ts";
import { after, identity, type Layout, padded } from "./form.ts";
import type { GraphView } from "./graph.ts";
import { numbers } from "./kernels.ts";
import { type LinearRule, layoutOf, type Step } from "./step.ts";

/** Pads of a node by axis; `undefined` where they are not constant. */
function padsOf(graph: GraphView, node: OnnxNode): (readonly [number, number])[] | undefined {
  const rank = graph.shapeOf(node.inputs[0])?.length;
  const list = graph.opset >= 11 ? graph.listOf(node.inputs[1] ?? "") : intsAttr(node, "pads");
  if (!rank || !list?.every((d) => d !== undefined)) return undefined;
  const axes = graph.opset >= 18 && node.inputs[3] ? graph.listOf(node.inputs[3]) : undefined;
  const at = (axes ?? Array.from({ length: rank }, (_, i) => i)).map((a) => (a! < 0 ? a! + rank : a!));
  if (list.length !== 2 * at.length || at.some((axis) => !(axis >= 0 && axis < rank))) return undefined;
  const sides = Array.from({ length: rank }, () => [0, 0] as readonly [number, number]);
  for (const [i, axis] of at.entries()) sides[axis] = [list[i]!, list[i + at.length]!];
  return sides;
}

/** Padding of the pixels of a value as that of two axes; `undefined` where something else is padded. */
function spatial(sides: readonly (readonly [number, number])[]): (readonly [number, number])[] | undefined {
  const [batch, channels, ...rest] = sides;
  if (!batch || !channels || [...batch, ...channels].some((n) => n !== 0) || rest.length < 1 || rest.length > 2)
    return undefined;
  return rest.length === 1 ? [[0, 0], rest[0]] : rest;
}

/** A step that pads, with the same number or with one per channel. */
const padding = (
  nodes: readonly OnnxNode[],
  input: string,
  layout: Layout,
  sides: readonly (readonly [number, number])[],
  fill: HostTensor,
): Step => ({
  inputs: [input],
  nodes,
  cost: 0,
  apply: ([x]) => {
    const placed = after(x, { ...identity, layout });
    return typeof placed === "string" ? placed : padded(placed, sides, fill);
  },
});

/** The number that a Pad puts, where it is known. */
function padValue(graph: GraphView, node: OnnxNode): number | undefined {
  if (graph.opset < 11) return floatAttr(node, "value", 0);
  return node.inputs[2] ? graph.listOf(node.inputs[2])?.[0] : 0;
}

export const pads: LinearRule = {
  name: "padding",
  operators: ["Pad"],
  read(graph, node) {
    if (stringAttr(node, "mode", "constant") !== "constant") return "it does not pad with a constant";
    const sides = padsOf(graph, node);
    const pixels = sides && spatial(sides);
    if (!sides || !pixels) return "its pads are not known, or not of pixels";
    const value = padValue(graph, node);
    if (value === undefined) return "the value it pads with is not known";
    return padding([node], node.inputs[0], layoutOf(sides.length)!, pixels, numbers([value]));
  },
};

export const crop: LinearRule = {
  name: "crop",
  operators: ["Slice"],
  read(graph, node) {
    const [value] = node.inputs;
    const dims = graph.shapeOf(value);
    if (!dims || dims.length < 3 || dims.length > 4) return undefined;
    const context = {
      node,
      opset: graph.opset,
      dims: [],
      inputs: node.inputs.map((name) => {
        const source = graph.constant(name);
        return source && sizeOf(source.shape) <= 64 ? source.readSync() : undefined;
      }),
    };
    const [starts, ends] = [listOf(context, "starts", 1, 10), listOf(context, "ends", 2, 10)];
    if (!starts || !ends) return undefined;
    const axes = listOf(context, "axes", 3, 10) ?? starts.map((_, i) => i);
    const steps = context.inputs[4] ? [...context.inputs[4].toFloat64()] : [];
    if (steps.some((s) => s !== 1)) return "it leaves out pixels in between";
    const sides = dims.map(() => [0, 0] as readonly [number, number]);
    for (const [i, axis] of axes.entries()) {
      const at = axis < 0 ? axis + dims.length : axis;
      if (!(at >= 0 && at < dims.length)) return undefined;
      const size = dims[at];
      // Counted from the ends an open size does not matter; otherwise it has to be known.
      const open = starts[i] >= 0 && (ends[i] < 0 || ends[i] >= 2 ** 31 - 1);
      if (size === undefined && !open) return "it cuts to a size that depends on what is fed";
      if (size === undefined) sides[at] = [-starts[i], ends[i] < 0 ? ends[i] : 0];
      else {
        const { from, count } = sliceOf(size, starts[i], ends[i], 1);
        sides[at] = [-from, -(size - from - count)];
      }
    }
    const pixels = spatial(sides);
    if (!pixels) return undefined;
    return padding([node], value, layoutOf(dims.length)!, pixels, numbers([0]));
  },
};

/** Numbers of a border that are looked at. */
const BORDER_LIMIT = 1 << 22;

/** What stands around a picture: its sides, and the size with them. */
interface Border {
  readonly sides: readonly (readonly [begin: number, end: number])[];
  readonly size: readonly [samples: number, channels: number, height: number, width: number];
}

/** The number of each channel that stands everywhere on the border, where `inside` holds for all others. */
function borderNumbers(
  { sides: [[top, bottom], [left, right]], size: [, channels, height, width] }: Border,
  values: Float64Array,
  inside: (value: number) => boolean,
): HostTensor | undefined {
  const fill = new Array<number>(channels).fill(Number.NaN);
  for (let i = 0; i < values.length; i++) {
    const [x, y] = [i % width, Math.floor(i / width) % height];
    const c = Math.floor(i / (width * height)) % channels;
    const isInside = y >= top && y < height - bottom && x >= left && x < width - right;
    if (isInside ? !inside(values[i]) : !(values[i] === (Number.isNaN(fill[c]) ? values[i] : fill[c])))
      return undefined;
    if (!isInside) fill[c] = values[i];
  }
  return fill.some(Number.isNaN) ? undefined : numbers(fill);
}

/** Padding with zeros and the same number per channel added on every pixel that was added: another way to write a border. */
export function addedBorder(graph: GraphView, node: OnnxNode, value: string, constant: TensorSource): Step | undefined {
  const pad = graph.producer(value);
  if (pad?.opType !== "Pad" || pad.domain || constant.shape.length < 3 || !isFloating(constant.dtype)) return undefined;
  const step = pads.read(graph, pad);
  const sides = padsOf(graph, pad);
  const pixels = sides && spatial(sides);
  if (typeof step !== "object" || !pixels || sides.length !== 4 || padValue(graph, pad) !== 0) return undefined;
  const [samples, channels, height, width] = [1, 1, ...constant.shape].slice(-4);
  const dims = graph.shapeOf(value);
  if (samples !== 1 || dims?.[1] !== channels || sizeOf(constant.shape) > BORDER_LIMIT) return undefined;
  // A size that is not known could be one, and the constant would repeat it.
  if (dims[2] !== height || dims[3] !== width) return undefined;
  const border = { sides: pixels, size: [1, channels, height, width] } as const;
  const fill = borderNumbers(border, constant.readSync().toFloat64(), (v) => v === 0);
  return fill && padding([pad, node], pad.inputs[0], 2, pixels, fill);
}

/**
 * A border written over, as exporters put it: zeros are padded and then the same number per channel is scattered on
 * every pixel that was added.
 */
export const border: LinearRule = {
  name: "border",
  operators: ["ScatterND"],
  read(graph, node) {
    const nodes: OnnxNode[] = [];
    let last: OnnxNode | undefined = node;
    for (; last?.opType === "ScatterND" && !last.domain; last = graph.producer(last.inputs[0])) {
      if (nodes.length === 64) return "it has too many parts";
      if (stringAttr(last, "reduction", "none") !== "none") return "it adds to what is there";
      nodes.push(last);
    }
    if (last?.opType !== "Pad" || last.domain) return undefined;
    const sides = padsOf(graph, last);
    const pixels = sides && spatial(sides);
    const shape = graph.shapeOf(last.outputs[0]);
    if (!pixels || !shape || shape.length !== 4 || !shape.every((d) => d !== undefined))
      return "its sizes are not known";
    const size = shape as readonly [number, number, number, number];
    if (sizeOf(size) > BORDER_LIMIT) return "its border is too large to be looked at";
    const values = new Float64Array(sizeOf(size)).fill(Number.NaN);
    for (const scatter of nodes.toReversed()) {
      const [indices, updates] = [1, 2].map((i) => graph.constant(scatter.inputs[i]));
      if (!indices || !updates) return "what it writes, or where, is not constant";
      if (indices.shape.at(-1) !== 4 || sizeOf(indices.shape) !== 4 * sizeOf(updates.shape))
        return "it writes whole rows";
      const [at, written] = [indices.readSync().toFloat64(), updates.readSync().toFloat64()];
      for (let i = 0; i < written.length; i++) {
        let to = 0;
        for (let axis = 0; axis < 4; axis++) {
          const index = at[4 * i + axis];
          to = to * size[axis] + (index < 0 ? index + size[axis] : index);
        }
        values[to] = written[i];
      }
    }
    const fill = borderNumbers({ sides: pixels, size }, values, Number.isNaN);
    if (!fill) return "it does not write one number per channel on the whole border and nowhere else";
    return padding([last, ...nodes.toReversed()], last.inputs[0], 2, pixels, fill);
  },
};
