import type { ResizedShapes, SlicedValue } from "../../nn/index.ts";
import { intAttr, intsAttr, type OnnxModel, type OnnxNode } from "../../onnx/index.ts";
import { isFloating, type Shape, sizeOf, Tensor, type TensorSource } from "../../tensor/index.ts";

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

/** Inputs that are weights, by operator. */
const weightInputs: ReadonlyMap<string, readonly number[]> = new Map(
  Object.entries({
    BatchNormalization: [1, 2, 3, 4],
    Conv: [1, 2],
    ConvTranspose: [1, 2],
    Einsum: [0, 1, 2, 3],
    Gather: [0],
    Gemm: [0, 1, 2],
    GroupNormalization: [1, 2],
    InstanceNormalization: [1, 2],
    LayerNormalization: [1, 2],
    MatMul: [0, 1],
    PRelu: [1],
  }),
);

const words = (list: string): ReadonlySet<string> => new Set(list.split(" "));

/** Arithmetic, which biases and scales per channel are written with. */
const arithmetic = words("Add Sub Mul Div Sum");
/** What passes the values of a weight on. */
const carriers = words("Identity Cast Reshape Flatten Transpose Squeeze Unsqueeze");
/** What takes lists of floats that are settings. */
const settings = words("Resize Upsample Clip Pad Dropout Range Constant ConstantOfShape");

/** The floating values of a `Constant` node. */
function floatsOf({ opType, domain, attrs: { value, value_floats: list } }: OnnxNode): Tensor | undefined {
  if (opType !== "Constant" || domain) return undefined;
  if (value instanceof Tensor) return isFloating(value.dtype) ? value : undefined;
  return typeof list === "object" && "floats" in list ? Tensor.float32([list.floats.length], list.floats) : undefined;
}

export interface WithWeights {
  readonly model: OnnxModel;
  /** `Constant` nodes with several numbers that stay what they are, where a layer computes with them. */
  readonly constants: readonly string[];
}

/**
 * Weights that an exporter wrote as `Constant` nodes become initializers of the same name: what layers take as weights,
 * and behind the first layer what is added or multiplied per channel, in both cases also by way of nodes that only pass
 * values on. Other constants (means and scales of the pictures before the first layer, positions, masks) stay.
 */
