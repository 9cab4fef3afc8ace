import { sizeOf, Tensor } from "../../tensor/index.ts";
import type { Emitter, Handle } from "../emitter.ts";

/** Nodes and weights of Gauss–Legendre quadrature on [0, 1], exact for polynomials of degree 2·count − 1. */
function gaussLegendre(count: number): { readonly nodes: number[]; readonly weights: number[] } {
  /** Legendre polynomial of degree `count` and its derivative, by the three-term recurrence. */
  const legendre = (t: number): [value: number, slope: number] => {
    let [before, value] = [1, t];
    for (let k = 2; k <= count; k++) [before, value] = [value, ((2 * k - 1) * t * value - (k - 1) * before) / k];
    return [value, (count * (t * value - before)) / (t * t - 1)];
  };
  const nodes: number[] = [];
  const weights: number[] = [];
  for (let i = 0; i < count; i++) {
    let t = Math.cos((Math.PI * (i + 0.75)) / (count + 0.5));
    for (let step = 0; step < 8; step++) {
      const [value, slope] = legendre(t);
      t -= value / slope;
    }
    const [, slope] = legendre(t);
    nodes.push((1 + t) / 2);
    weights.push(1 / ((1 - t * t) * slope * slope));
  }
  return { nodes, weights };
}

/** Beyond this erf is ±1 in float64. */
const LIMIT = 6;
/** Enough for full float64 precision up to `LIMIT`. */
const POINTS = 40;

/**
 * erf in float64, for which ONNX Runtime has no kernel: erf(x) = 2x/√π · ∫₀¹ exp(−x²s²) ds by quadrature, as two matrix
 * products. Costs 40 times the memory of x; float64 graphs are for verification only.
 */
export function erfFloat64(emit: Emitter, x: Handle): Handle {
  const { nodes, weights } = gaussLegendre(POINTS);
  const column = emit.reshape(x, [sizeOf(x.shape), 1]);
  const [low, high] = [-LIMIT, LIMIT].map((v) => emit.constant(Tensor.scalar(v, x.dtype)));
  const inside = emit.node("Clip", [column, low, high], {}, column.shape);
  const squares = emit.constant(
    Tensor.of(
      x.dtype,
      [1, POINTS],
      nodes.map((s) => -s * s),
    ),
  );
  const heights = emit.unary("Exp", emit.matmul(emit.mul(inside, inside), squares));
  const factors = weights.map((w) => (w * 2) / Math.sqrt(Math.PI));
  const mean = emit.matmul(heights, emit.constant(Tensor.of(x.dtype, [POINTS, 1], factors)));
  return emit.reshape(emit.mul(inside, mean), x.shape);
}
