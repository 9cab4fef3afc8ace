import { fmt, must } from "../errors.ts";
import {
  add,
  flatten,
  type Pair,
  pad,
  pair,
  partitionImage,
  reduceMean,
  relu,
  reshape,
  slice,
  unpartition,
  type Value,
} from "../graph/index.ts";
import {
  asIdentity,
  BatchNorm1d,
  BatchNorm2d,
  Conv2d,
  cloneWith,
  Linear,
  Module,
  mapModules,
  orthogonal,
} from "../nn/index.ts";
import {
  type BiasedMap,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  normAfter,
  normBefore,
  parallel,
  type Reparameterizable,
} from "../reparam/index.ts";
import { ConvBn } from "./conv-bn.ts";

export interface RepMLPOptions {
  /** C; must be divisible by `groups`. */
  readonly inChannels: number;
  /** O; must be divisible by `groups`. Default: `inChannels`. */
  readonly outChannels?: number;
  /** Size of the feature map in pixels, fixed at construction. */
  readonly height: number;
  readonly width: number;
  /** Height and width of a partition in pixels. A map that does not divide is padded at the right and bottom. */
  readonly partition: number | Pair;
  /** Odd sizes of the Local Perceptron's kernels, in any order. Default none: no Local Perceptron. */
  readonly reparamConvKernels?: readonly number[];
  /** Groups of FC3 and of the local convolutions. Default 1. */
  readonly groups?: number;
  /** Divides the hidden width of the Global Perceptron's two layers. Default 1. */
  readonly fc1Fc2Reduction?: number;
  /** Whether partitions exchange averages where there are several (the paper's ablation turns it off). Default true. */
  readonly globalPerceptron?: boolean;
}

/** The Global Perceptron's two layers: keys `fc1_fc2.fc1.*`, `fc1_fc2.fc2.*`. */
class Fc1Fc2 extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;

  constructor(width: number, hidden: number) {
    super();
    this.fc1 = new Linear(width, hidden);
    this.fc2 = new Linear(hidden, width);
  }

  forward(x: Value): Value {
    return this.fc2.forward(relu(this.fc1.forward(x)));
  }
}

/** Holds the batch norm after the average pool: key `avg.bn.*`. */
class PoolNorm extends Module {
  readonly bn: BatchNorm2d;

  constructor(channels: number) {
    super();
    this.bn = new BatchNorm2d(channels);
  }

  forward(x: Value): Value {
    return this.bn.forward(x);
  }
}

type FullOptions = Required<RepMLPOptions> & { readonly partition: Pair };

function checkOptions(o: FullOptions): void {
  const { inChannels, outChannels, height, width, partition, reparamConvKernels: kernels, groups } = o;
  const size = {
    inChannels,
    outChannels,
    height,
    width,
    partitionHeight: partition[0],
    partitionWidth: partition[1],
    groups,
  };
  for (const [name, value] of Object.entries({ ...size, fc1Fc2Reduction: o.fc1Fc2Reduction }))
    must(
      Number.isInteger(value) && value > 0,
      "repmlp/option",
      () => `repmlp: ${name} must be a positive integer, got ${value}`,
      "usage",
    );
  must(
    inChannels % groups === 0 && outChannels % groups === 0,
    "repmlp/groups",
    () =>
      `repmlp: groups must divide inChannels and outChannels; ${groups} does not divide ${inChannels} and ${outChannels}`,
    "usage",
  );
  must(
    partition[0] <= height && partition[1] <= width,
    "repmlp/partition",
    () =>
      `repmlp: a ${partition[0]} x ${partition[1]} partition is larger than the ${height} x ${width} feature map. Use a smaller partition, or larger pictures.`,
    "usage",
  );
  const even = kernels.find((k) => !Number.isInteger(k) || k < 1 || k % 2 === 0);
  must(
    even === undefined,
    "repmlp/even-kernel",
    () =>
      `repmlp: reparamConvKernels must be odd positive integers so that padding keeps the size, got ${even} in ${fmt(kernels)}`,
    "usage",
  );
  const twice = kernels.find((k, i) => kernels.indexOf(k) !== i);
  must(
    twice === undefined,
    "repmlp/twice",
    () => `repmlp: reparamConvKernels lists ${twice} twice in ${fmt(kernels)}. Name each size once.`,
    "usage",
  );
}

