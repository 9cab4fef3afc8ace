export { rowsName, rowsOf } from "./emitter.ts";
export { type GradientReach, type GradientStop, type GradOptions, grad, gradientReach } from "./grad.ts";
export * from "./layout.ts";
export * from "./lower.ts";
export type { Lowering, Physical, Target } from "./op.ts";
export * from "./ops/activation.ts";
export * from "./ops/after.ts";
export * from "./ops/broadcast.ts";
export * from "./ops/conv.ts";
export * from "./ops/conv-norm.ts";
export { type ConvAttrs, type ConvOptions, type Pair, pair } from "./ops/conv-options.ts";
export * from "./ops/elementwise.ts";
export {
  type FakeQuantizeOptions,
  fakeQuantize,
  type IntegerRange,
  lsqGradientFactor,
} from "./ops/fake-quantize.ts";
export * from "./ops/matmul.ts";
export * from "./ops/norm.ts";
export * from "./ops/partition.ts";
export * from "./ops/pool.ts";
export { isExchanged, largestOfBatch, sumOverProcesses } from "./ops/processes.ts";
export * from "./ops/reduce.ts";
export * from "./ops/resize.ts";
export * from "./ops/shape.ts";
export * from "./ops/softmax.ts";
export { currentPath, inLayer } from "./path.ts";
export type { BatchNormNode, ConvNode } from "./read/context.ts";
export { type OnnxGraph, type OnnxParameter, type ReadOnnxOptions, readOnnx } from "./read-onnx.ts";
export type { PartOf } from "./recompute.ts";
export * from "./trace.ts";
export * from "./value.ts";
