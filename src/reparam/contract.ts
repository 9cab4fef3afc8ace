import { type BatchNorm, type Module, Parameter } from "../nn/index.ts";
import {
  derived,
  dtypes,
  sizeOf,
  type Tensor,
  type TensorSource,
  tensorBytes,
  tensorFromBytes,
} from "../tensor/index.ts";
import type { BatchNormTensors } from "./algebra.ts";
import { mapRows, type RowMap } from "./rows.ts";

/** What a block answers when asked to merge. */
export type Merge =
  | { readonly merged: Module /** What went into what, one sentence. */; readonly note: string }
  | { readonly kept: string };

/**
 * A module that has an equal, smaller inference form. `merge` answers with that form or says why there is nothing to
 * do; it changes nothing, and computes no values: the merged parameters are derived when they are read.
 */
export interface Reparameterizable extends Module {
  merge(): Merge;
}

export const isReparameterizable = (m: Module): m is Reparameterizable =>
  "merge" in m && typeof (m as Partial<Reparameterizable>).merge === "function";

/** A parameter whose values follow from others when they are read. */
export function derivedParameter(
  like: { readonly dtype: Parameter["dtype"]; readonly shape: readonly number[] },
  inputs: readonly Parameter[],
  compute: (...tensors: Tensor[]) => Tensor,
): Parameter {
  return Parameter.from(derived(like.dtype, like.shape, inputs.map(valuesOf), compute));
}

/** The values that a parameter will have on reading, so that a form can be derived before there are any. */
const valuesOf = (p: Parameter): TensorSource => ({
  dtype: p.dtype,
  shape: p.shape,
  read: () => p.source().read(),
  readSync: () => p.source().readSync(),
});

/**
 * A parameter whose rows follow each from the same row of `weight`. It can be read in pieces, so that large weights
 * stream through a conversion.
 *
 * @param prepare  makes the map of rows from the values of `inputs`
 */
export function derivedByRows(
  weight: Parameter,
  inputs: readonly Parameter[],
  prepare: (...tensors: Tensor[]) => RowMap,
): Parameter {
  const all = [weight, ...inputs].map(valuesOf);
  const whole = derived(weight.dtype, weight.shape, all, (w, ...tensors) => mapRows(w, prepare(...tensors)));
  async function* pieces(): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
    const source = weight.source();
    if (!source.pieces) {
      yield tensorBytes(await whole.read());
      return;
    }
    const map = prepare(...(await Promise.all(all.slice(1).map((t) => t.read()))));
    const width = dtypes[weight.dtype].bytes;
    const columns = sizeOf(weight.shape) / weight.shape[0];
    let first = 0;
    let memory: Tensor["data"] | undefined;
    for await (const bytes of source.pieces(columns * width)) {
      const count = bytes.length / width / columns;
      const rows = tensorFromBytes(weight.dtype, [count, columns], bytes);
      const made = mapRows(rows, map, first, memory);
      memory ??= made.data;
      yield tensorBytes(made);
      first += count;
    }
  }
  return Parameter.from({ ...whole, pieces });
}

/** The four tensors of a batch norm, in the order that {@link batchNormOf} takes them. */
export const batchNormInputs = (bn: BatchNorm): Parameter[] => [bn.weight, bn.bias, bn.runningMean, bn.runningVar];

/** Puts read tensors into the form that the algebra takes. */
export const batchNormOf = (bn: BatchNorm, [weight, bias, mean, variance]: readonly Tensor[]): BatchNormTensors => ({
  weight,
  bias,
  mean,
  variance,
  eps: bn.eps,
});
