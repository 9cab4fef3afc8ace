export { writeFileAtomically } from "./atomic-file-node.ts";
export { formatOfName, openCheckpointFile, type SaveFileOptions, saveCheckpointFile } from "./checkpoint-file-node.ts";
export { fileSource } from "./file-source-node.ts";
