import { floatAttr, intAttr, intsAttr, type OnnxNode, stringAttr } from "../../onnx/index.ts";
import { HostAlgebra, type HostTensor, hostTensor } from "../../reparam/host.ts";
import { isFloating, sizeOf, type TensorSource } from "../../tensor/index.ts";
import {
  affine,
  after,
  concat,
  costOf,
  type Form,
  identity,
  inTwoAxes,
  type Layout,
  pooling,
  sum,
  type Window,
} from "./form.ts";
import type { GraphView } from "./graph.ts";
import { numbers, swapped, valuesOf, viewed } from "./kernels.ts";
import { addedBorder, border, crop, pads } from "./padding-rules.ts";
import { type LinearRule, layoutOf, type Step } from "./step.ts";

const k = new HostAlgebra();

/** One input, one map. */
const mapping = (node: OnnxNode, form: Form, anchor = false): Step => ({
  inputs: [node.inputs[0]],
  nodes: [node],
  cost: costOf(form),
  anchor,
  apply: ([x]) => after(x, form),
});

const leaf = (source: TensorSource): HostTensor => hostTensor(source);

/** A constant vector `[C]`, or why it is none. */
function vector(graph: GraphView, name: string, what: string): HostTensor | string {
  const source = graph.constant(name);
  if (!source) return `its ${what} "${name}" is not constant`;
  if (!isFloating(source.dtype) || source.shape.length !== 1) return `its ${what} is not a list of numbers`;
  return leaf(source);
}

const still: Window = { kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0 };

/** Windows of a node with `kernel_shape` and the like, as those of two axes; `undefined` where they cannot be. */
function windowsOf(node: OnnxNode, kernel: readonly number[]): Form["windows"] | undefined {
  const auto = stringAttr(node, "auto_pad", "NOTSET");
  if (kernel.length > 2 || (auto !== "NOTSET" && auto !== "VALID")) return undefined;
  const ones = kernel.map(() => 1);
  const [strides, dilations] = [intsAttr(node, "strides", ones), intsAttr(node, "dilations", ones)];
  const pads = auto === "VALID" ? [] : intsAttr(node, "pads", []);
  const windows = kernel.map((size, i) => ({
    kernel: size,
    stride: strides[i],
    dilation: size === 1 ? 1 : dilations[i],
    begin: pads[i] ?? 0,
    end: pads[i + kernel.length] ?? 0,
  }));
  if (
    !windows.every(
      (w) => Object.values(w).every(Number.isSafeInteger) && w.stride > 0 && w.dilation > 0 && w.kernel > 0,
    )
  )
    return undefined;
  return (kernel.length === 1 ? [still, windows[0]] : windows) as unknown as Form["windows"];
}

/** Weight and optional bias of a node as leaves. */
function parameters(graph: GraphView, { inputs }: OnnxNode): { weight: TensorSource; bias?: HostTensor } | string {
  const weight = graph.constant(inputs[1]);
  if (!weight) return `its weight "${inputs[1]}" is not constant`;
  if (!isFloating(weight.dtype)) return `its weight is ${weight.dtype}`;
  if (!sizeOf(weight.shape)) return "its weight is empty";
  if (!inputs[2]) return { weight };
  const bias = vector(graph, inputs[2], "bias");
  return typeof bias === "string" ? bias : { weight, bias };
}

const convolution: LinearRule = {
  name: "convolution",
  operators: ["Conv", "ConvTranspose"],
  read(graph, node) {
    const found = parameters(graph, node);
    if (typeof found === "string") return found;
    const { weight, bias } = found;
    const transposed = node.opType === "ConvTranspose";
    const layout = layoutOf(weight.shape.length);
    const groups = intAttr(node, "group", 1);
    const [o, c, ...kernel] = weight.shape;
    if (layout === undefined || layout === 0 || !(groups > 0) || o % groups)
      return "its weight has no shape of a convolution";
    const windows = transposed ? undefined : windowsOf(node, kernel);
    const native = leaf(weight);
    const own = inTwoAxes(transposed ? swapped(native, groups) : native);
    const [outputs, inputs] = transposed ? [c * groups, o] : [o, c * groups];
    if (bias && bias.shape[0] !== outputs) return "its bias does not fit its weight";
    return mapping(
      node,
      {
        layout,
        inputs,
        outputs,
        weight: own,
        bias,
        groups,
        windows: windows ?? [still, still],
        fixed: windows ? undefined : { node, kernel },
      },
      true,
    );
  },
};

