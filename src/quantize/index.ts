export {
  affineQuantization,
  channelMaxima,
  dequantizeTensor,
  integerRanges,
  type Quantization,
  type QuantizationStep,
  quantizeTensor,
  roundHalfEven,
  symmetricQuantization,
  weightQuantization,
} from "./affine.ts";
export {
  type Calibrator,
  type CalibratorName,
  calibrated,
  calibrators,
  entropyCalibrator,
  minMaxCalibrator,
  mseCalibrator,
  percentileCalibrator,
  type RealRange,
  squaredError,
} from "./calibrators.ts";
export { exactKernels } from "./exact.ts";
export { StreamingHistogram } from "./histogram.ts";
export { type InspectedLayer, inspectQuantized, type QuantizedInspection } from "./inspect.ts";
export {
  type QuantizationTarget,
  type QuantizationTargetName,
  quantizationTargets,
} from "./qdq.ts";
export {
  calibrationStatistics,
  type LayerSensitivity,
  type QuantizedOnnx,
  type QuantizedTensor,
  type QuantizeOnnxOptions,
  quantizeOnnx,
} from "./quantize-onnx.ts";
export { raiseOpset } from "./raise-opset.ts";
export {
  BatchNormStatistics,
  biasShift,
  equalizeLayers,
  type InsertedBatchNorm,
  type LinearLayer,
} from "./repair.ts";
export {
  type QuantizationReport,
  quantizationReport,
  type ReportPage,
  reportPage,
  type TensorNoise,
} from "./report.ts";
export { splitOutliers } from "./split.ts";
export { CalibrationStatistics, type ComparedInput } from "./statistics.ts";
export * from "./training/index.ts";
export {
  blockwise,
  type QuantizedWeights,
  type QuantizeWeightsOptions,
  quantizeWeights,
  type StoredLayer,
} from "./weight-only.ts";
