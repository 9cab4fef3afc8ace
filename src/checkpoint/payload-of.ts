import { fmt, must } from "../errors.ts";
import { dtypes, inPieces, sameShape, sizeOf, type Tensor, type TensorSource, tensorBytes } from "../tensor/index.ts";
import type { Payload } from "./payload.ts";
import { StoredTensor } from "./stored-tensor.ts";

/**
 * The bytes of an entry. Those that lie in another file as they are wanted, and large ones that can be made in pieces,
 * come in small pieces, which is several times as fast as reading the tensor (fresh memory costs more than the copy);
 * everything else is read whole.
 */
export async function payloadOf(key: string, source: TensorSource, ahead?: Promise<Tensor>): Promise<Payload> {
  const direct = source instanceof StoredTensor ? await source.payload() : undefined;
  if (direct) return direct;
  if (inPieces(source))
    return { length: sizeOf(source.shape) * dtypes[source.dtype].bytes, pieces: () => source.pieces!() };
  const tensor = await (ahead ?? source.read());
  must(
    tensor.dtype === source.dtype && sameShape(tensor.shape, source.shape),
    "checkpoint/save-changed",
    () =>
      `internal: tensor "${key}" was announced as ${source.dtype} ${fmt(source.shape)}, ` +
      `reading it gave ${tensor.dtype} ${fmt(tensor.shape)}.`,
    "model",
  );
  const bytes = tensorBytes(tensor);
  return { length: bytes.length, pieces: () => [bytes] };
}
