import { fmt, must } from "../errors.ts";
import { type Module, Parameter, withParameters } from "../nn/index.ts";
import { sameShape } from "../tensor/index.ts";
import type { BiasedMap, KernelAlgebra } from "./algebra.ts";
import { HostAlgebra } from "./host.ts";

/** Tensors by state-dict key. */
export type NamedTensors<T> = Readonly<Record<string, T>>;

/** A layer's weight and bias under their keys. */
export const namedMap = <T>(layer: string, { weight, bias }: BiasedMap<T>): NamedTensors<T> => ({
  [`${layer}.weight`]: weight,
  [`${layer}.bias`]: bias,
});

/** What a block answers when asked to merge. */
export type Merge =
  | { readonly merged: Module /** What went into what, one sentence. */; readonly note: string }
  | { readonly kept: string };

/**
 * A module that has an equal, smaller inference form.
 *
 * `equivalent` says once what the merged weights and biases are, by their keys in the merged form; parameters that stay
 * as they are need not be listed. It is written in the kernel algebra, and so serves the merge on the host as well as
 * quantization and penalties in the graph. Of a merged block it gives
 * the present ones.
 *
 * `merge` answers with that form (see {@link mergedForm}) or says why there is nothing to do; it changes nothing, and
 * computes no values: the merged parameters are derived when they are read. A merge owns everything below its block:
 * nested blocks are not visited on their own, neither in what the block is replaced by nor where it is kept.
 */
export interface Reparameterizable extends Module {
  merge(): Merge;
  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T>;
}

/**
 * A module that only training uses, such as an auxiliary classifier. The merged form of what holds it comes without: the
 * field is `undefined` there.
 */
export interface TrainingOnly extends Module {
  /** What it is. */
  readonly trainingOnly: string;
}

export const isTrainingOnly = (m: Module): m is TrainingOnly => "trainingOnly" in m;

export const isReparameterizable = (m: Module): m is Reparameterizable =>
  "merge" in m && typeof (m as Partial<Reparameterizable>).merge === "function";

/**
 * The merged form of a block: `shell`, the block without what the merge takes in, with the values of `equivalent` under
 * their keys. They are computed when they are read, those of large weights in pieces where that is possible.
 *
 * @param shell  of the merged form's structure; a bias that is still `undefined` gets its place filled
 */
export function mergedForm<M extends Module>(shell: M, block: Reparameterizable): M {
  // Layers that are new in the merged form are in the block's mode, like those that it has from the block.
  const own = new Set([...block.modules()].map(([, m]) => m));
  for (const [, m] of shell.modules()) if (!own.has(m)) Object.assign(m, { training: block.training });
  const before = new Map(shell.state());
  const merged = Object.entries(block.equivalent(new HostAlgebra())).map(([key, tensor]) => {
    const old = before.get(key);
    must(
      !old || sameShape(old.shape, tensor.shape),
      "merge/shape",
      () => `merge: ${key} is ${fmt(tensor.shape)} after the merge, the merged form expects ${fmt(old?.shape ?? [])}`,
    );
    return [key, Parameter.from(tensor.source())] as const;
  });
  return withParameters(shell, new Map(merged));
}
