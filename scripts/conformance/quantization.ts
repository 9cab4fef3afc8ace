import { constant, fakeQuantize, grad, input, mul, reduceSum, type Value } from "../../src/graph/index.ts";
import {
  affineQuantization,
  integerRanges,
  type Quantization,
  quantizeTensor,
  symmetricQuantization,
  weightQuantization,
} from "../../src/quantize/index.ts";
import { compile } from "../../src/runtime/index.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { absMax, type CaseCheck, type CaseResult, reader, runCase } from "./report.ts";

interface FakeQuantizeCase {
  readonly kind: `fake_quantize_per_${"tensor" | "channel"}` | `lsq_per_${"tensor" | "channel"}`;
  readonly qmin: number;
  readonly qmax: number;
  readonly axis?: number;
  readonly grad_factor?: number;
}

interface Step {
  readonly scale: number;
  readonly zero_point: number;
}

interface ParametersCase {
  readonly kind: "minmax_parameters";
  readonly expected: Readonly<Record<string, Readonly<Record<"affine_uint8" | "symmetric_127", Step>>>>;
}

/** A case of the goldens' list `quantization`. */
export type QuantizationCase = { readonly id: string; readonly file: string } & (FakeQuantizeCase | ParametersCase);

/** Integers are equal, all else is to 1e-6 of the largest value. */
const RELATIVE = 1e-6;

/** Quantization as PyTorch's: integers, values, gradients of values and of learned steps, parameters from ranges. */
export function checkQuantization(
  c: QuantizationCase,
  tensors: ReadonlyMap<string, TensorSource>,
): Promise<CaseResult> {
  const get = reader(tensors);
  return runCase(c.id, (check) =>
    c.kind === "minmax_parameters" ? checkParameters(c, get, check) : checkFake(c, tensors, get, check),
  );
}

async function checkFake(
  { qmin, qmax, axis, grad_factor: stepGradient }: FakeQuantizeCase,
  tensors: ReadonlyMap<string, TensorSource>,
  get: (key: string) => Tensor,
  check: CaseCheck,
): Promise<void> {
  const [values, cotangent] = [get("input"), get("cotangent")];
  const parameters = { scale: get("scale"), zeroPoint: get("zero_point").cast("float32") };
  const x = input("x", values.shape);
  const scale = input("scale", parameters.scale.shape);
  const zeroPoint = input("zeroPoint", parameters.zeroPoint.shape);
  const output = fakeQuantize(x, scale, { qmin, qmax, axis, stepGradient }, zeroPoint);
  const learned = stepGradient !== undefined;
  const gradients = grad(reduceSum(mul(output, constant(cotangent))), learned ? [x, scale, zeroPoint] : [x]);
  const names = ["grad.input", "grad.scale", "grad.zero_point"];
  const outputs: Record<string, Value> = { output };
  for (const [i, gradient] of gradients.entries()) outputs[names[i]] = gradient;
  await using program = await compile({ outputs });
  const made = await program.run({ x: values, ...parameters });
  const near = (name: string, golden: Tensor): void =>
    check.near(name, made[name], golden, RELATIVE * (absMax(golden) || 1));
  near("output", get("output"));
  for (const name of Object.keys(outputs).slice(1)) {
    near(name, get(name));
    if (tensors.has(`float64.${name}`)) near(name, get(`float64.${name}`));
  }
  const zeros = parameters.zeroPoint.toFloat64();
  const quantization: Quantization = {
    ...{ qmin, qmax, axis },
    steps: Array.from(parameters.scale.toFloat64(), (s, i) => ({ scale: s, zeroPoint: zeros[i] })),
  };
  check.equal(
    "quantized",
    [...quantizeTensor(values, quantization).data].map(Number),
    [...get("quantized").data].map(Number),
  );
}

async function checkParameters({ expected }: ParametersCase, get: (key: string) => Tensor, check: CaseCheck) {
  const step = (name: string, made: { scale: number; zeroPoint: number }, { scale, zero_point }: Step): void => {
    check.within(`${name} scale`, Math.abs(made.scale / scale - 1), RELATIVE);
    check.equal(`${name} zero point`, made.zeroPoint, zero_point);
  };
  for (const [name, parameters] of Object.entries(expected)) {
    const tensor = get(`tensor.${name}`);
    const values = tensor.toFloat64();
    const affine = affineQuantization(Math.min(...values), Math.max(...values), integerRanges.uint8);
    step(`${name} affine`, affine, parameters.affine_uint8);
    step(`${name} symmetric`, symmetricQuantization(absMax(tensor)), parameters.symmetric_127);
  }
  const scales = weightQuantization(get("weight"), { axis: 0 }).steps.map(({ scale }) => scale);
  const golden = get("weight_scale");
  check.near("weight_scale", Tensor.float32([scales.length], scales), golden, RELATIVE * absMax(golden));
}
