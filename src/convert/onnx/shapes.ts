import { intAttr, intsAttr, type OnnxNode, stringAttr } from "../../onnx/index.ts";
import { onAxis as at, type Dims, squeezed, unsqueezed } from "./dims.ts";

/** What is known where a node stands. */
export interface ShapeContext {
  readonly node: OnnxNode;
  readonly opset: number;
  /** Sizes of the inputs. */
  readonly dims: readonly (Dims | undefined)[];
  /** The numbers of an input that holds sizes or axes; open ones are `undefined`. */
  numbers(input: number): Dims | undefined;
}

type Rule = (context: ShapeContext) => Dims | undefined;

const same: Rule = ({ dims: [x] }) => x;

const broadcast: Rule = ({ dims }) => {
  if (dims.some((d) => !d)) return undefined;
  const all = dims as readonly Dims[];
  const rank = Math.max(...all.map((d) => d.length));
  return Array.from({ length: rank }, (_, i) => {
    const sizes = all.map((d) => (i - rank + d.length < 0 ? 1 : d[i - rank + d.length]));
    const large = sizes.find((d) => d !== undefined && d !== 1);
    return large ?? (sizes.every((d) => d === 1) ? 1 : undefined);
  });
};

/** Sizes behind a moving window. */
function moved(
  { node, dims: [x] }: ShapeContext,
  channels: number | undefined,
  kernel: readonly number[],
): Dims | undefined {
  if (!x || x.length !== kernel.length + 2) return undefined;
  const fill = kernel.map(() => 1);
  const [strides, dilations] = [intsAttr(node, "strides", fill), intsAttr(node, "dilations", fill)];
  const pads = intsAttr(
    node,
    "pads",
    [...kernel, ...kernel].map(() => 0),
  );
  const auto = stringAttr(node, "auto_pad", "NOTSET");
  const round = intAttr(node, "ceil_mode", 0) ? Math.ceil : Math.floor;
  const sizes = x.slice(2).map((size, i) => {
    if (size === undefined) return undefined;
    if (auto.startsWith("SAME")) return Math.ceil(size / strides[i]);
    const padding = auto === "VALID" ? 0 : pads[i] + pads[i + kernel.length];
    const out = round((size + padding - (kernel[i] - 1) * dilations[i] - 1) / strides[i]) + 1;
    // The last window must not lie in the padding alone.
    const limit = round === Math.ceil && (out - 1) * strides[i] >= size + pads[i] ? out - 1 : out;
    return Number.isSafeInteger(limit) && limit >= 0 ? limit : undefined;
  });
  return [x[0], channels, ...sizes];
}

const listOr = ({ node, opset, numbers }: ShapeContext, key: string, input: number, since: number): Dims | undefined =>
  opset >= since ? numbers(input) : node.attrs[key] === undefined ? undefined : intsAttr(node, key);

const known = (dims: Dims | undefined): readonly number[] | undefined =>
  dims?.every((d) => d !== undefined) ? (dims as readonly number[]) : undefined;

const reshape: Rule = ({ node, dims: [x], numbers }) => {
  const to = numbers(1);
  if (!to) return undefined;
  const keepsZero = intAttr(node, "allowzero", 0) === 1;
  const out = to.map((d, i) => (d === 0 && !keepsZero ? x?.[i] : d));
  const rest = out.indexOf(-1);
  if (rest < 0) return out;
  const total = known(x)?.reduce((n, d) => n * d, 1);
  const others = known(out.toSpliced(rest, 1))?.reduce((n, d) => n * d, 1);
  const size = total !== undefined && others ? total / others : undefined;
  return out.with(rest, Number.isInteger(size) ? size : undefined);
};

const pad: Rule = (context) => {
  const { dims, opset } = context;
  const [x] = dims;
  const pads = listOr(context, "pads", 1, 11);
  const axes = opset >= 18 ? known(context.numbers(3)) : undefined;
  if (!x || !pads) return undefined;
  const list = axes?.map((a) => at(a, x.length)) ?? x.map((_, i) => i);
  if (pads.length !== 2 * list.length) return x.map(() => undefined);
  return x.map((d, i) => {
    const which = list.indexOf(i);
    if (which < 0 || d === undefined) return which < 0 ? d : undefined;
    const [begin, end] = [pads[which], pads[which + list.length]];
    return begin === undefined || end === undefined ? undefined : Math.max(0, d + begin + end);
  });
};

