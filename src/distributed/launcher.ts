import { must } from "../errors.ts";

/** What is known of a process that a launcher has started among others. */
export interface Launch {
  /** From 0. */
  readonly rank: number;
  readonly size: number;
  /** Among those on the same machine; absent where the launcher does not say. */
  readonly localRank?: number;
  readonly localSize?: number;
  /** For people. */
  readonly launcher: string;
  /** Which kind of MPI the launcher belongs to, where it is one's. */
  readonly kind?: MpiKind;
  /** Whether its processes can talk by MPI, or only know of each other. */
  readonly mpi: boolean;
}

/** Libraries whose launchers understand no others. */
export type MpiKind = "openmpi" | "mpich";

interface LauncherVariables {
  readonly launcher: string;
  readonly kind?: MpiKind;
  readonly mpi: boolean;
  readonly rank: string;
  readonly size: string;
  readonly localRank: readonly string[];
  readonly localSize: readonly string[];
}

/**
 * Variables that launchers set. Slurm sets SLURM_PROCID and SLURM_NTASKS for a batch script too, which is one process:
 * only SLURM_STEP_NUM_TASKS is srun's own.
 */
const launchers: readonly LauncherVariables[] = [
  {
    launcher: "Open MPI's mpirun",
    kind: "openmpi",
    mpi: true,
    rank: "OMPI_COMM_WORLD_RANK",
    size: "OMPI_COMM_WORLD_SIZE",
    localRank: ["OMPI_COMM_WORLD_LOCAL_RANK"],
    localSize: ["OMPI_COMM_WORLD_LOCAL_SIZE"],
  },
  {
    launcher: "the mpirun of MPICH or Intel MPI",
    kind: "mpich",
    mpi: true,
    rank: "PMI_RANK",
    size: "PMI_SIZE",
    localRank: ["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
    localSize: ["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"],
  },
  {
    launcher: "Slurm's srun",
    mpi: true,
    rank: "SLURM_PROCID",
    size: "SLURM_STEP_NUM_TASKS",
    localRank: ["SLURM_LOCALID"],
    localSize: [],
  },
  {
    launcher: "horovodrun",
    mpi: false,
    rank: "HOROVOD_RANK",
    size: "HOROVOD_SIZE",
    localRank: ["HOROVOD_LOCAL_RANK"],
    localSize: ["HOROVOD_LOCAL_SIZE"],
  },
  {
    launcher: "torchrun",
    mpi: false,
    rank: "RANK",
    size: "WORLD_SIZE",
    localRank: ["LOCAL_RANK"],
    localSize: ["LOCAL_WORLD_SIZE"],
  },
];

type Environment = Readonly<Record<string, string | undefined>>;

const numberIn = (env: Environment, names: readonly string[]): number | undefined => {
  const text = names.map((name) => env[name]).find((value) => value !== undefined);
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
};

function launchBy(
  env: Environment,
  { launcher, kind, mpi, rank: ofRank, size: ofSize, ...local }: LauncherVariables,
): Launch | undefined {
  const [rank, size] = [numberIn(env, [ofRank]), numberIn(env, [ofSize])];
  if (rank === undefined || size === undefined || size < 2 || rank >= size) return undefined;
  const [localRank, localSize] = [numberIn(env, local.localRank), numberIn(env, local.localSize)];
  return {
    rank,
    size,
    launcher,
    mpi,
    ...(kind && { kind }),
    ...(localRank !== undefined && { localRank }),
    ...(localSize !== undefined && { localSize }),
  };
}

/**
 * Which process this is of those that a launcher has started: Open MPI's, MPICH's or Intel MPI's `mpirun`, Slurm's `srun`;
 * by their variables also horovodrun's and torchrun's. Nothing where there is none, or it has started one alone.
 *
 * @throws `launcher/variables` where two of them say different things
 */
export function launchOf(env: Environment): Launch | undefined {
  const all = launchers.map((variables) => launchBy(env, variables)).filter((found) => found !== undefined);
  const [first] = all;
  // One that MPI has started may run under another launcher, as one process of it.
  for (const { launcher, rank, size, mpi } of all)
    must(
      mpi || (rank === first.rank && size === first.size),
      "launcher/variables",
      () =>
        `launcher: ${first.launcher} says that this is rank ${first.rank} of ${first.size}, the variables of ${launcher} say rank ${rank} of ${size}. Unset the ones that are left over.`,
      "usage",
    );
  return first;
}
