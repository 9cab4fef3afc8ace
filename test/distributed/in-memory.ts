import type { Communicator, Reducible, Reduction } from "../../src/distributed/index.ts";

/** Processes in one: every one is a promise, and messages are values. For what is to be tested without MPI. */
export function inMemory(size: number): Communicator[] {
  let round: { readonly values: unknown[]; count: number; readonly done: Promise<void>; readonly finish: () => void };
  const begin = (): void => {
    const { promise, resolve } = withResolvers();
    round = { values: new Array(size), count: 0, done: promise, finish: resolve };
  };
  begin();
  /** Waits until all have brought a value. */
  const meet = async <T>(rank: number, value: T): Promise<T[]> => {
    const own = round;
    own.values[rank] = value;
    if (++own.count === size) {
      begin();
      own.finish();
    }
    await own.done;
    return own.values as T[];
  };
  return Array.from(
    { length: size },
    (_, rank): Communicator => ({
      rank,
      size,
      description: `${size} in memory`,
      async allReduce(values: Reducible, how: Reduction = "sum") {
        const all = await meet(rank, values.slice());
        const step = { sum: (a: number, b: number) => a + b, max: Math.max, min: Math.min }[how];
        for (let i = 0; i < values.length; i++) values[i] = all.map((own) => own[i]).reduce((a, b) => step(a, b));
      },
      async broadcast(bytes, root = 0) {
        const all = await meet(rank, bytes.slice());
        bytes.set(all[root]);
      },
      allGather: async (bytes) => (await meet(rank, bytes.slice())).map((own) => own.slice()),
      async allToAll(bytes) {
        const each = bytes.length / size;
        const all = await meet(rank, bytes.slice());
        const received = new Uint8Array(bytes.length);
        for (const [from, own] of all.entries())
          received.set(own.subarray(rank * each, (rank + 1) * each), from * each);
        return received;
      },
      barrier: async () => void (await meet(rank, undefined)),
      abort: (exitCode) => {
        throw new Error(`aborted with ${exitCode}`);
      },
      close: async () => {},
    }),
  );
}

function withResolvers(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => {};
  const promise = new Promise<void>((r) => {
    resolve = r;
  });
  return { promise, resolve };
}
