import { must } from "../errors.ts";

/** One of several machines' parts of the work: `index` from 0. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

/**
 * Reads `3/16`: the third of sixteen, counted from 1.
 *
 * @throws RepmlpError `test/shard`
 */
export function parseShard(text: string): Shard {
  const [, index, count] = /^(\d+)\/(\d+)$/.exec(text) ?? [];
  const shard = { index: Number(index) - 1, count: Number(count) };
  must(
    index !== undefined && shard.index >= 0 && shard.index < shard.count,
    "test/shard",
    () => `test: "${text}" is no shard. Write i/n with i from 1 to n, such as 3/16.`,
    "usage",
  );
  return shard;
}

/**
 * Pictures of a shard, `[start, end)`. Shards are cut between batches, so that every batch holds the same pictures as
 * in one run: kernels may round differently in other company.
 */
export function shardRange(length: number, batchSize: number, { index, count }: Shard): [start: number, end: number] {
  const batches = Math.ceil(length / batchSize);
  const cut = (i: number): number => Math.min(length, Math.floor((i * batches) / count) * batchSize);
  return [cut(index), cut(index + 1)];
}
