import { formulaInput, formulaTensor } from "../../scripts/conformance/formula.ts";
import type { Tensor } from "../../src/index.ts";
import { labelsOf } from "./networks.ts";

/** Convolution 3×3, batch norm, ReLU, average pool: what every WebAssembly rival can express. */
export interface ConvUnitOptions {
  readonly batch: number;
  readonly channels: number;
  readonly size: number;
  readonly threads: number;
}

const keys = ["conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"] as const;

/** The values that our `conv-bn-relu` network has, and its batch. */
export function convUnit({ batch, channels: c, size }: ConvUnitOptions): {
  readonly weights: Readonly<Record<(typeof keys)[number], Tensor>>;
  readonly images: Tensor;
  readonly labels: Int32Array;
} {
  const shape = (key: string): number[] => (key === "conv.weight" ? [c, c, 3, 3] : [c]);
  const weights = Object.fromEntries(keys.map((key) => [key, formulaTensor(`block.${key}`, shape(key))]));
  return {
    weights: weights as Record<(typeof keys)[number], Tensor>,
    images: formulaInput([batch, c, size, size]),
    labels: labelsOf(batch, c),
  };
}

export const bnEpsilon = 1e-5;
export const momentum = 0.9;
export const weightDecay = 1e-4;
