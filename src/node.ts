/**
 * Everything of the package for Node: the isomorphic part on `onnxruntime-node`, and what reads and writes files.
 *
 * @packageDocumentation
 */
import { registerNode } from "./runtime/node/platform.ts";

export * from "./checkpoint/node/index.ts";
export * from "./data/node/index.ts";
export * from "./export/node/index.ts";
export * from "./index.ts";
export * from "./inference/node/index.ts";
export * from "./recipes/node/index.ts";
export * from "./studies/node/cifar10-experiment.ts";
export * from "./training/node/checkpoint-store.ts";
export * from "./training/node/logs.ts";

registerNode();
