/**
 * Everything of the package for Node: the isomorphic part on `onnxruntime-node`, and what reads and writes files.
 *
 * @packageDocumentation
 */
import { registerNode } from "./runtime/node/platform.ts";

export {
  fileSource,
  formatOfName,
  openCheckpointFile,
  openSource,
  type SaveFileOptions,
  saveCheckpointFile,
  writeFileAtomically,
} from "./checkpoint/node/index.ts";
export { type ConvertedOnnxFile, convertOnnxFile } from "./convert/node/onnx-file.ts";
export {
  cifar10,
  classNamesOf,
  decodePicture,
  fashionMnist,
  fashionMnistSmall,
  type IdxFolderOptions,
  type ImageFile,
  ImageFolder,
  type ImageFolderOptions,
  imageFolder,
  type MaskFolderOptions,
  type MaskLabels,
  type MaskPair,
  maskFolder,
  maskPairs,
  maskSet,
  mnist,
  readPicture,
  type Split,
} from "./data/node/index.ts";
export { openMpi } from "./distributed/node/index.ts";
export { type ExportHubOptions, exportHub, type HubFolder } from "./export/node/index.ts";
export * from "./index.ts";
export {
  type Classifier,
  type ClassifierOptions,
  type ClassRule,
  type CompiledClassifier,
  type FormsCheck,
  fileSha256,
  type OpenModelOptions,
  openClassifier,
  openModelFile,
  openOnnx,
  openTestData,
  type RunTestOptions,
  runCheck,
  runTest,
  type SavedOnnx,
  type SaveOnnxOptions,
  saveOnnx,
  type TestData,
  type TestDataOptions,
  type TestHeader,
  type TestOptions,
} from "./inference/node/index.ts";
export {
  type PrunedFile,
  type PrunedGroup,
  type PrunedOf,
  type PruneFileOptions,
  type PruningMethod,
  pruneFile,
  pruningMethods,
  savePruned,
} from "./prune/node/prune-file.ts";
export {
  type QuantizedFile,
  type QuantizeFileOptions,
  type QuantizeWeightsFileOptions,
  quantizeFile,
  quantizeWeightsFile,
  type WeightsFile,
} from "./quantize/node/quantize-file.ts";
export {
  type ChangedLayer,
  type CutNetwork,
  changedLayers,
  type DataKind,
  type KnownAtEnd,
  onnxTrainable,
  openTrainingData,
  type PrepareContext,
  type Prepared,
  type PruneOptions,
  type PrunePhase,
  type PruneResult,
  parseRecipe,
  prune,
  type Recipe,
  readRecipe,
  recipeNames,
  remarksOn,
  type SavedIntegers,
  type StartOptions,
  type Trainable,
  type TrainableOptions,
  type TrainingData,
  type TrainingDataOptions,
  type TrainingPlan,
  type TrainOptions,
  type TrainResult,
  train,
} from "./recipes/node/index.ts";
export {
  cifar10Experiment,
  type DifferingPicture,
  type ExperimentName,
  type ExperimentOptions,
  type ExperimentResult,
  experiments,
  tableOf,
  type VariantResult,
} from "./studies/node/cifar10-experiment.ts";
export {
  baselineEmbedders,
  type Embedder,
  type EmbedderOptions,
  type EmbedOptions,
  embeddersOf,
  embedFiles,
  encodeNpy,
  type FaceGallery,
  type FaceIdentification,
  type FaceVerification,
  type FileEmbedder,
  faceGallery,
  identifyFaces,
  type NamedEmbedder,
  type PixelTest,
  pixelEmbeddings,
  Segmenter,
  type SegmenterOptions,
  testPixels,
  type VerifyPairsOptions,
  verifyPairs,
} from "./tasks/node/index.ts";
export { folderStore } from "./training/node/checkpoint-store.ts";
export {
  type EventLog,
  eventsFile,
  fileLogs,
  loggedLosses,
  type TensorBoardOptions,
  tensorBoardLog,
} from "./training/node/logs.ts";

registerNode();
