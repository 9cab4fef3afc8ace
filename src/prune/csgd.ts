import { fmt, listed, must } from "../errors.ts";
import { add, constant, matmul, mul, reshape, sub, type Value } from "../graph/index.ts";
import { rng, type Shape, Tensor } from "../tensor/index.ts";
import { flat, mustBeIn, type ParameterGroup, type UpdateRule } from "../training/index.ts";
import type { ChannelGroup } from "./dependencies.ts";

/** Positions that belong together; every position of a layer is in one cluster. */
export type Clusters = readonly (readonly number[])[];

function mustDivide(filters: number, count: number): void {
  must(
    Number.isInteger(count) && count >= 1 && count <= filters,
    "csgd/clusters",
    () => `csgd: the number of clusters must be an integer from 1 to the number of filters, ${filters}, got ${count}`,
    "usage",
  );
}

/** Neighbours together, in clusters of sizes that differ by one at most (arXiv 1904.03837, section 3.1). */
export function evenClusters(filters: number, count: number): Clusters {
  mustDivide(filters, count);
  const start = (c: number): number => Math.ceil((c * filters) / count);
  return Array.from({ length: count }, (_, c) =>
    Array.from({ length: start(c + 1) - start(c) }, (_, i) => start(c) + i),
  );
}

/**
 * Clusters of filters that are near to one another: k-means on the flattened filters, from centres that are drawn far apart
 * (k-means++). Clusters are in the order of their first filters.
 *
 * @param filters  `[O, …]`
 */
export function kMeansClusters(filters: Tensor, count: number, { seed = 0, rounds = 100 } = {}): Clusters {
  const [rows] = filters.shape;
  mustDivide(rows, count);
  const values = filters.toFloat64();
  const size = values.length / rows;
  const points = Array.from({ length: rows }, (_, r) => values.slice(r * size, (r + 1) * size));
  const distance = (a: Float64Array, b: Float64Array): number => a.reduce((n, v, i) => n + (v - b[i]) ** 2, 0);
  const random = rng(seed, "clusters");
  const centres = [points[random.below(rows)].slice()];
  while (centres.length < count) {
    const far = points.map((p) => Math.min(...centres.map((c) => distance(p, c))));
    // Drawn in proportion to the distance. Of equal filters there may be fewer than centres: the clusters that stay empty
    // are filled below.
    let left = random.next() * far.reduce((n, d) => n + d, 0);
    let drawn = 0;
    while (drawn < rows - 1 && left >= far[drawn]) left -= far[drawn++];
    centres.push(points[drawn].slice());
  }
  let labels: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const next = points.map((p) => {
      const all = centres.map((c) => distance(p, c));
      return all.indexOf(Math.min(...all));
    });
    fillEmpty(next, count, (r) => distance(points[r], centres[next[r]]));
    if (next.every((label, r) => label === labels[r])) break;
    labels = next;
    for (const [c, centre] of centres.entries()) {
      const members = points.filter((_, r) => labels[r] === c);
      for (let i = 0; i < size; i++) centre[i] = members.reduce((n, p) => n + p[i], 0) / members.length;
    }
  }
  const clusters = Array.from({ length: count }, (_, c) => labels.flatMap((label, r) => (label === c ? [r] : [])));
  return clusters.sort((a, b) => a[0] - b[0]);
}

/** Gives each empty cluster the point that is farthest from its centre, of a cluster that has another one. */
function fillEmpty(labels: number[], count: number, distanceOf: (row: number) => number): void {
  for (let c = 0; c < count; c++) {
    if (labels.includes(c)) continue;
    const spare = labels.map((label, r) => (labels.filter((l) => l === label).length > 1 ? distanceOf(r) : -1));
    labels[spare.indexOf(Math.max(...spare))] = c;
  }
}

/**
 * The clusters of all that a group of channels is made of, for {@link centripetal}: the filters of every layer that makes them
 * (of layers that are added up all share the clusters of the first, their pacesetter), biases and numbers of norms.
 *
 * @param clusters  positions of channels in the group
 */
export const clustersByKey = ({ axes, channels }: ChannelGroup, clusters: Clusters): ReadonlyMap<string, Clusters> =>
  new Map(
    axes.flatMap(({ key, axis, role }, a) =>
      role === "takes" || axis !== 0
        ? []
        : // Of a channel with several rows (of a grouped layer), each goes with those in the same place.
          [
            [
              key,
              clusters.flatMap((set) =>
                channels[set[0]].positions[a].map((_, at) => set.map((c) => channels[c].positions[a][at])),
              ),
            ] as const,
          ],
    ),
  );

