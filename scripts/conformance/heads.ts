import { type MarginKind, marginLogits, normalizeRows } from "../../src/blocks/index.ts";
import { crossEntropy, grad, input, linear } from "../../src/graph/index.ts";
import { compile } from "../../src/runtime/index.ts";
import { oneHotTargets } from "../../src/tasks/index.ts";
import type { TensorSource } from "../../src/tensor/index.ts";
import { absMax, type CaseResult, reader, runCase } from "./report.ts";

/** A case of the goldens' list `heads`. */
export interface HeadCase {
  readonly id: string;
  readonly file: string;
  readonly kind: string;
  readonly s: number;
  readonly m: number;
}

const tolerances = { float32: 2e-6, float64: 1e-10 } as const;

/** Cosines, logits, loss and gradients of a margin head, in both precisions. */
export const checkHead = (c: HeadCase, tensors: ReadonlyMap<string, TensorSource>): Promise<CaseResult> =>
  runCase(c.id, async (check) => {
    const get = reader(tensors);
    for (const [dtype, tolerance] of Object.entries(tolerances) as [keyof typeof tolerances, number][]) {
      const values = { features: get("features").cast(dtype), weights: get("weights").cast(dtype) };
      const targets = oneHotTargets(Array.from(get("labels").data, Number), values.weights.shape[0]).cast(dtype);
      const features = input("features", values.features.shape, dtype);
      const weights = input("weights", values.weights.shape, dtype);
      const q = input("targets", targets.shape, dtype);
      const cosine = linear(normalizeRows(features), normalizeRows(weights));
      const kind = c.kind.replaceAll("_", "-") as MarginKind;
      const logits = marginLogits(cosine, q, { kind, scale: c.s, margin: c.m });
      const loss = crossEntropy(logits, q);
      const [byFeatures, byWeights] = grad(loss, [features, weights]);
      await using program = await compile({
        outputs: { cosine, logits, loss, "grad.features": byFeatures, "grad.weights": byWeights },
      });
      for (const [what, own] of Object.entries(await program.run({ ...values, targets }))) {
        const golden = get(`${dtype}.${what}`);
        check.near(`${dtype}.${what}`, own, golden, tolerance * absMax(golden));
      }
    }
  });
