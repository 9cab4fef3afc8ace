import { must } from "../errors.ts";
import { add, div, maximum, mul, reduceSum, reshape, sqrt } from "../graph/index.ts";
import { type Module, mapModules, type Net } from "../nn/index.ts";
import { convertToDeploy } from "../reparam/index.ts";
import { type Shape, Tensor, type TensorSource } from "../tensor/index.ts";
import {
  flat,
  mustBeIn,
  type ParameterGroup,
  type StateAccess,
  type StateTensor,
  slotName,
  stateName,
  type UpdateRule,
} from "../training/index.ts";
import { cutChannels } from "./cut.ts";
import { type Channel, channelDependencies, groupOf } from "./dependencies.ts";

/** Multiply-adds of a network whose compactors have so many rows each, in their order. */
export type CostOfWidths = (widths: readonly number[]) => number;

export interface MaskSettings {
  readonly costOf: CostOfWidths;
  /** Share of the whole network's cost that is to be left, such as 0.471. */
  readonly target: number;
  /** Rows that may be masked in a round beyond those that were before. Default 4. */
  readonly granularity?: number;
  /** Rows that each layer keeps. Default 1. */
  readonly atLeast?: number;
}

/**
 * One round of ResRep's choice of rows (arXiv 2007.03260, section 3.3), by the original program's rules: rows of all layers
 * are walked through by their norm, smallest first, until the cost is at the target, or as many were looked at as the round
 * allows; a row whose layer has no more to give is passed over, but counts.
 *
 * @param weights  compactors `[O, O, 1, 1]`
 * @param current  their present masks of ones and zeros
 * @returns new masks. A layer of which no row was reached keeps its own, as in the original
 */
export function chooseMasks(
  weights: readonly Tensor[],
  current: readonly (readonly number[])[],
  { costOf, target, granularity = 4, atLeast = 1 }: MaskSettings,
): number[][] {
  const norms = weights.map(rowNorms);
  const rows = norms
    .flatMap((own, layer) => own.map((norm, row) => ({ layer, row, norm })))
    .sort((a, b) => a.norm - b.norm || a.layer - b.layer || a.row - b.row);
  const full = norms.map((own) => own.length);
  const goal = target * costOf(full);
  const present = current.map((mask) => mask.reduce((n, v) => n + v, 0));
  const masked = full.reduce((n, width, i) => n + width - present[i], 0);
  const limit = costOf(present) > goal ? masked + granularity : rows.length;
  const widths = [...full];
  const masks = full.map((width) => new Array<number>(width).fill(1));
  for (const [position, { layer, row }] of rows.entries()) {
    if (position >= limit || costOf(widths) <= goal) break;
    if (widths[layer] <= atLeast) continue;
    widths[layer]--;
    masks[layer][row] = 0;
  }
  return masks.map((mask, i) => (mask.includes(0) ? mask : [...current[i]]));
}

/** Euclidean norms of a compactor's rows. */
export function rowNorms(weight: Tensor): number[] {
  const [rows] = weight.shape;
  const values = weight.toFloat64();
  const size = values.length / rows;
  return Array.from({ length: rows }, (_, r) =>
    Math.sqrt(values.subarray(r * size, (r + 1) * size).reduce((n, v) => n + v * v, 0)),
  );
}

export interface ResRepOptions {
  /** State-dict keys of the compactors, in the order of `costOf`'s widths; see {@link compactorKeys}. */
  readonly compactors: readonly string[];
  /** Strength of the group lasso over rows. Default 1e-4. */
  readonly lasso?: number;
  /** How rows are chosen, and when; without it masks are the caller's to write (`optimizer.mask:<key>`). */
  readonly masks?: MaskSettings & {
    /** First step after which rows are chosen, such as five epochs' steps. */
    readonly from: number;
    /** Steps between two rounds. Default 200. */
    readonly every?: number;
  };
  /** Told of the widths that masks leave, in the order of the compactors: at the first step and when they change. */
  readonly onMasks?: (widths: readonly number[]) => void;
}

/**
 * ResRep's gradient (arXiv 2007.03260, section 3.2) for the rules that follow: of compactor Q with mask m, row by row,
 * m · G + λ · q / ‖q‖. Masked rows forget the objective and shrink; a row of zeros has no direction, and the penalty leaves it
 * where it is. Masks are state, `optimizer.mask:<key>` `[O]`, which checkpoints keep.
 *
 * @throws `resrep/compactor` for a key that is not trained or no square matrix, `resRep/option`
 * @example
 * const optimizer = chain(resRep({ compactors: compactorKeys(net), masks }), sgd({ momentum: 0.9, weightDecay: 1e-4 }));
 * await new Trainer(net, { data, optimizer, group: resRepGroup, epochs: 480, lr: 0.01 }).run();
 */
