import { listed, must, nearest } from "../errors.ts";
import { type Node, type ParameterRef, reachable, type Value } from "../graph/index.ts";
import { cloneModule, type Net, nodeMacs, traceModel } from "../nn/index.ts";
import type { Shape } from "../tensor/index.ts";
import { type Axes, type ChannelRole, type Tracking, track } from "./channel-rules.ts";

/** An axis of a parameter on which channels lie. */
export interface ChannelAxis {
  /** State-dict key. */
  readonly key: string;
  readonly axis: number;
  /** Whether a layer makes the channels (its filters), takes them as inputs, or has a number for each (a norm, a bias). */
  readonly role: ChannelRole;
}

/** Channels that go together: what lies on an axis at the given positions, for all axes concerned. */
export interface Channel {
  readonly group: ChannelGroup;
  /** Position among the channels of its group. */
  readonly index: number;
  /** By axis of the group: positions. After a flattened map these are the columns of all its pixels. */
  readonly positions: readonly (readonly number[])[];
}

/** Channels that are alike: each may be cut or kept for itself, on all axes at once. */
export interface ChannelGroup {
  /** The first layer whose filters they are, by the key of its weight. */
  readonly name: string;
  readonly axes: readonly ChannelAxis[];
  readonly channels: readonly Channel[];
  /** Why several of them cannot be merged into one, where that is so; they can be cut all the same. */
  readonly unmergeable?: string | undefined;
}

/** Channels that stay. */
export interface FixedChannels {
  /** State-dict key of the weight whose filters they are. */
  readonly key: string;
  readonly count: number;
  readonly reason: string;
}

/** Which channels of a network go together, and what they cost. */
export interface ChannelDependencies {
  /** Channels that can be cut, in the order of the layers that make them. */
  readonly groups: readonly ChannelGroup[];
  readonly fixed: readonly FixedChannels[];
  /** `[N, C, H, W]` that the network was traced with. */
  readonly inputShape: Shape;
  /** Multiply-adds for one input of that shape when these channels are gone. */
  macs(cut?: Iterable<Channel>): number;
  /** Shape of every node's outputs when these channels are gone, in order of the nodes. */
  expected(cut: Iterable<Channel>): readonly ExpectedNode[];
}

/** What a node is to be in the narrower network. */
export interface ExpectedNode {
  readonly node: Node;
  readonly shapes: readonly Shape[];
  /** Number of positions of the first input's axes that are left before a position. */
  keptBefore(axis: number, position: number): number;
}

/**
 * Finds which output channels of a network go together: residual sums, concatenations, depthwise and grouped convolutions,
 * batch norms, squeeze-and-excitation, flattened maps before a linear layer. Nothing is known of the network but its traced
 * graph, so that any network will do, one from an ONNX model too ({@link OnnxNet}). What an op does to channels is one rule
 * per op; an op without one, and what mixes channels by their number (means and shares over them, picking by position), keeps
 * its channels, and `fixed` says so.
 *
 * @param net  of which the form that it is in is looked at, in evaluation mode
 * @param inputShape  `[N, C, H, W]`
 */
export function channelDependencies(net: Net, inputShape: Shape): ChannelDependencies {
  const traced = traceModel(cloneModule(net).eval(), inputShape);
  const nodes = reachable([traced.output]);
  const tracking = track(nodes);
  tracking.fix(tracking.of(traced.output).flat(), "they are the network's output");
  const names = new Map([...traced.names].map(([ref, name]) => [ref, name]));
  const { groups, fixed, roots } = grouped(tracking, names);
  const cutRoots = (cut: Iterable<Channel>): Set<number> => new Set([...cut].map((c) => roots.get(c)!));
  const kept = (labels: readonly number[], gone: ReadonlySet<number>): number =>
    gone.size ? labels.reduce((n, label) => n + Number(!gone.has(tracking.labels.find(label))), 0) : labels.length;
  const shapeOf = (v: Value, gone: ReadonlySet<number>): Shape => tracking.of(v).map((own) => kept(own, gone));
  const costly = nodes.filter((node) => nodeMacs(node) > 0);
  return {
    groups,
    fixed,
    inputShape,
    macs(cut = []) {
      const gone = cutRoots(cut);
      const narrowed = (v: Value): Value => ({ ...v, shape: shapeOf(v, gone) }) as Value;
      return costly.reduce(
        (n, { op, inputs, outputs }) =>
          n + nodeMacs({ op, inputs: inputs.map(narrowed), outputs: outputs.map(narrowed) } as unknown as Node),
        0,
      );
    },
    expected(cut) {
      const gone = cutRoots(cut);
      return nodes.map((node) => ({
        node,
        shapes: node.outputs.map((v) => shapeOf(v, gone)),
        keptBefore: (axis, position) => kept(tracking.of(node.inputs[0])[axis].slice(0, position), gone),
      }));
    },
  };
}

