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
export { StreamingHistogram } from "./histogram.ts";
export {
  type QuantizationTarget,
  type QuantizationTargetName,
  quantizationTargets,
} from "./qdq.ts";
export {
  type QuantizedOnnx,
  type QuantizedTensor,
  type QuantizeOnnxOptions,
  quantizeOnnx,
} from "./quantize-onnx.ts";
export {
  BatchNormStatistics,
  biasShift,
  equalizeLayers,
  type InsertedBatchNorm,
  type LinearLayer,
} from "./repair.ts";
