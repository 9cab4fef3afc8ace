import type { OnnxNode } from "../../onnx/index.ts";
import type { Affine } from "../../reparam/algebra.ts";
import { HostAlgebra, type HostTensor } from "../../reparam/host.ts";
import { commonDivisor, composed, numbers, regrouped, valuesOf, viewed, widened } from "./kernels.ts";

const k = new HostAlgebra();

/**
 * Where the channels of a value are: on its last axis (of a matrix product), or on its second with so many axes behind
 * it. A matrix `[N, C]` is the latter with none.
 */
export type Layout = "last" | 0 | 1 | 2 | 3;

/** How a kernel moves along one axis. Negative padding cuts off. */
export interface Window {
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly begin: number;
  readonly end: number;
}

/** A kernel's one value, at every position. */
const still: Window = { kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0 };

/**
 * What some nodes compute of one value, as a convolution: y = w ∗ x + b, x padded with zeros. Without `weight` every
 * channel is only multiplied by its `scale`. Vectors hold a value per channel, or one for all.
 */
export interface Form {
  /** Absent where any will do. */
  readonly layout?: Layout | undefined;
  /** Absent where any number will do, and as many come in as go out. */
  readonly inputs?: number | undefined;
  readonly outputs?: number | undefined;
  /** `[O, C/g, h, w]` */
  readonly weight?: HostTensor | undefined;
  readonly scale?: HostTensor | undefined;
  readonly bias?: HostTensor | undefined;
  readonly groups: number;
  readonly windows: readonly [Window, Window];
  /** A node whose geometry stays what it is (transposed or three-dimensional convolution, automatic padding). */
  readonly fixed?: { readonly node: OnnxNode; readonly kernel: readonly number[] } | undefined;
}

/** A value as it is. */
export const identity: Form = { groups: 1, windows: [still, still] };

/** A value multiplied and shifted by channel. */
export function affine(
  layout: Layout | undefined,
  channels: number | undefined,
  map: Partial<Affine<HostTensor>>,
): Form {
  return { ...identity, layout, inputs: channels, outputs: channels, scale: map.scale, bias: map.shift };
}

/** Multiply-adds per position of the output. */
export const costOf = ({ weight, scale, bias, outputs = 1 }: Form): number =>
  weight ? weight.shape.reduce((n, d) => n * d, 1) : scale || bias ? outputs : 0;

/** Positions of the input per position of the output. */
export const strideOf = ({ windows: [a, b] }: Form): number => a.stride * b.stride;

const isStill = ({ kernel, stride, begin, end }: Window): boolean =>
  kernel === 1 && stride === 1 && begin === 0 && end === 0;

const isPointwise = ({ windows, fixed }: Form): boolean => !fixed && windows.every(isStill);

const isZero = (bias: HostTensor | undefined): boolean => !bias || valuesOf(bias).every((v) => v === 0);

/** A value with zeros, or with one value per channel, around it. */
export function padded(
  first: Form,
  sides: readonly (readonly [begin: number, end: number])[],
  fill: HostTensor,
): Form | string {
  const positive = sides.some((side) => side.some((n) => n > 0));
  if (first.fixed) return "padding does not go into a convolution of this kind";
  if (positive && !first.windows.every((w) => w.kernel === 1 && w.stride === 1 && w.begin >= 0 && w.end >= 0))
    return "what is padded is a convolution of more than one pixel, whose values at the border would be others";
  if (positive) {
    // A 1×1 convolution of padded zeros gives its bias, so that is what has to stand there.
    const [border, bias] = [valuesOf(fill), first.bias ? valuesOf(first.bias) : new Float64Array(1)];
    const n = Math.max(border.length, bias.length);
    const [at, of] = [border, bias].map((v) => (i: number) => v[v.length === 1 ? 0 : i]);
    const largest = Math.max(...bias.map(Math.abs), ...border.map(Math.abs));
    for (let i = 0; i < n; i++)
      if (!(Math.abs(at(i) - of(i)) <= 1e-5 * largest))
        return `it is padded with ${at(i)} where what comes before gives ${of(i)} for zeros, so that the border would differ`;
  }
  const windows = first.windows.map((w, i) => ({
    ...w,
    begin: w.begin + w.stride * sides[i][0],
    end: w.end + w.stride * sides[i][1],
  }));
  return { ...first, windows: windows as unknown as Form["windows"] };
}

