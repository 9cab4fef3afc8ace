import { DataLoader, type Dataset, subset } from "../data/index.ts";
import { fmt, must } from "../errors.ts";
import type { Tensor } from "../tensor/index.ts";
import { addCounts, type Counts, countLogits, noCounts } from "./counts.ts";
import { type Shard, shardRange } from "./shard.ts";

/** Logits `[N, classes]` of pictures `[N, C, H, W]`; the labels are there for those who want to count themselves. */
export type Predict = (images: Tensor, labels: Int32Array) => Promise<Tensor>;

/** One batch that is done. */
export interface BatchResult {
  /** Position among the batches of this run, from 0. */
  readonly batch: number;
  readonly batches: number;
  /** Of this batch alone. */
  readonly counts: Counts;
  /** Of all batches so far. */
  readonly sum: Counts;
  /** Seconds that the batch took, waiting included, and seconds so far. */
  readonly seconds: number;
  readonly sumSeconds: number;
}

export interface EvaluateDataOptions {
  /** Default 100. */
  readonly batchSize?: number;
  /** Only this part of the data. */
  readonly shard?: Shard;
  /** Batches prepared ahead. Default 2. */
  readonly prefetch?: number;
  readonly onBatch?: (result: BatchResult) => void;
  readonly signal?: AbortSignal;
}

/** Counts of a data set and where the time went. */
export interface EvaluationResult {
  readonly counts: Counts;
  /** Wall time in seconds, from the first batch asked for to the last one done. */
  readonly seconds: number;
  /** Seconds in which the network had nothing to do, waiting for pictures. */
  readonly waiting: number;
}

/**
 * Counts correct classes over a data set, or a shard of it. Batches are prepared while the network runs, as far as the
 * data set works in other threads.
 *
 * @throws RepmlpError `test/labels` when the data has classes that the network has no output for
 */
export async function evaluateData(
  predict: Predict,
  data: Dataset,
  { batchSize = 100, shard = { index: 0, count: 1 }, prefetch = 2, onBatch, signal }: EvaluateDataOptions = {},
): Promise<EvaluationResult> {
  const [start, end] = shardRange(data.length, batchSize, shard);
  const result = { counts: noCounts, seconds: 0, waiting: 0 };
  if (start === end) return result;
  const part = subset(
    data,
    Uint32Array.from({ length: end - start }, (_, i) => start + i),
  );
  const loader = new DataLoader(part, { batchSize, prefetch });
  const began = performance.now();
  let last = began;
  for await (const { images, labels, batch } of loader) {
    signal?.throwIfAborted();
    const got = performance.now();
    const counts = labels.length ? await countBatch(predict, images, labels) : noCounts;
    result.counts = addCounts(result.counts, counts);
    const now = performance.now();
    result.waiting += (got - last) / 1000;
    result.seconds = (now - began) / 1000;
    const seconds = (now - last) / 1000;
    last = now;
    onBatch?.({ batch, batches: loader.length, counts, sum: result.counts, seconds, sumSeconds: result.seconds });
  }
  return result;
}

async function countBatch(predict: Predict, images: Tensor, labels: Int32Array): Promise<Counts> {
  const logits = await predict(images, labels);
  mustHaveOutputs(logits, labels);
  return countLogits(logits.data as Float32Array, labels);
}

function mustHaveOutputs(logits: Tensor, labels: Int32Array): void {
  const classes = logits.shape[1];
  const beyond = labels.find((label) => label >= classes);
  must(
    logits.shape.length === 2 && beyond === undefined,
    "test/labels",
    () =>
      `test: the network's output is ${fmt(logits.shape)}, the data has class ${beyond}. Use the weights of these classes, or a class map.`,
    "usage",
  );
}
