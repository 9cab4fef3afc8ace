export { writeFileAtomically } from "./atomic-file.ts";
export { formatOfName, openCheckpointFile, type SaveFileOptions, saveCheckpointFile } from "./checkpoint-file.ts";
export { fileSource } from "./file-source.ts";
export { openSource } from "./open-source.ts";
export { isRunning, type ProcessIdentity, thisProcess } from "./processes.ts";
export { temporaryPath } from "./temporary-file.ts";
