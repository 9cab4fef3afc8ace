import type { MpiKind } from "../launcher.ts";

/** A handle of MPI as the library takes it: a constant, or the name of the symbol at whose address it is. */
type Handle = number | { readonly symbol: string };

/** What differs between libraries that all have the functions of MPI: the binary interface. */
export interface MpiAbi {
  /** C type of handles. */
  readonly handle: "int" | "void *";
  readonly world: Handle;
  readonly sum: Handle;
  readonly max: Handle;
  readonly min: Handle;
  readonly float: Handle;
  readonly double: Handle;
  readonly byte: Handle;
  readonly inPlace: number;
  /** `MPI_THREAD_SERIALIZED`. */
  readonly serialized: number;
}

const at = (symbol: string): Handle => ({ symbol });

/** MPI 5.0, chapter 20 (the standard ABI); Open MPI up to 5; MPICH and what keeps to its ABI, Intel MPI among them. */
export const abis = {
  standard: {
    handle: "void *",
    world: 0x101,
    sum: 0x21,
    min: 0x22,
    max: 0x23,
    float: 0x210,
    double: 0x214,
    byte: 0x247,
    inPlace: 1,
    serialized: 2048,
  },
  openmpi: {
    handle: "void *",
    world: at("ompi_mpi_comm_world"),
    sum: at("ompi_mpi_op_sum"),
    min: at("ompi_mpi_op_min"),
    max: at("ompi_mpi_op_max"),
    float: at("ompi_mpi_float"),
    double: at("ompi_mpi_double"),
    byte: at("ompi_mpi_byte"),
    inPlace: 1,
    serialized: 2,
  },
  mpich: {
    handle: "int",
    world: 0x44000000,
    sum: 0x58000003,
    min: 0x58000002,
    max: 0x58000001,
    float: 0x4c00040a,
    double: 0x4c00080b,
    byte: 0x4c00010d,
    inPlace: -1,
    serialized: 2,
  },
} as const satisfies Record<string, MpiAbi>;

export type AbiName = keyof typeof abis;

/** File names of libraries; the versioned ones, since the plain ones come with development packages only. */
const linux = ["libmpi_abi.so.0", "libmpi_abi.so", "libmpi.so.40", "libmpi.so.12", "libmpich.so.12"] as const;
const darwin = ["libmpi_abi.0.dylib", "libmpi_abi.dylib", "libmpi.40.dylib", "libmpi.12.dylib"] as const;

/** Names to try, in this order; none where no launcher is known. */
export const libraryNames = (platform: NodeJS.Platform): readonly string[] =>
  platform === "win32" ? [] : platform === "darwin" ? darwin : linux;

/** Which kind a library is of by what it says of itself. */
export const kindOf = (version: string): MpiKind => (/open mpi/i.test(version) ? "openmpi" : "mpich");
