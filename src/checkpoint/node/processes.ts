import { readFileSync } from "node:fs";
import { hostname } from "node:os";

/** A process, told apart from a later one that got the same number. */
export interface ProcessIdentity {
  readonly host: string;
  readonly pid: number;
  /** When it started, as the system counts it; empty where the system does not say. */
  readonly started: string;
}

export const thisProcess = (): ProcessIdentity => ({
  host: hostname(),
  pid: process.pid,
  started: startOf(process.pid) ?? "",
});

/** Whether it runs; `undefined` for a process of another machine, of which we cannot know. */
export function isRunning({ host, pid, started }: ProcessIdentity): boolean | undefined {
  if (host !== hostname()) return undefined;
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it runs, for somebody else.
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const now = startOf(pid);
  return now === undefined || (now !== "dead" && (started === "" || now === started));
}

/** Start of a process in clock ticks since the machine started, on Linux; "dead" of one that has only not been noticed. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name in parentheses may hold anything; the state is the first field after it, the start the 20th.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return /[ZX]/.test(fields[0]) ? "dead" : fields[19];
  } catch {
    return undefined;
  }
}
