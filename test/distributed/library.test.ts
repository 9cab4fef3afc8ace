import { describe, expect, test } from "vitest";
import { launchOf } from "../../src/distributed/index.ts";
import { openMpi } from "../../src/distributed/node/index.ts";
import { findLibrary, type Koffi, mpiLibraries } from "../../src/distributed/node/mpi-library.ts";

describe("what launchers say", () => {
  const openMpiRun = { OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_SIZE: "2" };
  test.for<[name: string, env: Record<string, string>, expected: object | undefined]>([
    ["none", {}, undefined],
    ["Open MPI", openMpiRun, { rank: 1, size: 4, localSize: 2, kind: "openmpi", mpi: true }],
    [
      "MPICH",
      { PMI_RANK: "0", PMI_SIZE: "2", MPI_LOCALRANKID: "0" },
      { rank: 0, size: 2, localRank: 0, kind: "mpich" },
    ],
    ["Cray", { PMI_RANK: "3", PMI_SIZE: "8", PMI_LOCAL_RANK: "1" }, { rank: 3, size: 8, localRank: 1 }],
    ["srun", { SLURM_PROCID: "2", SLURM_STEP_NUM_TASKS: "3", SLURM_LOCALID: "0" }, { rank: 2, size: 3, mpi: true }],
    ["a batch script of Slurm, which is one process", { SLURM_PROCID: "0", SLURM_NTASKS: "8" }, undefined],
    ["one process alone", { OMPI_COMM_WORLD_RANK: "0", OMPI_COMM_WORLD_SIZE: "1" }, undefined],
    [
      "torchrun",
      { RANK: "1", WORLD_SIZE: "2", LOCAL_RANK: "1" },
      { rank: 1, size: 2, launcher: "torchrun", mpi: false },
    ],
    ["horovodrun", { HOROVOD_RANK: "1", HOROVOD_SIZE: "2" }, { rank: 1, size: 2, mpi: false }],
    ["Horovod over MPI", { ...openMpiRun, HOROVOD_RANK: "1", HOROVOD_SIZE: "4" }, { kind: "openmpi" }],
    ["mpirun under Slurm", { ...openMpiRun, SLURM_PROCID: "0", SLURM_STEP_NUM_TASKS: "2" }, { rank: 1, size: 4 }],
    ["what is no number", { RANK: "first", WORLD_SIZE: "2" }, undefined],
  ])("%s", ([, env, expected]) => {
    const found = launchOf(env);
    if (expected) expect(found).toMatchObject(expected);
    else expect(found).toBeUndefined();
  });

  test("variables that say different things", () => {
    expect(() => launchOf({ ...openMpiRun, RANK: "0", WORLD_SIZE: "2" })).toThrow(
      "launcher: Open MPI's mpirun says that this is rank 1 of 4, the variables of torchrun say rank 0 of 2. Unset the ones that are left over.",
    );
  });

  test("torchrun puts no MPI between its processes", async () => {
    await expect(openMpi(launchOf({ RANK: "1", WORLD_SIZE: "2" })!)).rejects.toThrow(
      "mpi: torchrun has started this process as rank 1 of 2, without MPI between them. Start it by MPI instead: mpirun -n 2 repmlp train …",
    );
  });
});

/** Libraries by path, as they describe themselves; what has a symbol of its own is Open MPI up to 5. */
function withLibraries(
  libraries: Readonly<Record<string, { readonly version: string; readonly symbol?: string }>>,
): Koffi {
  return {
    version: "0",
    config: () => ({ async_stack_size: 2 ** 30 }),
    load(path) {
      const library = libraries[path ?? ""];
      if (!library) throw new Error(`${path}: cannot open shared object file`);
      const version = Object.assign(
        (text: Uint8Array) => {
          text.set(new TextEncoder().encode(library.version));
          return 0;
        },
        { async: () => {} },
      );
      return {
        func: () => version as never,
        symbol(name) {
          if (name !== "MPI_Init_thread" && name !== library.symbol) throw new Error(`no ${name}`);
        },
      };
    },
  };
}

describe("which library is taken", () => {
  const ompi = { "libmpi.so.40": { version: "Open MPI v4.1.4, package: Debian\0", symbol: "ompi_mpi_comm_world" } };
  const mpich = { "libmpi.so.12": { version: "MPICH Version:\t4.0.2\nMPICH Release date: 2022\0" } };
  const intel = { "libmpi.so.12": { version: "Intel(R) MPI Library 2021.9 for Linux* OS\0" } };
  const standard = { "libmpi_abi.so.0": { version: "Open MPI v6.0.0, package: x\0" } };
  const [openmpiRun, mpichRun] = [
    { kind: "openmpi", launcher: "Open MPI's mpirun" },
    { kind: "mpich", launcher: "the mpirun of MPICH or Intel MPI" },
  ] as const;
  const onLinux = test.runIf(process.platform === "linux");

  onLinux.for([
    { name: "the launcher's, of two", libraries: { ...ompi, ...mpich }, launch: mpichRun, abi: "mpich" },
    { name: "the launcher's, of two", libraries: { ...ompi, ...mpich }, launch: openmpiRun, abi: "openmpi" },
    { name: "Intel MPI", libraries: intel, launch: mpichRun, abi: "mpich" },
    { name: "the standard ABI first", libraries: { ...ompi, ...standard }, launch: openmpiRun, abi: "standard" },
    {
      name: "of another kind than the standard one",
      libraries: { ...mpich, ...standard },
      launch: mpichRun,
      abi: "mpich",
    },
    { name: "the first, under srun", libraries: mpich, launch: { launcher: "Slurm's srun" }, abi: "mpich" },
  ])("$name: $abi", ({ libraries, launch, abi }) => {
    expect(findLibrary(withLibraries(libraries), launch, {}).abi).toBe(abi);
  });

  onLinux("a name that is given is the only one", () => {
    const own = { "/opt/libmpi.so": ompi["libmpi.so.40"] };
    const found = mpiLibraries(withLibraries({ ...own, ...mpich }), { REPMLP_MPI_LIBRARY: "/opt/libmpi.so" });
    expect(found).toEqual([{ path: "/opt/libmpi.so", abi: "openmpi", kind: "openmpi", version: "Open MPI v4.1.4" }]);
  });

  onLinux("none, or the wrong one", () => {
    expect(() => findLibrary(withLibraries({}), openmpiRun, {})).toThrow(
      "mpi: Open MPI's mpirun has started this process, but no MPI library is found on this machine. Install openmpi-bin (Debian, Ubuntu), openmpi (Fedora, conda-forge), or name the library in REPMLP_MPI_LIBRARY.",
    );
    expect(() => findLibrary(withLibraries(mpich), openmpiRun, {})).toThrow(
      "mpi: Open MPI's mpirun has started this process, but the only MPI library here is MPICH Version: 4.0.2 (libmpi.so.12); the two must be of one kind. Install openmpi-bin (Debian, Ubuntu), openmpi (Fedora, conda-forge), or use the launcher of MPICH or Intel MPI, or name the library in REPMLP_MPI_LIBRARY.",
    );
  });
});