const rules: Readonly<Record<string, Rule>> = {
  Conv: (c) => {
    const [o, , ...kernel] = c.dims[1] ?? [];
    const size = c.dims[1] && known(kernel);
    return (size && moved(c, o, size)) ?? c.dims[1]?.map((_, i) => (i === 1 ? o : undefined));
  },
  ConvTranspose: ({ node, dims: [x, w] }) => {
    const channels = w?.[1] === undefined ? undefined : w[1] * intAttr(node, "group", 1);
    const kernel = known(w?.slice(2));
    const pads = intsAttr(node, "pads", []);
    const list = (key: string, fallback: number): readonly number[] =>
      intsAttr(
        node,
        key,
        (kernel ?? []).map(() => fallback),
      );
    const [strides, dilations, extra] = [list("strides", 1), list("dilations", 1), list("output_padding", 0)];
    // Where it says how large its output is, or that somebody else is to find out.
    const isGiven = node.attrs.output_shape !== undefined || stringAttr(node, "auto_pad", "NOTSET") !== "NOTSET";
    const size = (d: number | undefined, i: number): number | undefined => {
      if (d === undefined || !kernel || isGiven) return undefined;
      const cut = (pads[i] ?? 0) + (pads[i + kernel.length] ?? 0);
      const out = (d - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i] - cut;
      return Number.isSafeInteger(out) && out >= 0 ? out : undefined;
    };
    return (w ?? x)?.map((_, i) => (i === 0 ? x?.[0] : i === 1 ? channels : size(x?.[i], i - 2)));
  },
  Resize: ({ dims: [x], numbers }) => {
    const scales = numbers(2);
    return x?.map((d, i) => (d !== undefined && scales?.[i] !== undefined ? Math.floor(d * scales[i]) : undefined));
  },
  MaxPool: (c) => moved(c, c.dims[0]?.[1], intsAttr(c.node, "kernel_shape")),
  AveragePool: (c) => moved(c, c.dims[0]?.[1], intsAttr(c.node, "kernel_shape")),
  GlobalAveragePool: ({ dims: [x] }) => x?.map((d, i) => (i < 2 ? d : 1)),
  GlobalMaxPool: ({ dims: [x] }) => x?.map((d, i) => (i < 2 ? d : 1)),
  Gemm: ({ node, dims: [a, b] }) => {
    const [rows, columns] = [
      intAttr(node, "transA", 0) ? a?.[1] : a?.[0],
      intAttr(node, "transB", 0) ? b?.[0] : b?.[1],
    ];
    return [rows, columns];
  },
  MatMul: ({ dims: [a, b] }) => {
    if (!a || !b || a.length < 2 || b.length < 2) return undefined;
    if (b.length === 2) return [...a.slice(0, -1), b[1]];
    return a.length === b.length
      ? [...a.slice(0, -2).map((d, i) => (d === b[i] ? d : undefined)), a.at(-2), b.at(-1)]
      : undefined;
  },
  Reshape: reshape,
  Flatten: ({ node, dims: [x] }) => {
    if (!x) return [undefined, undefined];
    const axis = at(intAttr(node, "axis", 1), x.length);
    return [x.slice(0, axis), x.slice(axis)].map((part) => known(part)?.reduce((n, d) => n * d, 1));
  },
  Transpose: ({ node, dims: [x] }) =>
    x &&
    intsAttr(
      node,
      "perm",
      x.map((_, i) => x.length - 1 - i),
    ).map((p) => x[p]),
  Unsqueeze: (c) => {
    const axes = known(listOr(c, "axes", 1, 13));
    return c.dims[0] && axes && unsqueezed(c.dims[0], axes);
  },
  Squeeze: (c) => {
    const axes = known(listOr(c, "axes", 1, 13));
    const [x] = c.dims;
    return x && (axes || x.every((d) => d !== undefined)) ? squeezed(x, axes) : undefined;
  },
  Concat: ({ node, dims }) => {
    if (!dims.length || dims.some((d) => d?.length !== dims[0]?.length)) return undefined;
    const all = dims as readonly Dims[];
    const axis = at(intAttr(node, "axis", 1), all[0].length);
    return all[0].map((_, i) => {
      const sizes = all.map((d) => d[i]);
      if (i !== axis) return sizes.find((d) => d !== undefined);
      return known(sizes)?.reduce((n, d) => n + d, 0);
    });
  },
  Pad: pad,
  Slice: (c) => {
    const [x] = c.dims;
    const starts = known(listOr(c, "starts", 1, 10));
    const ends = known(listOr(c, "ends", 2, 10));
    if (!x || !starts || !ends) return x?.map(() => undefined);
    const axes = known(listOr(c, "axes", 3, 10)) ?? starts.map((_, i) => i);
    const steps = (c.opset >= 10 ? known(c.numbers(4)) : undefined) ?? starts.map(() => 1);
    return x.map((d, i) => {
      const which = axes.findIndex((a) => at(a, x.length) === i);
      if (which < 0 || d === undefined) return d;
      if (steps[which] !== 1) return undefined;
      const clamp = (v: number): number => Math.min(d, Math.max(0, v < 0 ? v + d : v));
      return Math.max(0, clamp(ends[which]) - clamp(starts[which]));
    });
  },
  ReduceMean: (c) => {
    const [x] = c.dims;
    const axes = known(listOr(c, "axes", 1, 18));
    if (!x || !axes) return undefined;
    const list = axes.map((a) => at(a, x.length));
    return intAttr(c.node, "keepdims", 1)
      ? x.map((d, i) => (list.includes(i) ? 1 : d))
      : x.filter((_, i) => !list.includes(i));
  },
  Shape: ({ dims: [x] }) => (x ? [x.length] : [undefined]),
  ConstantOfShape: ({ numbers }) => numbers(0),
  Expand: ({ dims: [x], numbers, ...rest }) => {
    const to = numbers(1);
    return x && to && broadcast({ ...rest, numbers, dims: [x, to] });
  },
};

