/** Times of some runs in seconds, and the rates that a task measured itself. */
export interface Timed {
  readonly seconds: readonly number[];
  readonly rates: Readonly<Record<string, number>>;
}

/** A task that is ready to run. */
export interface Prepared {
  /** What is known before the first run; `check` is a number that all contestants of a case must agree on. */
  readonly facts?: Readonly<Record<string, number>>;
  /** One run, to its very end. */
  run(): Promise<unknown>;
  /** Rates that the runs so far have reached (GFLOP/s, GB/s), where a task measures some itself. */
  rates?(): Readonly<Record<string, number>>;
}

/** Tasks by name; what the options must be is between the suite and the task. */
export type Tasks = Readonly<Record<string, (options: never) => Promise<Prepared>>>;

/** Runs a task and takes the time of each run. */
export async function timed(task: Prepared, times: number): Promise<Timed> {
  const seconds: number[] = [];
  for (let i = 0; i < times; i++) {
    const start = performance.now();
    await task.run();
    seconds.push((performance.now() - start) / 1000);
  }
  return { seconds, rates: task.rates?.() ?? {} };
}
