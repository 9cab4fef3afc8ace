export { type DecodeOnnxOptions, decodeOnnx } from "./decode.ts";
export { dtypeOfElementType, elementTypes } from "./element-type.ts";
export {
  type ExternalOnnx,
  type ExternalTensor,
  encodeOnnx,
  encodeOnnxChunks,
  encodeOnnxExternal,
  encodeOnnxStream,
  onnxByteLength,
  tensorChunks,
} from "./encode.ts";
export * from "./model.ts";
export { onnxSkeleton, type ReadableFile, SELF } from "./skeleton.ts";
export type { ByteSource, OpenExternal } from "./tensor-proto.ts";
