import { must } from "../errors.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { type CompileOptions, compileModel, type Feeds } from "../runtime/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { exactKernels } from "./exact.ts";
import { constantsOf, nameOf } from "./plan.ts";

/** A layer of a quantized model with integer weights. */
export interface InspectedLayer {
  readonly layer: string;
  readonly operator: string;
  /** Type of its input. */
  readonly activations: "uint8" | "int8";
  /** The largest integer of its weight, without its sign. */
  readonly largestWeight: number;
  /** Whether two products could exceed 16 bits, where a CPU without VNNI adds them: uint8 times two weights above 128 together. */
  readonly maySaturate: boolean;
  /** Share of its output's integers that differ from those of exact kernels, here; absent where it writes no integers. */
  readonly changed?: number;
}

export interface QuantizedInspection {
  readonly layers: readonly InspectedLayer[];
  /** Largest difference of the outputs from those of exact kernels, here. */
  readonly maxAbsDiff: number;
  /** Largest output of the exact kernels. */
  readonly scale: number;
}

/**
 * Runs a quantized model (QDQ) with ONNX Runtime's usual kernels and with its exact ones, and says which layers saturate
 * here, and which could on a CPU that adds products of uint8 and int8 in 16 bits.
 *
 * @throws RepmlpError `quantize/float` for a model without integer weights
 */
export async function inspectQuantized(
  model: OnnxModel,
  feeds: Feeds,
  options: CompileOptions = {},
): Promise<QuantizedInspection> {
  const makers = new Map(model.nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));
  const constants = constantsOf(model);
  const users = new Map<string, OnnxNode[]>();
  for (const node of model.nodes) for (const name of node.inputs) users.set(name, [...(users.get(name) ?? []), node]);
  const found = model.nodes.flatMap((node) => {
    const [weight, input] = [node.inputs[1], node.inputs[0]].map((name) => makers.get(name ?? ""));
    if (weight?.opType !== "DequantizeLinear" || input?.opType !== "DequantizeLinear") return [];
    const integers = constants.get(weight.inputs[0]);
    const zero = constants.get(input.inputs[2] ?? "");
    return integers?.dtype === "int8" ? [{ node, axis: axisOf(weight), integers, type: zero?.dtype ?? "uint8" }] : [];
  });
  must(
    found.length > 0,
    "quantize/float",
    () =>
      "doctor: the model has no layer with integer weights and activations (QDQ). Quantize it with repmlp quantize.",
    "model",
  );
  /** The integers that a layer's output becomes, behind its activation. */
  const written = (node: OnnxNode): string | undefined => {
    for (const user of users.get(node.outputs[0]) ?? []) {
      if (user.opType === "QuantizeLinear") return user.outputs[0];
      if (user.opType === "Relu" || user.opType === "Clip") return written(user);
    }
    return undefined;
  };
  const shown = new Map(found.flatMap(({ node }) => [[node, written(node)] as const]));
  const names = [...new Set([...shown.values()].filter((name) => name !== undefined))];
  const typeOf = (name: string): "uint8" | "int8" =>
    constants.get(makers.get(name)!.inputs[2] ?? "")?.dtype === "int8" ? "int8" : "uint8";
  const { valueInfo: _, ...bare } = model;
  const outputs = [...model.outputs, ...names.map((name) => ({ name, dtype: typeOf(name) }))];
  const run = async (how: CompileOptions): Promise<Readonly<Record<string, Tensor>>> => {
    await using program = await compileModel({ ...bare, outputs }, how);
    return await program.run(feeds);
  };
  const [usual, exact] = [await run(options), await run(exactKernels(options))];
  const [maxAbsDiff, scale] = difference(model.outputs.map(({ name }) => [exact[name], usual[name]] as const));
  return {
    maxAbsDiff,
    scale,
    layers: found.map(({ node, axis, integers, type }) => {
      const name = shown.get(node);
      const { largest, pair } = largestOf(integers.readSync(), axis);
      return {
        ...{ layer: nameOf(node), operator: node.opType, activations: type as "uint8" | "int8" },
        ...{ largestWeight: largest, maySaturate: type === "uint8" && pair > 128 },
        ...(name !== undefined && { changed: shareOf(exact[name], usual[name]) }),
      };
    }),
  };
}

const axisOf = ({ attrs: { axis } }: OnnxNode): number => (typeof axis === "number" ? axis : 1);

/** The largest absolute weight, and the largest sum of two of one sign for one output. */
function largestOf(weight: Tensor, axis: number): { readonly largest: number; readonly pair: number } {
  const inner = weight.shape.slice(axis + 1).reduce((n, d) => n * d, 1);
  const tops = new Map<number, [number, number]>();
  for (const [i, v] of weight.toFloat64().entries()) {
    const key = 2 * (Math.floor(i / inner) % weight.shape[axis]) + (v < 0 ? 1 : 0);
    const size = Math.abs(v);
    const [first, second] = tops.get(key) ?? [0, 0];
    tops.set(key, size > first ? [size, first] : [first, Math.max(second, size)]);
  }
  const all = [...tops.values()];
  return { largest: Math.max(0, ...all.map(([a]) => a)), pair: Math.max(0, ...all.map(([a, b]) => a + b)) };
}

function shareOf(a: Tensor, b: Tensor): number {
  const other = b.toFloat64();
  return a.toFloat64().filter((v, i) => v !== other[i]).length / Math.max(1, other.length);
}

function difference(pairs: readonly (readonly [Tensor, Tensor])[]): readonly [maxAbs: number, scale: number] {
  let [maxAbs, scale] = [0, 0];
  for (const [exact, other] of pairs) {
    const values = other.toFloat64();
    for (const [i, v] of exact.toFloat64().entries()) {
      maxAbs = Math.max(maxAbs, Math.abs(v - values[i]));
      scale = Math.max(scale, Math.abs(v));
    }
  }
  return [maxAbs, scale];
}
