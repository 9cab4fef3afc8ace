import { must } from "../errors.ts";
import type { Value } from "../graph/index.ts";
import { asIdentity, BatchNorm2d, type Conv2d, cloneWith, Module } from "../nn/index.ts";
import {
  type BiasedMap,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  normAfter,
  type Reparameterizable,
} from "../reparam/index.ts";
import { ConvBn } from "./conv-bn.ts";
import { mapConvs } from "./replace-convs.ts";

/** A convolution and a batch norm that was put behind it: `inserted_bn.*` beside the keys that it had. */
export class NormedConv extends Module implements Reparameterizable {
  constructor(
    private readonly conv: Conv2d,
    readonly bn: BatchNorm2d,
  ) {
    super();
  }

  override *members(): ReturnType<Module["members"]> {
    yield* this.conv.members();
    yield ["inserted_bn", this.bn];
  }

  forward(x: Value): Value {
    return this.bn.forward(this.conv.forward(x));
  }

  fused<T>(k: KernelAlgebra<T>): BiasedMap<T> {
    return normAfter(k, mapOf(k, this.conv), this.bn);
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { weight, bias } = this.fused(k);
    return { weight, bias };
  }

  merge(): Merge {
    return {
      merged: mergedForm(cloneWith(this.conv, {}), this),
      note: "the inserted batch norm into the convolution before it",
    };
  }
}

/**
 * A merged network with a batch norm behind each of its convolutions, FC3 among them, so that it can be fine-tuned (the
 * original FAQ's first answer for quantized networks; RepVGG's `insert_bn.py`). They change nothing until they are trained,
 * but start without knowing their inputs: give them their statistics with `startInsertedNorms` first. Trained,
 * {@link convertToDeploy} takes them in again, under the old keys.
 *
 * @throws `insert-norms/none` where the network has no merged convolution
 * @example
 * const tunable = insertBatchNorms(deploy);
 * await startInsertedNorms(tunable, batches);
 */
export function insertBatchNorms<M extends Module>(model: M): M {
  let count = 0;
  const made = mapConvs(model, {
    conv: (layer) => {
      if (layer instanceof ConvBn && layer.bn) return layer;
      count++;
      const conv = layer instanceof ConvBn ? layer.conv : layer;
      const { training } = conv;
      const normed = new NormedConv(conv, asIdentity(new BatchNorm2d(conv.weight.shape[0])).train(training));
      Object.assign(normed, { training });
      if (!(layer instanceof ConvBn)) return normed;
      // What its class does after convolution and norm comes after the inserted one.
      const form = Object.create(Object.getPrototypeOf(layer), { merge: { value: undefined } });
      return Object.assign(Object.create(form), layer, { conv: normed }) as Module;
    },
    branched: () => undefined,
  });
  must(
    count > 0,
    "insert-norms/none",
    () =>
      "`insertBatchNorms`: the network has no merged convolution. Convert it first, or fine-tune the training form as it is.",
    "usage",
  );
  return made;
}