interface Grouped {
  readonly groups: readonly ChannelGroup[];
  readonly fixed: readonly FixedChannels[];
  /** The label that stands for a channel. */
  readonly roots: ReadonlyMap<Channel, number>;
}

/** Channels with a place on the same axes are one group. */
function grouped(t: Tracking, names: ReadonlyMap<ParameterRef, string>): Grouped {
  const axes: ChannelAxis[] = [];
  /** By label: positions by number of axis. */
  const places = new Map<number, Map<number, number[]>>();
  const fixed: FixedChannels[] = [];
  for (const [ref, own] of t.parameters) collect(ref, own);
  const groups = new Map<string, { readonly numbers: readonly number[]; readonly labels: number[] }>();
  for (const [label, byAxis] of places) {
    const numbers = [...byAxis.keys()].sort((a, b) => a - b);
    const id = numbers.join();
    const group = groups.get(id) ?? { numbers, labels: [] };
    group.labels.push(label);
    groups.set(id, group);
  }
  const roots = new Map<Channel, number>();
  const forbidden = t.sumsForbidden;
  const made: ChannelGroup[] = [];
  for (const { numbers, labels } of groups.values()) {
    const leader = numbers.find((i) => axes[i].role === "makes");
    // Numbers that no layer makes are only added to or multiplied with something.
    if (leader === undefined) continue;
    const channels: Channel[] = [];
    const group: ChannelGroup = {
      name: axes[leader].key,
      axes: numbers.map((i) => axes[i]),
      channels,
      unmergeable: labels.map((label) => forbidden.get(label)).find((reason) => reason !== undefined),
    };
    for (const [index, label] of labels.entries()) {
      const byAxis = places.get(label)!;
      const channel: Channel = { group, index, positions: numbers.map((i) => byAxis.get(i)!) };
      channels.push(channel);
      roots.set(channel, label);
    }
    made.push(group);
  }
  return { groups: made, fixed, roots };

  function collect(ref: ParameterRef, own: Axes): void {
    const key = names.get(ref)!;
    for (const [axis, labels] of own.entries()) {
      const role = t.roleOf(ref, axis);
      const number = axes.push({ key, axis, role }) - 1;
      const stays = new Map<string, number>();
      for (const [i, label] of labels.entries()) {
        const root = t.labels.find(label);
        const reason = t.labels.reason(root);
        if (reason !== undefined) {
          stays.set(reason, (stays.get(reason) ?? 0) + 1);
          continue;
        }
        const byAxis = places.get(root) ?? new Map<number, number[]>();
        byAxis.set(number, [...(byAxis.get(number) ?? []), i]);
        places.set(root, byAxis);
      }
      if (role === "makes") for (const [reason, count] of stays) fixed.push({ key, count, reason });
    }
  }
}

/**
 * The group of channels that a layer makes.
 *
 * @param layer  path of the layer or key of its weight, such as `stage1.0.conv1.conv` or `stage1.0.conv1.conv.weight`
 * @throws `prune/layer` where there is no such layer, or its channels stay, with the reason
 */
export function groupOf({ groups, fixed }: ChannelDependencies, layer: string): ChannelGroup {
  const isIt = (key: string): boolean => key === layer || key === `${layer}.weight`;
  const found = groups.filter(({ axes }) => axes.some(({ key, role }) => role === "makes" && isIt(key)));
  if (found.length === 1) return found[0];
  const stays = fixed.find(({ key }) => isIt(key));
  must(
    !stays,
    "prune/layer",
    () => `prune: the ${stays?.count} channels of ${layer} cannot be cut: ${stays?.reason}. Leave the layer out.`,
    "usage",
  );
  must(
    !found.length,
    "prune/layer",
    () =>
      `prune: the channels of ${layer} lie in ${found.length} groups, since they go different ways. Choose channels of one of its groups.`,
    "usage",
  );
  const keys = groups.flatMap(({ axes }) => axes.filter(({ role }) => role === "makes").map(({ key }) => key));
  must(
    false,
    "prune/layer",
    () => `prune: there is no layer ${layer} whose channels can be cut. Did you mean ${listed(nearest(layer, keys))}?`,
    "usage",
  );
}
