import { must } from "../errors.ts";
import {
  add,
  asParameter,
  concat,
  constant,
  countBatch,
  div,
  gather,
  maximum,
  mul,
  type Node,
  type ParameterRef,
  reachable,
  reduceSum,
  reshape,
  sub,
  substitute,
  trace,
  updateBuffer,
  type Value,
} from "../graph/index.ts";
import { Buffer, constantInit, Module, type Net } from "../nn/index.ts";
import { rng, sameShape, Tensor } from "../tensor/index.ts";
import { mustBeIn, type StateAccess, type UpdateRule } from "../training/index.ts";
import type { Channel, ChannelDependencies, ChannelGroup } from "./dependencies.ts";

/** A weight that takes a group's channels as inputs. */
interface Taker {
  readonly key: string;
  readonly axis: number;
  readonly size: number;
  /** Channel of the group by position on the axis; as many as channels where a position is none of theirs. */
  readonly channelAt: readonly number[];
}

/**
 * What AOFP knows of the channels of one group; `[C]` each, so that checkpoints keep it. Ones and zeros: `base` of
 * channels that are not pruned, `search` of those in the search space, `ablated` of those that the next step ablates.
 * `account` and `count` are the damage that each has been there for, and how often.
 */
class Probe extends Module {
  readonly base: Buffer;
  readonly search: Buffer;
  readonly ablated: Buffer;
  readonly account: Buffer;
  readonly count: Buffer;

  constructor(
    readonly channels: number,
    readonly takers: readonly Taker[],
  ) {
    super();
    const filled = (value: number): Buffer => new Buffer([channels], { init: constantInit(value) });
    [this.base, this.search] = [filled(1), filled(1)];
    [this.ablated, this.account, this.count] = [filled(0), filled(0), filled(0)];
  }
}

/** Ones and zeros of channels as factors of a weight that takes them. */
function factorsOf(mask: Value, { channelAt, axis, size }: Taker, rank: number): Value {
  const [channels] = mask.shape;
  const inOrder = size === channels && channelAt.every((c, i) => c === i);
  const all = inOrder ? mask : gather(concat([mask, constant(Tensor.full("float32", [1], 1))], 0), channelAt);
  return reshape(
    all,
    Array.from({ length: rank }, (_, i) => (i === axis ? size : 1)),
  );
}

const PREFIX = "aofp";

/**
 * A network while AOFP prunes it (arXiv 1905.04748, sections 3.2 and 3.3): channels that are pruned already do not reach
 * the layers that follow, and in training mode each of those computes its output once more without the channels that are
 * ablated at random. The relative squared distance of the two outputs, after norm and activation, is the damage of all
 * channels that were ablated together. The second pass has no gradient and does not touch running statistics.
 *
 * Its keys are the network's, and `aofp.<i>.*` for each group.
 */
export class Ablation<N extends Net = Net> extends Module {
  static override readonly stateNames = { net: "", probes: (index: string) => `${PREFIX}.${index}` };
  readonly probes: readonly Probe[];

  /** @param groups  whose channels are scored; layers must take them */
  constructor(
    readonly net: N,
    groups: readonly ChannelGroup[],
  ) {
    super();
    const shapes = new Map([...net.state()].map(([key, p]) => [key, p.shape]));
    this.probes = groups.map(({ axes, channels, name }) => {
      const takers = axes.flatMap(({ key, axis, role }, a): Taker[] => {
        if (role !== "takes") return [];
        const size = shapes.get(key)![axis];
        const channelAt = new Array<number>(size).fill(channels.length);
        for (const [c, { positions }] of channels.entries()) for (const p of positions[a]) channelAt[p] = c;
        return [{ key, axis, size, channelAt }];
      });
      must(
        takers.length > 0,
        "aofp/layer",
        () => `aofp: no layer takes the channels of ${name}, so that ablating them does no damage. Leave it out.`,
        "usage",
      );
      return new Probe(channels.length, takers);
    });
  }

  forward(x: Value): Value {
    const { result: y, updates, counters } = trace(() => this.net.forward(x));
    const weights = this.weightsIn([y, ...updates.values()]);
    const base = new Map<Value, Value>();
    for (const probe of this.probes)
      for (const taker of probe.takers) {
        const weight = weights.get(taker.key);
        if (!weight) continue;
        const before = base.get(weight) ?? weight;
        base.set(weight, mul(before, factorsOf(probe.base.value, taker, weight.shape.length)));
      }
    // Where each layer ends, before anything is masked.
    const ends = this.training ? this.probes.map(({ takers }) => endsOf(x, y, takers, weights)) : [];
    const [output, ...rest] = substitute([y, ...updates.values(), ...ends.flat().map(({ end }) => end)], base);
    for (const ref of counters) countBatch(ref);
    for (const [i, ref] of [...updates.keys()].entries()) updateBuffer(ref, rest[i]);
    let at = updates.size;
    for (const [i, probe] of this.probes.entries()) {
      const own = ends.at(i)?.map(({ taker, weight }) => ({ taker, weight: base.get(weight)!, end: rest[at++] }));
      if (own?.length) noteDamage(probe, own);
    }
    return output;
  }

