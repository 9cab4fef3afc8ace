/**
 * Everything of the package for Node: the isomorphic part on `onnxruntime-node`, and what reads and writes files.
 *
 * @packageDocumentation
 */
import { registerNode } from "./runtime/platform-node.ts";

export * from "./checkpoint/node.ts";
export * from "./data/node.ts";
export * from "./export/node.ts";
export * from "./index.ts";
export * from "./recipes/node.ts";
export * from "./training/checkpoint-store-node.ts";
export * from "./training/logs-node.ts";

registerNode();
