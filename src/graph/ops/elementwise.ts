import { fmt, must } from "../../errors.ts";
import { type DType, isFloating, type Shape, Tensor } from "../../tensor/index.ts";
import { broadcastShapes, broadcastsTo, type Emitter, type Handle } from "../emitter.ts";
import { type Layout, toBatchLast } from "../layout.ts";
import type { Lowering, Physical, Target } from "../op.ts";
import { asConstant, constant, defineOp, type Op, type TensorType, type Value } from "../value.ts";
import { unbroadcast } from "./broadcast.ts";
import { erfFloat64 } from "./erf.ts";
import { mapTensors } from "./fold.ts";

/** A value, or a number that becomes a constant of the other operand's dtype. */
export type Operand = Value | number;

/** Reads an operand of an elementwise op with the output's rank, in the layout of the output. */
function readOperand(lowering: Lowering, value: Value, rank: number, layout: Layout): Handle {
  if (value.shape.length === rank) return lowering.read(value, layout);
  const { emit } = lowering;
  const full = emit.reshape(lowering.read(value), [
    ...new Array<number>(rank - value.shape.length).fill(1),
    ...value.shape,
  ]);
  return layout === "batchLast" && rank >= 2 ? emit.transpose(full, toBatchLast(rank)) : full;
}

/** Lowers an elementwise op: operands in one common layout, then `write`. */
export function lowerElementwise(
  lowering: Lowering,
  inputs: readonly Value[],
  rank: number,
  write: (emit: Emitter, ...operands: Handle[]) => Handle,
): Physical {
  const layout = lowering.layoutFor(inputs.filter((v) => v.shape.length === rank));
  const operands = inputs.map((v) => readOperand(lowering, v, rank, layout));
  return { handle: write(lowering.emit, ...operands), layout };
}

function inferBroadcast(name: string, types: readonly TensorType[], dtype = types[0].dtype): TensorType {
  const shape = types.map((t) => t.shape).reduce(broadcastShapes) as Shape;
  for (const t of types) {
    must(
      broadcastsTo(t.shape, shape),
      `${name}/broadcast`,
      () => `${name}: shapes ${types.map((x) => fmt(x.shape)).join(" and ")} do not broadcast`,
    );
  }
  return { dtype, shape };
}

function mustAgree(name: string, types: readonly TensorType[]): void {
  must(
    types.every((t) => t.dtype === types[0].dtype),
    `${name}/dtype`,
    () => `${name}: operands are ${types.map((t) => t.dtype).join(" and ")}. Cast one of them.`,
  );
}

// --- one operand -----------------------------------------------------------------------------------------------

interface Unary {
  /** ONNX op, or how to write it. */
  readonly onnx: string | ((emit: Emitter, x: Handle, target: Target) => Handle);
  /** Cotangent of x; `undefined` where the derivative is zero almost everywhere. */
  readonly vjp: (x: Value, y: Value, dy: Value) => Value | undefined;
  readonly fold?: (x: number) => number;
  /** Whether it also takes integers. */
  readonly integers?: boolean;
}

const defineUnary = (name: string, { onnx, vjp, fold, integers = false }: Unary): Op<Record<string, never>> =>
  defineOp({
    name,
    inputs: ["x"],
    infer: ([x]) => {
      must(
        isFloating(x.dtype) || (integers && x.dtype !== "bool"),
        `${name}/dtype`,
        () => `${name}: x is ${x.dtype}. Cast it to a ${integers ? "number" : "floating"} type.`,
      );
      return x;
    },
    vjp: ({ inputs: [x], outputs: [y], dy }) => [vjp(x, y, dy)],
    lower: (lowering, { inputs }) =>
      lowerElementwise(lowering, inputs, inputs[0].shape.length, (emit, x) =>
        typeof onnx === "string" ? emit.unary(onnx, x) : onnx(emit, x, lowering.target),
      ),
    fold: fold && ((tensors) => mapTensors(tensors, tensors[0].dtype, fold)),
  });

/**
 * The CPU kernel of Sigmoid is a quotient of polynomials whose error is twenty times that of its Exp: good enough for a
 * network's outputs, not for gradients that a batch norm of few samples amplifies.
 */
