export type { ExportCheck } from "./check.ts";
export { type FixedBatch, openBatch } from "./dynamic-batch.ts";
export { type ExportOnnxOptions, exportOnnx, type OnnxExport } from "./export-onnx.ts";
export { type ExportDType, ioNames } from "./graph.ts";
export { type HubConfigOptions, hubConfig, hubModelFile, hubPreprocessor } from "./hub.ts";
export { type CardEvaluation, type CardOptions, modelCard } from "./model-card.ts";
export { onnxWeights } from "./onnx-weights.ts";
export { opsets, withOpset } from "./opset.ts";
