import { fmt, must } from "../../errors.ts";
import { isFloating, type Shape, Tensor } from "../../tensor/index.ts";
import { broadcastsTo } from "../emitter.ts";
import type { Lowering, Physical } from "../op.ts";
import { constant, defineOp, type Value } from "../value.ts";
import { reshape, unbroadcast } from "./broadcast.ts";
import { add, cast, clip, div, lowerElementwise, mul, neg, nonNegative, round, sub } from "./elementwise.ts";

/** Integers that a number is rounded to. */
export interface IntegerRange {
  readonly qmin: number;
  readonly qmax: number;
}

interface FakeQuantizeAttrs extends IntegerRange {
  /** Factor of the gradients of scale and zero point; without one they are fixed. */
  readonly stepGradient: number | undefined;
  readonly stored: FakeQuantizeOptions["stored"];
}

const fakeQuantizeOp = defineOp<FakeQuantizeAttrs>({
  name: "fakeQuantize",
  inputs: ["x", "scale", "zeroPoint"],
  infer: ([x, scale, zeroPoint], { qmin, qmax }) => {
    must(
      isFloating(x.dtype) && scale.dtype === x.dtype && zeroPoint.dtype === x.dtype,
      "fakeQuantize/dtype",
      () =>
        `fakeQuantize: x is ${x.dtype}, the scale ${scale.dtype}, the zero point ${zeroPoint.dtype}. Cast them to one floating type.`,
    );
    must(
      [scale, zeroPoint].every(({ shape }) => shape.length === x.shape.length && broadcastsTo(shape, x.shape)),
      "fakeQuantize/shape",
      () =>
        `fakeQuantize: scale ${fmt(scale.shape)} and zero point ${fmt(zeroPoint.shape)} do not fit x ${fmt(x.shape)}`,
    );
    must(
      Number.isInteger(qmin) && Number.isInteger(qmax) && qmin < qmax,
      "fakeQuantize/range",
      () => `fakeQuantize: qmin and qmax must be integers and qmin the smaller one, got ${qmin} and ${qmax}`,
    );
    return x;
  },
  vjp: ({ inputs: [x, scale, zeroPoint], dy, attrs: { qmin, qmax, stepGradient } }) => {
    const zero = clip(round(zeroPoint), qmin, qmax);
    const moved = add(round(div(x, scale)), zero);
    const inside = mul(nonNegative(sub(moved, qmin)), nonNegative(sub(qmax, moved)));
    const dx = mul(dy, inside);
    if (stepGradient === undefined) return [dx, undefined, undefined];
    // What rounding changed is small beside the quotient: in float32 little of it would be left.
    const wide = (v: Value): Value => cast(v, "float64");
    const quotient = mul(wide(inside), div(wide(x), wide(scale)));
    const byScale = cast(sub(wide(sub(clip(moved, qmin, qmax), zero)), quotient), x.dtype);
    const outside = sub(1, inside);
    const total = (g: Value, shape: Shape): Value => unbroadcast(mul(mul(dy, g), stepGradient), shape);
    return [dx, total(byScale, scale.shape), total(neg(mul(outside, scale)), zeroPoint.shape)];
  },
  lower: (lowering, { inputs, outputs }, { qmin, qmax, stored }) => {
    if (stored) return lowerStored(lowering, inputs, stored);
    return lowerElementwise(lowering, inputs, outputs[0].shape.length, (emit, x, scale, zeroPoint) => {
      const [low, high] = [qmin, qmax].map((v) => emit.constant(Tensor.scalar(v, x.dtype)));
      const clipped = (h: typeof x) => emit.node("Clip", [h, low, high], {}, h.shape);
      const zero = clipped(emit.unary("Round", zeroPoint));
      const moved = emit.binary("Add", emit.unary("Round", emit.binary("Div", x, scale)), zero);
      return emit.binary("Mul", emit.binary("Sub", clipped(moved), zero), scale);
    });
  },
});

