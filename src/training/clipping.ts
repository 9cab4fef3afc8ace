import { must } from "../errors.ts";
import { add, clip, div, minimum, mul, reduceSum, sqrt, type Value } from "../graph/index.ts";

export interface ClipOptions {
  /**
   * Scales all gradients of a step by one factor where their common 2-norm is larger than this: PyTorch's
   * `clip_grad_norm_`, whose factor is `clipNorm / (norm + 1e-6)`, at most 1.
   */
  readonly clipNorm?: number;
  /** Limits every single value of the gradients to ±this: PyTorch's `clip_grad_value_`. Not together with `clipNorm`. */
  readonly clipValue?: number;
}

/** Throws `clipping/limit` for limits that are not positive, or both at once. */
export function checkClip({ clipNorm, clipValue }: ClipOptions): void {
  for (const [name, limit] of Object.entries({ clipNorm, clipValue }))
    must(
      limit === undefined || (Number.isFinite(limit) && limit > 0),
      "clipping/limit",
      () => `clipping: ${name} must be a positive number, got ${limit}. Leave it out to clip nothing.`,
      "usage",
    );
  must(
    clipNorm === undefined || clipValue === undefined,
    "clipping/limit",
    () => `clipping: clipNorm (${clipNorm}) and clipValue (${clipValue}) exclude each other. Choose one.`,
    "usage",
  );
}

/** 2-norm of all values of flat gradients `[n]` together, `[1]`. */
export const globalNorm = (gradients: readonly Value[]): Value =>
  sqrt(gradients.map((g) => reduceSum(mul(g, g), 0, { keepDims: true })).reduce((a, b) => add(a, b)));

/** Flat gradients after clipping; `norm` is their {@link globalNorm}. */
export function clipped(gradients: readonly Value[], norm: Value, { clipNorm, clipValue }: ClipOptions): Value[] {
  if (clipValue !== undefined) return gradients.map((g) => clip(g, -clipValue, clipValue));
  if (clipNorm === undefined) return [...gradients];
  const factor = minimum(div(clipNorm, add(norm, 1e-6)), 1);
  return gradients.map((g) => mul(g, factor));
}
