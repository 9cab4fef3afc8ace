import { ConvBn, withCompactors } from "../blocks/index.ts";
import { must } from "../errors.ts";
import { OnnxNet } from "../models/index.ts";
import type { Net, Parameter } from "../nn/index.ts";
import { type Shape, sizeOf, Tensor, type TensorSource } from "../tensor/index.ts";
import type { ParameterGroup, UpdateRule } from "../training/index.ts";
import { Ablation, aofp, prunedByAofp } from "./aofp.ts";
import { byChance, byL1, chooseChannels, groupsFor, type Importance, mustBeTarget } from "./choose.ts";
import { compensated, sourcesOf } from "./compensate.ts";
import { type Clusters, centripetal, centripetalGroup, clustersByKey, evenClusters, kMeansClusters } from "./csgd.ts";
import { cutChannels, mergeChannels } from "./cut.ts";
import { type ChannelDependencies, type ChannelGroup, channelDependencies } from "./dependencies.ts";
import { foldCompactors } from "./fold-compactors.ts";
import { globalSparse, keepLargest } from "./gsm.ts";
import { keepZeros, ticketOf } from "./keep-zeros.ts";
import { chooseMasks, compactorKeys, costOfCompactors, resRep, resRepGroup, rowNorms } from "./resrep.ts";

/** What every method that cuts channels is told. */
export interface ChannelSettings {
  /** Share of the multiply-adds that is to be left. Default 0.5. */
  readonly flops?: number | undefined;
  /** Layers whose channels may go, by path; `*` stands for anything. Default: what the method can take. */
  readonly layers?: readonly string[] | undefined;
  /** Share of its channels that each layer keeps at least. Default 0.1; one stays in any case. */
  readonly atLeast?: number | undefined;
}

/** What methods that keep single weights are told. */
export interface ShareSettings {
  /** Share of the weights that stays. Default 0.1. */
  readonly share?: number | undefined;
}

/** How a network is pruned, by method. */
export type PruneSettings =
  | (ChannelSettings & { readonly method: "l1" })
  | (ChannelSettings & { readonly method: "random" })
  | (ChannelSettings & {
      readonly method: "resrep";
      /** Strength of the group lasso. Default 1e-4. */
      readonly lasso?: number | undefined;
      /** Of the compactors. Default 0.99; a short run needs less. */
      readonly momentum?: number | undefined;
      /** Epochs before rows are chosen. Default 5. */
      readonly fromEpoch?: number | undefined;
      /** Steps between two rounds, and rows that each may add. Default 200 and 4. */
      readonly every?: number | undefined;
      readonly granularity?: number | undefined;
      /** Rows of a smaller norm go in any case. Default 1e-5. */
      readonly threshold?: number | undefined;
    })
  | (ChannelSettings & {
      readonly method: "csgd";
      /** ε. Default 3e-3. */
      readonly strength?: number | undefined;
      /** η of kernels, in place of the optimizer's. Default 1e-4. */
      readonly weightDecay?: number | undefined;
      readonly clusters?: "k-means" | "even" | undefined;
    })
  | (ChannelSettings & {
      readonly method: "aofp";
      /** θ. Default 0.01. */
      readonly damage?: number | undefined;
      readonly stepsPerHalf?: number | undefined;
      /** First step that is scored. Default 500. */
      readonly from?: number | undefined;
    })
  | ({ readonly method: "gsm" } & ShareSettings)
  | ({ readonly method: "magnitude" } & ShareSettings)
  | { readonly method: "ticket" };

export type PruneMethod = PruneSettings["method"];

/** What a method has to work with. */
export interface PruneContext<N extends Net = Net> {
  /** Trained, in training form. */
  readonly net: N;
  /** `[1, C, H, W]`. */
  readonly inputShape: Shape;
  readonly stepsPerEpoch: number;
  readonly seed: number;
  /** Of `ticket`: the sparse network's weights by key. */
  readonly mask?: ReadonlyMap<string, TensorSource> | undefined;
}

/** A network that is being pruned: what is trained, how, and what is left in the end. */
export interface Pruning<N extends Net = Net> {
  /** To be trained; the network itself where the method prunes at once. */
  readonly net: Net;
  /** Before the optimizer's rules; absent where nothing is trained before the cut. */
  readonly rule?: UpdateRule;
  readonly group?: (key: string, parameter: Parameter) => ParameterGroup | undefined;
  /** Layers with compactors, for a checkpoint to state. */
  readonly compactors?: readonly string[];
  /** Share of the multiply-adds that is left as the method has chosen so far; `undefined` before it has. */
  share(): number | undefined;
  /** What is left: of the class that the network is of, narrower or with zeros. */
  finish(): Promise<N>;
}