export interface CentripetalOptions {
  /** By key of a kernel `[O, …]` or a vector `[O]`. */
  readonly clusters: ReadonlyMap<string, Clusters>;
  /** ε of kernels; vectors have a tenth. Default 3e-3. */
  readonly strength?: number;
  /** η of kernels. Default 1e-4. */
  readonly weightDecay?: number;
  /** η of vectors. Default 0. */
  readonly weightDecayBias?: number;
}

/**
 * C-SGD's gradient (arXiv 1904.03837, equation 4) for the rules that follow: filters of a cluster get the mean of their
 * gradients, their decay, and a pull to their mean, ε · (F − mean). The optimizer's own decay must be off for these
 * parameters: see {@link centripetalGroup}. Differences within a cluster shrink by 1 − lr · (η + ε) in a plain step.
 *
 * @throws `csgd/clusters` for a key that is not trained, or clusters that do not hold each of its rows once
 */
export function centripetal(options: CentripetalOptions): UpdateRule {
  const { clusters, strength = 3e-3, weightDecay = 1e-4, weightDecayBias = 0 } = options;
  mustBeIn("centripetal", { strength, weightDecay, weightDecayBias }, 0, Number.POSITIVE_INFINITY);
  return {
    name: "centripetal",
    settings: { strength, weightDecay, weightDecayBias, layers: clusters.size },
    apply: ({ parameters, gradients }) => {
      const missing = [...clusters.keys()].filter((key) => !parameters.some((p) => p.key === key));
      must(
        !missing.length,
        "csgd/clusters",
        () => `csgd: there is no trained parameter ${listed(missing)}. Take keys of the network's state dict.`,
        "usage",
      );
      return {
        gradients: parameters.map(({ key, shape, value }, i) => {
          const own = clusters.get(key);
          if (!own) return gradients[i];
          const averaging = constant(averagingMatrix(key, shape, own));
          const mean = (rows: Value): Value => matmul(averaging, rows);
          const [decay, pull] = shape.length > 1 ? [weightDecay, strength] : [weightDecayBias, 0.1 * strength];
          const [w, g] = [value, gradients[i]].map((v) => reshape(v, [shape[0], v.shape[0] / shape[0]]));
          return flat(add(add(mean(g), mul(w, decay)), mul(sub(w, mean(w)), pull)));
        }),
      };
    },
  };
}

/** For `group` of a trainer: no weight decay of the optimizer where {@link centripetal} has it. */
export const centripetalGroup =
  (clusters: CentripetalOptions["clusters"]) =>
  (key: string): ParameterGroup | undefined =>
    clusters.has(key) ? { weightDecay: 0 } : undefined;

/** Γ `[O, O]`: one over the size of the cluster for two rows of it, else 0. */
function averagingMatrix(key: string, shape: Shape, clusters: Clusters): Tensor {
  const [rows] = shape;
  const all = clusters.flat().sort((a, b) => a - b);
  must(
    all.length === rows && all.every((r, i) => r === i),
    "csgd/clusters",
    () => `csgd: the clusters of ${key} ${fmt(shape)} must hold each of its ${rows} rows once, but hold ${fmt(all)}`,
    "usage",
  );
  const values = new Float64Array(rows * rows);
  for (const set of clusters) for (const i of set) for (const j of set) values[i * rows + j] = 1 / set.length;
  return Tensor.float32([rows, rows], values);
}

/**
 * Weights of a layer that follows, with the inputs of each cluster as one: their sum, in the place of the cluster's first
 * (arXiv 1904.03837, section 3.3).
 *
 * @param weight  `[O, C, kH, kW]`, or `[O, C · pixels]` of a linear layer after a flattened map
 * @param pixels  columns per channel. Default 1
 * @returns inputs in the order of the clusters' first members
 */
export function mergeInputs(weight: Tensor, clusters: Clusters, pixels = 1): Tensor {
  const [outputs, columns, ...kernel] = weight.shape;
  const inner = pixels * kernel.reduce((n, d) => n * d, 1);
  const ordered = clusters.map((set) => [...set].sort((a, b) => a - b)).sort((a, b) => a[0] - b[0]);
  const all = ordered.flat().length;
  must(
    all * pixels === columns,
    "csgd/clusters",
    () => `csgd: clusters of ${all} channels with ${pixels} columns each do not fit weights ${fmt(weight.shape)}`,
    "usage",
  );
  const values = weight.toFloat64();
  const merged = new Float64Array(outputs * ordered.length * inner);
  for (let o = 0; o < outputs; o++)
    for (const [c, set] of ordered.entries())
      for (const member of set)
        for (let i = 0; i < inner; i++)
          merged[(o * ordered.length + c) * inner + i] += values[(o * all + member) * inner + i];
  return Tensor.of(weight.dtype, [outputs, ordered.length * pixels, ...kernel], merged);
}
