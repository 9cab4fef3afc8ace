import { expect } from "vitest";
import {
  add,
  constant,
  conv2d,
  type Graph,
  grad,
  input,
  lower,
  mul,
  type ParameterRef,
  parameter,
  reduceSum,
  reshape,
  type Target,
  type Value,
} from "../../src/graph/index.ts";
import type { OnnxModel } from "../../src/onnx/index.ts";
import { compileModel, type Program } from "../../src/runtime/index.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import {
  type DType,
  isFloating,
  permutation,
  rng,
  type Shape,
  sizeOf,
  Tensor,
  tensorFromBytes,
} from "../../src/tensor/index.ts";

registerNode();

/** An input of a case: its shape, or more where that is not enough. */
export interface InputSpec {
  readonly shape: Shape;
  /** Default: distinct numbers between −1.6 and 1.6, none near 0, in random order. */
  readonly range?: readonly [low: number, high: number];
  /** Explicit numbers; integers and booleans need them. */
  readonly values?: readonly number[];
  /** Default: the floating dtype of the run. */
  readonly dtype?: DType;
}

export type Inputs = Readonly<Record<string, Shape | InputSpec>>;
export type FloatDType = "float32" | "float64";

const isShape = (spec: Shape | InputSpec): spec is Shape => Array.isArray(spec);
export const specOf = (spec: Shape | InputSpec): InputSpec => (isShape(spec) ? { shape: spec } : spec);

/** Evenly spaced numbers in random order: no two equal, so that maxima have no ties and kinks are far. */
export function distinct(shape: Shape, name: string, [low, high]: readonly [number, number] = [-1.6, 1.6]): number[] {
  const n = sizeOf(shape);
  const random = rng(5, name);
  const step = (high - low) / n;
  return [...permutation(n, random)].map((i) => low + step * (i + 0.35 + 0.3 * random.next()));
}

export const feedOf = (name: string, spec: InputSpec, dtype: FloatDType): Tensor =>
  Tensor.of(spec.dtype ?? dtype, spec.shape, spec.values ?? distinct(spec.shape, name, spec.range));

export const refOf = (tensor: Tensor): ParameterRef => ({ ...tensorType(tensor), source: () => tensor });
const tensorType = ({ dtype, shape }: Tensor): { dtype: DType; shape: Shape } => ({ dtype, shape });

/** The same values, made by a 1×1 convolution with the identity: batch-last where the target prefers that. */
export function viaConvolution(x: Value): Value {
  const [n, c, ...rest] = x.shape;
  const eye = Tensor.of(
    x.dtype,
    [c, c, 1, 1],
    Array.from({ length: c * c }, (_, i) => (i % (c + 1) === 0 ? 1 : 0)),
  );
  const image = reshape(x, [n, c, sizeOf(rest), 1]);
  return reshape(conv2d(image, constant(eye)), x.shape);
}

export interface Leaves {
  readonly values: Readonly<Record<string, Value>>;
  readonly names: ReadonlyMap<ParameterRef, string>;
}

export interface LeafOptions {
  readonly dtype: FloatDType;
  /** Names of the inputs that are parameters. */
  readonly parameters?: readonly string[];
  /** Names of the inputs that come from a batch-last producer. */
  readonly batchLast?: readonly string[];
}

/** Leaves of the graph for the inputs of a case. */
export function makeLeaves(feeds: Readonly<Record<string, Tensor>>, options: LeafOptions): Leaves {
  const { parameters = [], batchLast = [] } = options;
  const names = new Map<ParameterRef, string>();
  const values: Record<string, Value> = {};
  for (const [name, tensor] of Object.entries(feeds)) {
    const ref = refOf(tensor);
    if (parameters.includes(name)) names.set(ref, name);
    const leaf = parameters.includes(name) ? parameter(ref) : input(name, tensor.shape, tensor.dtype);
    values[name] = batchLast.includes(name) && canTurn(tensor) ? viaConvolution(leaf) : leaf;
  }
  return { values, names };
}

const canTurn = ({ shape, dtype }: Tensor): boolean => shape.length >= 2 && isFloating(dtype);

/** Compiles with one thread. Float64 is the reference, so it runs as written (which also saves time). */
export async function program(model: OnnxModel): Promise<Program> {
  const reference = model.outputs.every(({ dtype }) => dtype === "float64");
  return compileModel(model, { threads: 1, ...(reference && { session: { graphOptimizationLevel: "disabled" } }) });
}

/** Feeds of a lowered model: parameters are 1-D there. */
export function feedsFor(model: OnnxModel, tensors: Readonly<Record<string, Tensor>>): Record<string, Tensor> {
  return Object.fromEntries(model.inputs.map(({ name, shape }) => [name, tensors[name].reshape(shape as number[])]));
}

