import { Tensor } from "../../tensor/index.ts";
import type { Pair } from "../ops/conv-options.ts";
import { matmul } from "../ops/matmul.ts";
import { resize2d } from "../ops/resize.ts";
import { nearestSources } from "../ops/sampling.ts";
import { gather, transpose } from "../ops/shape.ts";
import { constant, type Value } from "../value.ts";
import { axisOf, type NodeContext, type Reader } from "./context.ts";

/** Where an output position lies in the input, in pixels; `scale` is output over input. */
type Coordinates = (o: number, scale: number, from: number, to: number) => number;

const coordinates: Readonly<Record<string, Coordinates>> = {
  half_pixel: (o, scale) => (o + 0.5) / scale - 0.5,
  pytorch_half_pixel: (o, scale, _, to) => (to > 1 ? (o + 0.5) / scale - 0.5 : 0),
  align_corners: (o, _, from, to) => (to > 1 ? (o * (from - 1)) / (to - 1) : 0),
  asymmetric: (o, scale) => o / scale,
  half_pixel_symmetric: (o, scale, from, to) => {
    const adjustment = to / (scale * from);
    return (from / 2) * (1 - adjustment) + (o + 0.5) / scale - 0.5;
  },
};

const rounding: Readonly<Record<string, (at: number) => number>> = {
  floor: Math.floor,
  ceil: Math.ceil,
  round_prefer_ceil: (at) => Math.floor(at + 0.5),
  round_prefer_floor: (at) => Math.ceil(at - 0.5),
};

interface Method {
  readonly mode: string;
  readonly position: Coordinates;
  readonly round: (at: number) => number;
  /** Slope of the cubic kernel. */
  readonly cubic: number;
  /** Whether pixels outside the image are left out, instead of the border's being repeated. */
  readonly excludeOutside: boolean;
}

interface AxisResize {
  readonly axis: number;
  readonly from: number;
  readonly to: number;
  readonly scale: number;
}

const clamp = (i: number, size: number): number => Math.max(0, Math.min(size - 1, i));

/** In single precision, as the runtime computes them; a half may otherwise round to the other side. */
function nearestPixels({ from, to, scale }: AxisResize, { position, round }: Method): number[] {
  return Array.from({ length: to }, (_, o) =>
    clamp(round(Math.fround(position(o, Math.fround(scale), from, to))), from),
  );
}

/** Weights of the four pixels around a position, `t` of the way from the second to the third (Keys' kernel). */
function cubicWeights(t: number, a: number): number[] {
  const near = (d: number): number => ((a + 2) * d - (a + 3)) * d * d + 1;
  const far = (d: number): number => ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
  return [far(t + 1), near(t), near(1 - t), far(2 - t)];
}

/** Interpolation along one axis as a matrix `[to, from]`. */
function interpolation({ from, to, scale }: AxisResize, method: Method): Float64Array {
  const { mode, position, cubic, excludeOutside } = method;
  const m = new Float64Array(to * from);
  for (let o = 0; o < to; o++) {
    const free = position(o, scale, from, to);
    const at = mode === "cubic" ? free : Math.max(0, Math.min(from - 1, free));
    const low = Math.floor(at);
    const weights = mode === "cubic" ? cubicWeights(at - low, cubic) : [1 - (at - low), at - low];
    const first = mode === "cubic" ? low - 1 : low;
    const inside = weights.map((_, k) => !excludeOutside || (first + k >= 0 && first + k < from));
    const total = weights.reduce((sum, w, k) => sum + (inside[k] ? w : 0), 0);
    for (const [k, w] of weights.entries()) if (inside[k]) m[o * from + clamp(first + k, from)] += w / total;
  }
  return m;
}

function interpolate(node: NodeContext, x: Value, resize: AxisResize, method: Method): Value {
  const { axis, from, to } = resize;
  node.sane(method.mode === "nearest" ? to : to * from, "weights");
  if (method.mode === "nearest") return gather(x, nearestPixels(resize, method), axis);
  const rank = x.shape.length;
  const swap = Array.from({ length: rank }, (_, i) => (i === axis ? rank - 1 : i === rank - 1 ? axis : i));
  const m = interpolation(resize, method);
  const turned = Float64Array.from({ length: m.length }, (_, i) => m[(i % to) * from + Math.floor(i / to)]);
  return transpose(matmul(transpose(x, swap), constant(Tensor.of(x.dtype, [from, to], turned))), swap);
}

