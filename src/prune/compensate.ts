import { asParameter, type ConvAttrs, type Node, type ParameterRef, reachable, type Value } from "../graph/index.ts";
import { cloneModule, type Net, type Parameter, traceModel } from "../nn/index.ts";
import { compile } from "../runtime/index.ts";
import { rng, sizeOf, Tensor } from "../tensor/index.ts";
import type { Channel, ChannelDependencies, ChannelGroup } from "./dependencies.ts";

/** Whether an axis is that of a depthwise convolution, which makes channels of channels one by one. */
const isDepthwise = (net: Net): ((key: string) => boolean) => {
  const shapes = new Map([...net.state()].map(([key, p]) => [key, p.shape]));
  return (key) => {
    const shape = shapes.get(key);
    return shape?.length === 4 && shape[1] === 1 && shape[0] > 1;
  };
};

/** Layers that make a group's channels of other ones: all but depthwise convolutions. */
export const sourcesOf = (net: Net): ((group: ChannelGroup) => readonly string[]) => {
  const depthwise = isDepthwise(net);
  return ({ axes }) => axes.filter(({ key, role }) => role === "makes" && !depthwise(key)).map(({ key }) => key);
};

/** What became of the constants that channels leave. */
export interface Compensated<N> {
  /** A copy, in which layers that follow know what they got from the channels; to be cut. */
  readonly net: N;
  /** Weights whose inputs left a constant that no bias can take: the layer has padding, or nothing that could. */
  readonly left: readonly string[];
}

/** Relative difference up to which a channel is the same everywhere. */
const SAME = 1e-5;

/**
 * A channel whose filters are zero may still reach the layers that follow: a depthwise convolution makes nothing of nothing, but
 * the batch norm after it makes a constant of that, and the activation max(0, β − μγ / √(σ² + ε)). This adds what the layers get
 * of it to their biases, or takes it from the running means of their batch norms, so that cutting the channels changes nothing.
 *
 * What constants there are is measured, by running the network on random pictures without those filters; whatever the
 * layers between are.
 *
 * @param cut  channels that {@link cutChannels} is to take away; their filters count as zero
 */
export async function compensated<N extends Net>(
  net: N,
  dependencies: ChannelDependencies,
  cut: readonly Channel[],
): Promise<Compensated<N>> {
  net.initialize();
  const made = cloneModule(net);
  const probe = cloneModule(net).eval();
  const parameters = new Map<string, Parameter>(probe.state());
  const sources = sourcesOf(net);
  for (const { group, positions } of cut) {
    const own = new Set(sources(group));
    for (const [a, { key, axis, role }] of group.axes.entries())
      if (role === "makes" && own.has(key)) zero(parameters.get(key)!, axis, new Set(positions[a]));
  }
  // Several pictures, so that what differs from one to another is no constant.
  const { output, input, names } = traceModel(probe, [4, ...dependencies.inputShape.slice(1)]);
  const users = takersIn(output, names);
  const left: string[] = [];
  const wanted = new Map<string, { readonly axis: number; readonly inputs: Set<number> }>();
  for (const { group, positions } of cut)
    for (const [a, { key, axis, role }] of group.axes.entries()) {
      if (role !== "takes") continue;
      if (!users.has(key)) {
        if (!left.includes(key)) left.push(key);
        continue;
      }
      const entry = wanted.get(key) ?? { axis, inputs: new Set<number>() };
      for (const p of positions[a]) entry.inputs.add(p);
      wanted.set(key, entry);
    }
  const values = await run(new Map([...wanted.keys()].map((key) => [key, users.get(key)!.inputs[0]])), names, input);
  const changed = new Map<string, Parameter>(made.state());
  for (const [key, { axis, inputs }] of wanted) {
    const node = users.get(key)!;
    const constants = constantsOf(values.get(key)!, inputs, parameters.get(key)!.shape[axis]);
    if (constants.every((c) => c === 0)) continue;
    const taker = takes(node) && axis === 1 ? biasAfter(node, output, names) : undefined;
    if (!taker) left.push(key);
    else add(changed.get(taker.key)!, taker.sign, changed.get(key)!, constants);
  }
  return { net: made, left };
}

function zero(p: Parameter, axis: number, gone: ReadonlySet<number>): void {
  const [inner, size] = [sizeOf(p.shape.slice(axis + 1)), p.shape[axis]];
  p.set(p.data.map((v, i) => (gone.has(Math.floor(i / inner) % size) ? 0 : v)));
}

