import { must, RepmlpError } from "../../errors.ts";
import type { Communicator, Reducible, Reduction } from "../communicator.ts";
import type { Launch } from "../launcher.ts";
import { abis, type MpiAbi } from "./mpi-abi.ts";
import {
  findLibrary,
  type Koffi,
  type KoffiFunction,
  type KoffiLibrary,
  loadForCalls,
  loadKoffi,
  type MpiLibrary,
} from "./mpi-library.ts";

/** Counts are 32-bit integers in every binary interface. */
const MOST = 2 ** 30;

/** The functions of a library, with its handles. */
class Binding {
  readonly sum: unknown;
  readonly max: unknown;
  readonly min: unknown;
  readonly float: unknown;
  readonly double: unknown;
  readonly byte: unknown;
  readonly inPlace: bigint;
  private readonly world: unknown;
  private readonly functions = new Map<string, KoffiFunction>();

  constructor(
    private readonly library: KoffiLibrary,
    private readonly abi: MpiAbi,
  ) {
    const handle = (of: MpiAbi["world"]): unknown =>
      typeof of === "object" ? library.symbol(of.symbol, "void *") : abi.handle === "int" ? of : BigInt(of);
    [this.world, this.sum, this.max, this.min] = [abi.world, abi.sum, abi.max, abi.min].map(handle);
    [this.float, this.double, this.byte] = [abi.float, abi.double, abi.byte].map(handle);
    this.inPlace = BigInt(abi.inPlace);
  }

  /** `H` in the list of types stands for a handle; the communicator comes last of itself. */
  private function(name: string, types: string, inWorld: boolean): KoffiFunction {
    const known = this.functions.get(name);
    if (known) return known;
    const all = [types, ...(inWorld ? ["H"] : [])].filter(Boolean).join(", ").replaceAll("H", this.abi.handle);
    const made = this.library.func(`int ${name}(${all})`);
    this.functions.set(name, made);
    return made;
  }

  /** A call that does not wait for others, without the communicator. */
  call(name: string, types: string, ...args: readonly unknown[]): void {
    check(name, this.function(name, types, false)(...args));
  }

  /** The same with the communicator first. */
  callInWorld(name: string, types: string, ...args: readonly unknown[]): void {
    check(name, this.function(name, `H, ${types}`, false)(this.world, ...args));
  }

  /** A call of all processes; this one's event loop goes on while it waits. */
  async collective(name: string, types: string, ...args: readonly unknown[]): Promise<void> {
    const call = this.function(name, types, true);
    const code = await new Promise<number>((resolve, reject) =>
      call.async(...args, this.world, (error: unknown, result: number) => (error ? reject(error) : resolve(result))),
    );
    check(name, code);
  }
}

/** Libraries end the program themselves unless told otherwise, so that this is rare. */
function check(name: string, code: number): void {
  if (code !== 0) throw new RepmlpError("mpi/call", `mpi: ${name} failed with the code ${code}.`, "runtime");
}

/** Pieces of an array that a library can count. */
function* pieces<T extends Uint8Array | Reducible>(values: T): Generator<T> {
  for (let at = 0; at < values.length; at += MOST) yield values.subarray(at, at + MOST) as T;
}

