import { RepmlpError } from "../errors.ts";
import { dtypes, inPieces, sizeOf, type Tensor, type TensorSource } from "../tensor/index.ts";
import type { Payload } from "./payload.ts";
import { payloadOf } from "./payload-of.ts";
import type { ByteSink } from "./sink.ts";
import { StoredTensor } from "./stored-tensor.ts";

/** A tensor and its name in the file. */
export type TensorEntry = readonly [key: string, tensor: TensorSource];

export interface SaveOptions {
  /** String pairs: `__metadata__` of safetensors, in a `.pth` the attribute `metadata` of the state dict. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Key under which the state dict lies in a `.pth`, such as `model_ema`, where training scripts have one. */
  readonly wrapper?: string;
  /** Stops the writing between two tensors. */
  readonly signal?: AbortSignal;
  /** Told before each tensor: its key, its place and how many there are. */
  readonly onTensor?: (key: string, index: number, count: number) => void;
}

/** What the writers of both formats work on; checked. */
export interface SaveTask {
  readonly sink: ByteSink;
  readonly entries: readonly TensorEntry[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly wrapper?: string;
  readonly signal?: AbortSignal;
  readonly onTensor?: SaveOptions["onTensor"];
}

/** Up to this size a tensor is read while the one before it is being written; larger ones are held alone. */
const READ_AHEAD_BYTES = 2 ** 25;

/** The bytes of a task's tensors in the given order, each to be consumed before the next is asked for. */
export async function* payloads(
  { signal, onTensor }: SaveTask,
  entries: readonly TensorEntry[],
): AsyncGenerator<Payload, void, void> {
  let ahead: Promise<Tensor> | undefined;
  try {
    for (const [i, [key, source]] of entries.entries()) {
      if (signal?.aborted)
        throw new RepmlpError("checkpoint/aborted", `save: was stopped before tensor "${key}".`, "runtime", {
          cause: signal.reason,
        });
      onTensor?.(key, i, entries.length);
      const payload = await payloadOf(key, source, ahead);
      ahead = readAhead(entries[i + 1]?.[1]);
      yield payload;
    }
  } finally {
    // A read that nobody waits for any more must end before its file may be closed.
    await ahead?.catch(() => {});
  }
}

function readAhead(source: TensorSource | undefined): Promise<Tensor> | undefined {
  if (source === undefined || source instanceof StoredTensor || inPieces(source)) return undefined;
  if (sizeOf(source.shape) * dtypes[source.dtype].bytes > READ_AHEAD_BYTES) return undefined;
  const reading = source.read();
  reading.catch(() => {}); // reported when its turn comes
  return reading;
}