const logistic = (emit: Emitter, x: Handle, { device, parameters }: Target): Handle => {
  if (device !== "cpu" || parameters === "initializers" || x.dtype !== "float32") return emit.unary("Sigmoid", x);
  const exponential = emit.unary("Exp", emit.unary("Neg", x));
  return emit.unary("Reciprocal", emit.add(exponential, emit.scalar(1, x.dtype, x.shape.length)));
};

const unaryOps = {
  neg: defineUnary("neg", { onnx: "Neg", vjp: (_, __, dy) => neg(dy), fold: (x) => -x, integers: true }),
  exp: defineUnary("exp", { onnx: "Exp", vjp: (_, y, dy) => mul(dy, y) }),
  log: defineUnary("log", { onnx: "Log", vjp: (x, _, dy) => div(dy, x) }),
  sqrt: defineUnary("sqrt", { onnx: "Sqrt", vjp: (_, y, dy) => div(dy, mul(y, 2)), fold: Math.sqrt }),
  abs: defineUnary("abs", { onnx: "Abs", vjp: (x, _, dy) => mul(dy, sign(x)), fold: Math.abs, integers: true }),
  reciprocal: defineUnary("reciprocal", { onnx: "Reciprocal", vjp: (_, y, dy) => neg(mul(dy, mul(y, y))) }),
  erf: defineUnary("erf", {
    onnx: (emit, x) => (x.dtype === "float64" ? erfFloat64(emit, x) : emit.unary("Erf", x)),
    vjp: (x, _, dy) => mul(dy, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI))),
  }),
  tanh: defineUnary("tanh", { onnx: "Tanh", vjp: (_, y, dy) => mul(dy, sub(1, mul(y, y))) }),
  sigmoid: defineUnary("sigmoid", { onnx: logistic, vjp: (_, y, dy) => mul(dy, mul(y, sub(1, y))) }),
  relu: defineUnary("relu", { onnx: "Relu", vjp: (_, y, dy) => mul(dy, positive(y)) }),
  floor: defineUnary("floor", { onnx: "Floor", vjp: () => undefined, fold: Math.floor }),
  ceil: defineUnary("ceil", { onnx: "Ceil", vjp: () => undefined, fold: Math.ceil }),
  /** Rounds half to even. */
  round: defineUnary("round", { onnx: "Round", vjp: () => undefined }),
  /** Rounds half to even; differentiated as if it did not. */
  roundStraightThrough: defineUnary("roundStraightThrough", { onnx: "Round", vjp: (_, __, dy) => dy }),
  /** Passes x on, and no gradient back. */
  stopGradient: defineUnary("stopGradient", { onnx: (_, x) => x, vjp: () => undefined, fold: (x) => x }),
  sin: defineUnary("sin", { onnx: "Sin", vjp: (x, _, dy) => mul(dy, cos(x)) }),
  cos: defineUnary("cos", { onnx: "Cos", vjp: (x, _, dy) => neg(mul(dy, sin(x))) }),
  /** 1 where x > 0, else 0. */
  positive: defineUnary("positive", { onnx: (emit, x) => emit.positive(x), vjp: () => undefined }),
  /** 1 where x ≥ 0, else 0. */
  nonNegative: defineUnary("nonNegative", { onnx: (emit, x) => emit.nonNegative(x), vjp: () => undefined }),
};

const unary =
  (op: Op<Record<string, never>>) =>
  (x: Value): Value =>
    op([x], {});

export const neg = unary(unaryOps.neg);
export const exp = unary(unaryOps.exp);
export const log = unary(unaryOps.log);
export const sqrt = unary(unaryOps.sqrt);
export const abs = unary(unaryOps.abs);
export const reciprocal = unary(unaryOps.reciprocal);
export const erf = unary(unaryOps.erf);
export const tanh = unary(unaryOps.tanh);
export const sigmoid = unary(unaryOps.sigmoid);
/** max(x, 0); its gradient at 0 is 0, as in PyTorch. */
export const relu = unary(unaryOps.relu);
export const floor = unary(unaryOps.floor);
export const ceil = unary(unaryOps.ceil);
/** Nearest integer, halves to even; zero gradient. */
export const round = unary(unaryOps.round);
/** Nearest integer, halves to even, with the gradient of the identity: how fake quantization learns through rounding. */
export const roundStraightThrough = unary(unaryOps.roundStraightThrough);
/** x itself, taken for a constant by gradients. */
export const stopGradient = unary(unaryOps.stopGradient);
export const sin = unary(unaryOps.sin);
export const cos = unary(unaryOps.cos);
/** 1 where x > 0, else 0; zero gradient. */
export const positive = unary(unaryOps.positive);
/** 1 where x ≥ 0, else 0; zero gradient. */
export const nonNegative = unary(unaryOps.nonNegative);
/** −1, 0 or 1; zero gradient. */
export const sign = (x: Value): Value => sub(positive(x), positive(neg(x)));