const unary =
  "Relu LeakyRelu PRelu Sigmoid HardSigmoid HardSwish Tanh Elu Selu Celu Softplus Softsign Gelu Mish Swish Erf Exp Log Sqrt " +
  "Neg Abs Floor Ceil Round Sign Reciprocal Identity Cast Clip Dropout BatchNormalization InstanceNormalization " +
  "LayerNormalization GroupNormalization Softmax LogSoftmax ScatterND Not";
const binary = "Add Sub Mul Div Pow Min Max Sum Mean Where Equal Less Greater And Or Mod";

const all = new Map<string, Rule>([
  ...unary.split(" ").map((op): [string, Rule] => [op, same]),
  ...binary.split(" ").map((op): [string, Rule] => [op, broadcast]),
  ...Object.entries(rules),
]);

/** Sizes of a node's first output; `undefined` where not even their number is known. */
export const inferred = (context: ShapeContext): Dims | undefined =>
  context.node.domain ? undefined : all.get(context.node.opType)?.(context);

/** Sizes that a node of shape arithmetic computes of others, of which some may be open. */
export function sizesOf({ node, opset, dims, numbers }: ShapeContext): Dims | undefined {
  if (node.domain) return undefined;
  switch (node.opType) {
    case "Shape":
      return dims[0]?.slice(intAttr(node, "start", 0), intAttr(node, "end", dims[0].length));
    case "Cast":
    case "Identity":
    case "Unsqueeze":
    case "Squeeze":
      return numbers(0);
    case "Concat": {
      const parts = node.inputs.map((_, i) => numbers(i));
      return parts.every((p) => p) ? (parts as readonly Dims[]).flat() : undefined;
    }
    case "Gather": {
      const [from, which] = [numbers(0), known(numbers(1))];
      return from && which?.map((i) => from[at(i, from.length)]);
    }
    case "Slice": {
      const context = { node, opset, dims, numbers };
      const [from, starts, ends] = [
        numbers(0),
        known(listOr(context, "starts", 1, 10)),
        known(listOr(context, "ends", 2, 10)),
      ];
      const step = opset >= 10 ? (numbers(4)?.[0] ?? 1) : 1;
      return from && starts?.length === 1 && ends?.length === 1 && step === 1
        ? from.slice(starts[0], ends[0])
        : undefined;
    }
    default:
      return undefined;
  }
}
