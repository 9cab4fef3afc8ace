import { listed, must, nearest } from "../errors.ts";
import type { Net } from "../nn/index.ts";
import { rng, sizeOf } from "../tensor/index.ts";
import { fitsPattern } from "../text.ts";
import { type Channel, type ChannelDependencies, type ChannelGroup, groupOf } from "./dependencies.ts";

/** How much each channel of a group matters, in their order. */
export type Importance = (group: ChannelGroup) => readonly number[];

/**
 * The mean absolute value of all filters that a channel is made of, beside the mean of its group's: with what a group's
 * numbers are compared does not depend on the layer's scale. (L1 norms: arXiv 1608.08710.)
 */
export function byL1(net: Net): Importance {
  const state = net.stateDict();
  return ({ axes, channels }) => {
    const totals = new Float64Array(channels.length);
    for (const [a, { key, axis, role }] of axes.entries()) {
      if (role !== "makes") continue;
      const { shape } = state.get(key)!;
      const values = state.get(key)!.readSync().toFloat64();
      const [inner, size] = [sizeOf(shape.slice(axis + 1)), shape[axis]];
      const along = new Float64Array(size);
      for (const [i, v] of values.entries()) along[Math.floor(i / inner) % size] += Math.abs(v);
      for (const [c, { positions }] of channels.entries())
        totals[c] += positions[a].reduce((n, p) => n + along[p], 0) / (values.length / size);
    }
    const mean = totals.reduce((n, v) => n + v, 0) / totals.length || 1;
    return [...totals].map((v) => v / mean);
  };
}

/** Numbers that a seed draws: what any other way of choosing is to be compared with. */
export const byChance =
  (seed = 0): Importance =>
  ({ name, channels }) => {
    const random = rng(seed, name);
    return channels.map(() => random.next());
  };

export interface ChooseOptions {
  readonly importance: Importance;
  /** Share of the multiply-adds that is to be left, such as 0.5. */
  readonly flops: number;
  /** Layers whose channels may go, by path; `*` stands for anything. Default: all that can. */
  readonly layers?: readonly string[];
  /** Share of its channels that each group keeps at least. Default 0.1; one stays in any case. */
  readonly atLeast?: number;
}

/** @throws `prune/target` */
export function mustBeTarget(flops: number): void {
  must(
    flops > 0 && flops <= 1,
    "prune/target",
    () => `prune: flops, the share that is left, must be above 0 and at most 1, got ${flops}`,
    "usage",
  );
}

/**
 * Groups that patterns or paths name; all that fit where none are given.
 *
 * @param fits  what a method can take, and `kind` in words
 * @throws `prune/none`, `prune/layer`
 */
export function groupsFor(
  dependencies: ChannelDependencies,
  patterns: readonly string[] | undefined,
  fits: (group: ChannelGroup) => boolean = () => true,
  kind = "channels that can be cut",
): readonly ChannelGroup[] {
  const all = dependencies.groups.filter(fits);
  mustHaveSome(all, dependencies, kind);
  if (!patterns?.length) return all;
  const layerOf = (key: string): string => key.replace(/\.weight$/, "");
  const named = patterns.flatMap((pattern) => {
    if (!pattern.includes("*")) return [groupOf(dependencies, pattern)];
    const found = all.filter(({ name }) => fitsPattern(name, pattern) || fitsPattern(layerOf(name), pattern));
    must(
      found.length > 0,
      "prune/layer",
      () =>
        `prune: "${pattern}" fits no layer whose channels can be cut. There are ${listed(
          nearest(
            pattern,
            all.map(({ name }) => layerOf(name)),
          ),
          4,
        )}.`,
      "usage",
    );
    return found;
  });
  const wrong = named.find((group) => !fits(group));
  must(
    !wrong,
    "prune/layer",
    () => `prune: the channels of ${wrong?.name} are no ${kind}. Leave the layer out. ${OTHERS}`,
    "usage",
  );
  return [...new Set(named)];
}

/** What can be done where a method does not fit. */
const OTHERS =
  "Choose another method: l1 and random cut all that can be cut, csgd and aofp what other layers take, in blocks of branches too.";

function mustHaveSome(found: readonly unknown[], { fixed, groups }: ChannelDependencies, kind: string): void {
  must(
    found.length > 0,
    "prune/none",
    () => {
      const why = fixed.length ? `: of ${fixed[0].key}, ${fixed[0].reason}` : "";
      return groups.length
        ? `prune: the network has no ${kind}. ${OTHERS}`
        : `prune: the network has no channels that can be cut${why}. Choose another network.`;
    },
    "usage",
  );
}

/**
 * Chooses the channels that matter least, over all layers together, until the cost of the network is at the target. They
 * are as few as possible in this order.
 *
 * @throws `prune/none` without channels that can go, `prune/target` for a target that is out of range or cannot be reached,
 *   with the least that can, `prune/layer`
 */
export function chooseChannels(dependencies: ChannelDependencies, options: ChooseOptions): Channel[] {
  const { importance, flops, layers, atLeast = 0.1 } = options;
  mustBeTarget(flops);
  const groups = groupsFor(dependencies, layers);
  const candidates = groups
    .flatMap((group) => {
      const scores = importance(group);
      const order = group.channels.map((channel, i) => ({ channel, score: scores[i] }));
      order.sort((a, b) => a.score - b.score || a.channel.index - b.channel.index);
      return order.slice(0, order.length - Math.max(1, Math.ceil(atLeast * order.length)));
    })
    .sort((a, b) => a.score - b.score)
    .map(({ channel }) => channel);
  const whole = dependencies.macs();
  const left = (count: number): number => dependencies.macs(candidates.slice(0, count)) / whole;
  const least = left(candidates.length);
  must(
    least <= flops,
    "prune/target",
    () =>
      `prune: ${flops} of the multiply-adds cannot be reached: with all channels gone that may go, ${least.toFixed(3)} is left. Ask for that or more, name more \`layers\`, or lower \`atLeast\` (${atLeast}).`,
    "usage",
  );
  let [low, high] = [0, candidates.length];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (left(middle) <= flops) high = middle;
    else low = middle + 1;
  }
  return candidates.slice(0, low);
}