/** A way to train on what is left, before the optimizer's rules. */
export const afterPruning = ({ method }: PruneSettings): UpdateRule | undefined =>
  method === "gsm" || method === "magnitude" || method === "ticket" ? keepZeros() : undefined;

/** Whether a method trains before it cuts. */
export const trainsFirst = ({ method }: PruneSettings): boolean =>
  method === "resrep" || method === "csgd" || method === "aofp" || method === "gsm";

const hasTakers = ({ axes }: ChannelGroup): boolean => axes.some(({ role }) => role === "takes");

/** A target that all groups together cannot reach is refused before anything is trained. */
function mustBeInReach(
  dependencies: ChannelDependencies,
  groups: readonly ChannelGroup[],
  flops: number,
  keeps: (group: ChannelGroup) => number,
): void {
  mustBeTarget(flops);
  const least = dependencies.macs(groups.flatMap((group) => group.channels.slice(keeps(group)))) / dependencies.macs();
  must(
    least <= flops,
    "prune/target",
    () =>
      `prune: ${flops} of the multiply-adds cannot be reached: with all channels gone that may go, ${least.toFixed(3)} is left. Ask for that or more, name more \`layers\`, or lower \`atLeast\`.`,
    "usage",
  );
}

const keptOf =
  (atLeast = 0.1) =>
  ({ channels }: ChannelGroup): number =>
    Math.max(1, Math.ceil(atLeast * channels.length));

/** Cut at once, by a number for each channel. */
const atOnce =
  (importanceOf: (context: PruneContext) => Importance) =>
  <N extends Net>(context: PruneContext<N>, { flops = 0.5, layers, atLeast }: ChannelSettings): Pruning<N> => {
    const { net, inputShape } = context;
    const dependencies = channelDependencies(net, inputShape);
    const cut = chooseChannels(dependencies, {
      importance: importanceOf(context),
      flops,
      ...(layers?.length && { layers }),
      ...(atLeast !== undefined && { atLeast }),
    });
    const share = dependencies.macs(cut) / dependencies.macs();
    return { net, share: () => share, finish: async () => cutChannels(net, dependencies, cut) };
  };

/** Layers that a compactor can follow: paths by the key of their weights. */
function compactorLayers(net: Net): ReadonlyMap<string, string> {
  if (net instanceof OnnxNet)
    return new Map([...net.compactorPlaces().keys()].map((key) => [key, key.replace(/\.weight$/, "")]));
  const keys = new Map([...net.state()].map(([key, p]) => [p, key]));
  return new Map(
    [...net.modules()].flatMap(([path, m]): [string, string][] =>
      m instanceof ConvBn && m.bn && !m.conv.bias && (m.conv.options.groups ?? 1) === 1
        ? [[keys.get(m.conv.weight)!, path]]
        : [],
    ),
  );
}

