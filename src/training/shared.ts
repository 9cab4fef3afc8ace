import { alone, type Communicator, shareJson } from "../distributed/index.ts";
import { Buffer, type Net, type Parameter } from "../nn/index.ts";
import { type DType, type Shape, Tensor, type TensorSource, tensorBytes } from "../tensor/index.ts";
import type { CheckpointStore, TrainingCheckpoint } from "./checkpoint-store.ts";

/** What of a checkpoint goes before its tensors. */
interface Head extends Pick<TrainingCheckpoint, "metadata" | "where"> {
  readonly entries: readonly (readonly [key: string, dtype: DType, shape: Shape])[];
}

/** The store's `last` checkpoint, which process 0 alone reads and sends to the others. */
export async function loadShared(
  store: CheckpointStore | undefined,
  group: Communicator = alone,
): Promise<TrainingCheckpoint | undefined> {
  const own = group.rank === 0 ? await store?.load("last") : undefined;
  if (group.size === 1) return own;
  const head = await shareJson<Head>(
    group,
    own && {
      metadata: own.metadata,
      where: own.where,
      entries: [...own.entries].map(([key, { dtype, shape }]) => [key, dtype, shape]),
    },
  );
  if (!head) return undefined;
  const entries = new Map<string, TensorSource>();
  for (const [key, dtype, shape] of head.entries) {
    const tensor = (await own?.entries.get(key)?.read()) ?? Tensor.zeros(dtype, shape);
    await group.broadcast(tensorBytes(tensor));
    entries.set(key, tensor);
  }
  return { entries, metadata: head.metadata, where: head.where };
}

/** Gives every process the values that process 0 has: of all state, or of what is not trained alone. */
export async function shareValues(model: Net, group: Communicator, which: "all" | "buffers" = "all"): Promise<void> {
  if (group.size === 1) return;
  const seen = new Set<Parameter>();
  for (const [, p] of model.state()) {
    if (seen.has(p) || (which === "buffers" && !(p instanceof Buffer))) continue;
    seen.add(p);
    const tensor = (await p.source().read()).clone();
    await group.broadcast(tensorBytes(tensor));
    p.set(tensor);
  }
}
