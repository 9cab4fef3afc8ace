import { mustBeFiniteTensors } from "../checkpoint/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";

/** Operators that multiply or add with weights, and which inputs those are. */
const weightInputs: Readonly<Record<string, readonly number[]>> = {
  Conv: [1, 2],
  ConvTranspose: [1, 2],
  Gemm: [0, 1, 2],
  MatMul: [0, 1],
  BatchNormalization: [1, 2, 3, 4],
  InstanceNormalization: [1, 2],
  LayerNormalization: [1, 2],
  PRelu: [1],
};

/**
 * Throws where weights of an ONNX model are not finite, initializers and the values of `Constant` nodes alike. Whoever
 * trains, prunes, merges or quantizes a model asks this first; whoever runs one, where its outputs are not finite.
 *
 * @param where  the file, for messages
 * @throws RepmlpError `checkpoint/not-finite` naming the tensor
 */
export async function mustHaveFiniteWeights({ initializers, nodes }: OnnxModel, where: string): Promise<void> {
  const weights = new Set(
    nodes.flatMap(({ opType, inputs }) => (weightInputs[opType] ?? []).flatMap((i) => inputs[i] ?? [])),
  );
  const constants = nodes.flatMap(({ opType, attrs, outputs }): (readonly [string, TensorSource])[] =>
    opType === "Constant" && attrs.value instanceof Tensor ? [[outputs[0], attrs.value]] : [],
  );
  await mustBeFiniteTensors(where, [...initializers, ...constants], (name) => weights.has(name));
}
