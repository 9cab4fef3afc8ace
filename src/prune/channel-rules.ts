import {
  asConstant,
  asParameter,
  type ConvAttrs,
  type Node,
  type ParameterRef,
  type SliceRange,
  type Value,
  where,
} from "../graph/index.ts";
import { type Shape, sizeOf, type TensorSource } from "../tensor/index.ts";
import { Labels } from "./union.ts";

/** Labels of a value, by axis and position. */
export type Axes = readonly (readonly number[])[];

/** What an axis of a parameter is to the channels that lie on it. */
export type ChannelRole = "makes" | "takes" | "carries";

/** The network's channels while they are followed from op to op. */
export class Tracking {
  readonly labels = new Labels();
  readonly axes = new Map<Value, Axes>();
  readonly parameters = new Map<ParameterRef, Axes>();
  private readonly roles = new Map<ParameterRef, Map<number, ChannelRole>>();
  private readonly unsummable = new Map<number, string>();

  /** Labels of what is no channel. */
  still(size: number, reason = "they are positions or samples, not channels"): readonly number[] {
    return new Array<number>(size).fill(this.labels.fixed(reason));
  }

  /** Free labels; a single one has nothing to be cut from. */
  free(shape: Shape): Axes {
    return shape.map((d) =>
      d === 1 ? this.still(1, "it is a single one") : Array.from({ length: d }, () => this.labels.fresh()),
    );
  }

  of(v: Value): Axes {
    return this.axes.get(v)!;
  }

  parameter(ref: ParameterRef): Axes {
    const known = this.parameters.get(ref) ?? this.free(ref.shape);
    this.parameters.set(ref, known);
    return known;
  }

  join(a: readonly number[], b: readonly number[]): void {
    for (const [i, label] of a.entries()) this.labels.join(label, b[i]);
  }

  fix(labels: Iterable<number>, reason: string): void {
    for (const label of labels) this.labels.fix(label, reason);
  }

  isFree(labels: readonly number[]): boolean {
    return labels.some((label) => this.labels.reason(label) === undefined);
  }

  /** Notes what a layer does with the channels on the axis of an operand that is a parameter, or its transpose. */
  use(v: Value, axis: number, role: ChannelRole): void {
    const { node } = v;
    const ref = asParameter(v)?.ref;
    if (ref) {
      const own = this.roles.get(ref) ?? new Map<number, ChannelRole>();
      own.set(axis, role);
      this.roles.set(ref, own);
    } else if (node.op.name === "transpose")
      this.use(node.inputs[0], (node.attrs as { readonly perm: readonly number[] }).perm[axis], role);
    else if (role === "takes") this.forbidSums(this.of(v)[axis], `${where(node)} lies between a weight and its use`);
  }

  roleOf(ref: ParameterRef, axis: number): ChannelRole {
    return this.roles.get(ref)?.get(axis) ?? "carries";
  }

  /** Channels whose followers cannot take several of them as one. */
  forbidSums(labels: Iterable<number>, reason: string): void {
    for (const label of labels) this.unsummable.set(label, reason);
  }

  /** Why channels cannot be merged into one, by root. */
  get sumsForbidden(): ReadonlyMap<number, string> {
    return new Map([...this.unsummable].map(([label, reason]) => [this.labels.find(label), reason]));
  }
}

/** Labels of a node's outputs. */
type Rule = (t: Tracking, node: Node) => readonly Axes[];

const shapes = (node: Node): readonly Shape[] => node.outputs.map(({ shape }) => shape);

const rest = (t: Tracking, shape: Shape, from: number): Axes => shape.slice(from).map((d) => t.still(d));

/** NumPy's broadcasting: axes are aligned at the end, and those of one length go together. */
const elementwise: Rule = (t, node) => {
  const [shape] = shapes(node);
  const operands = node.inputs.map((v) => ({ axes: t.of(v), lead: shape.length - v.shape.length, shape: v.shape }));
  return [
    shape.map((d, axis) => {
      const same = operands.flatMap(({ axes, lead, shape: s }) => (s[axis - lead] === d ? [axes[axis - lead]] : []));
      for (const other of same.slice(1)) t.join(same[0], other);
      return same[0];
    }),
  ];
};