/** Local branches by name `k1`, `k3`, …, in the order given. */
type Branches = Readonly<Record<string, ConvBn>>;

const localBranches = ({ inChannels, outChannels, reparamConvKernels, groups }: FullOptions): Branches =>
  Object.fromEntries(
    reparamConvKernels.map((k) => [
      `k${k}`,
      new ConvBn(inChannels, outChannels, { kernelSize: k, padding: (k - 1) / 2, groups }),
    ]),
  );

const plusBranches = (y: Value, branches: Branches, parts: Value): Value =>
  Object.values(branches).reduce((sum, branch) => add(sum, branch.forward(parts)), y);

/** Global and Partition Perceptron around what a block does within each partition. */
abstract class Partitioned extends Module implements Reparameterizable {
  static override readonly stateNames = { repconv: (k: string) => `repconv${k.slice(1)}` };

  readonly options: FullOptions;
  readonly fc1Fc2: Fc1Fc2 | undefined;
  readonly avg: PoolNorm | undefined;

  constructor(options: RepMLPOptions) {
    super();
    const { inChannels, height, width, outChannels = inChannels } = options;
    const { reparamConvKernels = [], groups = 1, fc1Fc2Reduction = 1, globalPerceptron = true } = options;
    const partition = pair(options.partition);
    this.options = {
      ...{ inChannels, outChannels, height, width, partition, reparamConvKernels, groups },
      ...{ fc1Fc2Reduction, globalPerceptron },
    };
    checkOptions(this.options);
    const averages = inChannels * this.counts[0] * this.counts[1];
    const hidden = Math.floor(averages / fc1Fc2Reduction);
    must(
      !this.hasGlobal || hidden > 0,
      "repmlp/reduction",
      () => `repmlp: fc1Fc2Reduction ${fc1Fc2Reduction} leaves nothing of the ${averages} inputs of FC1`,
      "usage",
    );
    this.fc1Fc2 = this.hasGlobal ? new Fc1Fc2(averages, hidden) : undefined;
    this.avg = this.hasGlobal ? new PoolNorm(inChannels) : undefined;
  }

  /** What happens within the partitions: `[B, C, h, w]` → `[B, O, h, w]`. */
  protected abstract mix(parts: Value): Value;
  abstract merge(): Merge;
  abstract equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T>;

  /** Partitions per column and per row. */
  get counts(): Pair {
    const { height, width, partition } = this.options;
    return [Math.ceil(height / partition[0]), Math.ceil(width / partition[1])];
  }

  /** Whether there is more than one partition, and so a Global Perceptron. */
  get hasGlobal(): boolean {
    const { height, width, partition, globalPerceptron } = this.options;
    return globalPerceptron && (height !== partition[0] || width !== partition[1]);
  }

  forward(x: Value): Value {
    const { inChannels, height, width, partition } = this.options;
    const [h, w] = partition;
    must(
      x.shape.length === 4 && x.shape[1] === inChannels && x.shape[2] === height && x.shape[3] === width,
      "repmlp/input",
      () =>
        `repmlp: the block was built for inputs [N, ${inChannels}, ${height}, ${width}], got ${fmt(x.shape)}. The fully connected layers fix the size; build the network for this one.`,
    );
    const size: Pair = [this.counts[0] * h, this.counts[1] * w];
    const padded = pad(x, [0, 0, 0, 0], [0, 0, size[0] - height, size[1] - width]);
    const y = this.mix(this.addGlobal(partitionImage(padded, partition)));
    return slice(unpartition(y, partition, size), [
      { axis: 2, start: 0, end: height },
      { axis: 3, start: 0, end: width },
    ]);
  }

