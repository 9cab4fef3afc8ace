import { fmt, must } from "../errors.ts";
import { type Pair, pair } from "../graph/index.ts";
import type { Parameter } from "../nn/index.ts";
import type { Shape } from "../tensor/index.ts";

/** A per-channel map x ↦ scale · x + shift; both `[C]`. */
export interface Affine<T> {
  readonly scale: T;
  readonly shift: T;
}

/** A batch norm's parameters `[C]`; without `weight` and `bias` it only normalises. */
export interface Norm {
  readonly weight?: Parameter | undefined;
  readonly bias?: Parameter | undefined;
  readonly runningMean: Parameter;
  readonly runningVar: Parameter;
  readonly eps: number;
}

/**
 * What merges are written in. There are two interpreters: on the host T is a tensor that is computed when it is read, in
 * float64 and rounded once ({@link HostAlgebra}); in the graph T is a value that can be differentiated
 * ({@link graphAlgebra}).
 *
 * Weights are `[O, C/g, …]`: output channels first, then the input channels of the output's group. Channels of groups
 * follow one another. Operations say where shapes do not fit with `merge/shape` or `merge/kernel`.
 */
export interface KernelAlgebra<T> {
  /** A parameter's values. */
  of(parameter: Parameter): T;
  shapeOf(x: T): Shape;

  /** A batch norm in evaluation mode: scale = weight / √(variance + eps), shift = bias − mean · scale. */
  normAffine(norm: Norm): Affine<T>;

  /** Sum of tensors of one shape, from left to right. */
  add(first: T, ...others: readonly T[]): T;
  times(x: T, factor: number): T;

  /** Weights (or a bias) of O outputs with output o times `scale`'s value o. */
  scaleOutputs(w: T, scale: T): T;
  /**
   * Weights that take inputs scaled per channel: w · diag(scale), `scale` `[C]`. Where w has several columns per
   * channel (a fully connected layer after a map of pixels), they follow one another.
   */
  scaleInputs(w: T, scale: T, groups?: number): T;
  /** What outputs become when the inputs are shifted per channel: bias + w · shift, summed over positions; `[O]`. */
  shiftInputs(w: T, shift: T, bias?: T, groups?: number): T;

  /**
   * A kernel `[O, C/g, h, w]` in a larger one with zeros around. It stands in the middle, or with its first value at
   * `at` (row, column). Also k × 1 and 1 × k.
   */
  padKernel(w: T, size: number | Pair, at?: Pair): T;
  /** A dilated kernel as an ordinary one: `rate` − 1 zeros between values. */
  dilate(w: T, rate: number | Pair): T;
  /** `first` `[M, C/g, 1, 1]` and then `second` `[O, M/g, h, w]` as one kernel `[O, C/g, h, w]`. */
  pointwiseThen(first: T, second: T, groups?: number): T;
  /** `first` `[M, C/g, h, w]` and then `second` `[O, M/g, 1, 1]` as one kernel `[O, C/g, h, w]`. */
  thenPointwise(first: T, second: T, groups?: number): T;
  /** The kernel that passes each of its channels on: 1 in the middle; sizes must be odd. */
  identityKernel(size: number | Pair, channels: number, groups?: number): T;
  /** Average pooling as a kernel. */
  poolKernel(size: number | Pair, channels: number, groups?: number): T;
  /** Kernels side by side: outputs of the first, then of the second, …. */
  concatOutputs(first: T, ...others: readonly T[]): T;

  /**
   * A convolution (stride 1, zero padding floor(k/2), odd sizes) of h × w pixels as a fully connected layer, in the form
   * of a 1×1 convolution: `[O, C/g, kH, kW]` → `[O·h·w, C/g·h·w, 1, 1]`. Rows are outputs (o, i, j), columns the inputs
   * (c, u, v) of the row's group: M[(o,i,j), (c,u,v)] = F[o, c, u − i + r, v − j + r], r = floor(k/2), where the kernel
   * reaches, else 0. Holds for any number of input and output channels. (RepMLP, arXiv 2105.01883, section 3.3.)
   */
  convToFc(w: T, size: Pair): T;
  /** Each output `count` times in a row: the bias that belongs to {@link convToFc}. */
  repeatOutputs(w: T, count: number): T;
}

// --- shape rules, the same for both interpreters -------------------------------------------------------------------

/** Input channels per group of kernels that connect `channels` to as many. */
export function channelsPerGroup(what: string, channels: number, groups: number): number {
  const fits = Number.isInteger(channels / groups) && channels > 0 && groups > 0;
  must(fits, "merge/shape", () => `merge: ${what}: ${groups} groups do not divide ${channels} channels`);
  return channels / groups;
}

/** Rows and columns of a weight seen as a matrix. */
export const asMatrix = (shape: Shape): readonly [rows: number, columns: number] => [
  shape[0],
  shape.slice(1).reduce((n, d) => n * d, 1),
];

