import { fmt, listed, must } from "../errors.ts";
import { add, type Pair, pair, type Value } from "../graph/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Module, mapModules, type Net, Parameter } from "../nn/index.ts";
import {
  type BiasedMap,
  isReparameterizable,
  type KernelAlgebra,
  type LinearMap,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  parallel,
  type Reparameterizable,
} from "../reparam/index.ts";
import { ACB } from "./acb.ts";
import { ConvBn } from "./conv-bn.ts";
import type { ConvPlace } from "./conv-place.ts";
import { DBB } from "./dbb.ts";
import { MobileOneBlock } from "./mobileone.ts";
import { RepVGGConv } from "./repvgg.ts";

/** What stands beside a convolution; its `equivalent` is a weight and a bias. */
export type ConvBranches = Reparameterizable & Net;

/** The same on both axes, for blocks that know only square convolutions. */
function square(place: ConvPlace) {
  const [kernelSize, stride, padding, dilation] = [place.kernelSize, place.stride, place.padding, place.dilation].map(
    ([vertical, horizontal]) => (vertical === horizontal ? vertical : undefined),
  );
  return kernelSize && stride && padding !== undefined && dilation
    ? { ...place, kernelSize, stride, padding, dilation }
    : undefined;
}

const centred = ({ kernelSize, padding, dilation }: ConvPlace): boolean =>
  kernelSize.every((k, i) => padding[i] === (dilation[i] * (k - 1)) / 2);

/** All batch norms begin with weight 0; there are none inside of these blocks' branches. */
const silent = <M extends Module>(block: M): M =>
  mapModules(block, {
    module: (m) =>
      m instanceof BatchNorm2d ? new BatchNorm2d(m.runningMean.shape[0], { initialWeight: 0 }) : undefined,
  });

interface Kind {
  /** Why there is no such block for a convolution. */
  readonly refuses: (place: ConvPlace) => string | undefined;
  /** The block without the branch that the convolution itself is; all that it adds begins as 0. */
  readonly others: (place: ConvPlace) => ConvBranches;
}

const onlyCentred = (place: ConvPlace): string | undefined => {
  if (!square(place)) return "its two axes differ";
  return centred(place)
    ? undefined
    : `padding ${fmt(place.padding)} is not half its kernel, so that smaller ones have no place`;
};

/** What a convolution can be made into, by name. */
const kinds = {
  acb: {
    refuses: () => undefined,
    others: (place) =>
      cloneWith(new ACB({ ...place, gammaInit: "single" }), { squareConv: undefined, squareBn: undefined }),
  },
  dbb: {
    refuses: (place) => {
      if (place.groups === place.outChannels && place.inChannels !== place.outChannels)
        return `${place.groups} groups are as many as output channels, but not as many as input channels`;
      return centred(place) ? undefined : `padding ${fmt(place.padding)} is not half its kernel`;
    },
    others: (place) => cloneWith(new DBB({ ...place, gammaInit: "single" }), { dbbOrigin: undefined }),
  },
  repvgg: {
    refuses: onlyCentred,
    others: (place) => cloneWith(silent(new RepVGGConv(square(place)!)), { rbrDense: undefined }),
  },
  mobileone: {
    refuses: onlyCentred,
    others: (place) => silent(new MobileOneBlock({ ...square(place)!, activation: "none" })),
  },
} satisfies Record<string, Kind>;

/** Blocks that {@link replaceConvs} can make. */
export type BranchKind = keyof typeof kinds;
export const branchKinds = Object.keys(kinds) as readonly BranchKind[];

/** A convolution and what stands beside it, as one. */
export function withBranches<T>(k: KernelAlgebra<T>, conv: LinearMap<T>, branches: ConvBranches): BiasedMap<T> {
  const [weight, bias] = Object.values(branches.equivalent(k));
  const own = { weight: conv.weight, bias: conv.bias ?? k.times(bias, 0) };
  return parallel(k, [own, { weight, bias }]);
}

/** A convolution with branches beside it: `branches.*` beside the keys that it had. */
export class BranchedConv extends Module implements Reparameterizable {
  constructor(
    private readonly main: ConvBn | Conv2d,
    readonly branches: ConvBranches,
  ) {
    super();
  }