/** Vectors combined channel by channel. */
const times = (a: HostTensor | undefined, b: HostTensor | undefined): HostTensor | undefined => {
  if (!a || !b) return a ?? b;
  const n = Math.max(a.shape[0], b.shape[0]);
  return k.scaleOutputs(widened(k, a, n), widened(k, b, n));
};
const plus = (a: HostTensor | undefined, b: HostTensor | undefined): HostTensor | undefined => {
  if (!a || !b) return a ?? b;
  const n = Math.max(a.shape[0], b.shape[0]);
  return k.add(widened(k, a, n), widened(k, b, n));
};

/** First one and then the other as one; or the reason why they cannot be. */
export function after(first: Form, second: Form): Form | string {
  if (first.layout !== undefined && second.layout !== undefined && first.layout !== second.layout)
    return "channels lie on different axes";
  if (first.outputs !== undefined && second.inputs !== undefined && first.outputs !== second.inputs)
    return `${first.outputs} channels come in where ${second.inputs} are expected`;
  const layout = first.layout ?? second.layout;
  const inputs = first.inputs ?? (first.weight ? undefined : second.inputs);
  const outputs = second.outputs ?? first.outputs;
  const fixed = first.fixed ?? second.fixed;
  if (first.fixed && !isPointwise(second)) return "only a 1×1 convolution can follow one of this kind";
  if (second.fixed && !(isPointwise(first) && isZero(first.bias)))
    return "only a 1×1 convolution without bias can come before one of this kind";
  const windows = fixed ? (first.fixed ? first : second).windows : second.windows.map((w, i) => joint(first, w, i));
  for (const w of windows) if (typeof w === "string") return w;
  const base = { layout, inputs, outputs, fixed, windows: windows as unknown as Form["windows"] };
  const { weight: u, scale: s, bias: b } = first;
  const { weight: v, scale: t, bias: c } = second;
  if (!v) {
    const bias = plus(b && times(b, t), c);
    if (!u) return { ...base, groups: 1, scale: times(s, t), bias };
    const rows = u.shape[0];
    return {
      ...base,
      groups: first.groups,
      weight: t ? k.scaleOutputs(u, widened(k, t, rows)) : u,
      bias: bias && widened(k, bias, rows),
    };
  }
  const taken = v.shape[1] * second.groups;
  const shift = b && widened(k, b, taken);
  const bias = shift ? k.shiftInputs(v, shift, c && widened(k, c, v.shape[0]), second.groups) : c;
  if (!u)
    return {
      ...base,
      groups: second.groups,
      weight: s ? k.scaleInputs(v, widened(k, s, taken), second.groups) : v,
      bias,
    };
  // Zeros of a dilation are only written out along an axis where both have more than one value.
  const both = [0, 1].map((i) => !fixed && first.windows[i].kernel > 1 && second.windows[i].kernel > 1);
  const rates = (rate: (i: 0 | 1) => number) => [both[0] ? rate(0) : 1, both[1] ? rate(1) : 1] as const;
  const p = fixed
    ? u
    : k.dilate(
        u,
        rates((i) => first.windows[i].dilation),
      );
  const q = fixed
    ? v
    : k.dilate(
        v,
        rates((i) => second.windows[i].dilation * first.windows[i].stride),
      );
  const isOne = p.shape[2] * p.shape[3] === 1;
  const weight =
    isOne && first.groups === second.groups
      ? k.pointwiseThen(p, q, second.groups)
      : composed(p, q, first.groups, second.groups);
  return { ...base, groups: commonDivisor([first.groups, second.groups]), weight, bias };
}