  /** The leaves of weights that takers have, by key. */
  private weightsIn(outputs: readonly Value[]): ReadonlyMap<string, Value> {
    const names = new Map<ParameterRef, string>([...this.net.state()].map(([key, p]) => [p, key]));
    return new Map(
      reachable(outputs).flatMap((node): [string, Value][] => {
        const ref = asParameter(node.outputs[0])?.ref;
        const key = ref && names.get(ref);
        return key === undefined ? [] : [[key, node.outputs[0]]];
      }),
    );
  }
}

interface LayerEnd {
  readonly taker: Taker;
  readonly weight: Value;
  /** What the layer makes, after its norm and activation. */
  readonly end: Value;
}

/** Ops that are layers of their own. */
const isLayer = (node: Node): boolean =>
  /pool/i.test(node.op.name) || node.inputs.some((v) => (asParameter(v)?.ref.shape.length ?? 0) > 1);

/** Where the layers of a group's takers end: after what depends on their outputs alone, keeps their shape and is no layer itself. */
function endsOf(x: Value, y: Value, takers: readonly Taker[], weights: ReadonlyMap<string, Value>): LayerEnd[] {
  const nodes = reachable([y]);
  const users = new Map<Value, Node[]>();
  const fromInput = new Set<Value>([x]);
  for (const node of nodes) {
    for (const v of node.inputs) users.set(v, [...(users.get(v) ?? []), node]);
    if (node.inputs.some((v) => fromInput.has(v))) for (const v of node.outputs) fromInput.add(v);
  }
  /** The use of a weight, which may lie behind its transpose. */
  const useOf = (v: Value): Node | undefined => {
    const user = users.get(v)?.[0];
    return user && !user.inputs.some((input) => fromInput.has(input)) ? useOf(user.outputs[0]) : user;
  };
  return takers.flatMap((taker): LayerEnd[] => {
    const weight = weights.get(taker.key);
    const start = weight && useOf(weight);
    if (!weight || !start) return [];
    const region = new Set<Value>(start.outputs);
    for (const node of nodes) {
      const data = node.inputs.filter((v) => fromInput.has(v));
      if (node === start || !data.length || isLayer(node) || !data.every((v) => region.has(v))) continue;
      if (!sameShape(node.outputs[0].shape, start.outputs[0].shape)) continue;
      for (const v of node.outputs) region.add(v);
    }
    const live = [...region].filter(
      (v) => v === y || (users.get(v) ?? []).some((user) => !user.outputs.some((out) => region.has(out))),
    );
    return [{ taker, weight, end: live.length === 1 ? live[0] : start.outputs[0] }];
  });
}

/** Adds the damage of this step to the accounts of the channels that it ablates. */
function noteDamage(probe: Probe, layers: readonly LayerEnd[]): void {
  const { base, ablated, account, count } = probe;
  const left = mul(base.value, sub(1, ablated.value));
  const without = substitute(
    layers.map(({ end }) => end),
    new Map(
      layers.map(({ weight, taker }) => [weight, mul(weight, factorsOf(left, taker, weight.shape.length))] as const),
    ),
  );
  const squares = (v: Value): Value => reshape(reduceSum(mul(v, v)), [1]);
  const damages = layers.map(({ end }, i) => div(squares(sub(end, without[i])), maximum(squares(end), 1e-30)));
  const damage = mul(
    damages.reduce((a, b) => add(a, b)),
    1 / damages.length,
  );
  updateBuffer(account, add(account.value, mul(ablated.value, damage)));
  updateBuffer(count, add(count.value, ablated.value));
}

export interface AofpOptions {
  /** Of the groups of the {@link Ablation}, in their order. */
  readonly dependencies: ChannelDependencies;
  readonly groups: readonly ChannelGroup[];
  /** Share of the whole network's multiply-adds that is to be left: from there on nothing more is pruned. */
  readonly target: number;
  /** θ: the largest damage of channels that are pruned. Default 0.01. */
  readonly damage?: number;
  /** Steps of a half: of one round of scoring. Default 1000. */
  readonly stepsPerHalf?: number;
  /** First step that is scored. Default 500. */
  readonly from?: number;
  /** Channels that each group keeps. Default 1. */
  readonly keeps?: readonly number[];
  readonly seed?: number;
  /** Told of the share of multiply-adds that is left, at the first step and when it changes. */
  readonly onShare?: (share: number) => void;
}

/** What a half ends with, for one layer. */
export interface HalfOutcome {
  /** Channels to prune, the least damage first. */
  readonly prune: readonly number[];
  /** The search space of the next half. */
  readonly search: readonly number[];
}

/**
 * The end of a half (arXiv 1905.04748, section 3.3): of the search space S, the ⌊|S| / 2⌋ channels of the least mean damage
 * are pruned where the last of them did less than θ; else they are the next search space, and where that would be one
 * channel at most, the search begins again with all that are left.
 *
 * @param left    channels that are not pruned
 * @param search  S, in order
 * @param damage  mean damage by channel; infinite for those that were never ablated
 */
