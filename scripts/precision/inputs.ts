import { type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";
import { formulaUniform } from "../conformance/formula.ts";

/** What the values of x look like. */
export interface Condition {
  /** Mean of every channel; the deviation is 1. */
  readonly offset: number;
  /** Channels share one signal, and each has this much of its own. Default: all of it is its own. */
  readonly own?: number;
  /** Every second channel has one value everywhere. */
  readonly constant?: boolean;
}

/** Mean 0, variance 1. */
const signed = (key: string, size: number): Float64Array =>
  formulaUniform(key, size).map((u) => 1.7320508075688772 * (2 * u - 1));

function valuesOfX(shape: Shape, { offset, own = 0, constant = false }: Condition): Float64Array {
  const [, channels, ...rest] = shape;
  const positions = sizeOf(rest);
  const common = own ? signed("common", shape[0] * positions) : undefined;
  return signed("x", sizeOf(shape)).map((v, i) => {
    const row = Math.floor(i / positions);
    const [n, c] = [Math.floor(row / channels), row % channels];
    const varying = common ? common[n * positions + (i % positions)] + own * v : v;
    return (constant && c % 2 === 0 ? 0 : varying) + offset;
  });
}

const formulas: Readonly<Record<string, (shape: Shape, condition: Condition) => Float64Array>> = {
  x: valuesOfX,
  w: (shape) => {
    const scale = Math.sqrt(sizeOf(shape) / shape[0]);
    return signed("w", sizeOf(shape)).map((v) => v / scale);
  },
  weight: (shape) => formulaUniform("weight", sizeOf(shape)).map((u) => 0.5 + u),
  bias: (shape) => formulaUniform("bias", sizeOf(shape)).map((u) => u - 0.5),
  mean: (shape, { offset }) => signed("mean", sizeOf(shape)).map((v) => offset + 0.1 * v),
  variance: (shape) => formulaUniform("variance", sizeOf(shape)).map((u) => 0.5 + u),
};

/** An input of a case by its name; float32 values also in float64, so that both compute with the same. pytorch.py does the same. */
export function makeInput(
  name: string,
  shape: Shape,
  condition: Condition,
  { dtype, classes }: { readonly dtype: "float32" | "float64"; readonly classes: number },
): Tensor {
  if (name === "labels")
    return Tensor.of(
      "int64",
      shape,
      formulaUniform("labels", sizeOf(shape)).map((u) => Math.floor(u * classes)),
    );
  const values = formulas[name]?.(shape, condition) ?? signed(name, sizeOf(shape));
  return Tensor.of(dtype, shape, values.map(Math.fround));
}

/** The sum of values with formula weights: one number that depends on each. */
export function weightedSum(values: Float64Array): number {
  const weights = formulaUniform("sum", values.length);
  return values.reduce((total, v, i) => total + (2 * weights[i] - 1) * v, 0);
}