// --- two operands ----------------------------------------------------------------------------------------------

interface Binary {
  readonly onnx: string;
  readonly vjp: (a: Value, b: Value, dy: Value, y: Value) => readonly [Value | undefined, Value | undefined];
  readonly fold?: (a: number, b: number) => number;
}

const defineBinary = (name: string, { onnx, vjp, fold }: Binary): Op<Record<string, never>> =>
  defineOp({
    name,
    inputs: ["a", "b"],
    infer: (types) => {
      mustAgree(name, types);
      return inferBroadcast(name, types);
    },
    vjp: ({ inputs: [a, b], outputs: [y], dy }) => {
      const [da, db] = vjp(a, b, dy, y);
      return [da && unbroadcast(da, a.shape), db && unbroadcast(db, b.shape)];
    },
    lower: (lowering, { inputs, outputs }) =>
      lowerElementwise(lowering, inputs, outputs[0].shape.length, (emit, a, b) => emit.binary(onnx, a, b)),
    fold: fold && ((tensors) => mapTensors(tensors, tensors[0].dtype, fold)),
  });

const binaryOps = {
  add: defineBinary("add", { onnx: "Add", vjp: (_, __, dy) => [dy, dy], fold: (a, b) => a + b }),
  sub: defineBinary("sub", { onnx: "Sub", vjp: (_, __, dy) => [dy, neg(dy)], fold: (a, b) => a - b }),
  mul: defineBinary("mul", { onnx: "Mul", vjp: (a, b, dy) => [mul(dy, b), mul(dy, a)], fold: (a, b) => a * b }),
  div: defineBinary("div", {
    onnx: "Div",
    vjp: (_, b, dy, y) => {
      const da = div(dy, b);
      return [da, neg(mul(da, y))];
    },
    fold: (a, b) => a / b,
  }),
  maximum: defineBinary("maximum", {
    onnx: "Max",
    // Ties share the gradient, as in PyTorch.
    vjp: (a, b, dy) => [mul(dy, preference(a, b)), mul(dy, preference(b, a))],
    fold: Math.max,
  }),
  minimum: defineBinary("minimum", {
    onnx: "Min",
    vjp: (a, b, dy) => [mul(dy, preference(b, a)), mul(dy, preference(a, b))],
    fold: Math.min,
  }),
  pow: defineBinary("pow", {
    onnx: "Pow",
    vjp: (a, b, dy, y) => [mul(dy, mul(b, pow(a, sub(b, 1)))), asConstant(b) ? undefined : mul(dy, mul(y, log(a)))],
    fold: (a, b) => a ** b,
  }),
};

/** 1 where a > b, ½ where they are equal, 0 elsewhere. */
function preference(a: Value, b: Value): Value {
  const d = sub(a, b);
  return mul(add(positive(d), nonNegative(d)), 0.5);
}

function operands(a: Operand, b: Operand): [Value, Value] {
  const like = typeof a === "number" ? b : a;
  must(typeof like !== "number", "elementwise/operands", () => "elementwise: one operand must be a value", "model");
  const lift = (x: Operand): Value => (typeof x === "number" ? constant(Tensor.scalar(x, like.dtype)) : x);
  return [lift(a), lift(b)];
}

const binary =
  (op: Op<Record<string, never>>) =>
  (a: Operand, b: Operand): Value =>
    op(operands(a, b), {});

/** Elementwise with NumPy broadcasting; operands have one dtype. */
export const add = binary(binaryOps.add);
export const sub = binary(binaryOps.sub);
export const mul = binary(binaryOps.mul);
export const div = binary(binaryOps.div);
export const maximum = binary(binaryOps.maximum);
export const minimum = binary(binaryOps.minimum);
/** a to the power b; the gradient for b needs a > 0. */
export const pow = binary(binaryOps.pow);

// --- selection, comparison, conversion --------------------------------------------------------------------------