export async function evaluate(
  graph: Graph,
  target: Target,
  { names }: Pick<Leaves, "names">,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Tensor>> {
  const { model } = lower(graph, { target, names });
  await using compiled = await program(model);
  const results = await compiled.run(feedsFor(model, feeds));
  for (const [name, value] of Object.entries(graph.outputs))
    expect({ name, dtype: results[name].dtype, shape: results[name].shape }, "what the shape rule promises").toEqual({
      name,
      dtype: value.dtype,
      shape: [...value.shape],
    });
  return results;
}

/** Runs a model with every intermediate tensor as an output and compares their types with the written ones. */
export async function checkIntermediates(
  graph: Graph,
  target: Target,
  { names }: Pick<Leaves, "names">,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<void> {
  const { model } = lower(graph, { target, names, valueInfo: true });
  const inner = model.valueInfo ?? [];
  await using compiled = await program({ ...model, valueInfo: [], outputs: [...model.outputs, ...inner] });
  const results = await compiled.run(feedsFor(model, feeds));
  const types = (list: readonly { name: string; dtype: DType; shape?: readonly unknown[] }[]) =>
    list.map(({ name, dtype, shape }) => `${name} ${dtype} [${shape}]`);
  expect(types(inner.map(({ name }) => ({ name, ...tensorType(results[name]) })))).toEqual(types(inner));
}

/** Largest difference, relative to the largest expected magnitude (at least 0.1: sums may cancel). */
export function difference(actual: Tensor, expected: Tensor): number {
  expect(actual.shape).toEqual(expected.shape);
  const [a, b] = [actual.toFloat64(), expected.toFloat64()];
  const scale = b.reduce((m, v) => Math.max(m, Math.abs(v)), 0.1);
  return a.reduce((m, v, i) => larger(m, Math.abs(v - b[i]) / scale), 0);
}

/** As {@link difference}, over the elements where `expected` is a number. */
export function sampledDifference(actual: Tensor, expected: Tensor): number {
  const known = expected.toFloat64();
  const values = actual.toFloat64();
  expect(actual.shape).toEqual(expected.shape);
  const pick = (all: Float64Array): Tensor => {
    const some = all.filter((_, i) => !Number.isNaN(known[i]));
    return Tensor.of("float64", [some.length], some);
  };
  return difference(pick(values), pick(known));
}

/** The maximum, where not-a-number counts as infinite. */
const larger = (a: number, b: number): number => (Number.isNaN(b) ? Number.POSITIVE_INFINITY : Math.max(a, b));

/** Σ over all outputs of ⟨output, weight⟩: one number that depends on everything. */
export const innerProduct = (outputs: readonly Value[], weights: readonly Value[]): Value =>
  outputs.map((y, i) => reduceSum(mul(y, weights[i]))).reduce((a, b) => add(a, b));

/** Leaves and results of a case: outputs, gradients of their inner product with cotangents, and gradients of those. */
export interface Derivatives {
  readonly outputs: readonly Value[];
  /** ⟨outputs, cotangents⟩. */
  readonly total: Value;
  readonly first: readonly Value[];
  /** ⟨first, directions⟩. */
  readonly slope: Value;
  readonly second: readonly Value[];
}

/** Differentiates twice: by `wrt`, then by `wrt` and the cotangents. */
export function derivatives(
  outputs: readonly Value[],
  wrt: readonly Value[],
  cotangents: readonly Value[],
  directions: readonly Value[],
): Derivatives {
  const total = innerProduct(outputs, cotangents);
  const first = grad(total, wrt);
  const slope = innerProduct(first, directions);
  return { outputs, total, first, slope, second: grad(slope, [...wrt, ...cotangents]) };
}

/** Tensors of a .safetensors file, by name. */
export function readFixture(file: Uint8Array): ReadonlyMap<string, Tensor> {
  const view = new DataView(file.buffer, file.byteOffset);
  const length = Number(view.getBigUint64(0, true));
  const header: Record<string, { dtype: "F32" | "I64"; shape: number[]; data_offsets: [number, number] }> = JSON.parse(
    new TextDecoder().decode(file.subarray(8, 8 + length)),
  );
  return new Map(
    Object.entries(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [start, end],
        },
      ]) => {
        const bytes = file.slice(8 + length + start, 8 + length + end) as Uint8Array<ArrayBuffer>;
        return [name, tensorFromBytes(dtype === "F32" ? "float32" : "int64", shape, bytes)];
      },
    ),
  );
}
