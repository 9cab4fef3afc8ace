import { must } from "../../errors.ts";
import { type DType, Tensor } from "../../tensor/index.ts";
import { constant, defineOp, mustRank, type Value } from "../value.ts";
import { type Pair, pair } from "./conv-options.ts";
import { separable } from "./pool.ts";
import { nearestSources, runtimeAgrees } from "./sampling.ts";

export type ResizeMode = "nearest" | "bilinear";

export interface ResizeOptions {
  /** Default `nearest`. */
  readonly mode?: ResizeMode;
  /** For `bilinear`: whether the corner pixels' centres are aligned. Default false. */
  readonly alignCorners?: boolean;
}

interface ResizeAttrs extends Required<ResizeOptions> {
  readonly size: Pair;
}

/** Source position of output position `o`, in input pixels. */
const sourcePosition = (o: number, from: number, to: number, alignCorners: boolean): number =>
  alignCorners ? (to === 1 ? 0 : (o * (from - 1)) / (to - 1)) : ((o + 0.5) * from) / to - 0.5;

/** Interpolation along one axis as a matrix `[to, from]`; PyTorch's `interpolate`. */
function interpolation(from: number, to: number, { mode, alignCorners }: ResizeAttrs, dtype: DType): Tensor {
  const m = new Float64Array(to * from);
  if (mode === "nearest") {
    for (const [o, s] of nearestSources(from, to).entries()) m[o * from + s] = 1;
    return Tensor.of(dtype, [to, from], m);
  }
  for (let o = 0; o < to; o++) {
    const at = Math.max(0, sourcePosition(o, from, to, alignCorners));
    const low = Math.min(Math.floor(at), from - 1);
    const high = Math.min(low + 1, from - 1);
    m[o * from + low] += 1 - (at - low);
    m[o * from + high] += at - low;
  }
  return Tensor.of(dtype, [to, from], m);
}

const transposedMatrix = (from: number, to: number, attrs: ResizeAttrs, dtype: DType): Tensor => {
  const values = interpolation(from, to, attrs, dtype).toFloat64();
  return Tensor.of(
    dtype,
    [from, to],
    Float64Array.from({ length: values.length }, (_, i) => values[(i % to) * from + Math.floor(i / to)]),
  );
};

const resizeOp = defineOp<ResizeAttrs>({
  name: "resize2d",
  inputs: ["x"],
  infer: ([x], { size }) => {
    mustRank("resize2d", "x", x, 4);
    must(
      size.every((d) => Number.isInteger(d) && d > 0),
      "resize2d/size",
      () => `resize2d: size must be two positive integers, got [${size.join(", ")}]`,
    );
    return { dtype: x.dtype, shape: [x.shape[0], x.shape[1], ...size] };
  },
  // Linear and separable: the gradient is the transposed matrices.
  vjp: ({ inputs: [x], dy, attrs }) => {
    const [, , h, w] = x.shape;
    const [vertical, horizontal] = [h, w].map((from, i) =>
      constant(transposedMatrix(from, attrs.size[i], attrs, x.dtype)),
    );
    return [separable(dy, vertical, horizontal)];
  },
  lower: (lowering, { inputs: [x], outputs: [y] }, attrs) => {
    const { emit } = lowering;
    const handle = lowering.read(x);
    const [vertical, horizontal] = [0, 1].map((i) => [x.shape[i + 2], attrs.size[i]] as const);
    if (x.dtype === "float64") {
      const rows = emit.matmul(emit.constant(interpolation(...vertical, attrs, x.dtype)), handle);
      const columns = emit.constant(transposedMatrix(...horizontal, attrs, x.dtype));
      return { handle: emit.matmul(rows, columns), layout: "natural" };
    }
    const nearest = attrs.mode === "nearest";
    if (nearest && !(runtimeAgrees(...vertical) && runtimeAgrees(...horizontal))) {
      const gathered = [vertical, horizontal].reduce((image, [from, to], i) => {
        const shape = image.shape.with(i + 2, to);
        return emit.node("Gather", [image, emit.int64(nearestSources(from, to))], { axis: i + 2 }, shape);
      }, handle);
      return { handle: gathered, layout: "natural" };
    }
    const mode = nearest ? "asymmetric" : attrs.alignCorners ? "align_corners" : "half_pixel";
    const node = emit.node(
      "Resize",
      [handle, undefined, undefined, emit.int64(y.shape)],
      {
        mode: nearest ? "nearest" : "linear",
        coordinate_transformation_mode: mode,
        ...(nearest ? { nearest_mode: "floor" } : {}),
      },
      y.shape,
    );
    return { handle: node, layout: "natural" };
  },
});

/** Resizes images `[N, C, H, W]` to `size`, as PyTorch's `interpolate` (no antialias). */
export const resize2d = (
  x: Value,
  size: number | Pair,
  { mode = "nearest", alignCorners = false }: ResizeOptions = {},
): Value => resizeOp([x], { size: pair(size), mode, alignCorners });
