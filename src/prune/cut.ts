import { fmt, must, RepmlpError } from "../errors.ts";
import { reachable, type SliceRange, where } from "../graph/index.ts";
import {
  cloneModule,
  firstNames,
  type Net,
  type Parameter,
  type ResizedValue,
  resizedModule,
  traceModel,
} from "../nn/index.ts";
import { type Shape, sameShape, sizeOf, Tensor, type TensorSource } from "../tensor/index.ts";
import type { Channel, ChannelDependencies, ChannelGroup, ExpectedNode } from "./dependencies.ts";

/** What happens on an axis: positions that go, and for some of them those that take over what followers had for them. */
interface AxisCut {
  readonly gone: Set<number>;
  /** From, to. */
  readonly sums: (readonly [number, number])[];
}

/** By key and axis. */
type Plan = Map<string, Map<number, AxisCut>>;

const cutAt = (plan: Plan, key: string, axis: number): AxisCut => {
  const axes = plan.get(key) ?? new Map<number, AxisCut>();
  plan.set(key, axes);
  const cut = axes.get(axis) ?? { gone: new Set<number>(), sums: [] };
  axes.set(axis, cut);
  return cut;
};

/**
 * The network without these channels: filters, biases, numbers of batch norms, and the inputs of all layers that follow go
 * at once. The result is a network of the same class and with the same keys, whose parameters are smaller: it trains, merges,
 * is saved and exported like any other. The given network stays as it is.
 *
 * Where the channels' filters, biases and norms' numbers are zero, nothing changes but rounding, as long as the activation
 * makes nothing of zero.
 *
 * @throws `prune/all` where nothing would be left of an axis, `prune/own-width` where a layer keeps its width as a number of
 *   its own and no longer fits
 */
export function cutChannels<N extends Net>(net: N, dependencies: ChannelDependencies, cut: Iterable<Channel>): N {
  return narrowed(net, dependencies, new Map([...cut].map((channel) => [channel, undefined])));
}

/**
 * Merges channels whose filters have become equal, as C-SGD's are (arXiv 1904.03837, section 3.3): the first of each cluster
 * stays, and every layer that takes them gets the sum of its inputs for the cluster. Where the filters are really equal, the
 * function stays the same.
 *
 * @param clusters  by group: positions of channels; those that are in none stay
 * @throws `prune/merge` where a sum or a product over the channels follows
 */
export function mergeChannels<N extends Net>(
  net: N,
  dependencies: ChannelDependencies,
  clusters: ReadonlyMap<ChannelGroup, readonly (readonly number[])[]>,
): N {
  const into = new Map<Channel, Channel>();
  for (const [group, sets] of clusters) {
    must(
      group.unmergeable === undefined || sets.every((set) => set.length < 2),
      "prune/merge",
      () => `prune: channels of ${group.name} cannot be merged: ${group.unmergeable}. Leave the layer out.`,
    );
    for (const [first, ...others] of sets)
      for (const other of others) into.set(group.channels[other], group.channels[first]);
  }
  return narrowed(net, dependencies, into);
}

function narrowed<N extends Net>(
  net: N,
  dependencies: ChannelDependencies,
  cut: ReadonlyMap<Channel, Channel | undefined>,
): N {
  net.initialize();
  const plan: Plan = new Map();
  for (const [channel, into] of cut)
    for (const [i, { key, axis, role }] of channel.group.axes.entries()) {
      const { gone, sums } = cutAt(plan, key, axis);
      for (const [at, position] of channel.positions[i].entries()) {
        gone.add(position);
        if (into && role === "takes") sums.push([position, into.positions[i][at]]);
      }
    }
  const parameters = new Map([...firstNames(net.state())].map(([p, key]) => [key, p]));
  const values = new Map([...plan].map(([key, axes]) => [key, cutParameter(key, parameters.get(key)!, axes)]));
  const expected = dependencies.expected(cut.keys());
  const sizes = new Map<string, ResizedValue>();
  for (const { node, shapes, keptBefore } of expected) {
    const known = sizes.get(node.path)?.sliced;
    const ranges = node.op.name === "slice" ? rangesOf(node.attrs) : [];
    // Of slices in turn the first takes what the layer takes.
    const first = ranges.length ? { shape: node.inputs[0].shape, ranges, keptBefore } : undefined;
    const sliced = known ? { ...known, ranges: [...known.ranges, ...ranges] } : first;
    sizes.set(node.path, { before: node.outputs[0].shape, after: shapes[0], sliced });
  }
  return checked(resizedModule(net, values, sizes), dependencies.inputShape, expected);
}