/** The size, when it is one of PyTorch's ways of resizing images, which our own op does in one node. */
function asResize2d(x: Value, axes: readonly AxisResize[], name: string, method: Method): Value | undefined {
  if (x.shape.length !== 4 || axes.some(({ axis }) => axis < 2)) return undefined;
  const size: Pair = [2, 3].map((axis) => axes.find((r) => r.axis === axis)?.to ?? x.shape[axis]) as [number, number];
  if (method.mode === "nearest") {
    const same = axes.every((r) => nearestPixels(r, method).join() === nearestSources(r.from, r.to).join());
    return same ? resize2d(x, size) : undefined;
  }
  if (method.mode !== "linear" || axes.some(({ from, to, scale }) => scale !== to / from)) return undefined;
  if (name === "align_corners") return resize2d(x, size, { mode: "bilinear", alignCorners: true });
  const isHalf = name === "half_pixel" || (name === "pytorch_half_pixel" && axes.every(({ to }) => to > 1));
  return isHalf ? resize2d(x, size, { mode: "bilinear" }) : undefined;
}

/** Scale and size of each axis, from the scales or from the sizes. */
function readAxes(node: NodeContext, x: Value, listed: readonly number[]): AxisResize[] {
  const scales = readScales(node);
  const sizes = !scales?.length && node.opset >= 11 && node.has(3) ? node.numbers(3) : undefined;
  if (!scales?.length && !sizes) node.fail("scales", "neither scales nor sizes are given. The file is damaged.");
  return listed
    .map((axis, i) => {
      const from = x.shape[axis];
      if (sizes) return { axis, from, to: node.sane(sizes[i], "pixels"), scale: sizes[i] / from };
      const scale = scales![i];
      const to = Math.floor(from * scale);
      return { axis, from, to: node.sane(to, "pixels"), scale };
    })
    .filter(({ from, to, scale }) => from !== to || scale !== 1);
}

function readScales(node: NodeContext): number[] | undefined {
  if (node.node.opType === "Upsample" && node.opset < 9) {
    const { scales } = node.node.attrs;
    return typeof scales === "object" && "floats" in scales ? [...scales.floats] : undefined;
  }
  const i = node.opset < 11 ? 1 : 2;
  return node.has(i) ? node.numbers(i) : undefined;
}

/** Opset 10 and Upsample know one way only, and round as it suits the direction. */
function readMethod(node: NodeContext, shrinks: boolean): { readonly name: string; readonly method: Method } {
  const old = node.opset < 11 || node.node.opType === "Upsample";
  const name = old ? "asymmetric" : node.text("coordinate_transformation_mode", "half_pixel");
  const nearest = old ? (shrinks ? "ceil" : "floor") : node.text("nearest_mode", "round_prefer_floor");
  const written = node.text("mode", "nearest");
  const mode = written === "bilinear" ? "linear" : written;
  const position = coordinates[name];
  const round = rounding[nearest];
  if (!position || !round || !["nearest", "linear", "cubic"].includes(mode))
    node.fail("mode", `mode ${mode} with ${name} and ${nearest} is not supported.`);
  const cubic = old ? -0.75 : node.float("cubic_coeff_a", -0.75);
  const excludeOutside = !old && node.int("exclude_outside", 0) === 1;
  return { name, method: { mode, position, round, cubic, excludeOutside } };
}

function readResize(node: NodeContext): Value {
  const x = node.input(0);
  const rank = x.shape.length;
  node.only("antialias", 0);
  node.only("keep_aspect_ratio_policy", "stretch");
  const listed = node.intList("axes")?.map((a) => axisOf(node, a, rank)) ?? x.shape.map((_, i) => i);
  const axes = readAxes(node, x, listed);
  const { name, method } = readMethod(
    node,
    axes.some(({ scale }) => scale < 1),
  );
  return asResize2d(x, axes, name, method) ?? axes.reduce((y, resize) => interpolate(node, y, resize, method), x);
}

export const resizeReaders: Readonly<Record<string, Reader>> = {
  Resize: readResize,
  Upsample: readResize,
};