function resRepOf<N extends Net>(
  { net, inputShape, stepsPerEpoch }: PruneContext<N>,
  settings: Extract<PruneSettings, { method: "resrep" }>,
): Pruning<N> {
  const {
    flops = 0.5,
    layers,
    atLeast,
    lasso,
    momentum,
    fromEpoch = 5,
    every,
    granularity,
    threshold = 1e-5,
  } = settings;
  const dependencies = channelDependencies(net, inputShape);
  const layerAt = compactorLayers(net);
  const kind =
    net instanceof OnnxNet
      ? "output of one convolution of one group alone, as ResRep needs it"
      : "output of one convolution with a batch norm alone, as ResRep needs it";
  const sources = sourcesOf(net);
  const fits = (group: ChannelGroup): boolean =>
    hasTakers(group) && layerAt.has(group.name) && `${sources(group)}` === group.name;
  const groups = groupsFor(dependencies, layers, fits, kind);
  mustBeInReach(dependencies, groups, flops, keptOf(atLeast));
  const paths = groups.map(({ name }) => layerAt.get(name)!);
  const compacted =
    net instanceof OnnxNet ? net.withCompactors(groups.map(({ name }) => name)) : withCompactors<Net>(net, paths);
  compacted.initialize();
  const compactors = compactorKeys(compacted);
  // In the order of the compactors, which is that of the network.
  const ordered = compactors.map((key) => groups[paths.indexOf(key.replace(/\.compactor\.pwc\.weight$/, ""))]);
  const costOf =
    net instanceof OnnxNet
      ? (widths: readonly number[]): number =>
          dependencies.macs(ordered.flatMap(({ channels }, i) => channels.slice(widths[i])))
      : costOfCompactors(compacted, inputShape);
  const full = ordered.map(({ channels }) => channels.length);
  const least = Math.max(1, Math.ceil((atLeast ?? 0) * Math.min(...full)));
  const masks = { costOf, target: flops, atLeast: least };
  let share: number | undefined;
  const onMasks = (widths: readonly number[]): void => {
    share = costOf(widths) / costOf(full);
  };
  return {
    net: compacted,
    rule: resRep({
      compactors,
      ...(lasso !== undefined && { lasso }),
      masks: {
        ...masks,
        from: Math.round(fromEpoch * stepsPerEpoch),
        ...(every !== undefined && { every }),
        ...(granularity !== undefined && { granularity }),
      },
      onMasks,
    }),
    group: (key, parameter) => {
      const own = resRepGroup(key, parameter);
      return momentum !== undefined && compactors.includes(key) ? { ...own, momentum } : own;
    },
    ...(!(net instanceof OnnxNet) && { compactors: paths }),
    share: () => share,
    async finish() {
      // Rows that have been masked have shrunk: the smallest ones are chosen once more, as many as the target asks for.
      const state = new Map(compacted.state());
      const weights = compactors.map((key) => state.get(key)!.data);
      const ones = full.map((width) => new Array<number>(width).fill(1));
      const chosen = chooseMasks(weights, ones, { ...masks, granularity: Number.POSITIVE_INFINITY });
      const cut = ordered.flatMap(({ channels, axes, name }, i) => {
        const norms = rowNorms(weights[i]);
        const largest = norms.indexOf(Math.max(...norms));
        const own = axes.findIndex(({ key, axis }) => key === name && axis === 0);
        return channels.filter(({ positions }) =>
          positions[own].every((row) => row !== largest && (!chosen[i][row] || norms[row] < threshold)),
        );
      });
      const { net: whole } = await compensated(foldCompactors(compacted as Net as N), dependencies, cut);
      return cutChannels(whole, dependencies, cut);
    },
  };
}

/** A channel's filters in the layer that makes it, one row for each. */
function filtersOf({ axes, channels, name }: ChannelGroup, weight: Tensor): Tensor {
  const a = axes.findIndex(({ key, role }) => key === name && role === "makes");
  const { axis } = axes[a];
  const [inner, size] = [sizeOf(weight.shape.slice(axis + 1)), weight.shape[axis]];
  const values = weight.toFloat64();
  const rows = channels.map(({ positions }) => {
    const own = new Set(positions[a]);
    return values.filter((_, i) => own.has(Math.floor(i / inner) % size));
  });
  const all = new Float64Array(rows.length * rows[0].length);
  for (const [i, row] of rows.entries()) all.set(row, i * row.length);
  return Tensor.of("float64", [rows.length, rows[0].length], all);
}

/**
 * Widths of the same share for all groups, as large as the target allows. Whole filters miss it by what many layers together
 * round down: those that fall shortest of their share get one more as long as the target is still met, in turn.
 */
function equalShares(
  dependencies: ChannelDependencies,
  groups: readonly ChannelGroup[],
  flops: number,
  keeps: (group: ChannelGroup) => number,
): readonly number[] {
  const goal = flops * dependencies.macs();
  const meets = (widths: readonly number[]): boolean =>
    dependencies.macs(groups.flatMap(({ channels }, i) => channels.slice(widths[i]))) <= goal;
  const widthsAt = (share: number): number[] =>
    groups.map((group) => Math.max(keeps(group), Math.floor(share * group.channels.length)));
  let [low, high] = [0, 1];
  for (let i = 0; i < 30; i++) {
    const middle = (low + high) / 2;
    if (meets(widthsAt(middle))) low = middle;
    else high = middle;
  }
  const widths = widthsAt(low);
  const missing = groups.map(({ channels }, i) => (high * channels.length - widths[i]) / channels.length);
  const byNeed = groups.map((_, i) => i).sort((a, b) => missing[b] - missing[a] || a - b);
  for (const i of byNeed) {
    const more = widths.with(i, Math.min(groups[i].channels.length, widths[i] + 1));
    if (missing[i] > 0 && meets(more)) widths[i] = more[i];
  }
  return widths;
}

