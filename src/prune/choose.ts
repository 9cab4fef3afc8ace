import { must } from "../errors.ts";
import type { Net } from "../nn/index.ts";
import { rng, sizeOf } from "../tensor/index.ts";
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
  /** Paths of the layers whose channels may go. Default: all that can. */
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
 * Chooses the channels that matter least, over all layers together, until the cost of the network is at the target. They
 * are as few as possible in this order.
 *
 * @throws `prune/none` without channels that can go, `prune/target` for a target that is out of range or cannot be reached,
 *   with the least that can, `prune/layer`
 */
export function chooseChannels(dependencies: ChannelDependencies, options: ChooseOptions): Channel[] {
  const { importance, flops, layers, atLeast = 0.1 } = options;
  mustBeTarget(flops);
  const groups = layers ? [...new Set(layers.map((l) => groupOf(dependencies, l)))] : dependencies.groups;
  must(
    groups.length > 0,
    "prune/none",
    () =>
      `prune: the network has no channels that can be cut${
        dependencies.fixed.length ? `: of ${dependencies.fixed[0].key}, ${dependencies.fixed[0].reason}` : ""
      }. Choose another network.`,
    "usage",
  );
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
