import { must } from "../../errors.ts";
import { type ExportOnnxOptions, exportOnnx } from "../../export/index.ts";
import { constant, fakeQuantize, rowsName, rowsOf, type Value } from "../../graph/index.ts";
import { Predictor, randomInputs } from "../../inference/index.ts";
import { Module, type Net } from "../../nn/index.ts";
import type { OnnxModel, OnnxNode } from "../../onnx/index.ts";
import { type CompileOptions, compileModel } from "../../runtime/index.ts";
import { Tensor, type TensorSource } from "../../tensor/index.ts";
import { type QuantizationStep, roundHalfEven } from "../affine.ts";
import { exactKernels } from "../exact.ts";
import { decibels, squaredShare } from "../noise.ts";
import { constantsOf, nameOf, planOfTensors } from "../plan.ts";
import { type IntegerWeight, integerWeight, quantizationTargets, quantizedModel } from "../qdq.ts";
import { computedFrom } from "./calibrate.ts";
import type { QuantizedNet } from "./quantized-net.ts";

export interface ExportQuantizedOptions extends Pick<ExportOnnxOptions, "batch" | "opset" | "metadata"> {
  /** Pictures to compare the result with the network on, `[N, C, H, W]`. Default a few of noise. */
  readonly compareOn?: Tensor;
  readonly compile?: CompileOptions;
}

export interface QuantizedExport {
  readonly model: OnnxModel;
  /** Nodes whose weights are integers. */
  readonly layers: readonly string[];
  /** Signal to noise of the file's outputs beside those of the network in training, in decibels: roundings that tip over. */
  readonly sqnr: number;
}

/** What roundings that tip over may add up to; a layer that is computed differently is far below. */
const LEAST_SQNR = 10;

/**
 * Writes a network that was trained as a {@link QuantizedNet} as an ONNX model with integer weights and activations (QDQ).
 * Kernels are what the graph of training computes of the branches, and are rounded with the same scales: the integers of
 * the file are those that the next training step would use, bit for bit. Biases become 32-bit integers.
 *
 * @throws RepmlpError `quantize/no-ranges` before anything was seen; `quantize/export` where the file computes something
 *   else
 */
export async function exportQuantized(
  net: QuantizedNet,
  options: ExportQuantizedOptions = {},
): Promise<QuantizedExport> {
  const { batch = "dynamic", compile, metadata } = options;
  net.mustHaveRanges();
  const { inputShape, target: targetName } = net.options;
  const target = quantizationTargets[targetName];
  const present = await presentValues(net, compile);
  const deploy = net.mergedWith(present.weights);
  const marked = new MarkedNet(deploy, (x) =>
    net.withActivations(x, deploy, (made, name) => {
      const { scale, zeroPoint } = present.steps.get(name)!;
      const [s, z] = [scale, zeroPoint].map((v) => constant(Tensor.float32([1], [v])));
      return fakeQuantize(made, s, { ...target.activations, stored: target.activationType }, z);
    }),
  ).eval();
  const { model: written } = await exportOnnx(marked, {
    ...{ inputShape, batch, metadata, keepBranches: true, check: false },
    ...(options.opset !== undefined && { opset: options.opset }),
  });
  const { model: float, steps } = withoutPairs(written);
  const model = integerModel(withReshapedConstants(float), steps, present.scales, targetName);
  const sqnr = await compared(net, model.model, options);
  must(
    sqnr >= LEAST_SQNR,
    "quantize/export",
    () =>
      `quantize: the file differs from the network in training (${sqnr.toFixed(1)} dB of signal to noise): a layer computes something else.`,
    "model",
  );
  return { ...model, sqnr };
}

/** A merged network that forwards in its own way. */
class MarkedNet extends Module {
  constructor(
    private readonly deploy: Net,
    private readonly marked: (x: Value) => Value,
  ) {
    super();
  }

  override *members(): ReturnType<Module["members"]> {
    yield* this.deploy.members();
  }

  forward(x: Value): Value {
    return this.marked(x);
  }
}

interface Present {
  /** Weights and biases of the merged form. */
  readonly weights: ReadonlyMap<string, Tensor>;
  readonly scales: ReadonlyMap<string, Tensor>;
  readonly steps: ReadonlyMap<string, QuantizationStep>;
}

async function presentValues(net: QuantizedNet, compile: CompileOptions | undefined): Promise<Present> {
  const { equivalents, weightScales, steps } = net.values();
  const asked: Record<string, Value> = {};
  for (const [key, value] of equivalents) asked[`value:${key}`] = value;
  for (const [key, value] of weightScales) asked[`step:${key}`] = value;
  for (const [name, [scale, zeroPoint]] of steps) {
    asked[`scale:${name}`] = scale;
    asked[`zero:${name}`] = zeroPoint;
  }
  const found = await computedFrom(net, asked, compile);
  const { activations: range } = quantizationTargets[net.options.target];
  return {
    weights: new Map([...equivalents.keys()].map((key) => [key, found[`value:${key}`]])),
    scales: new Map([...weightScales.keys()].map((key) => [key, found[`step:${key}`]])),
    steps: new Map(
      [...steps.keys()].map((name) => {
        const [scale, zero] = [found[`scale:${name}`], found[`zero:${name}`]].map((t) => Number(t.data[0]));
        return [name, { scale, zeroPoint: Math.min(range.qmax, Math.max(range.qmin, roundHalfEven(zero))) }];
      }),
    ),
  };
}

