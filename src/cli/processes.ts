import { availableParallelism, cpus, hostname } from "node:os";
import { setTimeout } from "node:timers/promises";
import { alone, type Communicator, type Launch, launchOf } from "../distributed/index.ts";
import { must, RepmlpError } from "../errors.ts";
import { platform } from "../runtime/index.ts";
import { failureOf } from "./failure.ts";
import type { Io } from "./io.ts";
import { tuneAllocator } from "./reexec.ts";

/** What all processes fail at is told by the first one: the others leave it so many milliseconds to do so. */
const GRACE_MS = 3000;

/** The processes of one command. */
export interface Processes {
  readonly communicator: Communicator;
  /** Threads for this process where none are asked for; absent where it is alone. */
  readonly threads?: number;
}

/**
 * Runs `work`, together with the other processes where a launcher has started several. Only the first one prints; a
 * failure in any of them ends all, with a message that names it.
 */
export async function withProcesses<T>(io: Io, work: (processes: Processes) => Promise<T>): Promise<T> {
  const launch = launchOf(process.env);
  if (!launch) return work({ communicator: alone });
  const { rank, size } = launch;
  if (rank > 0) io.silence();
  try {
    const { loadKoffi, openMpi } = await import("../distributed/node/index.ts");
    tuneAllocator(loadKoffi());
    const communicator = await openMpi(launch);
    const threads = await threadsOf(launch);
    io.note(`${size} processes by ${communicator.description}, ${threads} ${threads > 1 ? "threads" : "thread"} each`);
    const result = await work({ communicator, threads });
    await communicator.close();
    return result;
  } catch (cause) {
    if (rank > 0) await setTimeout(GRACE_MS);
    const { code, message } = failureOf(cause);
    const kind = cause instanceof RepmlpError ? cause.kind : "runtime";
    throw new RepmlpError(code, `rank ${rank} of ${size} on ${hostname()}: ${message}`, kind, { cause });
  }
}

/** Of a command that works alone: several would write over each other. The first one says so, and how else to go about it. */
export const mustBeAlone = (io: Io, command: string, otherwise: string): Promise<void> =>
  withProcesses(io, async ({ communicator: { size } }) =>
    must(
      size === 1,
      "processes/alone",
      () => `${command}: works in one process, and ${size} were started. Start it without the launcher; ${otherwise}.`,
      "usage",
    ),
  );

/** A fair part of the machine's cores, as far as the launcher has not bound the process to fewer. */
async function threadsOf({ localSize = 1 }: Launch): Promise<number> {
  const { threads } = await platform();
  const bound = availableParallelism() < cpus().length;
  const fair = Math.floor((bound ? cpus().length : threads) / localSize);
  return Math.max(1, Math.min(threads, fair));
}
