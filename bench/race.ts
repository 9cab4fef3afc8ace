import type { Case, Contestant, Outcomes } from "./case.ts";
import { type Runner, runnerOf } from "./runner.ts";
import { median, type Outcome, quantile } from "./stats.ts";

export interface RaceOptions {
  readonly rounds: number;
  /** Is told what goes on, in a few words. */
  readonly progress: (text: string) => void;
}

export interface RaceResult {
  readonly outcomes: Outcomes;
  /** Those of whom only the fastest raced. */
  readonly trials: readonly Trial[];
  /** Rivals that could not run, with the reason, and check values that are not equal. */
  readonly remarks: readonly string[];
}

/** What decides who races: one run after the one that warms up and yields the check value. */
export interface Trial {
  readonly name: string;
  readonly seconds: number;
}

/** A round of short runs repeats them until it has taken about this long. */
const roundSeconds = 0.3;
const mostRunsPerRound = 200;

/** Threads of the one before go on spinning for a moment. */
const settleMs = 100;

/** Contestants that compute the same agree on their check values to this relative difference. */
const tolerance = 1e-3;

interface Runs {
  readonly contestant: Contestant;
  readonly runner: Runner;
  readonly prepareSeconds: number;
  readonly facts: Record<string, number>;
  runsPerRound: number;
  readonly rounds: number[];
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, settleMs));

/**
 * Lets the contestants of a case take turns: all get ready, each warms up, then round after round each runs once more,
 * never two at a time. Of those in one heat only the fastest is kept, after one run each; who disagrees on the check
 * value cannot win it.
 *
 * @throws what our own contestant fails with; a rival that fails is left out
 */
export async function race({ contestants, setUp, sizes = false }: Case, options: RaceOptions): Promise<RaceResult> {
  const { rounds, progress } = options;
  const remarks: string[] = [];
  const trials: Trial[] = [];
  const running: Runs[] = [];
  /** Runs `body`; a failing rival leaves the race. */
  const guarded = async (runs: Pick<Runs, "contestant" | "runner">, body: () => Promise<void>): Promise<boolean> => {
    try {
      await body();
      return true;
    } catch (error) {
      await runs.runner.close();
      if (runs.contestant === contestants[0]) throw error;
      remarks.push(`${runs.contestant.name} is left out: ${(error as Error).message.trim()}`);
      return false;
    }
  };
  const inTurn = async (body: (runs: Runs) => Promise<void>): Promise<void> => {
    for (const runs of [...running]) {
      await settled();
      if (!(await guarded(runs, () => body(runs)))) running.splice(running.indexOf(runs), 1);
    }
  };
  try {
    await setUp?.();
    const ready = async (contestant: Contestant): Promise<Runs | undefined> => {
      progress(`${contestant.name}: getting ready`);
      const runner = runnerOf(contestant);
      const start = performance.now();
      let runs: Runs | undefined;
      await guarded({ contestant, runner }, async () => {
        const facts = { ...(await runner.prepare()) };
        const prepareSeconds = (performance.now() - start) / 1000;
        runs = { contestant, runner, prepareSeconds, facts, runsPerRound: 1, rounds: [] };
        running.push(runs);
      });
      return runs;
    };
    const leaves = async (runs: Runs): Promise<void> => {
      running.splice(running.indexOf(runs), 1);
      await runs.runner.close();
    };
    /** Keeps the fastest, and never more than two of them in memory. */
    const heat = async (entrants: readonly Contestant[]): Promise<void> => {
      let best: { readonly runs: Runs; readonly seconds: number } | undefined;
      for (const contestant of entrants) {
        const runs = await ready(contestant);
        if (!runs) continue;
        const wrong = disagreements(running, sizes).filter(({ of }) => of === runs);
        remarks.push(...wrong.map(({ text }) => text));
        if (wrong.length) {
          await leaves(runs);
          continue;
        }
        await settled();
        progress(`${contestant.name}: one run`);
        let seconds = Number.POSITIVE_INFINITY;
        const ran = await guarded(runs, async () => {
          seconds = await trial(runs.runner);
        });
        if (ran) trials.push({ name: contestant.name, seconds });
        const faster = ran && seconds < (best?.seconds ?? Number.POSITIVE_INFINITY);
        if (!faster) await leaves(runs);
        else {
          if (best) await leaves(best.runs);
          best = { runs, seconds };
        }
      }
    };
    const heats = new Set<string>();
    for (const contestant of contestants) {
      if (contestant.heat === undefined) await ready(contestant);
      else if (!heats.has(contestant.heat)) {
        heats.add(contestant.heat);
        await heat(contestants.filter((c) => c.heat === contestant.heat));
      }
    }
    await inTurn(async (runs) => {
      progress(`${runs.contestant.name}: warming up`);
      const { seconds } = await runs.runner.run(runs.contestant.does.kind === "program" ? 1 : 2);
      const last = seconds[seconds.length - 1];
      runs.runsPerRound = Math.min(mostRunsPerRound, Math.max(1, Math.ceil(roundSeconds / last)));
    });
    for (let round = 0; round < rounds; round++)
      await inTurn(async (runs) => {
        progress(`round ${round + 1}/${rounds}: ${runs.contestant.name}`);
        const { seconds, rates } = await runs.runner.run(runs.runsPerRound);
        runs.rounds.push(median(seconds));
        Object.assign(runs.facts, rates);
      });
    const outcomes = new Map<string, Outcome>();
    for (const runs of running) outcomes.set(runs.contestant.name, await outcomeOf(runs));
    return { outcomes, trials, remarks: [...remarks, ...disagreements(running, sizes).map(({ text }) => text)] };
  } finally {
    for (const { runner } of running) await runner.close();
  }
}

/** Seconds of one run; where it is short, of the least disturbed of several. */
async function trial(runner: Runner): Promise<number> {
  const [first] = (await runner.run(1)).seconds;
  if (first > roundSeconds) return first;
  return Math.min(...(await runner.run(Math.min(mostRunsPerRound, Math.ceil(roundSeconds / first)))).seconds);
}

async function outcomeOf({ contestant, runner, ...runs }: Runs): Promise<Outcome> {
  const { rounds, prepareSeconds, facts, runsPerRound } = runs;
  const child = contestant.does.kind === "child";
  return {
    name: contestant.name,
    median: median(rounds),
    min: Math.min(...rounds),
    q1: quantile(rounds, 0.25),
    q3: quantile(rounds, 0.75),
    rounds,
    runsPerRound,
    prepareSeconds: child ? prepareSeconds : undefined,
    peakMb: await runner.peakMb(),
    facts,
    ...(contestant.items && { items: contestant.items }),
  };
}

/** Contestants that say another check value than the first one that says any; with `sizes`, of those with its options. */
function disagreements(running: readonly Runs[], sizes: boolean): { readonly of: Runs; readonly text: string }[] {
  const checked = running.filter(({ facts }) => facts.check !== undefined);
  const optionsOf = ({ contestant: { does } }: Runs): string =>
    sizes && does.kind !== "program" ? JSON.stringify(does.options) : "";
  return checked.flatMap((runs) => {
    const first = checked.find((other) => optionsOf(other) === optionsOf(runs))!;
    const [mine, wanted] = [runs.facts.check, first.facts.check];
    return Math.abs(mine - wanted) <= tolerance * Math.abs(wanted)
      ? []
      : [
          {
            of: runs,
            text: `${runs.contestant.name} does not compute the same: check value ${mine}, ${first.contestant.name} has ${wanted}`,
          },
        ];
  });
}
