import { dtypeOfElementType } from "../../onnx/index.ts";
import { elu, gelu, hardSigmoid, hardSwish, leakyRelu, mish, softplus } from "../ops/activation.ts";
import {
  abs,
  add,
  cast,
  ceil,
  clip,
  cos,
  div,
  equal,
  erf,
  exp,
  floor,
  greater,
  hardtanh,
  log,
  maximum,
  minimum,
  mul,
  neg,
  pow,
  reciprocal,
  relu,
  round,
  select,
  sigmoid,
  sign,
  sin,
  sqrt,
  sub,
  tanh,
} from "../ops/elementwise.ts";
import type { Value } from "../value.ts";
import { knownTensor, type NodeContext, type Reader } from "./context.ts";

const unary =
  (f: (x: Value) => Value): Reader =>
  (node) =>
    f(node.input(0));

const binary =
  (f: (a: Value, b: Value) => Value): Reader =>
  (node) =>
    f(node.input(0), node.input(1));

/** Any number of inputs, combined from the left. */
const variadic =
  (f: (a: Value, b: Value) => Value): Reader =>
  (node) =>
    node.inputs().reduce(f);

/** Logic as arithmetic of 0 and 1: one way for the host, the CPU and devices, which know few ops of booleans. */
const bit = (a: Value): Value => cast(a, "int32");
const or = (a: Value, b: Value): Value => greater(add(bit(a), bit(b)), 0);
const atLeast = (a: Value, b: Value): Value => or(greater(a, b), equal(a, b));

/** x where positive, slope · x elsewhere; the slope broadcasts to x. */
const parametricRelu = (x: Value, slope: Value): Value => add(relu(x), mul(sub(x, relu(x)), slope));

/** ONNX's formula with any slope and offset; PyTorch's function where they are its own. */
function readHardSigmoid(node: NodeContext): Value {
  const [alpha, beta] = [node.float("alpha", Math.fround(0.2)), node.float("beta", 0.5)];
  const x = node.input(0);
  return Math.abs(alpha - 1 / 6) < 1e-6 && beta === 0.5 ? hardSigmoid(x) : hardtanh(add(mul(x, alpha), beta), 0, 1);
}

function readSelu(node: NodeContext): Value {
  const alpha = node.float("alpha", 1.6732631921768188);
  return mul(elu(node.input(0), alpha), node.float("gamma", 1.0507010221481323));
}

function readCelu(node: NodeContext): Value {
  const alpha = node.float("alpha", 1);
  const x = node.input(0);
  return add(relu(x), mul(sub(exp(div(sub(x, relu(x)), alpha)), 1), alpha));
}

function readClip(node: NodeContext): Value {
  const min = node.number("min", 1, 11) ?? Number.NEGATIVE_INFINITY;
  const max = node.number("max", 2, 11) ?? Number.POSITIVE_INFINITY;
  return clip(node.input(0), min, max);
}

function readPow(node: NodeContext): Value {
  const [base, exponent] = [node.input(0), node.input(1)];
  return pow(base, cast(exponent, base.dtype));
}

/** Whole numbers only, for which sizes are divided; truncation equals flooring when no number is negative. */
function readMod(node: NodeContext): Value {
  const [a, b] = [node.input(0), node.input(1)];
  if (
    [a, b].some(
      (v) =>
        !knownTensor(v)
          ?.toFloat64()
          .every((d) => d >= 0 && Number.isInteger(d)),
    )
  )
    node.fail("operands", "only constant whole numbers ≥ 0 are supported.");
  return sub(a, mul(div(a, b), b));
}

function readCast(node: NodeContext): Value {
  const to = dtypeOfElementType(node.int("to"));
  if (!to) node.fail("dtype", `element type number ${node.int("to")} is not supported.`);
  return cast(node.input(0), node.computed(to));
}

export const elementwiseReaders: Readonly<Record<string, Reader>> = {
  Abs: unary(abs),
  Ceil: unary(ceil),
  Cos: unary(cos),
  Erf: unary(erf),
  Exp: unary(exp),
  Floor: unary(floor),
  HardSwish: unary(hardSwish),
  Identity: unary((x) => x),
  Log: unary(log),
  Mish: unary(mish),
  Neg: unary(neg),
  Not: unary((a) => equal(bit(a), 0)),
  Reciprocal: unary(reciprocal),
  Relu: unary(relu),
  Round: unary(round),
  Sigmoid: unary(sigmoid),
  Sign: unary(sign),
  Sin: unary(sin),
  Softplus: unary(softplus),
  Softsign: unary((x) => div(x, add(abs(x), 1))),
  Sqrt: unary(sqrt),
  Tanh: unary(tanh),
  Add: binary(add),
  And: binary((a, b) => greater(mul(bit(a), bit(b)), 0)),
  Div: binary(div),
  Equal: binary(equal),
  Greater: binary(greater),
  GreaterOrEqual: binary(atLeast),
  Less: binary((a, b) => greater(b, a)),
  LessOrEqual: binary((a, b) => atLeast(b, a)),
  Mul: binary(mul),
  Or: binary(or),
  PRelu: binary(parametricRelu),
  Sub: binary(sub),
  Xor: binary((a, b) => equal(add(bit(a), bit(b)), 1)),
  Max: variadic(maximum),
  Mean: (node) =>
    div(
      node.inputs().reduce((a, b) => add(a, b)),
      node.inputCount,
    ),
  Min: variadic(minimum),
  Sum: variadic(add),
  Cast: readCast,
  Celu: readCelu,
  Clip: readClip,
  Elu: (node) => elu(node.input(0), node.float("alpha", 1)),
  Gelu: (node) => gelu(node.input(0), { approximate: node.text("approximate", "none") === "tanh" ? "tanh" : "none" }),
  HardSigmoid: readHardSigmoid,
  LeakyRelu: (node) => leakyRelu(node.input(0), node.float("alpha", Math.fround(0.01))),
  Mod: readMod,
  Pow: readPow,
  Selu: readSelu,
  Where: (node) => select(node.input(0), node.input(1), node.input(2)),
};
