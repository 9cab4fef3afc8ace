import { type Preprocessing, preprocess } from "../../data/index.ts";
import { readPicture } from "../../data/node/index.ts";
import { fmt, must } from "../../errors.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";
import { unitEmbeddings } from "../verification.ts";

/** What makes vectors of pictures: `[n, C, H, W]` → `[n, D]`. */
export type Embedder = (images: Tensor) => Promise<Tensor>;

export interface EmbedOptions {
  readonly preprocessing: Preprocessing;
  /** Adds the embedding of the mirrored picture before the length is made 1. Default true. */
  readonly mirror?: boolean;
  /** Pictures per run. Default 32. */
  readonly batchSize?: number;
  /** Told after every batch. */
  readonly onBatch?: (done: number, total: number) => void;
}

/**
 * Embeddings of picture files, of length 1, in the order of their paths; see {@link unitEmbeddings}.
 *
 * @throws `data/read`, `picture/decode` naming the file; `embed/output` for a network that does not give vectors
 */
export async function embedFiles(
  embed: Embedder,
  paths: readonly string[],
  { preprocessing, mirror = true, batchSize = 32, onBatch }: EmbedOptions,
): Promise<readonly Float64Array[]> {
  const { inputSize } = preprocessing;
  const size = sizeOf(inputSize);
  const rows: Float64Array[] = [];
  for (let start = 0; start < paths.length; start += batchSize) {
    const part = paths.slice(start, start + batchSize);
    const values = new Float32Array(part.length * size);
    for (const [i, path] of part.entries()) values.set(preprocess(await readPicture(path), preprocessing), i * size);
    const shape = [part.length, ...inputSize];
    const own = await embed(new Tensor("float32", shape, values));
    must(
      own.shape.length === 2,
      "embed/output",
      () => `embed: the network gives ${fmt(own.shape)}, not a vector [N, D] per picture. Give one of embeddings.`,
      "model",
    );
    const other = mirror ? await embed(new Tensor("float32", shape, mirroredRows(values, inputSize[2]))) : undefined;
    rows.push(...unitEmbeddings(own, other));
    onBatch?.(rows.length, paths.length);
  }
  return rows;
}

/** The pictures themselves as vectors, of length 1 less their mean: what embeddings are to be better than. */
export async function pixelEmbeddings(
  paths: readonly string[],
  options: EmbedOptions,
): Promise<readonly Float64Array[]> {
  const flat: Embedder = async (images) => {
    const [n, ...inner] = images.shape;
    const size = sizeOf(inner);
    const values = Float32Array.from(images.data as Float32Array);
    for (let i = 0; i < n; i++) {
      const row = values.subarray(i * size, (i + 1) * size);
      const mean = row.reduce((a, b) => a + b, 0) / size;
      for (let j = 0; j < size; j++) row[j] -= mean;
    }
    return new Tensor("float32", [n, size], values);
  };
  return embedFiles(flat, paths, options);
}

/** Every row of pixels the other way round. */
function mirroredRows(values: Float32Array, width: number): Float32Array<ArrayBuffer> {
  const out = Float32Array.from(values);
  for (let at = 0; at < out.length; at += width) out.subarray(at, at + width).reverse();
  return out;
}