/** Channels on axis 1 pass with the samples, everything behind is pixels. */
const perChannel: Rule = (t, node) => {
  const [n, c] = t.of(node.inputs[0]);
  return [[n, c, ...rest(t, shapes(node)[0], 2)]];
};

/** Vectors per channel of axis 1. */
const channelVectors: Rule = (t, node) => {
  const [x, ...vectors] = node.inputs;
  for (const v of vectors) t.join(t.of(x)[1], t.of(v)[0]);
  return [t.of(x)];
};

const conv: Rule = (t, node) => {
  const [x, w] = node.inputs;
  const [[n, channels], [outputs, inputs, ...kernel]] = [t.of(x), t.of(w)];
  const { groups } = node.attrs as ConvAttrs;
  for (const axis of kernel) t.fix(axis, "they are positions in a kernel, not channels");
  t.use(w, 0, "makes");
  const perOutput = outputs.length / groups;
  if (inputs.length === 1 && groups > 1)
    // Depthwise: a group goes as a whole, with all that it makes.
    for (const [o, label] of outputs.entries()) t.labels.join(channels[Math.floor(o / perOutput)], label);
  else {
    t.use(w, 1, "takes");
    // Groups stay equally wide: the same channels go in each.
    for (const [c, label] of channels.entries()) t.labels.join(inputs[c % inputs.length], label);
    if (groups > 1) for (const [o, label] of outputs.entries()) t.labels.join(outputs[o % perOutput], label);
  }
  return [[n, outputs, ...rest(t, shapes(node)[0], 2)]];
};

const convTransposed: Rule = (t, node) => {
  const [x, w] = node.inputs;
  if ((node.attrs as ConvAttrs).groups > 1) return unknown(t, node);
  const [[n, channels], [inputs, outputs, ...kernel]] = [t.of(x), t.of(w)];
  for (const axis of kernel) t.fix(axis, "they are positions in a kernel, not channels");
  t.use(w, 0, "takes");
  t.use(w, 1, "makes");
  t.join(channels, inputs);
  return [[n, outputs, ...rest(t, shapes(node)[0], 2)]];
};

const linear: Rule = (t, node) => {
  const [x, w] = node.inputs;
  t.join(t.of(x)[1], t.of(w)[1]);
  t.use(w, 0, "makes");
  t.use(w, 1, "takes");
  return [[t.of(x)[0], t.of(w)[0]]];
};

const matmul: Rule = (t, node) => {
  const [a, b] = node.inputs;
  const [left, right] = [t.of(a), t.of(b)];
  t.join(left.at(-1)!, right.at(-2)!);
  t.use(b, b.shape.length - 2, "takes");
  t.use(b, b.shape.length - 1, "makes");
  if (asParameter(a)) t.fix(left.flat(), `${where(node)} has its weight on the left`);
  const [shape] = shapes(node);
  const batch = shape.slice(0, -2).map((d, axis) => {
    const same = [left, right].flatMap((axes) => {
      const own = axes[axis - (shape.length - axes.length)];
      return own?.length === d ? [own] : [];
    });
    for (const other of same.slice(1)) t.join(same[0], other);
    return same[0];
  });
  return [[...batch, left.at(-2)!, right.at(-1)!]];
};

/** Statistics over an axis see how many channels there are. */
const overAxes =
  (whole: boolean): Rule =>
  (t, node) => {
    const { axes, keepDims } = node.attrs as { readonly axes: readonly number[]; readonly keepDims: boolean };
    const x = t.of(node.inputs[0]);
    for (const axis of axes)
      if (whole) t.fix(x[axis], `${where(node)} computes one number of all of them`);
      else t.forbidSums(x[axis], `${where(node)} adds them up`);
    return [
      keepDims ? x.map((own, i) => (axes.includes(i) ? t.still(1) : own)) : x.filter((_, i) => !axes.includes(i)),
    ];
  };

