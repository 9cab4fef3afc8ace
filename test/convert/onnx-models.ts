import { Comparison } from "../../src/inference/index.ts";
import { compileModel } from "../../src/node.ts";
import type { AttributeValue, OnnxDim, OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import { rng, type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";

export interface ConvAttrs {
  readonly bias?: boolean;
  readonly group?: number;
  readonly pads?: readonly number[];
  readonly strides?: readonly number[];
  readonly dilations?: readonly number[];
}

/** Writes small ONNX models node by node; weights are random, statistics of norms are neither 0 nor 1. */
export class Builder {
  private readonly nodes: OnnxNode[] = [];
  private readonly initializers = new Map<string, Tensor>();
  private readonly random;
  private count = 0;

  constructor(
    seed = 1,
    private readonly input: readonly OnnxDim[] = [2, 6, 9, 8],
    private readonly opset = 17,
  ) {
    this.random = rng(seed, "onnx-models");
  }

  private name(kind: string): string {
    return `${kind}${this.count++}`;
  }

  constant(shape: Shape, value: () => number = () => this.random.normal() * 0.5): string {
    const name = this.name("w");
    this.initializers.set(name, Tensor.float32(shape, Float64Array.from({ length: sizeOf(shape) }, value)));
    return name;
  }

  ints(values: readonly number[]): string {
    const name = this.name("n");
    this.initializers.set(name, Tensor.of("int64", [values.length], values));
    return name;
  }

  /** Values of an integer of eight bits. */
  bytes(shape: Shape, value: () => number): string {
    const name = this.name("q");
    this.initializers.set(name, Tensor.of("uint8", shape, Float64Array.from({ length: sizeOf(shape) }, value)));
    return name;
  }

  node(opType: string, inputs: readonly string[], attrs: Record<string, AttributeValue> = {}): string {
    const output = this.name("v");
    this.nodes.push({ opType, inputs, outputs: [output], name: output.replace("v", opType), attrs });
    return output;
  }

  conv(x: string, [inputs, outputs]: readonly [number, number], kernel: Shape, options: ConvAttrs = {}): string {
    const { bias = false, group = 1, ...attrs } = options;
    const weight = this.constant([outputs, inputs / group, ...kernel]);
    const list = [x, weight, ...(bias ? [this.constant([outputs])] : [])];
    return this.node("Conv", list, { group, kernel_shape: [...kernel], ...attrs });
  }

  norm(x: string, channels: number): string {
    const positive = (): number => 0.5 + this.random.next();
    const list = [positive, undefined, undefined, positive].map((value) => this.constant([channels], value));
    return this.node("BatchNormalization", [x, ...list], { epsilon: { float: 1e-3 } });
  }

  model(outputs: readonly string[], rank = 4): OnnxModel {
    const shape = Array.from({ length: rank }, () => "");
    return {
      opset: this.opset,
      nodes: this.nodes,
      initializers: this.initializers,
      inputs: [{ name: "x", dtype: "float32", shape: this.input }],
      outputs: outputs.map((name) => ({ name, dtype: "float32", shape })),
    };
  }
}

/** How many nodes of each operator a model has. */
export function operatorsOf({ nodes }: OnnxModel): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { opType } of nodes) counts[opType] = (counts[opType] ?? 0) + 1;
  return counts;
}

/** Largest difference of the outputs of two models on one random input, by their largest value. */
export async function difference(
  a: OnnxModel,
  b: OnnxModel,
  shape: Shape = a.inputs[0].shape as Shape,
): Promise<number> {
  const random = rng(7, "input");
  const x = Tensor.float32(
    shape,
    Float64Array.from({ length: sizeOf(shape) }, () => random.normal()),
  );
  const results: Readonly<Record<string, Tensor>>[] = [];
  for (const model of [a, b]) {
    const program = await compileModel(model, { threads: 1 });
    results.push(await program.run({ [a.inputs[0].name]: x }));
    await program.dispose();
  }
  const found = Object.keys(results[0]).map((name) =>
    new Comparison().add(results[0][name].toFloat64(), results[1][name].toFloat64()),
  );
  return Math.max(...found.map((c) => c.maxRel));
}
