import {
  type AttributeValue,
  intAttr,
  intsAttr,
  type OnnxModel,
  type OnnxNode,
  stringAttr,
} from "../../src/onnx/index.ts";
import { type Shape, sizeOf, stridesOf, Tensor } from "../../src/tensor/index.ts";

/*
 * What an ONNX model computes, in float64 by plain loops straight from the operators' definitions: an independent source
 * for models that the runtime has in float32 only. Only operators that the tests use.
 */

const made = (shape: Shape, value: (at: readonly number[], flat: number) => number): Tensor => {
  const data = new Float64Array(sizeOf(shape));
  const at = shape.map(() => 0);
  for (let i = 0; i < data.length; i++) {
    data[i] = value(at, i);
    for (let axis = shape.length - 1; axis >= 0 && ++at[axis] === shape[axis]; axis--) at[axis] = 0;
  }
  return new Tensor("float64", shape, data);
};

/** The value at an index, of which axes of one value are read again and again and missing ones left out. */
function reader(t: Tensor): (at: readonly number[]) => number {
  const strides = stridesOf(t.shape).map((s, i) => (t.shape[i] === 1 ? 0 : s));
  return (at) => {
    let flat = 0;
    for (let i = strides.length, j = at.length; i > 0; ) flat += strides[--i] * at[--j];
    return Number(t.data[flat]);
  };
}

const broadcast = (f: (a: number, b: number) => number, a: Tensor, b: Tensor): Tensor => {
  const rank = Math.max(a.shape.length, b.shape.length);
  const sides = [a, b].map((t) => [...new Array<number>(rank - t.shape.length).fill(1), ...t.shape]);
  const [x, y] = [reader(a), reader(b)];
  return made(
    sides[0].map((d, i) => (d === 1 ? sides[1][i] : d)),
    (at) => f(x(at), y(at)),
  );
};

/** Strides, dilations and pads of a node over some axes. */
function geometry(node: OnnxNode, axes: number) {
  const ones = new Array<number>(axes).fill(1);
  const pads = intsAttr(
    node,
    "pads",
    [...ones, ...ones].map(() => 0),
  );
  return {
    strides: intsAttr(node, "strides", ones),
    dilations: intsAttr(node, "dilations", ones),
    begin: pads.slice(0, axes),
    end: pads.slice(axes),
  };
}

type Window = ReturnType<typeof geometry>;

const outSize = ({ strides, dilations, begin, end }: Window, size: Shape, kernel: Shape): number[] =>
  size.map((d, i) => Math.floor((d + begin[i] + end[i] - (kernel[i] - 1) * dilations[i] - 1) / strides[i]) + 1);

/** For each position of a kernel the one of the input it lies on, if it lies inside. */
function* taps({ strides, dilations, begin }: Window, at: readonly number[], size: Shape, kernel: Shape) {
  for (let flat = 0; flat < sizeOf(kernel); flat++) {
    let inside = true;
    const position: number[] = [];
    for (let axis = kernel.length - 1, rest = flat; axis >= 0; axis--) {
      const p = at[axis] * strides[axis] - begin[axis] + (rest % kernel[axis]) * dilations[axis];
      rest = Math.floor(rest / kernel[axis]);
      inside &&= p >= 0 && p < size[axis];
      position[axis] = p;
    }
    if (inside) yield { flat, position };
  }
}

const offset = (position: readonly number[], size: Shape): number => position.reduce((n, p, i) => n * size[i] + p, 0);

function conv(node: OnnxNode, x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const [samples, channels, ...size] = x.shape;
  const [outputs, taken, ...kernel] = w.shape;
  const window = geometry(node, size.length);
  const rows = outputs / intAttr(node, "group", 1);
  const [area, pixels] = [sizeOf(kernel), sizeOf(size)];
  return made([samples, outputs, ...outSize(window, size, kernel)], ([n, o, ...at]) => {
    let sum = bias ? Number(bias.data[o]) : 0;
    const first = Math.floor(o / rows) * taken;
    for (const { flat, position } of taps(window, at, size, kernel))
      for (let c = 0; c < taken; c++)
        sum +=
          Number(w.data[(o * taken + c) * area + flat]) *
          Number(x.data[(n * channels + first + c) * pixels + offset(position, size)]);
    return sum;
  });
}