/** The model in float, and the steps of the tensors that a pair of QuantizeLinear and DequantizeLinear stood behind. */
function withoutPairs(model: OnnxModel): { readonly model: OnnxModel; readonly steps: Map<string, QuantizationStep> } {
  const number = (name: string): number => Number(model.initializers.get(name)!.readSync().data[0]);
  const steps = new Map<string, QuantizationStep>();
  const rootOf = new Map<string, string>();
  for (const { opType, inputs, outputs } of model.nodes) {
    if (opType === "QuantizeLinear") {
      steps.set(inputs[0], { scale: number(inputs[1]), zeroPoint: number(inputs[2]) });
      rootOf.set(outputs[0], inputs[0]);
    } else if (opType === "DequantizeLinear") rootOf.set(outputs[0], rootOf.get(inputs[0])!);
  }
  const nodes = model.nodes
    .filter(({ opType }) => !/^(De)?[Qq]uantizeLinear$/.test(opType))
    .map((node): OnnxNode => ({ ...node, inputs: node.inputs.map((name) => rootOf.get(name) ?? name) }));
  return { model: { ...model, nodes }, steps };
}

/** The model with constants in the place of what only gives them another shape, under a name that says whose rows they are. */
function withReshapedConstants(model: OnnxModel): OnnxModel {
  const initializers = new Map(model.initializers);
  const names = new Map<string, string>();
  const nodes = model.nodes.filter(({ opType, inputs, outputs }) => {
    const [source, shape] = inputs.map((name) => model.initializers.get(name));
    if (opType !== "Reshape" || source?.dtype !== "float32" || !shape) return true;
    const reshaped = source.readSync().reshape([...shape.readSync().toFloat64()]);
    const name = rowsName(inputs[0], 0, reshaped.shape[0] ?? 1);
    initializers.set(name, reshaped);
    names.set(outputs[0], name);
    return false;
  });
  const renamed = nodes.map(
    (node): OnnxNode => ({ ...node, inputs: node.inputs.map((name) => names.get(name) ?? name) }),
  );
  return { ...model, nodes: renamed, initializers };
}

function integerModel(
  model: OnnxModel,
  steps: ReadonlyMap<string, QuantizationStep>,
  scales: ReadonlyMap<string, Tensor>,
  targetName: keyof typeof quantizationTargets,
): { readonly model: OnnxModel; readonly layers: readonly string[] } {
  const target = quantizationTargets[targetName];
  const constants = constantsOf(model);
  /** Scales of the rows of a constant, by its name. */
  const scalesOf = (name: string): ArrayLike<number> | undefined => {
    const rows = rowsOf(name);
    const whole = scales.get(rows && scales.has(rows.of) ? rows.of : name)?.toFloat64();
    return rows && !scales.has(name) ? whole?.slice(rows.start, rows.end) : whole;
  };
  const plan = planOfTensors(model, steps, (name) => scalesOf(name) !== undefined);
  const read = (source: TensorSource | undefined): Tensor | undefined => source?.readSync();
  const weights = new Map<OnnxNode, IntegerWeight>(
    plan.weighted.map((entry) => {
      const [input, weight, bias = ""] = entry.node.inputs;
      const { scale } = steps.get(plan.tensors.get(input)!)!;
      const [values, added, scales] = [read(constants.get(weight))!, read(constants.get(bias)), scalesOf(weight)];
      return [entry.node, integerWeight(entry, values, added, target.weights, scale, { ...(scales && { scales }) })];
    }),
  );
  const result = quantizedModel(model, plan, steps, weights, target);
  const metadata = {
    ...result.metadata,
    dtype: "int8",
    quantization: JSON.stringify({ target: targetName, trained: true }),
  };
  return { model: { ...result, metadata }, layers: plan.weighted.map(({ node }) => nameOf(node)) };
}

async function compared(
  net: QuantizedNet,
  model: OnnxModel,
  { compareOn, batch, compile = {} }: ExportQuantizedOptions,
): Promise<number> {
  const { inputShape } = net.options;
  const size = typeof batch === "number" ? batch : (compareOn?.shape[0] ?? 4);
  const images = compareOn ?? randomInputs(inputShape, size, 0);
  const { training } = net;
  const predictor = await Predictor.create(net.eval(), { inputShape, batchSize: size, ...compile });
  const expected = await predictor.run(images).finally(() => predictor.dispose());
  net.train(training);
  await using program = await compileModel(model, exactKernels(compile));
  const [made] = Object.values(await program.run({ [model.inputs[0].name]: images }));
  return decibels(squaredShare([[expected, made]]));
}