/** The pair of nodes of which runtimes make integer kernels. */
function lowerStored(
  lowering: Lowering,
  [x, scale, zeroPoint]: readonly Value[],
  stored: NonNullable<FakeQuantizeOptions["stored"]>,
): Physical {
  const { emit } = lowering;
  const layout = lowering.layoutOf(x);
  const handle = lowering.read(x, layout);
  const [step, zero] = [scale, zeroPoint].map((v) => emit.initializers.get(lowering.read(v).name)?.readSync());
  must(
    step?.size === 1 && zero?.size === 1 && Number.isInteger(zero.toFloat64()[0]),
    "fakeQuantize/stored",
    () => "fakeQuantize: what is stored as integers needs one scale and one whole zero point for all, both constants",
  );
  const constants = [step.reshape([]), Tensor.scalar(zero.toFloat64()[0], stored)].map((t) => emit.constant(t));
  const integers = emit.node("QuantizeLinear", [handle, ...constants], {}, handle.shape, stored);
  return { handle: emit.node("DequantizeLinear", [integers, ...constants], {}, handle.shape, x.dtype), layout };
}

export interface FakeQuantizeOptions extends IntegerRange {
  /** Axis of x along which scale and zero point have an entry each; without it they have one for all. */
  readonly axis?: number;
  /**
   * Learns scale and zero point (LSQ, arXiv 1902.08153): their gradients times this, which {@link lsqGradientFactor}
   * gives. Without it they are fixed.
   */
  readonly stepGradient?: number;
  /**
   * Writes ONNX's QuantizeLinear and DequantizeLinear, with integers of this type: for files. Scale and zero point must then
   * be one constant each, and qmin and qmax the limits of the type.
   */
  readonly stored?: "uint8" | "int8";
}

/**
 * (clamp(round(x / scale) + zeroPoint, qmin, qmax) − zeroPoint) · scale, halves rounded to even: what is left of x when it
 * was stored as an integer. The zero point is rounded and clamped first.
 *
 * The gradient of x passes straight through where x lies in the range, and is 0 elsewhere. With `stepGradient` f, that of the
 * scale is f · Σ dy · (round(x / scale) − x / scale) inside and f · Σ dy · (qmin or qmax − zeroPoint) outside, that of the
 * zero point f · Σ dy · (−scale) outside, as of PyTorch's learnable fake quantization.
 *
 * @param scale      one value, or `[shape[axis]]`; above 0
 * @param zeroPoint  as scale, of the same floating type. Default 0
 * @throws RepmlpError `fakeQuantize/shape`, `fakeQuantize/dtype`, `fakeQuantize/range`
 */
export function fakeQuantize(
  x: Value,
  scale: Value,
  { qmin, qmax, axis, stepGradient, stored }: FakeQuantizeOptions,
  zeroPoint: Value = constant(Tensor.zeros(scale.dtype, scale.shape)),
): Value {
  const rank = x.shape.length;
  must(
    axis === undefined || (Number.isInteger(axis) && axis >= 0 && axis < rank),
    "fakeQuantize/axis",
    () => `fakeQuantize: axis ${axis} is none of x, whose shape is ${fmt(x.shape)}`,
  );
  const count = axis === undefined ? 1 : x.shape[axis];
  const aligned = (v: Value, name: string): Value => {
    must(
      v.shape.reduce((n, d) => n * d, 1) === count,
      "fakeQuantize/shape",
      () => `fakeQuantize: ${name} must have ${count} values for x ${fmt(x.shape)}, but is ${fmt(v.shape)}`,
    );
    return reshape(
      v,
      x.shape.map((_, i) => (i === axis ? count : 1)),
    );
  };
  return fakeQuantizeOp([x, aligned(scale, "the scale"), aligned(zeroPoint, "the zero point")], {
    qmin,
    qmax,
    stepGradient,
    stored,
  });
}

/** LSQ's factor of the gradients of a step size: 1 / √(values that share it · qmax). */
export const lsqGradientFactor = (valuesPerScale: number, qmax: number): number => 1 / Math.sqrt(valuesPerScale * qmax);