const defineCompare = (
  name: string,
  onnx: string,
  compare: (a: number, b: number) => boolean,
): Op<Record<string, never>> =>
  defineOp({
    name,
    inputs: ["a", "b"],
    infer: (types) => {
      mustAgree(name, types);
      return inferBroadcast(name, types, "bool");
    },
    vjp: () => [undefined, undefined],
    lower: (lowering, { inputs, outputs }) =>
      lowerElementwise(lowering, inputs, outputs[0].shape.length, (emit, a, b) => emit.binary(onnx, a, b, "bool")),
    fold: (tensors) => mapTensors(tensors, "bool", (a, b) => (compare(a, b) ? 1 : 0)),
  });

/** a > b as `bool`. */
export const greater = binary(defineCompare("greater", "Greater", (a, b) => a > b));
/** a = b as `bool`. */
export const equal = binary(defineCompare("equal", "Equal", (a, b) => a === b));

const whereOp = defineOp<Record<string, never>>({
  name: "where",
  inputs: ["condition", "a", "b"],
  infer: ([condition, a, b]) => {
    mustAgree("where", [a, b]);
    must(condition.dtype === "bool", "where/dtype", () => `where: the condition must be bool, got ${condition.dtype}`);
    return inferBroadcast("where", [condition, a, b], a.dtype);
  },
  vjp: ({ inputs: [condition, a, b], dy }) => [
    undefined,
    unbroadcast(select(condition, dy, 0), a.shape),
    unbroadcast(select(condition, 0, dy), b.shape),
  ],
  lower: (lowering, { inputs, outputs }) =>
    lowerElementwise(lowering, inputs, outputs[0].shape.length, (emit, c, a, b) =>
      emit.node("Where", [c, a, b], {}, broadcastShapes(c.shape, broadcastShapes(a.shape, b.shape)), a.dtype),
    ),
  fold: (tensors) => mapTensors(tensors, tensors[1].dtype, (condition, a, b) => (condition ? a : b)),
});

/** `a` where the condition holds, `b` elsewhere. */
export const select = (condition: Value, a: Operand, b: Operand): Value => whereOp([condition, ...operands(a, b)], {});

const castOp = defineOp<{ readonly to: DType }>({
  name: "cast",
  inputs: ["x"],
  infer: ([x], { to }) => ({ dtype: to, shape: x.shape }),
  vjp: ({ inputs: [x], dy }) => [isFloating(x.dtype) ? cast(dy, x.dtype) : undefined],
  lower: (lowering, { inputs: [x] }, { to }) =>
    lowerElementwise(lowering, [x], x.shape.length, (emit, h) => emit.cast(h, to)),
  fold: ([x], { to }) => x.cast(to),
});

/** Converts to another dtype. */
export const cast = (x: Value, to: DType): Value => (x.dtype === to ? x : castOp([x], { to }));

interface ClipAttrs {
  readonly min: number;
  readonly max: number;
  /** Whether values at the bounds pass the gradient. */
  readonly open: boolean;
}

const clipOp = defineOp<ClipAttrs>({
  name: "clip",
  inputs: ["x"],
  infer: ([x]) => x,
  vjp: ({ inputs: [x], dy, attrs: { min, max, open } }) => {
    const inside = open ? nonNegative : positive;
    return [
      [
        ...(min === Number.NEGATIVE_INFINITY ? [] : [inside(sub(x, min))]),
        ...(max === Number.POSITIVE_INFINITY ? [] : [inside(sub(max, x))]),
      ].reduce<Value>((g, mask) => mul(g, mask), dy),
    ];
  },
  lower: (lowering, { inputs: [x] }, { min, max }) =>
    lowerElementwise(lowering, [x], x.shape.length, (emit, h) => {
      const bound = (v: number): Handle | undefined =>
        Number.isFinite(v) ? emit.constant(Tensor.scalar(v, h.dtype)) : undefined;
      return emit.node("Clip", [h, bound(min), bound(max)], {}, h.shape);
    }),
});

/** Limits values to [min, max]; either may be infinite. The bounds pass the gradient, as in PyTorch's clamp. */
export const clip = (x: Value, min: number, max: number): Value => clipOp([x], { min, max, open: true });
/** As {@link clip}, but the gradient at the bounds is 0, as in PyTorch's hardtanh and relu6. */
export const hardtanh = (x: Value, min = -1, max = 1): Value => clipOp([x], { min, max, open: false });
