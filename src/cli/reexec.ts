import { spawn } from "node:child_process";
import { constants } from "node:os";
import { launchOf } from "../distributed/index.ts";
import type { Koffi } from "../distributed/node/index.ts";

/**
 * Settings of glibc's allocator that spare a network the re-faulting of its large buffers at every step: nothing below
 * 4 GiB is given back to the system, and large blocks use huge pages. They only take effect when a process starts.
 */
const TUNABLES = {
  "glibc.malloc.hugetlb": 1,
  "glibc.malloc.mmap_threshold": 2 ** 32,
  "glibc.malloc.trim_threshold": 2 ** 33,
} as const;

const DONE = "REPMLP_REEXECED";

/**
 * Whether this process would gain from starting again: Linux with glibc, not tuned yet, not opted out. One of several that
 * a launcher has started stays: it is the one that the launcher watches.
 */
export function wantsReexec(env: NodeJS.ProcessEnv = process.env): boolean {
  return (
    process.platform === "linux" &&
    env.REPMLP_NO_REEXEC !== "1" &&
    env[DONE] === undefined &&
    launchOf(env) === undefined &&
    !env.GLIBC_TUNABLES?.includes("glibc.malloc.") &&
    hasGlibc()
  );
}

/** musl and others have no tunables; the report names glibc's version. */
function hasGlibc(): boolean {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime !== undefined;
}

/** The environment for the second start. */
export function tunedEnvironment(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const own = Object.entries(TUNABLES).map(([name, value]) => `${name}=${value}`);
  return { ...env, GLIBC_TUNABLES: [env.GLIBC_TUNABLES, ...own].filter(Boolean).join(":"), [DONE]: "1" };
}

/** `mallopt`'s names for: nothing is given back to the system, and nothing is mapped apart from the heap. */
const [TRIM_THRESHOLD, MMAP_MAX] = [-1, -4];

/**
 * The nearest to those settings for a process that is to stay the one that a launcher has started: huge pages aside, glibc
 * takes them from its own process, too.
 *
 * @returns whether it did
 */
export function tuneAllocator(koffi: Koffi, env: NodeJS.ProcessEnv = process.env): boolean {
  if (process.platform !== "linux" || env.REPMLP_NO_REEXEC === "1" || env.GLIBC_TUNABLES?.includes("glibc.malloc."))
    return false;
  if (!hasGlibc()) return false;
  const mallopt = koffi.load(null).func("int mallopt(int, int)");
  return mallopt(TRIM_THRESHOLD, 2 ** 31 - 1) === 1 && mallopt(MMAP_MAX, 0) === 1;
}

/**
 * Runs this program once more with the allocator set up for large buffers, and returns the exit code of that run, or
 * `undefined` when there is no need: then the caller goes on itself. Opt out with REPMLP_NO_REEXEC=1.
 *
 * The child has our streams and gets our signals; the parent only waits.
 *
 * @example
 * const code = await reexec();
 * if (code !== undefined) process.exit(code);
 */
export function reexec(): Promise<number | undefined> {
  if (!wantsReexec()) return Promise.resolve(undefined);
  const args = [...process.execArgv, ...process.argv.slice(1)];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { stdio: "inherit", env: tunedEnvironment() });
    const pass = (name: NodeJS.Signals): void => void child.kill(name);
    for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      const before = process.listeners(name);
      // Without any listener in between, or a signal that has come but was not heard yet would be forgotten.
      process.on(name, pass);
      // Whoever listened before (the program's own handler) must not end the parent under the child.
      for (const listener of before) process.off(name, listener);
    }
    child.on("error", reject);
    child.on("exit", (code, name) => resolve(code ?? 128 + constants.signals[name ?? "SIGTERM"]));
  });
}