class MpiCommunicator implements Communicator {
  readonly rank: number;
  readonly size: number;
  private open = true;
  /** Collective calls go one after the other: no library is asked for two at once. */
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly mpi: Binding,
    readonly description: string,
  ) {
    this.rank = this.number("MPI_Comm_rank");
    this.size = this.number("MPI_Comm_size");
    process.once("exit", this.onExit);
    process.on("uncaughtExceptionMonitor", this.onUncaught);
  }

  private number(name: string): number {
    const result = new Int32Array(1);
    this.mpi.callInWorld(name, "void *", result);
    return result[0];
  }

  /** A process that ends in the middle takes all others with it, however it comes to end. */
  private readonly onExit = (code: number): void => {
    if (this.open) this.mpi.callInWorld("MPI_Abort", "int", code || 1);
  };

  /** Node would print it after {@link onExit}, which does not return. */
  private readonly onUncaught = (error: unknown): void => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`rank ${this.rank} of ${this.size}: ${text}\n`);
  };

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.last.then(work);
    this.last = result.catch(() => undefined);
    return result;
  }

  allReduce(values: Reducible, how: Reduction = "sum"): Promise<void> {
    const { mpi } = this;
    const type = values instanceof Float32Array ? mpi.float : mpi.double;
    return this.inTurn(async () => {
      for (const piece of pieces(values))
        await mpi.collective(
          "MPI_Allreduce",
          "intptr_t, void *, int, H, H",
          ...[mpi.inPlace, piece, piece.length, type, mpi[how]],
        );
    });
  }

  broadcast(bytes: Uint8Array<ArrayBuffer>, root = 0): Promise<void> {
    const { mpi } = this;
    return this.inTurn(async () => {
      for (const piece of pieces(bytes))
        await mpi.collective("MPI_Bcast", "void *, int, H, int", piece, piece.length, mpi.byte, root);
    });
  }

  allGather(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>[]> {
    const { mpi, size, rank } = this;
    return this.inTurn(async () => {
      const counts = new Int32Array(size);
      counts[rank] = bytes.length;
      await mpi.collective(
        "MPI_Allgather",
        "intptr_t, int, H, void *, int, H",
        ...[mpi.inPlace, 0, mpi.byte, counts, 4, mpi.byte],
      );
      const starts = new Int32Array(size);
      for (let i = 1; i < size; i++) starts[i] = starts[i - 1] + counts[i - 1];
      const total = starts[size - 1] + counts[size - 1];
      const all = new Uint8Array(Math.max(total, 1));
      all.set(bytes, starts[rank]);
      await mpi.collective(
        "MPI_Allgatherv",
        "intptr_t, int, H, void *, void *, void *, H",
        ...[mpi.inPlace, 0, mpi.byte, all, counts, starts, mpi.byte],
      );
      return Array.from(counts, (count, i) => all.slice(starts[i], starts[i] + count));
    });
  }

  allToAll(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    const { mpi, size } = this;
    const each = bytes.length / size;
    return this.inTurn(async () => {
      const received = new Uint8Array(Math.max(bytes.length, 1));
      await mpi.collective(
        "MPI_Alltoall",
        "void *, int, H, void *, int, H",
        ...[bytes, each, mpi.byte, received, each, mpi.byte],
      );
      return received.subarray(0, bytes.length);
    });
  }

  barrier(): Promise<void> {
    return this.inTurn(() => this.mpi.collective("MPI_Barrier", ""));
  }

  abort(exitCode: number): never {
    this.mpi.callInWorld("MPI_Abort", "int", exitCode);
    return process.exit(exitCode);
  }

  async close(): Promise<void> {
    if (!this.open) return;
    await this.barrier();
    this.open = false;
    process.off("exit", this.onExit);
    process.off("uncaughtExceptionMonitor", this.onUncaught);
    this.mpi.call("MPI_Finalize", "");
  }
}

/**
 * Joins the processes that a launcher has started, by the MPI library that is installed. To be called once, by all.
 *
 * From then on a process that ends before {@link Communicator.close} ends all.
 *
 * @throws `mpi/koffi`, `mpi/library` where what is needed is not installed; `mpi/launcher` where the launcher starts
 *   processes without MPI, or the library does not find the others
 */
export async function openMpi(launch: Launch, koffi: Koffi = loadKoffi()): Promise<Communicator> {
  const { launcher, rank, size } = launch;
  must(
    launch.mpi,
    "mpi/launcher",
    () =>
      `mpi: ${launcher} has started this process as rank ${rank} of ${size}, without MPI between them. Start it by MPI instead: mpirun -n ${size} repmlp train …`,
    "usage",
  );
  for (const [name, value] of Object.entries(forUcx)) process.env[name] ??= value;
  const library = findLibrary(koffi, launch);
  const communicator = start(koffi, library);
  must(
    communicator.rank === rank && communicator.size === size,
    "mpi/launcher",
    () =>
      `mpi: ${launcher} says that this is rank ${rank} of ${size}, ${library.version} (${library.path}) that it is rank ${communicator.rank} of ${communicator.size}. Launcher and library must be of one installation: use the mpirun that belongs to the library, with Slurm one of the types that srun --mpi=list shows, or name another library in REPMLP_MPI_LIBRARY.`,
    "usage",
  );
  return communicator;
}

/**
 * UCX, which libraries may talk through, takes over signals that are Node's, and writes over functions of the C library (to hear
 * of memory that goes) while threads of V8 may be in them. What is set already stays.
 */
const forUcx = { UCX_ERROR_SIGNALS: "", UCX_MEM_EVENTS: "no" } as const;

function start(koffi: Koffi, { path, abi: name, version }: MpiLibrary): MpiCommunicator {
  const abi = abis[name];
  const mpi = new Binding(loadForCalls(koffi, path), abi);
  const provided = new Int32Array(1);
  mpi.call("MPI_Init_thread", "void *, void *, int, void *", null, null, abi.serialized, provided);
  must(
    provided[0] >= abi.serialized,
    "mpi/threads",
    () => `mpi: ${version} (${path}) was built without threads. Use a library with MPI_THREAD_SERIALIZED.`,
    "runtime",
  );
  return new MpiCommunicator(mpi, version);
}