export function endHalf(
  left: readonly number[],
  search: readonly number[],
  damage: readonly number[],
  threshold: number,
): HalfOutcome {
  const half = Math.floor(search.length / 2);
  const best = [...search].sort((a, b) => damage[a] - damage[b] || a - b).slice(0, half);
  if (half > 0 && damage[best[half - 1]] < threshold)
    return { prune: best, search: left.filter((c) => !best.includes(c)) };
  return { prune: [], search: half > 1 ? best.sort((a, b) => a - b) : [...left] };
}

/** Ones at these positions, zeros elsewhere. */
const marked = (size: number, at: Iterable<number>): Tensor => {
  const values = new Float64Array(size);
  for (const i of at) values[i] = 1;
  return Tensor.float32([size], values);
};

const marks = (tensor: Tensor): number[] => [...tensor.toFloat64()].flatMap((v, i) => (v ? [i] : []));

/**
 * AOFP's search (arXiv 1905.04748), for the network of an {@link Ablation}, before the rules of the optimizer: it draws
 * which channels the next step ablates, and after each half prunes or narrows the search. Layers begin one after the
 * other. All that it decides follows from seed, step and the network's buffers, so that a run can be resumed. When the
 * target is reached in the middle of a layer's turn, only as many channels go as are needed.
 */
export function aofp(options: AofpOptions): UpdateRule {
  const {
    dependencies,
    groups,
    target,
    damage = 0.01,
    stepsPerHalf = 1000,
    from = 500,
    keeps,
    seed = 0,
    onShare,
  } = options;
  mustBeIn("aofp", { target, damage }, 0, Number.POSITIVE_INFINITY);
  must(
    Number.isInteger(stepsPerHalf) && stepsPerHalf > 0 && Number.isInteger(from) && from >= 0,
    "aofp/option",
    () => `aofp: stepsPerHalf must be a whole number from 1, got ${stepsPerHalf}, and from one from 0, got ${from}`,
    "usage",
  );
  const whole = dependencies.macs();
  const stagger = Math.floor(stepsPerHalf / groups.length);
  const key = (i: number, what: string): string => `${PREFIX}.${i}.${what}`;
  let known: { readonly left: number[][]; readonly search: number[][] } | undefined;
  const shareOf = (left: readonly (readonly number[])[]): number =>
    dependencies.macs(groups.flatMap(({ channels }, i) => channels.filter((_, c) => !left[i].includes(c)))) / whole;
  const read = async (host: StateAccess): Promise<NonNullable<typeof known>> => {
    const names = groups.flatMap((_, i) => [key(i, "base"), key(i, "search")]);
    const values = await host.readState(names);
    const of = (what: string): number[][] => groups.map((_, i) => marks(values.get(key(i, what))!));
    return { left: of("base"), search: of("search") };
  };
  return {
    name: "aofp",
    settings: { target, damage, stepsPerHalf, from, seed, layers: groups.length },
    apply: () => ({}),
    async afterStep(host) {
      if (!known) {
        known = await read(host);
        onShare?.(shareOf(known.left));
      }
      const { left, search } = known;
      const writes = new Map<string, Tensor>();
      let share = shareOf(left);
      for (const [i, { channels }] of groups.entries()) {
        const since = host.step - from - i * stagger;
        if (since < 0) continue;
        const size = channels.length;
        if (since > 0 && since % stepsPerHalf === 0 && share > target) {
          const values = await host.readState([key(i, "account"), key(i, "count")]);
          const [account, count] = ["account", "count"].map((what) => values.get(key(i, what))!.toFloat64());
          const means = Array.from(account, (v, c) => (count[c] ? v / count[c] : Number.POSITIVE_INFINITY));
          const { prune, search: next } = endHalf(left[i], search[i], means, damage);
          const before = left[i];
          for (const c of prune) {
            if (share <= target || left[i].length <= (keeps?.[i] ?? 1)) break;
            left[i] = left[i].filter((other) => other !== c);
            share = shareOf(left);
          }
          search[i] = next.filter((c) => left[i].includes(c));
          if (left[i] !== before) {
            search[i] = [...left[i]];
            writes.set(key(i, "base"), marked(size, left[i]));
            onShare?.(share);
          }
          writes.set(key(i, "search"), marked(size, search[i]));
          for (const what of ["account", "count"]) writes.set(key(i, what), marked(size, []));
        }
        const random = rng(seed, `aofp/${host.step}/${i}`);
        const drawn = share > target ? drawOf(search[i], random.below) : [];
        writes.set(key(i, "ablated"), marked(size, drawn));
      }
      if (writes.size) await host.writeState(writes);
    },
  };
}

/** Half of a list, rounded down, at random. */
function drawOf(list: readonly number[], below: (n: number) => number): number[] {
  const rest = [...list];
  return Array.from({ length: Math.floor(list.length / 2) }, () => rest.splice(below(rest.length), 1)[0]);
}

/** Channels that AOFP has pruned. */
export const prunedByAofp = ({ probes }: Ablation, groups: readonly ChannelGroup[]): Channel[] =>
  groups.flatMap(({ channels }, i) => {
    const base = probes[i].base.data.toFloat64();
    return channels.filter((_, c) => base[c] === 0);
  });
