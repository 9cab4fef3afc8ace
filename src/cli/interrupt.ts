import { constants } from "node:os";
import { exitCodes } from "./failure.ts";

/** Ctrl-C reaches a child twice: from the terminal and from the parent that passes it on. */
const ECHO_MS = 500;

/** What Ctrl-C does to a running command. */
export interface Interrupt {
  /** Aborted by the first signal. Whoever asks for it is waited for. */
  watch(): AbortSignal;
  /** Exit code to end with, once interrupted. */
  readonly exitCode: number | undefined;
  /** Back to the system's own behaviour. */
  release(): void;
}

/** SIGUSR2 is what mpirun passes on without ending its processes itself. */
const names: readonly NodeJS.Signals[] =
  process.platform === "win32" ? ["SIGINT", "SIGTERM"] : ["SIGINT", "SIGTERM", "SIGUSR2"];

/**
 * Takes over SIGINT, SIGTERM and SIGUSR2: the first one aborts the signal and lets the command clean up, or ends the program
 * when the command does not listen; the second one ends the program at once.
 */
export function takeInterrupts(say: (text: string) => void): Interrupt {
  const controller = new AbortController();
  let watched = false;
  let first: { readonly time: number; readonly exitCode: number } | undefined;
  const onSignal = (name: NodeJS.Signals): void => {
    const exitCode = name === "SIGINT" ? exitCodes.interrupted : 128 + constants.signals[name];
    if (first && performance.now() - first.time < ECHO_MS) return;
    if (first || !watched) process.exit(exitCode);
    first = { time: performance.now(), exitCode };
    say("stopping; once more to stop at once");
    controller.abort();
  };
  for (const name of names) process.on(name, onSignal);
  return {
    watch() {
      watched = true;
      return controller.signal;
    },
    get exitCode() {
      return first?.exitCode;
    },
    release() {
      for (const name of names) process.off(name, onSignal);
    },
  };
}