function convTranspose(node: OnnxNode, x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const [samples, channels, ...size] = x.shape;
  const [, perGroup, ...kernel] = w.shape;
  const groups = intAttr(node, "group", 1);
  const window = geometry(node, size.length);
  const extra = intsAttr(
    node,
    "output_padding",
    size.map(() => 0),
  );
  const out = size.map(
    (d, i) =>
      (d - 1) * window.strides[i] +
      (kernel[i] - 1) * window.dilations[i] +
      1 +
      extra[i] -
      window.begin[i] -
      window.end[i],
  );
  const data = new Float64Array(samples * perGroup * groups * sizeOf(out));
  // Every value of the input is spread over the outputs that a convolution would have read it from.
  made(x.shape, ([n, c, ...at], flat) => {
    const group = Math.floor(c / (channels / groups));
    for (const { flat: tap, position } of taps(window, at, out, kernel))
      for (let o = 0; o < perGroup; o++)
        data[((n * groups + group) * perGroup + o) * sizeOf(out) + offset(position, out)] +=
          Number(x.data[flat]) * Number(w.data[(c * perGroup + o) * sizeOf(kernel) + tap]);
    return 0;
  });
  return made([samples, perGroup * groups, ...out], ([, o], flat) => data[flat] + (bias ? Number(bias.data[o]) : 0));
}

function pool(node: OnnxNode, x: Tensor): Tensor {
  const [samples, channels, ...size] = x.shape;
  const kernel = intsAttr(node, "kernel_shape");
  const window = geometry(node, size.length);
  const all = intAttr(node, "count_include_pad", 0) === 1;
  return made([samples, channels, ...outSize(window, size, kernel)], ([n, c, ...at]) => {
    const inside = [...taps(window, at, size, kernel)];
    const values = inside.map(({ position }) =>
      Number(x.data[(n * channels + c) * sizeOf(size) + offset(position, size)]),
    );
    return values.reduce((a, b) => a + b, 0) / (all ? sizeOf(kernel) : inside.length);
  });
}

function norm(node: OnnxNode, [x, ...parameters]: readonly Tensor[]): Tensor {
  const epsilon = (node.attrs.epsilon as { float?: number } | undefined)?.float ?? 1e-5;
  return made(x.shape, ([, c], i) => {
    const [scale, bias, mean, variance] = parameters.map((t) => Number(t.data[c]));
    return ((Number(x.data[i]) - mean) / Math.sqrt(variance + epsilon)) * scale + bias;
  });
}

function matMul(a: Tensor, b: Tensor): Tensor {
  const [x, y] = [reader(a), reader(b)];
  const depth = a.shape.at(-1)!;
  const lead = a.shape.length >= b.shape.length ? a.shape.slice(0, -2) : b.shape.slice(0, -2);
  return made([...lead, a.shape.at(-2)!, b.shape.at(-1)!], (at) => {
    const [rest, row, column] = [at.slice(0, -2), at.at(-2)!, at.at(-1)!];
    let sum = 0;
    for (let i = 0; i < depth; i++) sum += x([...rest, row, i]) * y([...rest, i, column]);
    return sum;
  });
}

const transposed = (t: Tensor): Tensor => {
  const read = reader(t);
  return made([t.shape[1], t.shape[0]], ([i, j]) => read([j, i]));
};

function gemm(node: OnnxNode, [a, b, c]: readonly Tensor[]): Tensor {
  const factor = (key: string): number => (node.attrs[key] as { float?: number } | undefined)?.float ?? 1;
  const sides = [
    intAttr(node, "transA", 0) ? transposed(a) : a,
    intAttr(node, "transB", 0) ? transposed(b) : b,
  ] as const;
  const scaled = matMul(...sides).map((v) => v * factor("alpha"));
  return c ? broadcast((p, q) => p + factor("beta") * q, scaled, c) : scaled;
}

function concat(node: OnnxNode, parts: readonly Tensor[]): Tensor {
  const rank = parts[0].shape.length;
  const axis = (intAttr(node, "axis", 1) + rank) % rank;
  const owner = parts.flatMap((t, which) => Array.from({ length: t.shape[axis] }, (_, i) => [which, i] as const));
  const readers = parts.map(reader);
  return made(parts[0].shape.with(axis, owner.length), (at) => {
    const [which, i] = owner[at[axis]];
    return readers[which](at.with(axis, i));
  });
}

function pad(x: Tensor, pads: Tensor, value?: Tensor): Tensor {
  const [list, rank, read] = [pads.toFloat64(), x.shape.length, reader(x)];
  return made(
    x.shape.map((d, i) => d + list[i] + list[rank + i]),
    (at) => {
      const from = at.map((p, i) => p - list[i]);
      return from.every((p, i) => p >= 0 && p < x.shape[i]) ? read(from) : Number(value?.data[0] ?? 0);
    },
  );
}