export function withWeights(model: OnnxModel): WithWeights {
  const constants = new Map<string, Tensor>();
  /** The constant whose values a tensor carries. */
  const origin = new Map<string, string>();
  const fed = new Set(model.inputs.map(({ name }) => name));
  const layered = new Set<string>();
  const weights = new Set<string>();
  const others = new Set<string>();
  for (const node of model.nodes) {
    const { opType, domain, inputs, outputs } = node;
    const values = floatsOf(node);
    if (values) {
      constants.set(outputs[0], values);
      origin.set(outputs[0], outputs[0]);
      continue;
    }
    const source = carriers.has(opType) && !domain ? origin.get(inputs[0]) : undefined;
    if (source !== undefined) {
      origin.set(outputs[0], source);
      continue;
    }
    if (!inputs.some((name) => fed.has(name))) continue;
    const places = domain ? undefined : weightInputs.get(opType);
    const behind = inputs.some((name) => layered.has(name));
    for (const name of outputs) {
      fed.add(name);
      if (places || behind) layered.add(name);
    }
    for (const [i, name] of inputs.entries()) {
      const constant = origin.get(name);
      if (constant === undefined || settings.has(opType)) continue;
      const { shape } = constants.get(constant)!;
      const perChannel = sizeOf(shape) > 1 && sizeOf(shape) === Math.max(...shape);
      if (places?.includes(i) || (behind && arithmetic.has(opType) && perChannel)) weights.add(constant);
      else if (sizeOf(shape) > 1) others.add(constant);
    }
  }
  const kept = new Set(model.outputs.map(({ name }) => name));
  for (const name of weights) if (kept.has(name)) weights.delete(name);
  const left = [...others].filter((name) => !weights.has(name));
  if (!weights.size) return { model, constants: left };
  const nodes = model.nodes.filter((node) => !(floatsOf(node) && weights.has(node.outputs[0])));
  const initializers = new Map<string, TensorSource>(model.initializers);
  for (const name of weights) initializers.set(name, constants.get(name)!);
  return { model: { ...model, nodes, initializers }, constants: left };
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
  nodes: Iterable<OnnxNode>,
  change: (target: readonly number[], node: OnnxNode) => readonly number[],
): OnnxModel {
  const initializers = new Map(model.initializers);
  const changed = new Map<OnnxNode, OnnxNode>();
  for (const node of nodes) {
    const target = node.opType === "Reshape" ? statedTensor(model, node.inputs[1] ?? "") : undefined;
    if (!target || sizeOf(target.shape) > 8) continue;
    const before = [...target.readSync().toFloat64()];
    const after = change(before, node);
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

/** Groups of a convolution by the name of its weight, from its shapes before and after: a depthwise one has as many as channels. */
export const groupsAfter =
  (before: ReadonlyMap<string, Shape>, after: ReadonlyMap<string, Shape>) =>
  (weight: string, groups: number): number => {
    const [then, now] = [before.get(weight), after.get(weight)];
    return then && now && groups > 1 && then[1] === 1 ? (now[0] * groups) / then[0] : groups;
  };

/** A model whose convolutions have these groups. */
export const withGroups = (model: OnnxModel, groupsOf: ReturnType<typeof groupsAfter>): OnnxModel => ({
  ...model,
  nodes: model.nodes.map((node) => {
    const { group } = node.attrs;
    if (node.opType !== "Conv" || typeof group !== "number") return node;
    return { ...node, attrs: { ...node.attrs, group: groupsOf(node.inputs[1], group) } };
  }),
});

const pathOf = ({ name, outputs }: OnnxNode): string => name || outputs[0];

/** Lists of a node by attribute, and the input that states each since some version of the standard operators. */
interface Lists {
  readonly names: readonly (readonly [attribute: string, input: number])[];
  readonly inputsSince: number;
  /** What the lists are of what is left; `undefined` where they stay. */
  after(
    node: OnnxNode,
    lists: readonly (readonly number[] | undefined)[],
    sliced: SlicedValue,
  ): readonly (readonly number[])[] | undefined;
}

const sum = (list: readonly number[]): number => list.reduce((n, d) => n + d, 0);

/** To the end of an axis, whatever its size. */
const END = 2 ** 31 - 1;

const sliceLists: Readonly<Record<string, Lists>> = {
  Split: {
    names: [["split", 1]],
    inputsSince: 13,
    after(node, [given], { shape, keptBefore }) {
      const stated = intAttr(node, "axis", 0);
      const axis = stated < 0 ? stated + shape.length : stated;
      const count = node.outputs.length;
      const sizes = given ?? new Array<number>(count).fill(Math.ceil(shape[axis] / count));
      const ends = sizes.map((_, i) => keptBefore(axis, sum(sizes.slice(0, i + 1))));
      const left = ends.map((end, i) => end - (ends[i - 1] ?? 0));
      return given || left.some((d) => d !== left[0]) ? [left] : undefined;
    },
  },
  Slice: {
    names: [
      ["starts", 1],
      ["ends", 2],
      ["axes", 3],
    ],
    inputsSince: 10,
    // Positions may be computed from shapes, so that what was taken says it, not the file.
    after(_, [starts, ends], { shape, ranges, keptBefore }) {
      const now = ranges.map(({ axis, start, end }) => ({
        axis,
        start: keptBefore(axis, start),
        end: keptBefore(axis, end),
      }));
      const same = now.every(({ start, end }, i) => start === ranges[i].start && end === ranges[i].end);
      // What is computed moves with the size, even if the positions do not.
      const stays = starts && ends ? same : ranges.every(({ axis }) => keptBefore(axis, shape[axis]) === shape[axis]);
      if (stays) return undefined;
      const after = now.map(({ axis, end }, i) => (ranges[i].end === shape[axis] ? END : end));
      return [now.map(({ start }) => start), after, now.map(({ axis }) => axis)];
    },
  },
};

/** A model whose nodes state the sizes and positions that are left, where they state some that have changed. */
export function withSizes(model: OnnxModel, shapes: ResizedShapes): OnnxModel {
  const reshaped = withReshapes(model, model.nodes, (target, node) => {
    const { before, after } = shapes.get(pathOf(node)) ?? {};
    return target.map((d, i) => (before && after && d === before[i] ? after[i] : d));
  });
  const initializers = new Map(reshaped.initializers);
  const stated = (node: OnnxNode, attribute: string, input: number): readonly number[] | undefined => {
    if (attribute in node.attrs) return intsAttr(node, attribute);
    const found = statedTensor(model, node.inputs[input] ?? "");
    return found && [...found.readSync().toFloat64()];
  };
  const nodes = reshaped.nodes.map((node): OnnxNode => {
    const { sliced } = shapes.get(pathOf(node)) ?? {};
    const lists = node.domain ? undefined : sliceLists[node.opType];
    const strides = node.opType === "Slice" ? (stated(node, "steps", 4) ?? []) : [];
    if (!sliced || !lists || strides.some((step) => step !== 1)) return node;
    const before = lists.names.map(([attribute, input]) => stated(node, attribute, input));
    const after = lists.after(node, before, sliced);
    if (!after || after.every((list, i) => list.every((v, k) => v === before[i]?.[k]))) return node;
    const inputs = node.inputs.slice(0, 4);
    const attrs = { ...node.attrs } as Record<string, OnnxNode["attrs"][string]>;
    // Stated sizes take its place.
    delete attrs.num_outputs;
    for (const [i, list] of after.entries()) {
      const [attribute, input] = lists.names[i];
      if (model.opset < lists.inputsSince) attrs[attribute] = list;
      else {
        let name = `${pathOf(node)}.${attribute}`;
        while (initializers.has(name)) name += "_";
        initializers.set(name, Tensor.of("int64", [list.length], list));
        inputs[input] = name;
      }
    }
    return { ...node, inputs, attrs };
  });
  return { ...reshaped, nodes, initializers };
}
