export { findHead, type OnnxHead } from "./head.ts";
export { OnnxNet, type OnnxNetOptions } from "./onnx-net.ts";
