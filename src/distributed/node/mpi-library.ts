import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { RepmlpError } from "../../errors.ts";
import type { Launch, MpiKind } from "../launcher.ts";
import { type AbiName, kindOf, libraryNames } from "./mpi-abi.ts";

/** What is used of koffi, which need not be installed. */
export interface Koffi {
  readonly version: string;
  /** `null`: what the program itself has loaded. */
  load(path: string | null, options?: { readonly global?: boolean }): KoffiLibrary;
  /** What may be set before the first call. */
  config(options?: Readonly<Record<string, number>>): { readonly async_stack_size: number };
}

export interface KoffiLibrary {
  func(prototype: string): KoffiFunction;
  /** Throws where there is no such symbol. */
  symbol(name: string, type: string): unknown;
}

export interface KoffiFunction {
  (...args: readonly unknown[]): number;
  async(...args: readonly unknown[]): void;
}

/** A library that was found. */
export interface MpiLibrary {
  /** Name or path under which it was loaded. */
  readonly path: string;
  readonly abi: AbiName;
  readonly kind: MpiKind;
  /** First line of what it says of itself. */
  readonly version: string;
}

/** MPI runs in a thread of koffi's pool, whose usual 128 KB of stack MPICH overruns. */
const STACK = 8 * 2 ** 20;

let loaded: Koffi | undefined;

/**
 * The package by which MPI is called.
 *
 * @throws `mpi/koffi` where it is not installed
 */
export function loadKoffi(): Koffi {
  if (loaded) return loaded;
  let koffi: Koffi;
  try {
    // Not by its name in an import: it is optional, and its types are not there where it is not.
    koffi = createRequire(import.meta.url)("koffi") as Koffi;
  } catch (cause) {
    throw new RepmlpError(
      "mpi/koffi",
      "mpi: the package koffi, by which MPI is called, is not installed or not made for this machine. Run npm install koffi.",
      "usage",
      { cause },
    );
  }
  if (koffi.config().async_stack_size < STACK) makeRoom(koffi);
  loaded = koffi;
  return koffi;
}

function makeRoom(koffi: Koffi): void {
  try {
    koffi.config({ async_stack_size: STACK });
  } catch (cause) {
    throw new RepmlpError(
      "mpi/koffi",
      `mpi: this program has called koffi before, with less stack than MPI needs. Begin it with koffi.config({ async_stack_size: ${STACK} }), or join the other processes first.`,
      "usage",
      { cause },
    );
  }
}

/** `RTLD_NOW`, on every system that has `dlopen`. */
const NOW = 2;

/**
 * Loads the library that MPI is called in. It stays until the process is gone: koffi closes what it has opened when Node
 * ends, while threads of Open MPI (its TCP transport's) may still run in it.
 */
export function loadForCalls(koffi: Koffi, path: string): KoffiLibrary {
  // Open MPI opens plugins that look for its symbols among those of the program.
  const library = koffi.load(path, { global: true });
  koffi.load(null).func("void *dlopen(const char *, int)")(path, NOW);
  return library;
}

const hasSymbol = (library: KoffiLibrary, name: string): boolean => {
  try {
    library.symbol(name, "void *");
    return true;
  } catch {
    return false;
  }
};

/** What can be said of a library without starting it; nothing where it cannot be loaded, or is none of MPI. */
function probe(koffi: Koffi, path: string): MpiLibrary | undefined {
  try {
    const library = koffi.load(path);
    if (!hasSymbol(library, "MPI_Init_thread")) return undefined;
    const text = new Uint8Array(8192);
    library.func("int MPI_Get_library_version(void *, void *)")(text, new Int32Array(1));
    const whole = new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
    const [version] = whole.split("\n");
    const abi = hasSymbol(library, "ompi_mpi_comm_world") ? "openmpi" : /mpi_abi/.test(path) ? "standard" : "mpich";
    return { path, abi, kind: kindOf(whole), version: version.replace(/\s+/g, " ").split(", package")[0].trim() };
  } catch {
    return undefined;
  }
}

/** Where libraries may be besides where the system looks: REPMLP_MPI_LIBRARY names one, conda has its own folder. */
function candidates(env: NodeJS.ProcessEnv): readonly string[] {
  const { REPMLP_MPI_LIBRARY: given, CONDA_PREFIX: conda } = env;
  if (given !== undefined) return [given];
  const names = libraryNames(process.platform);
  const inConda = conda === undefined ? [] : names.map((name) => join(conda, "lib", name)).filter(existsSync);
  return [...inConda, ...names];
}

/** Every MPI library that can be loaded here. What is looked at is loaded and closed again with Node. */
export function mpiLibraries(koffi: Koffi, env: NodeJS.ProcessEnv = process.env): MpiLibrary[] {
  const found = candidates(env).flatMap((path) => probe(koffi, path) ?? []);
  return found.filter(({ version, abi }, i) => found.findIndex((f) => f.version === version && f.abi === abi) === i);
}

const packagesOf: Readonly<Record<MpiKind, string>> = {
  openmpi: "openmpi-bin (Debian, Ubuntu), openmpi (Fedora, conda-forge)",
  mpich: "mpich (Debian, Ubuntu, Fedora, conda-forge)",
};

const nameOf: Readonly<Record<MpiKind, string>> = { openmpi: "Open MPI", mpich: "MPICH or Intel MPI" };

/**
 * The library for processes that a launcher of this kind has started, or the first there is. No other is loaded.
 *
 * @throws `mpi/library` where there is none, or none of that kind
 */
export function findLibrary(
  koffi: Koffi,
  { kind, launcher }: Pick<Launch, "kind" | "launcher">,
  env: NodeJS.ProcessEnv = process.env,
): MpiLibrary {
  const others: MpiLibrary[] = [];
  for (const path of candidates(env)) {
    const library = probe(koffi, path);
    if (library && (kind === undefined || library.kind === kind)) return library;
    if (library) others.push(library);
  }
  const [other] = others;
  const found = other
    ? `the only MPI library here is ${other.version} (${other.path}); the two must be of one kind`
    : "no MPI library is found on this machine";
  const packages = kind === undefined ? `${packagesOf.openmpi} or ${packagesOf.mpich}` : packagesOf[kind];
  const otherwise = other ? `, or use the launcher of ${nameOf[other.kind]}` : "";
  throw new RepmlpError(
    "mpi/library",
    `mpi: ${launcher} has started this process, but ${found}. Install ${packages}${otherwise}, or name the library in REPMLP_MPI_LIBRARY.`,
    "usage",
  );
}
