import { createInterface } from "node:readline";
import { highWaterMark } from "../runner.ts";
import type { Timed } from "./task.ts";

/** What answers the questions of the benchmark. */
export interface Server {
  prepare(task: string, options: never): Promise<Readonly<Record<string, number>>>;
  run(times: number): Promise<Timed>;
  /** Absent where the memory is not this process's. */
  peakMb?(): number | undefined;
  close?(): Promise<void>;
}

type Question =
  | { readonly do: "prepare"; readonly task: string; readonly options: never }
  | { readonly do: "run"; readonly times: number }
  | { readonly do: "memory" };

/** Largest resident size of this process so far in MB. `maxRSS` would also count what the parent had when it forked. */
export const ownPeakMb = (): number => highWaterMark("/proc/self/status") ?? process.resourceUsage().maxRSS / 1024;

/** Answers line by line until the input ends. What libraries print goes to standard error. */
export async function serve(server: Server): Promise<void> {
  const answer = process.stdout.write.bind(process.stdout);
  process.stdout.write = process.stderr.write.bind(process.stderr) as typeof process.stdout.write;
  const reply = async (question: Question): Promise<unknown> => {
    if (question.do === "prepare") return server.prepare(question.task, question.options);
    if (question.do === "run") return server.run(question.times);
    return { peakMb: server.peakMb?.() };
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const said = await reply(JSON.parse(line) as Question).then(
      (result) => ({ result }),
      (error: unknown) => ({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
    answer(`${JSON.stringify(said)}\n`);
  }
  await server.close?.();
  process.exit(0);
}