function cutParameter(key: string, parameter: Parameter, axes: ReadonlyMap<number, AxisCut>): TensorSource {
  let tensor = parameter.data;
  for (const [axis, { gone, sums }] of axes) {
    must(
      gone.size < tensor.shape[axis],
      "prune/all",
      () => `prune: all ${gone.size} channels on axis ${axis} of ${key} would go. Keep one at least.`,
      "usage",
    );
    tensor = withoutPositions(tensor, axis, gone, sums);
  }
  return tensor;
}

/** A tensor without some positions of an axis; first, values at some are added to those at others (from, to). */
export function withoutPositions(
  tensor: Tensor,
  axis: number,
  gone: ReadonlySet<number>,
  sums: readonly (readonly [number, number])[] = [],
): Tensor {
  const { shape } = tensor;
  const [outer, size, inner] = [sizeOf(shape.slice(0, axis)), shape[axis], sizeOf(shape.slice(axis + 1))];
  const all = tensor.toFloat64().slice();
  for (let o = 0; o < outer; o++)
    for (const [from, to] of sums)
      for (let i = 0; i < inner; i++) all[(o * size + to) * inner + i] += all[(o * size + from) * inner + i];
  const kept = Array.from({ length: size }, (_, i) => i).filter((i) => !gone.has(i));
  const values = new Float64Array(outer * kept.length * inner);
  for (let o = 0; o < outer; o++)
    for (const [k, position] of kept.entries()) {
      const start = (o * size + position) * inner;
      values.set(all.subarray(start, start + inner), (o * kept.length + k) * inner);
    }
  return Tensor.of(tensor.dtype, [...shape.slice(0, axis), kept.length, ...shape.slice(axis + 1)], values);
}

/** Traces the narrower network and compares it, node by node, with what the full one is without the channels. */
function checked<N extends Net>(net: N, inputShape: Shape, expected: readonly ExpectedNode[]): N {
  const wayOut = "Leave the layers before it out, or let it take its width from what it is given.";
  let output: ReturnType<typeof traceModel>["output"];
  try {
    ({ output } = traceModel(cloneModule(net).eval(), inputShape));
  } catch (cause) {
    if (!(cause instanceof RepmlpError)) throw cause;
    throw new RepmlpError(
      "prune/own-width",
      `prune: the narrower network does not fit: ${cause.message}. ${wayOut}`,
      "model",
      {
        cause,
      },
    );
  }
  const made = reachable([output]);
  for (const [i, { node, shapes, keptBefore }] of expected.entries()) {
    const found = made[i];
    const same =
      found?.op === node.op &&
      shapes.every((shape, k) => sameShape(shape, found.outputs[k].shape)) &&
      sameSlices(found.attrs, node.attrs, keptBefore);
    must(
      same,
      "prune/own-width",
      () =>
        `prune: ${where(node)} should make ${shapes.map(fmt).join(", ")} of the channels that are left, but ${
          found ? `${where(found)} makes ${found.outputs.map(({ shape }) => fmt(shape)).join(", ")}` : "is gone"
        }, as it keeps a number of channels of its own. ${wayOut}`,
      "model",
    );
  }
  return net;
}

const rangesOf = (attrs: unknown): readonly SliceRange[] =>
  (attrs as { readonly ranges?: readonly SliceRange[] } | undefined)?.ranges ?? [];

/** Slices that have the right size might still be of other channels. */
function sameSlices(found: unknown, before: unknown, keptBefore: (axis: number, position: number) => number): boolean {
  const [now, then] = [rangesOf(found), rangesOf(before)];
  return then.every(({ axis, start }) => {
    const range = now.find((r) => r.axis === axis);
    return (range?.start ?? 0) === keptBefore(axis, start);
  });
}

/**
 * A network with the widths and values that a state dict has, where those differ from the widths that it was created with:
 * a pruned checkpoint opens again.
 *
 * @param net  of the same build, such as `createModel` makes it
 * @param inputShape  `[N, C, H, W]`, to see whether it fits together
 * @throws `state-dict/keys` where the keys differ, `prune/own-width` where the widths do not go with one another
 * @example
 * const { entries } = await openCheckpoint("pruned.safetensors");
 * const net = withWidths(createModel("resnet20"), entries, [1, 3, 32, 32]);
 */
export function withWidths<N extends Net>(net: N, entries: ReadonlyMap<string, TensorSource>, inputShape: Shape): N {
  const made = resizedModule(net, entries);
  made.loadStateDict(entries);
  try {
    traceModel(cloneModule(made).eval(), inputShape);
  } catch (cause) {
    if (!(cause instanceof RepmlpError)) throw cause;
    throw new RepmlpError(
      "prune/own-width",
      `prune: the widths of the file do not go with the network: ${cause.message}. Check that it is of the same build.`,
      "model",
      { cause },
    );
  }
  return made;
}