export function resRep({ compactors, lasso = 1e-4, masks, onMasks }: ResRepOptions): UpdateRule {
  mustBeIn("resRep", { lasso, target: masks?.target }, 0, Number.POSITIVE_INFINITY);
  const maskOf = (key: string): string => stateName("mask", key);
  const { from = 0, every = 200 } = masks ?? {};
  const tell = (all: readonly (readonly number[])[]): void =>
    onMasks?.(all.map((mask) => mask.reduce((n, v) => n + v, 0)));
  let told = false;
  return {
    name: "resRep",
    settings: { lasso, compactors: compactors.length, ...(masks && { target: masks.target, from, every }) },
    state: ({ parameters }) =>
      compactors.map((key): StateTensor => {
        const found = parameters.find((p) => p.key === key);
        must(
          found && found.shape.length === 4 && found.shape[0] === found.shape[1],
          "resrep/compactor",
          () =>
            `resrep: there is no trained compactor "${key}". Put compactors in with withCompactors, and name them with compactorKeys.`,
          "usage",
        );
        const [rows] = found.shape;
        return { name: maskOf(key), dtype: "float32", shape: [rows], source: () => Tensor.full("float32", [rows], 1) };
      }),
    apply: ({ parameters, gradients, state }) => ({
      gradients: parameters.map(({ key, shape, value }, i) => {
        if (!compactors.includes(key)) return gradients[i];
        const [q, g] = [value, gradients[i]].map((v) => reshape(v, [shape[0], shape[1]]));
        const norm = maximum(sqrt(reduceSum(mul(q, q), 1, { keepDims: true })), 1e-30);
        const kept = mul(g, reshape(state[maskOf(key)], [shape[0], 1]));
        return flat(add(kept, mul(div(q, norm), lasso)));
      }),
    }),
    ...(masks && {
      async afterStep(host: StateAccess) {
        const due = host.step >= from && (host.step - from) % every === 0;
        if (!due && (told || !onMasks)) return;
        const names = compactors.map((key) => slotName(maskOf(key)));
        const values = await host.readState([...compactors, ...names]);
        const present = names.map((name) => [...values.get(name)!.toFloat64()]);
        if (!due) tell(present);
        told = true;
        if (!due) return;
        const next = chooseMasks(
          compactors.map((key) => values.get(key)!),
          present,
          masks,
        );
        tell(next);
        await host.writeState(new Map(names.map((name, i) => [name, Tensor.float32([next[i].length], next[i])])));
      },
    }),
  };
}

const compactorKey = /(^|\.)compactor\.pwc\.weight$/;

/** State-dict keys of a network's compactors. */
export const compactorKeys = (net: Module): string[] =>
  [...net.state()].map(([key]) => key).filter((key) => compactorKey.test(key));

/** For `group` of a trainer: compactors have momentum 0.99 and no weight decay, biases and norms no decay either. */
export const resRepGroup = (key: string, { shape }: { readonly shape: Shape }): ParameterGroup | undefined => {
  if (compactorKey.test(key)) return { momentum: 0.99, weightDecay: 0 };
  return shape.length < 2 ? { weightDecay: 0 } : undefined;
};

/** Cost of the merged network by widths of the compactors, for {@link MaskSettings}. */
export function costOfCompactors(net: Net, inputShape: Shape): CostOfWidths {
  const layers = compactorKeys(net).map((key) => key.replace(/\.compactor\.pwc\.weight$/, ""));
  const dependencies = channelDependencies(convertToDeploy(cloneEval(net)), inputShape);
  const groups = layers.map((layer) => groupOf(dependencies, `${layer}.conv`));
  return (widths) => dependencies.macs(groups.flatMap(({ channels }, i) => channels.slice(widths[i])));
}

const cloneEval = <N extends Net>(net: N): N => mapModules(net).eval();

/** A network without its compactors, and the rows that went, by layer. */
export interface WithoutCompactors<N> {
  readonly net: N;
  readonly removed: ReadonlyMap<string, readonly number[]>;
}

/**
 * Ends ResRep (arXiv 2007.03260, section 3.4): every block merges, compactors too (K' = Q · K, b' = Q · b), and the filters
 * of rows that have vanished go, from the inputs of all layers that follow too. A layer of which all rows have vanished keeps
 * the largest.
 *
 * @param inputShape  `[N, C, H, W]`
 * @param threshold  rows of a smaller norm have vanished. Default 1e-5
 * @throws `resrep/compactor` where there is none, `prune/layer` where a layer's channels cannot be cut
 */
export function mergeCompactors<N extends Net>(
  net: N,
  inputShape: Shape,
  { threshold = 1e-5 }: { readonly threshold?: number } = {},
): WithoutCompactors<N> {
  const keys = compactorKeys(net);
  must(
    keys.length > 0,
    "resrep/compactor",
    () => "resrep: the network has no compactors. Put them in with withCompactors, and train.",
    "usage",
  );
  const state: ReadonlyMap<string, TensorSource> = net.stateDict();
  const merged = convertToDeploy(cloneEval(net));
  const dependencies = channelDependencies(merged, inputShape);
  const removed = new Map<string, readonly number[]>();
  const cut: Channel[] = [];
  for (const key of keys) {
    const norms = rowNorms(state.get(key)!.readSync());
    const largest = norms.indexOf(Math.max(...norms));
    const rows = norms.flatMap((norm, row) => (norm < threshold && row !== largest ? [row] : []));
    const layer = key.replace(/\.compactor\.pwc\.weight$/, "");
    removed.set(layer, rows);
    const { channels, axes } = groupOf(dependencies, `${layer}.conv`);
    const own = axes.findIndex(({ key: k, axis }) => k === `${layer}.conv.weight` && axis === 0);
    cut.push(...channels.filter(({ positions }) => positions[own].every((p) => rows.includes(p))));
  }
  return { net: cutChannels(merged, dependencies, cut), removed };
}