function csgdOf<N extends Net>(
  { net, inputShape, seed }: PruneContext<N>,
  settings: Extract<PruneSettings, { method: "csgd" }>,
): Pruning<N> {
  const { flops = 0.5, layers, atLeast, strength, weightDecay, clusters: kind = "k-means" } = settings;
  const dependencies = channelDependencies(net, inputShape);
  const fits = (group: ChannelGroup): boolean => group.unmergeable === undefined && hasTakers(group);
  const groups = groupsFor(dependencies, layers, fits, "channels of which several can be merged into one");
  mustBeInReach(dependencies, groups, flops, keptOf(atLeast));
  const widths = equalShares(dependencies, groups, flops, keptOf(atLeast));
  const state = net.stateDict();
  const clusters = new Map<ChannelGroup, Clusters>(
    groups.map((group, i) => [
      group,
      kind === "even"
        ? evenClusters(group.channels.length, widths[i])
        : kMeansClusters(filtersOf(group, state.get(group.name)!.readSync()), widths[i], { seed }),
    ]),
  );
  const trained = new Set([...net.parameters()].map(([key]) => key));
  const byKey = new Map(
    [...clusters].flatMap(([group, own]) => [...clustersByKey(group, own)]).filter(([key]) => trained.has(key)),
  );
  return {
    net,
    rule: centripetal({
      clusters: byKey,
      ...(strength !== undefined && { strength }),
      ...(weightDecay !== undefined && { weightDecay }),
    }),
    group: centripetalGroup(byKey),
    share: () => undefined,
    finish: async () => mergeChannels(net, dependencies, clusters),
  };
}

function aofpOf<N extends Net>(
  { net, inputShape, seed }: PruneContext<N>,
  settings: Extract<PruneSettings, { method: "aofp" }>,
): Pruning<N> {
  const { flops = 0.5, layers, atLeast, damage, stepsPerHalf, from } = settings;
  const dependencies = channelDependencies(net, inputShape);
  const groups = groupsFor(dependencies, layers, hasTakers, "channels that a layer takes");
  mustBeInReach(dependencies, groups, flops, keptOf(atLeast));
  const ablation = new Ablation(net, groups);
  let share: number | undefined;
  return {
    net: ablation,
    rule: aofp({
      ...{ dependencies, groups, target: flops, seed, keeps: groups.map(keptOf(atLeast)) },
      ...(damage !== undefined && { damage }),
      ...(stepsPerHalf !== undefined && { stepsPerHalf }),
      ...(from !== undefined && { from }),
      onShare: (now) => {
        share = now;
      },
    }),
    share: () => share,
    finish: async () => cutChannels(net, dependencies, prunedByAofp(ablation, groups)),
  };
}

type Methods = {
  readonly [M in PruneMethod]: <N extends Net>(
    context: PruneContext<N>,
    settings: Extract<PruneSettings, { method: M }>,
  ) => Pruning<N>;
};

/** Every way to prune. */
const methods: Methods = {
  l1: atOnce(({ net }) => byL1(net)),
  random: atOnce(({ seed }) => byChance(seed)),
  resrep: resRepOf,
  csgd: csgdOf,
  aofp: aofpOf,
  gsm: ({ net }, { share = 0.1 }) => ({
    net,
    rule: globalSparse({ share }),
    share: () => undefined,
    finish: async () => keepLargest(net, share),
  }),
  magnitude: ({ net }, { share = 0.1 }) => ({
    net,
    share: () => undefined,
    finish: async () => keepLargest(net, share),
  }),
  ticket: ({ net, mask }) => {
    must(
      mask,
      "prune/mask",
      () => "prune: a ticket takes its zeros from a sparse network. Give its file with mask.",
      "usage",
    );
    return { net, share: () => undefined, finish: async () => ticketOf(net, mask) };
  },
};

/**
 * Prepares a network for pruning by a method; everything that can be refused is refused here, before anything is trained.
 *
 * @throws `prune/none`, `prune/layer`, `prune/target` with the least that can be reached, and what the method's options throw
 * @example
 * const pruning = pruningOf({ net, inputShape: [1, 3, 32, 32], stepsPerEpoch, seed: 0 }, { method: "aofp", flops: 0.5 });
 * const optimizer = chain(...(pruning.rule ? [pruning.rule] : []), sgd({ momentum: 0.9 }));
 * await new Trainer(pruning.net, { data, optimizer, epochs: 10 }).run();
 * const narrow = await pruning.finish();
 */
export function pruningOf<N extends Net>(context: PruneContext<N>, settings: PruneSettings): Pruning<N> {
  const method = methods[settings.method] as (context: PruneContext<N>, settings: PruneSettings) => Pruning<N>;
  return method(context, settings);
}
