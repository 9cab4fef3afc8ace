import { foldFilters, foldNormed } from "../../blocks/index.ts";
import type { OnnxModel, OnnxNode } from "../../onnx/index.ts";
import { floatAttr, intAttr } from "../../onnx/index.ts";

/** A convolution of a file that ResRep's compactor can follow, with the batch norm between; tensors by name. */
export interface CompactorPlace {
  readonly weight: string;
  readonly bias: string | undefined;
  readonly norm: NormPlace | undefined;
}

interface NormPlace {
  readonly weight: string;
  readonly bias: string;
  readonly mean: string;
  readonly variance: string;
  readonly eps: number;
}

/**
 * Where compactors can stand: behind every convolution of one group, or behind the batch norm where that alone takes its
 * output, if no other node has the same weights and all of them are parameters.
 *
 * @param convs  weights of convolutions on pictures
 */
export function compactorPlaces(
  { nodes, outputs }: OnnxModel,
  convs: readonly string[],
  parameters: readonly string[],
): ReadonlyMap<string, CompactorPlace> {
  const uses = new Map<string, OnnxNode[]>();
  for (const node of nodes) for (const name of node.inputs) if (name) uses.set(name, [...(uses.get(name) ?? []), node]);
  const given = new Set(outputs.map(({ name }) => name));
  const own = (names: readonly string[]): boolean =>
    names.every((name) => parameters.includes(name) && uses.get(name)?.length === 1);
  const isNorm = ({ opType, domain }: OnnxNode): boolean => opType === "BatchNormalization" && !domain;
  return new Map(
    nodes.flatMap((node): [string, CompactorPlace][] => {
      const [, weight, bias] = node.inputs;
      const [made] = node.outputs;
      if (node.opType !== "Conv" || !convs.includes(weight) || intAttr(node, "group", 1) !== 1) return [];
      if (given.has(made) || !own([weight, ...(bias ? [bias] : [])])) return [];
      const takers = uses.get(made) ?? [];
      const place = { weight, bias: bias || undefined, norm: undefined };
      if (!takers.some(isNorm)) return [[weight, place]];
      const [norm] = takers;
      const [x, gamma, beta, mean, variance] = norm.inputs;
      if (takers.length > 1 || x !== made || !own([gamma, beta, mean, variance])) return [];
      const eps = floatAttr(norm, "epsilon", Math.fround(1e-5));
      return [[weight, { ...place, norm: { weight: gamma, bias: beta, mean, variance, eps } }]];
    }),
  );
}

/**
 * The tensors of a place with a compactor taken in, by name.
 *
 * @param valuesOf  their present values
 * @param q  `[O, O]`
 */
export function foldedPlace(
  { weight, bias, norm }: CompactorPlace,
  valuesOf: (name: string) => Float64Array,
  q: Float64Array,
): Readonly<Record<string, Float64Array>> {
  const size = Math.sqrt(q.length);
  const [w, b] = [valuesOf(weight), bias === undefined ? new Float64Array(size) : valuesOf(bias)];
  if (!norm)
    return { [weight]: foldFilters(w, q, size), ...(bias !== undefined && { [bias]: foldFilters(b, q, size) }) };
  const [gamma, beta, mean, variance] = [norm.weight, norm.bias, norm.mean, norm.variance].map(valuesOf);
  // What the convolution adds, the norm takes off with its mean.
  const centred = mean.map((m, o) => m - b[o]);
  const next = foldNormed({ weight: w, gamma, beta, mean: centred, variance }, q, norm.eps);
  return {
    ...{ [weight]: next.weight, [norm.weight]: next.gamma, [norm.bias]: next.beta },
    ...{ [norm.mean]: next.mean, [norm.variance]: next.variance },
    ...(bias !== undefined && { [bias]: new Float64Array(size) }),
  };
}
