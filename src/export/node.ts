export {
  type Classifier,
  type ClassifierOptions,
  type CompiledClassifier,
  fileSha256,
  type OpenedModel,
  type OpenModelOptions,
  openClassifier,
  openModelFile,
} from "./classifier-node.ts";
export * from "./evaluation/node.ts";
export { type ExportHubOptions, exportHub, type HubFolder } from "./hub-node.ts";
export { openOnnx, type SavedOnnx, type SaveOnnxOptions, saveOnnx } from "./onnx-file-node.ts";