  /** Adds the Global Perceptron's value to each partition `[B, C, h, w]`. */
  private addGlobal(parts: Value): Value {
    if (!this.fc1Fc2) return parts;
    const [count, c] = parts.shape;
    const pooled = reshape(reduceMean(parts, [2, 3]), [count, c, 1, 1]);
    const map = unpartition(this.avg ? this.avg.forward(pooled) : pooled, [1, 1], this.counts);
    const mixed = this.fc1Fc2.forward(flatten(map));
    return add(parts, partitionImage(reshape(mixed, map.shape), [1, 1]));
  }

  /** FC1 with the batch norm before it, where there is a Global Perceptron. */
  protected equivalentGlobal<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    if (!this.fc1Fc2) return {};
    const fc1 = mapOf(k, this.fc1Fc2.fc1);
    // FC1 always has a bias.
    const merged = this.avg ? normBefore(k, this.avg.bn, fc1) : (fc1 as BiasedMap<T>);
    return namedMap("fc1_fc2.fc1", merged);
  }

  /** What a merge says of the Global Perceptron and the local kernels. */
  protected mergeNote(into: string): string {
    const kernels = this.options.reparamConvKernels;
    const local = kernels.length
      ? `, the batch norms and the local kernels ${kernels.join(", ")} into ${into}`
      : ` and its batch norm into ${into}`;
    return `${this.avg ? "the pool's batch norm into FC1" : "no Global Perceptron"}${local}`;
  }
}

/**
 * RepMLP (arXiv 2105.01883, section 3): Global, Partition and Local Perceptron.
 *
 * `[N, C, H, W]` → `[N, O, H, W]`. The map is cut into partitions of h × w pixels. Unless there is only one, the Global
 * Perceptron adds to each a value per channel computed from the averages of all (pool, batch norm, FC1, ReLU, FC2).
 * FC3 connects each partition fully (a grouped 1×1 convolution on C·h·w channels, batch norm), and the Local
 * Perceptron's convolutions run beside it. Merged, FC3 has taken in its batch norm and the convolutions, and FC1 the
 * batch norm after the pool; the keys are those of the original code in both forms.
 *
 * A map that h × w does not divide is padded with zeros at the right and bottom, and the result cropped. The averages
 * count the padded pixels, in both forms, so that the merge stays exact.
 */
export class RepMLP extends Partitioned {
  readonly fc3: Conv2d;
  readonly fc3Bn: BatchNorm1d | undefined;
  readonly repconv: Branches;

  constructor(options: RepMLPOptions) {
    super(options);
    const { inChannels, outChannels, groups, partition } = this.options;
    const [h, w] = partition;
    this.fc3 = new Conv2d(inChannels * h * w, outChannels * h * w, {
      kernelSize: 1,
      groups,
      bias: false,
      init: orthogonal,
    });
    this.fc3Bn = new BatchNorm1d(outChannels * h * w);
    this.repconv = localBranches(this.options);
  }

  protected mix(parts: Value): Value {
    const { inChannels, outChannels, partition } = this.options;
    const [h, w] = partition;
    const count = parts.shape[0];
    const connected = this.fc3.forward(reshape(parts, [count, inChannels * h * w, 1, 1]));
    const normalized = this.fc3Bn ? this.fc3Bn.forward(connected) : connected;
    return plusBranches(reshape(normalized, [count, outChannels, h, w]), this.repconv, parts);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    return { ...this.equivalentGlobal(k), ...namedMap("fc3", this.fusedFc3(k)) };
  }