function slice([x, starts, ends, axes]: readonly Tensor[]): Tensor {
  const [start, shape, read] = [x.shape.map(() => 0), [...x.shape], reader(x)];
  for (const [i, a] of axes.toFloat64().entries()) {
    const axis = (a + x.shape.length) % x.shape.length;
    const [from, to] = [starts, ends].map((t) => {
      const v = t.toFloat64()[i];
      return Math.min(x.shape[axis], v < 0 ? v + x.shape[axis] : v);
    });
    [start[axis], shape[axis]] = [from, to - from];
  }
  return made(shape, (at) => read(at.map((p, i) => p + start[i])));
}

function reshape(x: Tensor, to: Tensor): Tensor {
  const shape = [...to.toFloat64()].map((d, i) => (d === 0 ? x.shape[i] : d));
  const rest = -x.size / sizeOf(shape);
  return x.reshape(shape.map((d) => (d === -1 ? rest : d)));
}

const operators: Readonly<Record<string, (node: OnnxNode, inputs: readonly Tensor[]) => Tensor>> = {
  Conv: (node, [x, w, b]) => conv(node, x, w, b),
  ConvTranspose: (node, [x, w, b]) => convTranspose(node, x, w, b),
  AveragePool: (node, [x]) => pool(node, x),
  GlobalAveragePool: (_, [x]) => {
    const [values, pixels] = [x.toFloat64(), sizeOf(x.shape.slice(2))];
    const mean = (i: number): number => values.subarray(i, i + pixels).reduce((a, b) => a + b, 0) / pixels;
    return made([...x.shape.slice(0, 2), ...x.shape.slice(2).map(() => 1)], (_at, i) => mean(i * pixels));
  },
  BatchNormalization: norm,
  MatMul: (_, [a, b]) => matMul(a, b),
  Gemm: gemm,
  Add: (_, [a, b]) => broadcast((x, y) => x + y, a, b),
  Sub: (_, [a, b]) => broadcast((x, y) => x - y, a, b),
  Mul: (_, [a, b]) => broadcast((x, y) => x * y, a, b),
  Div: (_, [a, b]) => broadcast((x, y) => x / y, a, b),
  Sum: (_, inputs) => inputs.reduce((a, b) => broadcast((x, y) => x + y, a, b)),
  Concat: concat,
  Pad: (_, [x, pads, value]) => pad(x, pads, value),
  Slice: (_, inputs) => slice(inputs),
  Reshape: (_, [x, to]) => reshape(x, to),
  Flatten: (_, [x]) => x.reshape([x.shape[0], x.size / x.shape[0]]),
  Identity: (_, [x]) => x,
  Dropout: (_, [x]) => x,
  Relu: (_, [x]) => x.map((v) => Math.max(0, v)),
  Constant: ({ attrs }) => attrs.value as Tensor,
};

/** All values that a model computes of its inputs, by name. */
export function interpret(model: OnnxModel, feeds: Readonly<Record<string, Tensor>>): ReadonlyMap<string, Tensor> {
  const values = new Map<string, Tensor>(Object.entries(feeds));
  for (const [name, source] of model.initializers) values.set(name, source.readSync());
  for (const node of model.nodes) {
    const compute = operators[node.opType];
    if (!compute || node.domain || stringAttr(node, "auto_pad", "NOTSET") !== "NOTSET")
      throw new Error(`the interpreter does not know ${node.opType} ${node.name}`);
    // Inputs are only left out at the end.
    const given = node.inputs.filter((name) => name !== "");
    const inputs = given.map((name) => {
      const value = values.get(name);
      if (!value) throw new Error(`${node.opType} ${node.name} reads "${name}", which nothing makes before it`);
      return value;
    });
    values.set(node.outputs[0], compute(node, inputs));
  }
  return values;
}

/** The weights of a model in `Constant` nodes, as some exporters write them. */
export function withConstantNodes(model: OnnxModel): OnnxModel {
  const constants = [...model.initializers].map(([name, source]): OnnxNode => {
    const attrs: Record<string, AttributeValue> = { value: source.readSync() };
    return { opType: "Constant", name: `of ${name}`, inputs: [], outputs: [name], attrs };
  });
  return { ...model, nodes: [...constants, ...model.nodes], initializers: new Map() };
}