export function mustBeEqual(what: string, a: Shape, b: Shape): void {
  const equal = a.length === b.length && a.every((d, i) => d === b[i]);
  must(equal, "merge/shape", () => `merge: ${what}: shapes ${fmt(a)} and ${fmt(b)} differ`);
}

/** Checks a vector with one value per output. */
export function mustFitOutputs(what: string, shape: Shape, values: Shape): void {
  const [count] = asMatrix(shape);
  must(
    values.reduce((n, d) => n * d, 1) === count,
    "merge/shape",
    () => `merge: ${what}: weights ${fmt(shape)} have ${count} outputs, got ${fmt(values)} values`,
  );
}

/** Columns per input channel; checks a vector with one value per input channel. */
export function columnsPerInput(what: string, shape: Shape, values: Shape, groups: number): number {
  const [rows, columns] = asMatrix(shape);
  const channels = values.reduce((n, d) => n * d, 1);
  const repeat = (columns * groups) / channels;
  must(
    Number.isInteger(repeat) && Number.isInteger(rows / groups) && channels % groups === 0,
    "merge/shape",
    () => `merge: ${what}: weights ${fmt(shape)} in ${groups} groups do not take ${fmt(values)} input channels`,
  );
  return repeat;
}

/** How the values of a kernel lie in a larger one: value (y, x) at (top + y · rate, left + x · rate). */
export interface Placement {
  readonly shape: Shape;
  readonly at: Pair;
  readonly rate: Pair;
}

const mustBeKernel = (what: string, shape: Shape): void =>
  must(shape.length === 4, "merge/kernel", () => `merge: ${what} takes a kernel [O, C/g, h, w], got ${fmt(shape)}`);

/** The rule of {@link KernelAlgebra.padKernel}. */
export function padding([...shape]: Shape, size: number | Pair, at?: Pair): Placement {
  mustBeKernel("padKernel", shape);
  const [o, c, ...kernel] = shape;
  const wanted = pair(size);
  const place = at ?? ([0, 1].map((i) => (wanted[i] - kernel[i]) / 2) as unknown as Pair);
  must(
    place.every((p, i) => Number.isInteger(p) && p >= 0 && p + kernel[i] <= wanted[i]),
    "merge/kernel",
    () =>
      at
        ? `merge: a kernel of ${fmt(kernel)} at ${fmt(at)} does not fit into one of ${fmt(wanted)}`
        : `merge: a kernel of ${fmt(kernel)} has no place in the middle of one of ${fmt(wanted)}. Say where it stands.`,
  );
  return { shape: [o, c, ...wanted], at: place, rate: [1, 1] };
}

/** The rule of {@link KernelAlgebra.dilate}. */
export function dilation(shape: Shape, rate: number | Pair): Placement {
  mustBeKernel("dilate", shape);
  const [o, c, ...kernel] = shape;
  const rates = pair(rate);
  must(
    rates.every((r) => Number.isInteger(r) && r > 0),
    "merge/kernel",
    () => `merge: dilate takes positive integers, got ${fmt(rates)}`,
  );
  return { shape: [o, c, ...kernel.map((k, i) => (k - 1) * rates[i] + 1)], at: [0, 0], rate: rates };
}

/** The rule of {@link KernelAlgebra.pointwiseThen}. */
export function composition(first: Shape, second: Shape, groups: number): Shape {
  mustBeKernel("pointwiseThen", second);
  must(
    first.length === 4 &&
      first[2] * first[3] === 1 &&
      second[1] * groups === first[0] &&
      second[0] % groups === 0 &&
      first[0] % groups === 0,
    "merge/shape",
    () => `merge: a 1 × 1 kernel ${fmt(first)} and then ${fmt(second)} in ${groups} groups do not fit`,
  );
  return [second[0], first[1], second[2], second[3]];
}

/** The rule of {@link KernelAlgebra.thenPointwise}. */
export function compositionBefore(first: Shape, second: Shape, groups: number): Shape {
  mustBeKernel("thenPointwise", first);
  must(
    second.length === 4 &&
      second[2] * second[3] === 1 &&
      second[1] * groups === first[0] &&
      second[0] % groups === 0 &&
      first[0] % groups === 0,
    "merge/shape",
    () => `merge: a kernel ${fmt(first)} and then a 1 × 1 one ${fmt(second)} in ${groups} groups do not fit`,
  );
  return [second[0], ...first.slice(1)];
}

/** The rule of {@link KernelAlgebra.identityKernel}: shape, and where in the kernel the one is. */
export function identityShape(size: number | Pair, channels: number, groups: number): { shape: Shape; middle: number } {
  const [h, w] = pair(size);
  must(
    h % 2 === 1 && w % 2 === 1,
    "merge/kernel",
    () => `merge: kernels must be odd, so that they have a middle, got ${fmt([h, w])}`,
  );
  const perGroup = channelsPerGroup("identityKernel", channels, groups);
  return { shape: [channels, perGroup, h, w], middle: (h * w - 1) / 2 };
}