  override *members(): ReturnType<Module["members"]> {
    yield* this.main.members();
    yield ["branches", this.branches];
  }

  forward(x: Value): Value {
    const { main, branches } = this;
    const sum = (v: Value): Value =>
      add(main instanceof ConvBn ? ConvBn.prototype.forward.call(main, v) : main.forward(v), branches.forward(v));
    if (!(main instanceof ConvBn)) return sum(x);
    // What its class does after convolution and norm, it does after the sum.
    const conv = Object.assign(Object.create(Conv2d.prototype) as Conv2d, { forward: sum });
    return cloneWith(main, { conv, bn: undefined }).forward(x);
  }

  /** Both as one convolution. */
  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    const { main } = this;
    return withBranches(k, main instanceof ConvBn ? main.fused(k) : mapOf(k, main), this.branches);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { weight, bias } = this.fused(k);
    return this.main instanceof ConvBn ? namedMap("conv", { weight, bias }) : { weight, bias };
  }

  merge(): Merge {
    const { main } = this;
    const shell: Module = main instanceof ConvBn ? cloneWith(main, { bn: undefined }) : cloneWith(main, {});
    return {
      merged: mergedForm(shell, this),
      note: `branches of ${this.branches.constructor.name} into the convolution beside them`,
    };
  }
}

/** What became of one convolution. */
export interface ReplacedConv {
  readonly path: string;
  readonly replaced: boolean;
  /** The block, or why there is none. */
  readonly note: string;
}

export interface ReplaceConvsOptions {
  /** Which convolutions, by path and sizes. Default: kernels from 2×2 on and below 7×7, as in the networks of ACNet and DBB. */
  readonly filter?: (path: string, conv: ConvPlace) => boolean;
  /** Is told of every convolution, in tree order. */
  readonly explain?: (entry: ReplacedConv) => void;
}

/** Says what stands beside a convolution; `undefined` leaves it as it is. */
export type MakeBranches = (path: string, place: ConvPlace, reason?: string) => ConvBranches | undefined;

/** A module whose convolutions are no modules, and that puts branches beside them itself: a network from an ONNX model. */
interface BranchesItself extends Module {
  withBranches(make: MakeBranches): Module;
}

const branchesItself = (m: Module): m is BranchesItself =>
  typeof (m as Partial<BranchesItself>).withBranches === "function";

const isEligible = ({ kernelSize }: ConvPlace): boolean => Math.max(...kernelSize) > 1 && Math.max(...kernelSize) < 7;

/**
 * A network with branches beside its convolutions, which computes the same: the convolutions (and batch norms after them)
 * keep all their values, and the batch norms that end the new branches begin with weight and bias 0, so that each branch
 * adds 0 until it is trained, in training mode too (what the authors of DBB call a single initialisation). Trained,
 * {@link convertToDeploy} merges the branches into the convolutions, which are then where they were, under their old keys.
 *
 * Replaced are `Conv2d` and `ConvBn` layers anywhere in a tree, merged blocks' convolutions among them, and the
 * convolutions of an {@link OnnxNet}. A `ConvBn` keeps its batch norm; a convolution alone gets none, and so its output
 * does not depend on the batch at first. Left are convolutions of blocks that have branches already, and those for which
 * there is no such block; `explain` is told why. The given network is not changed.
 *
 * @param kind  `acb` (arXiv 1908.03930), `dbb` (2103.13425), `repvgg` (2101.03697) or `mobileone` (2206.04040)
 * @throws `replace-convs/none` where no convolution can be replaced, with the reasons
 * @example
 * const model = replaceConvs(plain, "dbb", { explain: ({ path, note }) => console.log(path, note) });
 * await new Trainer(model, { … }).run();
 * const merged = convertToDeploy(model.eval());
 */
