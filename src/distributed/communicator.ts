/** What is made of the values of all processes. */
export type Reduction = "sum" | "max" | "min";

/** Arrays that are reduced; longer than any library counts, they go in pieces. */
export type Reducible = Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/**
 * Processes that work on one thing together. Every method but {@link abort} is to be called by all of them, in the same
 * order; it answers when all have.
 */
export interface Communicator {
  /** This process among them, from 0. */
  readonly rank: number;
  readonly size: number;
  /** For people: what carries the messages. */
  readonly description: string;
  /**
   * Puts the sum (maximum, minimum) of the values of all processes in their place; every process gets the same bits, and
   * the same ones from run to run.
   */
  allReduce(values: Reducible, how?: Reduction): Promise<void>;
  /** Puts the bytes of the process `root` (default 0) in the place of those of the others. */
  broadcast(bytes: Uint8Array<ArrayBuffer>, root?: number): Promise<void>;
  /** The bytes of every process, by rank; each may have another number of them. */
  allGather(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>[]>;
  /**
   * Every process's part of the bytes of all: cut into as many equal parts as there are processes, the i-th goes to the i-th.
   * What comes back are the parts for this process, by rank.
   */
  allToAll(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>>;
  /** Waits for all. */
  barrier(): Promise<void>;
  /** Ends all processes at once, this one included, with this exit code. */
  abort(exitCode: number): never;
  /** Takes leave when all work is done; nothing else may be called then. */
  close(): Promise<void>;
}

/** A process for itself. */
export const alone: Communicator = {
  rank: 0,
  size: 1,
  description: "one process",
  allReduce: async () => {},
  broadcast: async () => {},
  allGather: async (bytes) => [bytes.slice()],
  allToAll: async (bytes) => bytes.slice(),
  barrier: async () => {},
  abort: (exitCode) => {
    throw new Error(`aborted with exit code ${exitCode}`);
  },
  close: async () => {},
};

const [encoder, decoder] = [new TextEncoder(), new TextDecoder()];

/** JSON has no numbers that are not finite; sums may be such. */
const written = (value: unknown): string =>
  JSON.stringify(value, (_, v: unknown) =>
    typeof v === "number" && !Number.isFinite(v) ? { [NOT_FINITE]: String(v) } : v,
  );

const read = <T>(text: string): T =>
  JSON.parse(text, (_, v: unknown) => (v instanceof Object && NOT_FINITE in v ? Number(v[NOT_FINITE]) : v)) as T;

const NOT_FINITE = "not finite";

/** Values of every process, by rank: what JSON can say, and numbers that are not finite. */
export async function gatherJson<T>(group: Communicator, value: T): Promise<T[]> {
  if (group.size === 1) return [value];
  const all = await group.allGather(encoder.encode(written(value)));
  return all.map((bytes) => read<T>(decoder.decode(bytes)));
}

/** A value of process 0, which alone needs to have it; as of {@link gatherJson}. */
export async function shareJson<T>(group: Communicator, value: T | undefined): Promise<T | undefined> {
  if (group.size === 1) return value;
  const own = encoder.encode(value === undefined ? "" : written(value));
  const length = new Float64Array([own.length]);
  await group.broadcast(new Uint8Array(length.buffer));
  if (length[0] === 0) return undefined;
  const bytes = group.rank === 0 ? own : new Uint8Array(length[0]);
  await group.broadcast(bytes);
  return read<T>(decoder.decode(bytes));
}

/** Bytes of a bucket of small arrays. */
const BUCKET = 25e6;

/**
 * {@link Communicator.allReduce} of many arrays with few messages: small ones are gathered in buckets, in their order.
 *
 * @param reduce       what sums one array. Default {@link Communicator.allReduce}
 * @param bucketBytes  size of a bucket; arrays of this size and more go by themselves. Default 25 MB
 */
export async function allReduceMany(
  group: Communicator,
  arrays: readonly Float32Array<ArrayBuffer>[],
  reduce = (array: Float32Array<ArrayBuffer>): Promise<void> => group.allReduce(array),
  bucketBytes = BUCKET,
): Promise<void> {
  if (group.size === 1) return;
  let waiting: Float32Array<ArrayBuffer>[] = [];
  let count = 0;
  const flush = async (): Promise<void> => {
    const bucket = new Float32Array(count);
    let at = 0;
    for (const array of waiting) {
      bucket.set(array, at);
      at += array.length;
    }
    await reduce(bucket);
    at = 0;
    for (const array of waiting) {
      array.set(bucket.subarray(at, at + array.length));
      at += array.length;
    }
    [waiting, count] = [[], 0];
  };
  for (const array of arrays) {
    if (array.byteLength >= bucketBytes) {
      await reduce(array);
      continue;
    }
    if (count && (count + array.length) * 4 > bucketBytes) await flush();
    waiting.push(array);
    count += array.length;
  }
  if (count) await flush();
}

/**
 * Which of `count` things in a row are this process's, `[start, end)`: as many as each other's, the first ones one more
 * where they do not go up.
 */
export function shareOf(
  count: number,
  { rank, size }: Pick<Communicator, "rank" | "size">,
): [start: number, end: number] {
  const [each, more] = [Math.floor(count / size), count % size];
  const cut = (i: number): number => i * each + Math.min(i, more);
  return [cut(rank), cut(rank + 1)];
}
