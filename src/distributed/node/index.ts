export { openMpi } from "./mpi.ts";
export { type Koffi, loadKoffi, type MpiLibrary, mpiLibraries } from "./mpi-library.ts";
