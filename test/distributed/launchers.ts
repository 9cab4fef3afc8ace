import { spawn, spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { loadKoffi } from "../../src/distributed/node/index.ts";

export const kinds = ["Open MPI", "MPICH"] as const;

/** An installed launcher. */
export interface Launcher {
  readonly name: (typeof kinds)[number];
  readonly command: string;
  readonly args: readonly string[];
}

/** Debian keeps both beside each other under names of their own. */
const commands = ["mpirun.openmpi", "mpirun.mpich", "mpirun", "mpiexec.hydra"];

function identify(command: string): Launcher | undefined {
  const { stdout = "", status } = spawnSync(command, ["--version"], { encoding: "utf8" });
  if (status !== 0) return undefined;
  // As root it must be allowed, and tests take more processes than there are cores.
  if (/open ?(mpi|rte)/i.test(stdout))
    return { name: "Open MPI", command, args: ["--allow-run-as-root", "--oversubscribe"] };
  return /hydra/i.test(stdout) ? { name: "MPICH", command, args: [] } : undefined;
}

/** One launcher of each kind that can be used here; none where koffi is not installed. */
export const launchers: readonly Launcher[] = (() => {
  try {
    loadKoffi();
  } catch {
    return [];
  }
  const found = commands.flatMap((command) => identify(command) ?? []);
  return found.filter(({ name }, i) => found.findIndex((other) => other.name === name) === i);
})();

if (launchers.length < kinds.length)
  console.warn(
    `tests over MPI are skipped for ${launchers.length ? `all but ${launchers[0].name}` : "Open MPI and MPICH"}: install openmpi-bin and mpich (Debian), and koffi.`,
  );

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

export interface Running {
  readonly pid: number;
  readonly ended: Promise<Outcome>;
  /** All that was printed so far. */
  readonly printed: () => string;
}

/** Starts Node by a launcher; several lists of arguments are several groups of processes of one job. */
export function start(
  { command, args }: Launcher,
  groups: readonly { readonly count: number; readonly args: readonly string[] }[],
  options: { readonly cwd?: string; readonly args?: readonly string[] } = {},
): Running {
  const jobs = groups.map(({ count, args: own }) => ["-n", `${count}`, process.execPath, ...own]);
  const all = jobs.flatMap((job, i) => (i ? [":", ...job] : job));
  const begin = performance.now();
  const child = spawn(command, [...args, ...(options.args ?? []), ...all], { cwd: options.cwd });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk;
  });
  const ended = new Promise<Outcome>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr, seconds: (performance.now() - begin) / 1000 }));
  });
  return { pid: child.pid!, ended, printed: () => stdout + stderr };
}

/** Process id of a rank, on Linux: of whoever has `mark` in its command line and this rank in its environment. */
export function pidOf(mark: string, rank: number): number | undefined {
  const read = (pid: string, file: string): string => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, "utf8");
    } catch {
      return "";
    }
  };
  const found = readdirSync("/proc").find(
    (pid) =>
      /^\d+$/.test(pid) &&
      read(pid, "cmdline").includes(mark) &&
      new RegExp(`(^|\0)(OMPI_COMM_WORLD_RANK|PMI_RANK)=${rank}\0`).test(read(pid, "environ")),
  );
  return found === undefined ? undefined : Number(found);
}

/** Waits for something to be so. */
export async function until(what: () => boolean, seconds = 50): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!what()) {
    if (performance.now() > end) throw new Error(`not so after ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
