export {
  type Classifier,
  type ClassifierOptions,
  type CompiledClassifier,
  fileSha256,
  openClassifier,
  taskOfFile,
} from "./classifier.ts";
export { type ClassRule, openClassFolders, openTestData, type TestData, type TestDataOptions } from "./folder.ts";
export { openOnnx, type SavedOnnx, type SaveOnnxOptions, saveOnnx } from "./onnx-file.ts";
export { type OpenModelOptions, openModelFile } from "./open-model.ts";
export type { TestHeader, TestOptions } from "./open-test.ts";
export { type FormsCheck, runCheck } from "./run-check.ts";
export { type RunTestOptions, runTest } from "./run-test.ts";