  /** FC3 with its batch norm and all local branches. */
  private fusedFc3<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const own = mapOf(k, this.fc3);
    // Without a norm there is a bias: the merge has put it there.
    const connected = this.fc3Bn ? normAfter(k, own, this.fc3Bn) : (own as BiasedMap<T>);
    const branches = Object.values(this.repconv).map((b) => b.fused(k));
    if (!branches.length) return connected;
    const local = parallel(k, branches);
    const [h, w] = this.options.partition;
    return {
      weight: k.add(connected.weight, k.convToFc(local.weight, [h, w])),
      bias: k.add(connected.bias, k.repeatOutputs(local.bias, h * w)),
    };
  }

  merge(): Merge {
    if (!this.fc3Bn) return { kept: "already merged" };
    const shell = cloneWith(this as RepMLP, { avg: undefined, fc3Bn: undefined, repconv: {} });
    return { merged: mergedForm(shell, this), note: this.mergeNote("FC3") };
  }
}

/**
 * A copy of a network in which every merged RepMLP has a batch norm after FC3 again, so that it can be fine-tuned; to be
 * merged away afterwards like any other. It starts as the identity in evaluation mode, in training mode it normalises by
 * the batch at once. The original's FAQ offers this for merged and for quantized networks, with a little less accuracy to
 * be expected than from fine-tuning the training form.
 *
 * @throws `repmlp/nothing-merged` when there is no merged RepMLP in the network
 * @example
 * const tunable = withFc3BatchNorm(deploy);
 * await new Trainer(tunable, { … }).run();
 * const merged = convertToDeploy(tunable);
 */
export function withFc3BatchNorm<M extends Module>(model: M): M {
  let count = 0;
  const changed = mapModules(model, {
    module: (m) => {
      if (!(m instanceof RepMLP) || m.fc3Bn) return undefined;
      count++;
      const bn = asIdentity(new BatchNorm1d(m.fc3.weight.shape[0]));
      return cloneWith(mapModules(m), { fc3Bn: bn });
    },
  });
  must(
    count > 0,
    "repmlp/nothing-merged",
    () => "repmlp: the network has no merged RepMLP. Convert it first, or fine-tune the training form as it is.",
    "usage",
  );
  return changed;
}

export interface RepMLPConvOptions extends RepMLPOptions {
  /** Odd size of the convolution in place of FC3, at least as large as the local kernels. Default 9, as in the paper. */
  readonly kernelSize?: number;
}

/**
 * RepMLP with a convolution and batch norm in place of FC3, the ablation of the paper's section 4.1: what a layer of
 * as wide a view does that knows no positions. Merged, the local kernels are part of that one convolution. Keys
 * `conv.conv.*`, `conv.bn.*`; merged `conv.conv.weight`, `conv.conv.bias`; else as {@link RepMLP}.
 */
export class RepMLPConv extends Partitioned {
  readonly conv: ConvBn;
  readonly repconv: Branches;

  constructor({ kernelSize = 9, ...options }: RepMLPConvOptions) {
    super(options);
    const { inChannels, outChannels, groups, reparamConvKernels } = this.options;
    const largest = Math.max(0, ...reparamConvKernels);
    must(
      Number.isInteger(kernelSize) && kernelSize % 2 === 1 && kernelSize >= largest,
      "repmlp/kernel-size",
      () => `repmlp: kernelSize must be odd and at least the largest local kernel, ${largest}, got ${kernelSize}`,
      "usage",
    );
    this.conv = new ConvBn(inChannels, outChannels, { kernelSize, padding: (kernelSize - 1) / 2, groups });
    this.repconv = localBranches(this.options);
  }

  protected mix(parts: Value): Value {
    return plusBranches(this.conv.forward(parts), this.repconv, parts);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const branches = [this.conv, ...Object.values(this.repconv)].map((b) => b.fused(k));
    return { ...this.equivalentGlobal(k), ...namedMap("conv.conv", parallel(k, branches)) };
  }

  merge(): Merge {
    if (!this.conv.bn) return { kept: "already merged" };
    const conv = cloneWith(this.conv, { bn: undefined });
    const shell = cloneWith(this as RepMLPConv, { avg: undefined, conv, repconv: {} });
    return { merged: mergedForm(shell, this), note: this.mergeNote("the convolution") };
  }
}
