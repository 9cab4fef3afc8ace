import { must } from "../errors.ts";
import type { Module } from "../nn/index.ts";
import { deployForm } from "../reparam/convert.ts";
import { isFloating, type Shape, sameShape, stridesOf, type Tensor } from "../tensor/index.ts";
import type { FloatType } from "./compare.ts";

/** A weight that is not what the other form's merge gives. */
export interface WeightDifference {
  readonly key: string;
  /** Place of the value that is furthest off. */
  readonly index: readonly number[];
  /** What the first network's merge gives there, and what the second holds. */
  readonly expected: number;
  readonly found: number;
}

export interface WeightComparison {
  /** Number of tensors that were compared. */
  readonly tensors: number;
  /** Those that differ by more than rounding, in the state dict's order. */
  readonly differing: readonly WeightDifference[];
}

export interface WeightOptions {
  /** The coarsest element type of the first file's tensors, and of the second's. */
  readonly types: readonly [first: FloatType, second: FloatType];
  /** Allowed difference as a share of a tensor's largest value. Default: what rounding to the types explains. */
  readonly tolerance?: number | undefined;
}

/** Relative error of rounding once. */
const roundoff: Readonly<Record<FloatType, number>> = {
  float64: 2 ** -53,
  float32: 2 ** -24,
  float16: 2 ** -11,
  bfloat16: 2 ** -9,
};

/** Half the distance of two numbers next to zero, below which half precision has no more digits. */
const SMALLEST_HALF = 2 ** -25;

/** Merging in single precision, as other programs do it, is off by less than this share of the tensor's largest value. */
const FLOAT32_MERGE = 3e-6;

/**
 * How far a value may be from the exact merge: the rounding of the second file's type; what merging in float32 loses;
 * and, where the first file's type is the coarser one (the second was not made of it but of what it was rounded from),
 * that rounding, which a merge adds up over its branches.
 */
function allowance({ types: [first, second], tolerance }: WeightOptions): (value: number, scale: number) => number {
  if (tolerance !== undefined) return (_, scale) => tolerance * scale;
  const own = 2 * roundoff[second];
  const tiny = second === "float16" ? SMALLEST_HALF : 0;
  const merging = roundoff[first] > roundoff[second] ? 4 * roundoff[first] : 0;
  const share = Math.max(FLOAT32_MERGE, merging);
  return (value, scale) => own * Math.abs(value) + share * scale + tiny;
}

/**
 * Compares the merged weights of two networks, tensor by tensor: outputs on random inputs hardly show a single wrong
 * value, the weights do. Holds one tensor of each at a time.
 *
 * @throws `verify/different` when the merged forms have other keys or shapes
 */
export async function compareWeights(first: Module, second: Module, options: WeightOptions): Promise<WeightComparison> {
  const other = new Map(deployForm(second).state());
  const allowed = allowance(options);
  const differing: WeightDifference[] = [];
  let tensors = 0;
  for (const [key, p] of deployForm(first).state()) {
    if (!isFloating(p.dtype)) continue;
    const q = other.get(key);
    must(
      q && sameShape(p.shape, q.shape),
      "verify/different",
      () => `verify: the second network has no ${key} of shape [${p.shape.join(", ")}]. Compare forms of one network.`,
      "model",
    );
    tensors++;
    const worst = furthest(await p.source().read(), await q.source().read(), allowed);
    if (worst) differing.push({ key, ...worst });
  }
  return { tensors, differing };
}

/** The value that exceeds what is allowed by most; `undefined` when none does. */
function furthest(
  a: Tensor,
  b: Tensor,
  allowed: (value: number, scale: number) => number,
): Omit<WeightDifference, "key"> | undefined {
  const [x, y] = [a.toFloat64(), b.toFloat64()];
  const scale = x.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  let worst = -1;
  let excess = 1;
  for (let i = 0; i < x.length; i++) {
    const d = Math.abs(x[i] - y[i]);
    if (d === 0) continue;
    const share = d / allowed(x[i], scale);
    // What is not a number is further off than anything else.
    if (share <= excess) continue;
    worst = i;
    excess = Number.isNaN(share) ? Number.POSITIVE_INFINITY : share;
  }
  return worst < 0 ? undefined : { index: placeOf(worst, a.shape), expected: x[worst], found: y[worst] };
}

const placeOf = (at: number, shape: Shape): number[] =>
  stridesOf(shape).map((stride, axis) => Math.floor(at / stride) % shape[axis]);