const softmax: Rule = (t, node) => {
  const x = t.of(node.inputs[0]);
  t.fix(x[(node.attrs as { readonly axis: number }).axis], `${where(node)} computes shares of all of them`);
  return [x];
};

const concat: Rule = (t, node) => {
  const { axis } = node.attrs as { readonly axis: number };
  const [first, ...others] = node.inputs.map((v) => t.of(v));
  for (const other of others) for (const [i, own] of other.entries()) if (i !== axis) t.join(first[i], own);
  return [first.map((own, i) => (i === axis ? [first, ...others].flatMap((axes) => axes[i]) : own))];
};

/** What a slice takes of an axis. */
export const slicedPositions = ({ start, end, step = 1 }: SliceRange): number[] =>
  Array.from({ length: Math.ceil((end - start) / step) }, (_, i) => start + i * step);

const slice: Rule = (t, node) => {
  const { ranges } = node.attrs as { readonly ranges: readonly SliceRange[] };
  return [
    t.of(node.inputs[0]).map((own, axis) => {
      const range = ranges.find((r) => r.axis === axis);
      return range ? slicedPositions(range).map((i) => own[i]) : own;
    }),
  ];
};

const pad: Rule = (t, node) => {
  const { before, after } = node.attrs as { readonly before: readonly number[]; readonly after: readonly number[] };
  const filled = (n: number): readonly number[] => t.still(n, `${where(node)} fills them in`);
  return [t.of(node.inputs[0]).map((own, i) => [...filled(before[i]), ...own, ...filled(after[i])])];
};

const gather: Rule = (t, node) => {
  const { axis } = node.attrs as { readonly axis: number };
  const [x, indices] = node.inputs;
  const own = t.of(x);
  t.fix(own[axis], `${where(node)} picks them by number`);
  return [[...own.slice(0, axis), ...indices.shape.map((d) => t.still(d)), ...own.slice(axis + 1)]];
};

const expand: Rule = (t, node) => {
  const [x] = node.inputs;
  const [shape] = shapes(node);
  const lead = shape.length - x.shape.length;
  return [shape.map((d, i) => (x.shape[i - lead] === d ? t.of(x)[i - lead] : t.still(d)))];
};

interface Run {
  readonly from: number[];
  readonly to: number[];
}

/** Axes before and after a reshape, in the shortest runs that hold the same values. */
function runsOf(from: Shape, to: Shape): readonly Run[] {
  const runs: Run[] = [];
  for (let i = 0, j = 0; i < from.length || j < to.length; ) {
    const run: Run = { from: [], to: [] };
    let [a, b] = [1, 1];
    const takeFrom = (): void => {
      a *= from[i];
      run.from.push(i++);
    };
    const takeTo = (): void => {
      b *= to[j];
      run.to.push(j++);
    };
    if (i < from.length) takeFrom();
    if (j < to.length) takeTo();
    while (a !== b) (a < b ? takeFrom : takeTo)();
    runs.push(run);
  }
  return runs;
}

const stridesIn = (dims: Shape): readonly number[] => dims.map((_, i) => sizeOf(dims.slice(i + 1)));

/**
 * Channels that are folded with pixels are that many columns each; channels that are unfolded (into groups, heads) are cut
 * alike in all of them.
 */