/** The rule of {@link KernelAlgebra.poolKernel}. */
export const poolShape = (size: number | Pair, channels: number, groups: number): Shape => [
  channels,
  channelsPerGroup("poolKernel", channels, groups),
  ...pair(size),
];

/** The rule of {@link KernelAlgebra.concatOutputs}. */
export function concatenation(shapes: readonly Shape[]): Shape {
  const [first, ...others] = shapes;
  for (const other of others) mustBeEqual("concatOutputs (without outputs)", first.slice(1), other.slice(1));
  return [shapes.reduce((n, s) => n + s[0], 0), ...first.slice(1)];
}

/** The rule of {@link KernelAlgebra.convToFc}. */
export function fcShape(kernel: Shape, [h, w]: Pair): Shape {
  mustBeKernel("convToFc", kernel);
  const [o, c, kh, kw] = kernel;
  must(
    kh % 2 === 1 && kw % 2 === 1,
    "merge/kernel",
    () => `merge: kernels must be odd, so that they have a middle, got ${fmt(kernel)}`,
  );
  return [o * h * w, c * h * w, 1, 1];
}

// --- what blocks are made of, written once in the algebra ----------------------------------------------------------

/** A convolution or fully connected layer: weight `[O, C/g, …]`, bias `[O]`. */
export interface LinearMap<T> {
  readonly weight: T;
  readonly bias?: T | undefined;
}

/** One with a bias, as every merged layer is. */
export interface BiasedMap<T> extends LinearMap<T> {
  readonly bias: T;
}

/** A layer's parameters as a linear map. */
export const mapOf = <T>(
  k: KernelAlgebra<T>,
  { weight, bias }: { readonly weight: Parameter; readonly bias?: Parameter | undefined },
): LinearMap<T> => ({ weight: k.of(weight), bias: bias && k.of(bias) });

/** A linear map with a batch norm after it. */
export function normAfter<T>(k: KernelAlgebra<T>, { weight, bias }: LinearMap<T>, norm: Norm): BiasedMap<T> {
  const { scale, shift } = k.normAffine(norm);
  return {
    weight: k.scaleOutputs(weight, scale),
    bias: bias === undefined ? shift : k.add(shift, k.scaleOutputs(bias, scale)),
  };
}

/**
 * A linear map with a batch norm before it. Of convolutions only those without zero padding: a padded zero would have
 * to be the value that the norm gives to zero.
 */
export function normBefore<T>(
  k: KernelAlgebra<T>,
  norm: Norm,
  { weight, bias }: LinearMap<T>,
  groups = 1,
): BiasedMap<T> {
  const { scale, shift } = k.normAffine(norm);
  return { weight: k.scaleInputs(weight, scale, groups), bias: k.shiftInputs(weight, shift, bias, groups) };
}

/**
 * Two convolutions one after the other, of which one is 1 × 1, as one. Where the second one has the larger kernel, the
 * map between the two must be padded with the first one's bias, not with zeros: that is what the input's zeros become.
 */
export function inSequence<T>(
  k: KernelAlgebra<T>,
  first: LinearMap<T>,
  second: BiasedMap<T>,
  groups = 1,
): BiasedMap<T> {
  const isPointwise = k
    .shapeOf(second.weight)
    .slice(2)
    .every((d) => d === 1);
  return {
    weight: isPointwise
      ? k.thenPointwise(first.weight, second.weight, groups)
      : k.pointwiseThen(first.weight, second.weight, groups),
    bias: first.bias === undefined ? second.bias : k.shiftInputs(second.weight, first.bias, second.bias, groups),
  };
}

/** A branch that passes each channel on, with nothing but a batch norm after it; as a 1 × 1 convolution. */
export function identityWithNorm<T>(k: KernelAlgebra<T>, norm: Norm, groups = 1): BiasedMap<T> {
  const [channels] = norm.runningMean.shape;
  return normAfter(k, { weight: k.identityKernel(1, channels, groups) }, norm);
}

/** Convolutions of one input added up: each kernel in the middle of the largest. */
export function parallel<T>(k: KernelAlgebra<T>, branches: readonly BiasedMap<T>[]): BiasedMap<T> {
  const sizes = branches.map(({ weight }) => k.shapeOf(weight).slice(2));
  const size = [0, 1].map((i) => Math.max(...sizes.map((s) => s[i]))) as unknown as Pair;
  const [weight, ...weights] = branches.map((b) => k.padKernel(b.weight, size));
  const [bias, ...biases] = branches.map((b) => b.bias);
  return { weight: k.add(weight, ...weights), bias: k.add(bias, ...biases) };
}
