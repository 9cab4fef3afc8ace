export { rawOutput } from "./logits.ts";
export { OnnxNet, type OnnxNetOptions } from "./onnx-net.ts";