const reshape: Rule = (t, node) => {
  const [x] = node.inputs;
  const [shape] = shapes(node);
  const own = t.of(x);
  const made: (readonly number[])[] = new Array(shape.length);
  for (const run of runsOf(x.shape, shape)) {
    const free = run.from.filter((axis) => t.isFree(own[axis]));
    if (free.length > 1)
      for (const axis of free) t.fix(own[axis], `${where(node)} folds two axes that hold channels into one`);
    const [axis] = free;
    // With nothing free, the reason of what is there goes on.
    const known = axis ?? run.from.find((i) => own[i].length > 1);
    const fallback = (d: number): readonly number[] =>
      known === undefined || free.length === 1 ? t.still(d) : new Array<number>(d).fill(own[known][0]);
    for (const j of run.to) made[j] = fallback(shape[j]);
    if (free.length !== 1) continue;
    const dims = run.from.map((i) => x.shape[i]);
    const stride = stridesIn(dims)[run.from.indexOf(axis)];
    const labelAt = (p: number): number => own[axis][Math.floor(p / stride) % own[axis].length];
    const outer = run.to.map((j) => shape[j]);
    const strides = stridesIn(outer);
    const coordinate = (p: number, j: number): number => Math.floor(p / strides[j]) % outer[j];
    const positions = Array.from({ length: sizeOf(outer) }, (_, p) => p);
    const labelsAlong = (j: number): number[] => {
      const found = new Array<number>(outer[j]).fill(-1);
      for (const p of positions) if (found[coordinate(p, j)] < 0) found[coordinate(p, j)] = labelAt(p);
      return found;
    };
    const fits = (j: number): boolean => {
      const along = labelsAlong(j);
      return positions.every((p) => along[coordinate(p, j)] === labelAt(p));
    };
    const all = run.to.map((_, j) => j);
    const j = all.find(fits) ?? all.reduce((best, k) => (outer[k] > outer[best] ? k : best), 0);
    const along = labelsAlong(j);
    for (const p of positions) t.labels.join(along[coordinate(p, j)], labelAt(p));
    made[run.to[j]] = along;
  }
  return [made];
};

const transpose: Rule = (t, node) => [
  (node.attrs as { readonly perm: readonly number[] }).perm.map((i) => t.of(node.inputs[0])[i]),
];

/** An op that nobody has described: all that goes in or comes out stays. */
const unknown: Rule = (t, node) => {
  const reason = `${where(node)} treats channels in a way of its own`;
  for (const v of node.inputs) t.fix(t.of(v).flat(), reason);
  return shapes(node).map((shape) => shape.map((d) => t.still(d, reason)));
};

const isUniform = (source: TensorSource): boolean => {
  const { data } = source.readSync();
  return data.every((v: number | bigint) => v === data[0]);
};

const constant: Rule = (t, node) => {
  const [v] = node.outputs;
  // One value for all channels goes with any number of them.
  const uniform = isUniform(asConstant(v)!.source);
  return [uniform ? t.free(v.shape) : v.shape.map((d) => t.still(d, `${where(node)} has a value for each`))];
};

const rules: Readonly<Record<string, Rule>> = {
  input: (t, node) => [shapes(node)[0].map((d, i) => t.still(d, i === 1 ? "they are the network's input" : undefined))],
  parameter: (t, node) => [t.parameter(asParameter(node.outputs[0])!.ref)],
  constant,
  conv2d: conv,
  conv2dGradInput: convTransposed,
  batchNorm: channelVectors,
  channelAffine: channelVectors,
  channelScale: channelVectors,
  linear,
  matmul,
  maxPool2d: perChannel,
  avgPool2d: perChannel,
  resize2d: perChannel,
  reduceSum: overAxes(false),
  reduceMean: overAxes(true),
  reduceMax: overAxes(true),
  softmax,
  logSoftmax: softmax,
  concat,
  slice,
  pad,
  gather,
  expand,
  reshape,
  transpose,
  ...Object.fromEntries(
    (
      "neg exp log sqrt abs reciprocal erf tanh sigmoid relu floor ceil round roundStraightThrough stopGradient sin cos " +
      "positive nonNegative add sub mul div maximum minimum pow greater equal where cast clip"
    )
      .split(" ")
      .map((name) => [name, elementwise]),
  ),
};

/** Follows the channels through nodes that come in order, inputs before users. */
export function track(nodes: Iterable<Node>): Tracking {
  const t = new Tracking();
  for (const node of nodes) {
    const made = (rules[node.op.name] ?? unknown)(t, node);
    for (const [i, v] of node.outputs.entries()) t.axes.set(v, made[i]);
  }
  return t;
}
