export { parseClassMap, parseClassNames } from "./class-names.ts";
export {
  Comparison,
  coarsestType,
  type Difference,
  type Disagreement,
  type FloatType,
  isWithin,
  LogitsComparison,
  outputTolerances,
  top1,
} from "./compare.ts";
export { compareWeights, type WeightComparison, type WeightDifference, type WeightOptions } from "./compare-weights.ts";
export { type Averages, averages as evaluationAverages, type Counts as EvaluationCounts } from "./counts.ts";
export {
  type BatchResult,
  type EvaluateDataOptions,
  type EvaluationResult,
  evaluateData,
  type Predict,
} from "./evaluate.ts";
export {
  checkpointMetadata,
  coefficientMetadata,
  type ExportMetadata,
  type ExportSource,
  readMetadata,
  restoreCoefficients,
  type TaskMetadata,
  writeMetadata,
} from "./metadata.ts";
export { MIXES, mixesPictures, remarksOnBatches } from "./mixing.ts";
export { mustHaveFiniteWeights } from "./onnx-weights.ts";
export { type OpenedModel, openModel, type ReadModelOptions, readModel, type StoredModel } from "./open-model.ts";
export * from "./predictor.ts";
export { mergeTestRecords, type NamedRecord, parseTestRecord, readCounts, type TestRecord } from "./record.ts";
export { parseShard, type Shard, shardRange } from "./shard.ts";
export * from "./verify.ts";
