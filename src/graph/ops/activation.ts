import { must } from "../../errors.ts";
import type { Value } from "../value.ts";
import { random } from "../value.ts";
import {
  abs,
  add,
  clip,
  div,
  erf,
  exp,
  hardtanh,
  log,
  maximum,
  mul,
  neg,
  relu,
  sigmoid,
  sub,
  tanh,
} from "./elementwise.ts";

/** x · Φ(x), exactly or with the tanh approximation. */
export const gelu = (x: Value, { approximate = "none" }: { readonly approximate?: "none" | "tanh" } = {}): Value => {
  const inner =
    approximate === "tanh"
      ? tanh(mul(add(x, mul(mul(x, mul(x, x)), 0.044715)), Math.sqrt(2 / Math.PI)))
      : erf(mul(x, Math.SQRT1_2));
  return mul(mul(x, 0.5), add(inner, 1));
};

const sixth = (x: Value): Value => add(div(x, 6), 0.5);

/** clip(x / 6 + 1/2, 0, 1). */
export const hardSigmoid = (x: Value): Value => hardtanh(sixth(x), 0, 1);
/** x · clip(x / 6 + 1/2, 0, 1). */
export const hardSwish = (x: Value): Value => mul(x, clip(sixth(x), 0, 1));
/** clip(x, 0, 6). */
export const relu6 = (x: Value): Value => hardtanh(x, 0, 6);
/** x · sigmoid(x). */
export const silu = (x: Value): Value => mul(x, sigmoid(x));
/** min(x, 0), whose gradient at 0 is 1: together with relu's 0 that is PyTorch's choice for the functions below. */
const negativePart = (x: Value): Value => sub(x, relu(x));
/** x where positive, slope · x elsewhere. */
export const leakyRelu = (x: Value, slope = 0.01): Value => add(relu(x), mul(negativePart(x), slope));
/** x where positive, alpha · (exp(x) − 1) elsewhere. */
export const elu = (x: Value, alpha = 1): Value => add(relu(x), mul(sub(exp(negativePart(x)), 1), alpha));
/** log(1 + exp(x)), stable for large |x|. */
export const softplus = (x: Value): Value => add(maximum(x, 0), log(add(exp(neg(abs(x))), 1)));

/** x · tanh(softplus(x)). */
export const mish = (x: Value): Value => mul(x, tanh(softplus(x)));

/**
 * Zeroes each value with probability `p` and scales the rest by 1 / (1 − p). The mask is drawn by the host from the
 * step's seed, so that a resumed run repeats it; apply in training mode only.
 */
export const dropout = (x: Value, p: number): Value => drop(x, p, x.shape);

/** {@link dropout} of whole channels: `[N, C, …]`, one draw per picture and channel. */
export const dropout2d = (x: Value, p: number): Value =>
  drop(x, p, [...x.shape.slice(0, 2), ...x.shape.slice(2).map(() => 1)]);

/** Zeroes whole samples of a residual branch with probability `p` (stochastic depth), scaled by 1 / (1 − p). */
export const dropPath = (x: Value, p: number): Value => drop(x, p, [x.shape[0], ...x.shape.slice(1).map(() => 1)]);

function drop(x: Value, p: number, maskShape: readonly number[]): Value {
  must(p >= 0 && p < 1, "dropout/p", () => `dropout: the probability must be in [0, 1), got ${p}`, "usage");
  if (p === 0) return x;
  return mul(x, div(random({ distribution: "bernoulli", p: 1 - p }, maskShape, x.dtype), 1 - p));
}