/** The node that uses each weight, by key. */
function takersIn(output: Value, names: ReadonlyMap<ParameterRef, string>): ReadonlyMap<string, Node> {
  return new Map(
    reachable([output]).flatMap((node): [string, Node][] => {
      const ref = node.inputs.length > 1 ? asParameter(node.inputs[1])?.ref : undefined;
      return ref ? [[names.get(ref)!, node]] : [];
    }),
  );
}

/** The values on random pictures, by key. */
async function run(
  values: ReadonlyMap<string, Value>,
  names: ReadonlyMap<ParameterRef, string>,
  input: Value,
): Promise<ReadonlyMap<string, Tensor>> {
  if (!values.size) return new Map();
  const random = rng(0, "compensate");
  const pictures = Tensor.float32(
    input.shape,
    Float64Array.from({ length: sizeOf(input.shape) }, () => random.normal()),
  );
  const nameOf = (key: string): string => `into:${key}`;
  const outputs = Object.fromEntries([...values].map(([key, value]) => [nameOf(key), value]));
  const program = await compile({ outputs }, { names });
  try {
    const results = await program.run({ input: pictures });
    return new Map([...values.keys()].map((key) => [key, results[nameOf(key)]]));
  } finally {
    await program.dispose();
  }
}

/** What channels on axis 1 are, where that is the same everywhere; 0 for all others. Of a grouped layer those of its first group. */
function constantsOf(x: Tensor, inputs: ReadonlySet<number>, perGroup: number): number[] {
  const values = x.toFloat64();
  const [samples, channels] = x.shape;
  const pixels = sizeOf(x.shape.slice(2));
  return Array.from({ length: channels }, (_, c) => {
    if (!inputs.has(c % perGroup)) return 0;
    const own = Array.from({ length: samples }, (_, n) =>
      values.subarray((n * channels + c) * pixels, (n * channels + c + 1) * pixels),
    );
    const [low, high] = [Math.min, Math.max].map((of) => of(...own.map((part) => part.reduce((a, b) => of(a, b)))));
    return high - low <= SAME * Math.max(Math.abs(low), Math.abs(high)) ? (low + high) / 2 : 0;
  });
}

/** Whether a constant goes in as a constant: no pixels of padding are beside it. */
const takes = ({ op, attrs }: Node): boolean =>
  op.name === "linear" || (op.name === "conv2d" && (attrs as ConvAttrs).padding.every((p) => p === 0));

/** What can take a constant of a layer's output: a batch norm's running mean, or a bias that is added. */
function biasAfter(
  { outputs: [made], inputs }: Node,
  output: Value,
  names: ReadonlyMap<ParameterRef, string>,
): { readonly key: string; readonly sign: 1 | -1 } | undefined {
  const keyOf = (v: Value | undefined): string | undefined => {
    if (!v) return undefined;
    const ref = asParameter(v)?.ref;
    if (ref) return names.get(ref);
    return v.node.op.name === "reshape" ? keyOf(v.node.inputs[0]) : undefined;
  };
  const own = keyOf(inputs[2]);
  if (own !== undefined) return { key: own, sign: 1 };
  const users = reachable([output]).filter((node) => node.inputs.includes(made));
  if (users.length !== 1) return undefined;
  const [user] = users;
  if (user.op.name === "batchNorm") {
    const key = keyOf(user.inputs[3]);
    return key === undefined ? undefined : { key, sign: -1 };
  }
  const key = user.op.name === "add" ? keyOf(user.inputs.find((v) => v !== made)) : undefined;
  return key === undefined ? undefined : { key, sign: 1 };
}

/** Adds what a layer makes of constants to its bias. */
function add(bias: Parameter, sign: 1 | -1, weight: Parameter, constants: readonly number[]): void {
  const w = weight.data.toFloat64();
  const [outputs, perGroup] = weight.shape;
  const inner = w.length / outputs / perGroup;
  const perOutput = outputs / (constants.length / perGroup);
  const sums = new Float64Array(outputs);
  for (let o = 0; o < outputs; o++)
    for (let c = 0; c < perGroup; c++) {
      const constant = constants[Math.floor(o / perOutput) * perGroup + c];
      for (let i = 0; i < inner; i++) sums[o] += constant * w[(o * perGroup + c) * inner + i];
    }
  bias.set(bias.data.map((v, i) => v + sign * sums[i]));
}
