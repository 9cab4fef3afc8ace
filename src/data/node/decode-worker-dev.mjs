// Starts decode-worker-node.ts where the sources run without a build: a thread cannot load TypeScript by itself.
import { tsImport } from "tsx/esm/api";

await tsImport("./decode-worker.ts", import.meta.url);