const product: LinearRule = {
  name: "matrix product",
  operators: ["Gemm", "MatMul"],
  read(graph, node) {
    const gemm = node.opType === "Gemm";
    const shape = graph.shapeOf(node.inputs[0]);
    if (gemm && intAttr(node, "transA", 0)) return "its input is transposed";
    const found = parameters(graph, { ...node, inputs: node.inputs.slice(0, 2) });
    if (typeof found === "string") return graph.constant(node.inputs[1]) ? found : undefined;
    const { weight } = found;
    if (weight.shape.length !== 2) return "its weight is no matrix";
    const rank = gemm ? 2 : shape?.length;
    if (rank === undefined || rank < 2) return "the number of axes of its input is not known";
    const [alpha, beta] = gemm ? [floatAttr(node, "alpha", 1), floatAttr(node, "beta", 1)] : [1, 1];
    const native = leaf(weight);
    const matrix = gemm && intAttr(node, "transB", 0) ? native : swapped(native);
    const [outputs, inputs] = matrix.shape;
    const bias = gemm && node.inputs[2] ? graph.constant(node.inputs[2]) : undefined;
    if (
      gemm &&
      node.inputs[2] &&
      (!bias || ![1, outputs].includes(sizeOf(bias.shape)) || (bias.shape.at(-1) ?? 1) !== sizeOf(bias.shape))
    )
      return "its bias is not a constant with a number per output";
    const shift = bias && k.repeatOutputs(viewed(leaf(bias), [sizeOf(bias.shape)]), outputs / sizeOf(bias.shape));
    const scaled = alpha === 1 ? matrix : k.times(matrix, alpha);
    return mapping(
      node,
      {
        layout: rank === 2 ? 0 : "last",
        inputs,
        outputs,
        weight: viewed(scaled, [outputs, inputs, 1, 1]),
        bias: shift && (beta === 1 ? shift : k.times(shift, beta)),
        groups: 1,
        windows: [still, still],
      },
      true,
    );
  },
};

const norm: LinearRule = {
  name: "batch norm",
  operators: ["BatchNormalization"],
  read(graph, node) {
    if (node.outputs.slice(1).some((name) => name !== "") || intAttr(node, "training_mode", 0) === 1)
      return "it is in training mode";
    if (intAttr(node, "spatial", 1) !== 1) return "it has statistics of its own for every pixel";
    const found = ["scale", "bias", "mean", "variance"].map((what, i) => vector(graph, node.inputs[i + 1] ?? "", what));
    const bad = found.find((t) => typeof t === "string");
    if (bad !== undefined) return bad as string;
    const [weight, bias, mean, variance] = found as HostTensor[];
    const [channels] = variance.shape;
    if ([weight, bias, mean].some((t) => t.shape[0] !== channels)) return "its parameters differ in length";
    const rank = graph.shapeOf(node.inputs[0])?.length;
    const layout = rank === undefined ? undefined : layoutOf(rank);
    if (layout === undefined) return "the number of axes of its input is not known";
    const map = k.affineOf({ weight, bias, mean, variance, eps: floatAttr(node, "epsilon", 1e-5) });
    return mapping(node, affine(layout, channels, map));
  },
};

/** A constant with one number per channel of a value, or one for all; or why it is not. */
function perChannel(
  graph: GraphView,
  value: string,
  source: TensorSource,
): { layout: Layout | undefined; channels: number | undefined; values: HostTensor } | string {
  const { shape } = source;
  const size = sizeOf(shape);
  const dims = graph.shapeOf(value);
  if (!isFloating(source.dtype)) return `it is of ${source.dtype}`;
  const flat = viewed(hostTensor(flattened(source)), [size]);
  if (size === 1 && shape.length <= (dims?.length ?? 0))
    return { layout: undefined, channels: undefined, values: flat };
  if (!dims) return "the number of axes of its input is not known";
  if (shape.length > dims.length) return "it makes its input larger";
  const axis = shape.findIndex((d) => d !== 1) + dims.length - shape.length;
  if (shape.filter((d) => d !== 1).length !== 1) return "it has another number for every pixel";
  if (dims[axis] !== size)
    return dims[axis] === undefined ? "the number of channels of its input is not known" : "it makes its input larger";
  if (axis === 1 && dims.length !== 3) return { layout: layoutOf(dims.length), channels: size, values: flat };
  if (axis === 1) return { layout: 1, channels: size, values: flat };
  if (axis === dims.length - 1) return { layout: "last", channels: size, values: flat };
  return "its numbers are not those of channels";
}

const flattened = (source: TensorSource): TensorSource => {
  const shape = [sizeOf(source.shape)];
  return {
    dtype: source.dtype,
    shape,
    read: async () => (await source.read()).reshape(shape),
    readSync: () => source.readSync().reshape(shape),
  };
};

const inverse = (values: HostTensor): HostTensor => numbers(Array.from(valuesOf(values), (v) => 1 / v));