/** How both kernels move along one axis; or why not as one. */
function joint({ windows, bias }: Form, w: Window, axis: number): Window | string {
  const u = windows[axis];
  const pads = w.begin > 0 || w.end > 0;
  if (pads) {
    if (u.kernel > 1)
      return "the second one pads what a convolution of more than one pixel gives: its border would differ";
    if (u.stride > 1) return "the second one pads what the first one gives with a stride: its border would differ";
    if ((w.begin > 0 && u.begin < 0) || (w.end > 0 && u.end < 0))
      return "what is cut off would be seen again where it is padded";
    if (!isZero(bias))
      return "padding stands before a bias: the second one pads with zeros where the first one gives its shift";
  }
  const [begin, end] = [u.begin + u.stride * w.begin, u.end + u.stride * w.end];
  const stride = u.stride * w.stride;
  if (w.kernel === 1) return { ...u, stride, begin, end };
  if (u.kernel === 1) return { kernel: w.kernel, dilation: w.dilation * u.stride, stride, begin, end };
  const reach = (u.kernel - 1) * u.dilation + (w.kernel - 1) * w.dilation * u.stride;
  return { kernel: reach + 1, dilation: 1, stride, begin, end };
}

/** Several maps of one value brought to one geometry; or the reason why they have none in common. */
function aligned(forms: readonly Form[]): Pick<Frame, "forms" | "windows"> | string {
  const fixed = forms.filter((f) => f.fixed);
  if (fixed.length) {
    if (fixed.length < forms.length) return "a convolution of this kind is only added to another of the same kind";
    if (new Set(fixed.map((f) => geometryOf(f.fixed!.node, f.weight!))).size > 1)
      return "their sizes, strides or padding differ";
    return { forms, windows: forms[0].windows };
  }
  const made: Window[] = [];
  const places: { readonly rate: number; readonly at: number; readonly size: number }[][] = [];
  for (const axis of [0, 1]) {
    const all = forms.map((f) => f.windows[axis]);
    if (new Set(all.map((w) => w.stride)).size > 1)
      return `their strides differ: ${all.map((w) => w.stride).join(" and ")}`;
    const reach = (w: Window): number => (w.kernel - 1) * w.dilation + 1;
    if (new Set(all.map((w) => reach(w) - w.begin - w.end)).size > 1)
      return `their outputs differ in size: ${all.map((w) => `kernel ${reach(w)}, padding ${w.begin} and ${w.end}`).join("; ")}`;
    const [begin, end] = [Math.max(...all.map((w) => w.begin)), Math.max(...all.map((w) => w.end))];
    const rate =
      commonDivisor(all.flatMap((w) => [begin - w.begin, end - w.end, ...(w.kernel > 1 ? [w.dilation] : [])])) || 1;
    const full = reach(all[0]) + begin - all[0].begin + end - all[0].end;
    const size = (full - 1) / rate + 1;
    made.push({ kernel: size, stride: all[0].stride, dilation: rate, begin, end });
    places.push(all.map((w) => ({ rate: w.kernel > 1 ? w.dilation / rate : 1, at: (begin - w.begin) / rate, size })));
  }
  const [down, along] = places;
  return {
    forms: forms.map((form, i) => ({
      ...form,
      place: (w) => {
        const dilated = k.dilate(w, [down[i].rate, along[i].rate]);
        return k.padKernel(dilated, [down[i].size, along[i].size], [down[i].at, along[i].at]);
      },
    })),
    windows: [made[0], made[1]],
  };
}

/** A form with the way to bring its kernel to the common size. */
interface Placed extends Form {
  readonly place?: (weight: HostTensor) => HostTensor;
}

const geometryOf = ({ opType, attrs }: OnnxNode, { shape }: HostTensor): string =>
  JSON.stringify([opType, Object.entries(attrs).sort(([a], [b]) => (a < b ? -1 : 1)), shape.slice(1)]);

/** The weight of a form in `groups` groups; that of one that only multiplies has its scale in one place. */
function denseWeight({ weight, scale, place, ...form }: Placed, channels: number, groups: number): HostTensor {
  const own = weight ? regrouped(weight, form.groups, groups) : k.identityKernel(1, channels, groups);
  const scaled = scale && !weight ? k.scaleOutputs(own, widened(k, scale, channels)) : own;
  return place ? place(scaled) : scaled;
}