export function replaceConvs<M extends Module>(
  model: M,
  kind: BranchKind,
  { filter = (_, place) => isEligible(place), explain }: ReplaceConvsOptions = {},
): M {
  const { refuses, others }: Kind = kinds[kind];
  const left: string[] = [];
  let count = 0;
  const tell = (path: string, replaced: boolean, note: string): void => {
    if (replaced) count++;
    else left.push(`${path || "the model"}: ${note}`);
    explain?.({ path, replaced, note });
  };
  const make: MakeBranches = (path, place, reason) => {
    const size = place.kernelSize.join("x");
    const why =
      reason ??
      (filter(path, place) ? undefined : `${size} kernels are left out`) ??
      (place.kernelSize.some((k) => k % 2 === 0) ? `a ${size} kernel has no middle` : refuses(place));
    if (why !== undefined) {
      tell(path, false, why);
      return undefined;
    }
    const made = others(place);
    tell(path, true, `${size} convolution with branches of ${made.constructor.name}`);
    return made;
  };
  const users = usersOf(model);
  const branched = (main: ConvBn | Conv2d, path: string): Module => {
    const conv = main instanceof ConvBn ? main.conv : main;
    const shared = (users.get(conv.weight) ?? 1) > 1 ? "other layers have the same weights" : undefined;
    const branches = make(path, placeOf(conv), shared);
    if (!branches) return main;
    // In the mode of the layer that they stand beside.
    const { training } = main;
    return Object.assign(new BranchedConv(main, branches.train(training)), { training });
  };
  const made = mapConvs(model, {
    conv: branched,
    itself: (m) => (branchesItself(m) ? m.withBranches(make) : undefined),
    branched: (m, path) => tell(path, false, `${m.constructor.name} has branches already`),
  });
  must(
    count > 0,
    "replace-convs/none",
    () =>
      `\`replaceConvs\`: no convolution can be replaced by ${kind}${left.length ? `: ${listed(left, 3)}` : ", since there is none"}. Choose another block, or in the library other convolutions by the filter.`,
    "usage",
  );
  return made;
}

interface ConvVisitor {
  /** What stands in the place of a convolution, or of one with its batch norm. */
  readonly conv: (layer: ConvBn | Conv2d, path: string) => Module;
  /** Is told of blocks that have branches; they stay. */
  readonly branched: (block: Module, path: string) => void;
  /** What stands in the place of a whole module; `undefined` looks at what is in it. */
  readonly itself?: (module: Module) => Module | undefined;
}

/**
 * A network with other modules in the place of its convolutions, anywhere in the tree, merged blocks' among them. Those
 * blocks are no longer merged themselves: what stands in them is.
 */
export function mapConvs<M extends Module>(model: M, { conv, branched, itself }: ConvVisitor): M {
  const visit = (m: Module, path: string): Module | undefined => {
    const other = itself?.(m);
    if (other) return other;
    if (m instanceof ConvBn && m.merge === ConvBn.prototype.merge) return conv(m, path);
    if (m instanceof Conv2d && m.forward === Conv2d.prototype.forward) return conv(m, path);
    if (!isReparameterizable(m)) return undefined;
    if ("merged" in m.merge()) {
      branched(m, path);
      return m;
    }
    // Merged: from here on its convolutions are what can be merged, not the block.
    const form = Object.create(Object.getPrototypeOf(m), { merge: { value: undefined } });
    const plain = Object.assign(Object.create(form), m) as Module;
    return mapModules(plain, {
      module: (inner, at) => visit(inner, [path, at].filter((part) => part).join(".")),
      parameter: (p) => p,
    });
  };
  return mapModules(model, { module: visit });
}

/** How many layers a parameter belongs to. */
function usersOf(model: Module): Map<Parameter, number> {
  const users = new Map<Parameter, number>();
  for (const m of new Set([...model.modules()].map(([, layer]) => layer)))
    for (const [, p] of m.members()) if (p instanceof Parameter) users.set(p, (users.get(p) ?? 0) + 1);
  return users;
}

function placeOf({ weight, options }: Conv2d): ConvPlace {
  const [outChannels, perGroup, ...kernelSize] = weight.shape;
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  return {
    ...{ inChannels: perGroup * groups, outChannels, groups, kernelSize: kernelSize as unknown as Pair },
    ...{ stride: pair(stride), padding: pair(padding), dilation: pair(dilation) },
  };
}
