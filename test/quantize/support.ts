import type { OnnxDim, OnnxModel } from "../../src/onnx/index.ts";
import { Builder } from "../convert/onnx-models.ts";

/** Convolutions with norms, a residual sum, a depthwise convolution, pooling and a classifier of 10 classes. */
export function quantizable(inputShape: readonly OnnxDim[], { opset = 17 } = {}): OnnxModel {
  const b = new Builder(3, [...inputShape], opset);
  const stem = b.node("Relu", [b.norm(b.conv("x", [3, 8], [3, 3], { pads: [1, 1, 1, 1] }), 8)]);
  const inner = b.node("Relu", [b.conv(stem, [8, 8], [3, 3], { pads: [1, 1, 1, 1], group: 8, bias: true })]);
  const sum = b.node("Relu", [b.node("Add", [b.conv(inner, [8, 8], [1, 1], { bias: true }), stem])]);
  const pooled = b.node("MaxPool", [sum], { kernel_shape: [2, 2], strides: [2, 2] });
  const flat = b.node("Flatten", [b.node("GlobalAveragePool", [b.conv(pooled, [8, 16], [3, 3])])], { axis: 1 });
  const logits = b.node("Gemm", [flat, b.constant([10, 16]), b.constant([10])], { transB: 1 });
  return b.model([logits], 2);
}
