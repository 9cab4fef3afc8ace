export * from "./detect.ts";
export * from "./layer-table.ts";
export * from "./onnx-net/index.ts";
export * from "./registry.ts";
export * from "./repmlp-cifar.ts";
export * from "./repmlp-resnet.ts";
export * from "./small.ts";
