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

/** Where a task is, by its name. Looking it up loads what it needs and nothing else. */
export type Homes = Readonly<Record<string, () => Promise<Tasks>>>;

/** Holds one task and times its runs. */
export class Stage {
  private task: Prepared | undefined;

  constructor(private readonly homes: Homes) {}

  async prepare(name: string, options: unknown): Promise<Readonly<Record<string, number>>> {
    const tasks = await this.homes[name]();
    this.task = await tasks[name](options as never);
    return this.task.facts ?? {};
  }

  async run(times: number): Promise<Timed> {
    if (!this.task) throw new Error("run before prepare");
    const seconds: number[] = [];
    for (let i = 0; i < times; i++) {
      const start = performance.now();
      await this.task.run();
      seconds.push((performance.now() - start) / 1000);
    }
    return { seconds, rates: this.task.rates?.() ?? {} };
  }
}