/** The groups that a form fits into: its own, or one per channel. */
const groupsOf = (form: Form, channels: number): number => (form.weight ? form.groups : channels);

const agree = <T>(values: readonly (T | undefined)[]): { readonly value?: T | undefined } | undefined => {
  const known = [...new Set(values.filter((v) => v !== undefined))];
  return known.length > 1 ? undefined : { value: known[0] };
};

interface Frame {
  readonly forms: readonly Placed[];
  readonly windows: Form["windows"];
  readonly layout: Layout | undefined;
  readonly inputs: number | undefined;
}

function framed(forms: readonly Form[]): Frame | string {
  const layout = agree(forms.map((f) => f.layout));
  if (!layout) return "channels lie on different axes";
  const inputs = agree(forms.map((f) => f.inputs));
  if (!inputs) return "they take different numbers of channels";
  const found = aligned(forms);
  return typeof found === "string" ? found : { ...found, layout: layout.value, inputs: inputs.value };
}

/** Several maps of one value added up as one; or the reason why they cannot be. */
export function sum(forms: readonly Form[]): Form | string {
  const frame = framed(forms);
  if (typeof frame === "string") return frame;
  const outputs = agree(forms.map((f) => f.outputs));
  if (!outputs) return "they give different numbers of channels";
  const { layout, inputs, windows } = frame;
  const weighted = forms.find((f) => f.weight)?.weight;
  const fixed = forms.find((f) => f.fixed)?.fixed;
  const bias = forms.map((f) => f.bias).reduce(plus);
  const base = { layout, inputs, outputs: outputs.value, windows, fixed };
  if (!weighted) {
    const scale = forms.map((f) => f.scale ?? numbers([1])).reduce((a, b) => plus(a, b) as HostTensor);
    return { ...base, groups: 1, scale, bias };
  }
  const channels = weighted.shape[0];
  if (inputs !== channels && forms.some((f) => !f.weight))
    return `one passes its ${inputs} channels on, another gives ${channels}`;
  const groups = commonDivisor(frame.forms.map((f) => groupsOf(f, channels)));
  const [first, ...others] = frame.forms.map((f) => denseWeight(f, channels, groups));
  return { ...base, groups, weight: k.add(first, ...others), bias: bias && widened(k, bias, channels) };
}

/** Maps of one value side by side, the channels of the first, then of the second, …. */
export function concat(forms: readonly Form[], channels: number): Form | string {
  const frame = framed(forms);
  if (typeof frame === "string") return frame;
  if (forms.some((f) => f.fixed)) return "outputs of convolutions of this kind stay apart";
  const { layout, windows } = frame;
  const inputs = frame.inputs ?? channels;
  const weights = frame.forms.map((f) => denseWeight(f, inputs, 1));
  const [first, ...others] = weights;
  const biases = forms.map((f, i) => {
    const rows = weights[i].shape[0];
    return widened(k, f.bias ?? numbers([0]), rows);
  });
  const [bias, ...rest] = biases;
  return {
    layout,
    inputs,
    outputs: weights.reduce((n, w) => n + w.shape[0], 0),
    groups: 1,
    windows,
    weight: k.concatOutputs(first, ...others),
    bias: forms.some((f) => f.bias) ? k.concatOutputs(bias, ...rest) : undefined,
  };
}

/** Average pooling as a convolution. */
export const pooling = (channels: number, layout: Layout, windows: Form["windows"]): Form => ({
  layout,
  inputs: channels,
  outputs: channels,
  groups: channels,
  windows,
  weight: k.poolKernel([windows[0].kernel, windows[1].kernel], channels, channels),
});

/** A kernel `[O, C/g, …]` as one of two axes. */
export const inTwoAxes = (w: HostTensor): HostTensor => {
  const [o, c, ...kernel] = w.shape;
  if (kernel.length === 2) return w;
  return viewed(w, [o, c, ...(kernel.length < 2 ? [1, kernel[0] ?? 1] : [1, kernel.reduce((n, d) => n * d, 1)])]);
};
