import type { Value } from "../graph/index.ts";
import { BatchNorm1d, cloneWith, Linear, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  namedMap,
  normAfter,
  type Reparameterizable,
} from "../reparam/index.ts";

/**
 * Linear layer without bias and batch norm, as behind the features of face recognition: keys `fc.weight`, `bn.*`; merged
 * `fc.weight`, `fc.bias`. `[N, inFeatures]` → `[N, outFeatures]`.
 */
export class LinearBn extends Module implements Reparameterizable {
  readonly fc: Linear;
  readonly bn: BatchNorm1d | undefined;

  constructor(
    readonly inFeatures: number,
    readonly outFeatures: number,
  ) {
    super();
    this.fc = new Linear(inFeatures, outFeatures, { bias: false });
    this.bn = new BatchNorm1d(outFeatures);
  }

  forward(x: Value): Value {
    const y = this.fc.forward(x);
    return this.bn ? this.bn.forward(y) : y;
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const own = mapOf(k, this.fc);
    return namedMap("fc", this.bn ? normAfter(k, own, this.bn) : (own as BiasedMap<T>));
  }

  merge(): Merge {
    if (!this.bn) return { kept: "already merged" };
    const fc = new Linear(this.inFeatures, this.outFeatures);
    return {
      merged: mergedForm(cloneWith(this as LinearBn, { fc, bn: undefined }), this),
      note: "batch norm into the linear layer",
    };
  }
}