const arithmetic: LinearRule = {
  name: "arithmetic",
  operators: ["Add", "Sub", "Mul", "Div"],
  read(graph, node) {
    const { opType, inputs } = node;
    const constants = inputs.map((name) => graph.constant(name));
    if (constants.every((c) => c)) return undefined;
    const which = constants.findIndex((c) => c);
    if (which < 0) return opType === "Add" || opType === "Sub" ? added(graph, node) : undefined;
    const value = inputs[1 - which];
    const bordered = opType === "Add" ? addedBorder(graph, node, value, constants[which]!) : undefined;
    if (bordered) return bordered;
    const found = perChannel(graph, value, constants[which]!);
    if (typeof found === "string") return `its constant "${inputs[which]}" cannot be merged: ${found}`;
    const { layout, channels, values } = found;
    const negated = () => k.times(values, -1);
    const minus = numbers([-1]);
    const maps: Readonly<Record<string, () => Form | string>> = {
      Add: () => affine(layout, channels, { shift: values }),
      Mul: () => affine(layout, channels, { scale: values }),
      Sub: () =>
        which === 1
          ? affine(layout, channels, { shift: negated() })
          : affine(layout, channels, { scale: minus, shift: values }),
      Div: () => {
        if (which === 0) return "it divides by what is fed";
        return valuesOf(values).includes(0)
          ? "it divides by zero"
          : affine(layout, channels, { scale: inverse(values) });
      },
    };
    const form = maps[opType]();
    if (typeof form === "string") return form;
    return { ...mapping(node, form), inputs: [value] };
  },
};

/** Branches of one value that come out in one size, which {@link sum} sees to: a sum could also repeat a smaller one. */
function added(graph: GraphView, node: OnnxNode): Step {
  const { opType, inputs } = node;
  const channels = graph.shapeOf(inputs[0])?.[1] ?? 1;
  return {
    inputs,
    nodes: [node],
    cost: (inputs.length - 1) * channels,
    apply: ([first, ...others]) => {
      const signed =
        opType === "Sub" ? others.map((f) => after(f, affine(undefined, undefined, { scale: numbers([-1]) }))) : others;
      const bad = signed.find((f) => typeof f === "string");
      return bad === undefined ? sum([first, ...(signed as Form[])]) : (bad as string);
    },
  };
}

const sums: LinearRule = {
  name: "sum",
  operators: ["Sum"],
  read(graph, node) {
    if (node.inputs.length < 2 || node.inputs.some((name) => graph.constant(name))) return undefined;
    return added(graph, node);
  },
};

const concatenation: LinearRule = {
  name: "concatenation",
  operators: ["Concat"],
  read(graph, node) {
    if (node.inputs.some((name) => graph.constant(name))) return undefined;
    const rank = graph.shapeOf(node.outputs[0])?.length ?? graph.shapeOf(node.inputs[0])?.length;
    if (rank === undefined) return undefined;
    const axis = intAttr(node, "axis", 1);
    const at = axis < 0 ? axis + rank : axis;
    if (at !== 1 && at !== rank - 1) return undefined;
    const layout = at === 1 ? layoutOf(rank) : "last";
    const sizes = node.inputs.map((name) => graph.shapeOf(name)?.[at]);
    return {
      inputs: node.inputs,
      nodes: [node],
      cost: 0,
      apply: (forms) => {
        const placed = forms.map((f) => after(f, { ...identity, layout }));
        const bad = placed.find((f) => typeof f === "string");
        if (bad !== undefined) return bad as string;
        const channels = (placed as Form[])
          .map((f, i) => f.inputs ?? (f.weight ? undefined : sizes[i]))
          .find((n) => n !== undefined);
        return channels === undefined ? "the number of channels is not known" : concat(placed as Form[], channels);
      },
    };
  },
};

const pool: LinearRule = {
  name: "average pooling",
  operators: ["AveragePool"],
  read(graph, node) {
    const shape = graph.shapeOf(node.inputs[0]);
    const kernel = intsAttr(node, "kernel_shape");
    const windows = windowsOf(node, kernel);
    const channels = shape?.[1];
    if (!windows || !shape || channels === undefined) return "its sizes are not known";
    if (intAttr(node, "ceil_mode", 0)) return "its last window may reach beyond the picture";
    if (windows.some((w) => w.begin || w.end) && !intAttr(node, "count_include_pad", 0))
      return "it counts only pixels inside the picture, so that its weights differ at the border";
    const layout = layoutOf(shape.length);
    if (layout === undefined) return "its sizes are not known";
    return mapping(node, pooling(channels, layout, windows));
  },
};

const passing: LinearRule = {
  name: "identity",
  operators: ["Identity", "Dropout"],
  read(graph, node) {
    if (node.outputs.slice(1).some((name) => name !== "" && (graph.consumers(name).size || graph.isOutput(name))))
      return "its mask is used";
    if (node.inputs[2]) {
      const training = graph.listOf(node.inputs[2]);
      if (training?.[0] !== 0) return "it is in training mode";
    }
    return { ...mapping(node, identity), nodes: [node] };
  },
};

/** How operators are read as linear maps. */
export const linearRules: readonly LinearRule[] = [
  convolution,
  product,
  norm,
  arithmetic,
  sums,
  concatenation,
  pool,
  passing,
  pads,
  crop,
  border,
];
