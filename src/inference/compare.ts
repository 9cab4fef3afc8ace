import { type DType, isFloating, type Tensor } from "../tensor/index.ts";

/** How far two lists of values are apart. */
export interface Difference {
  /** What was compared: a layer's path, a tensor's key; empty for a network's output. */
  readonly path: string;
  readonly maxAbs: number;
  /** `maxAbs` divided by the largest absolute value of the first list; `maxAbs` itself where that is all zeros. */
  readonly maxRel: number;
}

/**
 * Running comparison of two lists of values; everything that compares outputs or weights does it here.
 *
 * What is not finite never passes for equality: NaN on either side, or infinities on both, make the difference NaN, and
 * no later value makes it a number again. `NaN <= tolerance` is false, so a verdict needs no rule of its own.
 */
export class Comparison implements Difference {
  maxAbs = 0;
  /** Largest absolute value of the first list. */
  scale = 0;
  /** Sum of the squared differences. */
  squares = 0;

  constructor(readonly path = "") {}

  /** Compares the first `count` values (default: all of `a`) and adds them to what was compared before. */
  add(a: ArrayLike<number>, b: ArrayLike<number>, count = a.length): this {
    let { maxAbs, scale, squares } = this;
    for (let i = 0; i < count; i++) {
      const d = Math.abs(a[i] - b[i]);
      // As Math.max does, which would be a call per value: what is not a number stays.
      if (!(d <= maxAbs) && !Number.isNaN(maxAbs)) maxAbs = d;
      const s = Math.abs(a[i]);
      if (s > scale) scale = s;
      squares += d * d;
    }
    Object.assign(this, { maxAbs, scale, squares });
    return this;
  }

  get maxRel(): number {
    return this.maxAbs / (this.scale || 1);
  }

  get result(): Difference {
    const { path, maxAbs, maxRel } = this;
    return { path, maxAbs, maxRel };
  }
}

/** Whether a difference is no more than what is allowed; one that is not a number never is. */
export const isWithin = ({ maxRel }: Pick<Difference, "maxRel">, tolerance: number): boolean => maxRel <= tolerance;

/** Index of the largest of `row`'s values and its lead over the second. */
export function top1(row: ArrayLike<number>): { readonly index: number; readonly margin: number } {
  let index = 0;
  let second = Number.NEGATIVE_INFINITY;
  for (let i = 1; i < row.length; i++) {
    if (row[i] > row[index]) {
      second = row[index];
      index = i;
    } else if (row[i] > second) second = row[i];
  }
  return { index, margin: row[index] - second };
}

/** An input, or a pixel of one, that two networks put into different classes. */
export interface Disagreement {
  readonly index: number;
  /** The first network's class, and the second's. */
  readonly classes: readonly [number, number];
  /** Difference of the first network's two largest outputs. */
  readonly margin: number;
}

/** Disagreements that are told one by one. */
const TOLD = 1000;

/**
 * Running comparison of two networks' outputs `[N, classes]` or `[N, classes, H, W]`: their values, and the class of each
 * row or pixel.
 */
export class LogitsComparison extends Comparison {
  /** Rows or pixels so far. */
  total = 0;
  /** The first thousand. */
  readonly disagreements: Disagreement[] = [];
  private differing = 0;

  /** Adds the first `rows` rows (default: all of them). */
  addRows(a: Tensor, b: Tensor, rows = a.shape[0]): void {
    const [x, y] = [a.data as Float32Array, b.data as Float32Array];
    const width = a.size / a.shape[0];
    this.add(x, y, rows * width);
    const classes = a.shape.length > 2 ? a.shape[1] : width;
    const places = width / classes;
    const [own, other] = [new Float64Array(classes), new Float64Array(classes)];
    for (let i = 0; i < rows; i++)
      for (let p = 0; p < places; p++) {
        for (let c = 0, at = i * width + p; c < classes; c++, at += places) {
          own[c] = x[at];
          other[c] = y[at];
        }
        const [first, second] = [top1(own), top1(other)];
        if (first.index === second.index) continue;
        this.differing++;
        if (this.disagreements.length < TOLD)
          this.disagreements.push({
            index: this.total + i * places + p,
            classes: [first.index, second.index],
            margin: first.margin,
          });
      }
    this.total += rows * places;
  }

  /** Rows or pixels whose largest value is at the same place. */
  get agree(): number {
    return this.total - this.differing;
  }
}

/** Element types of weights. */
export type FloatType = "float32" | "float64" | "float16" | "bfloat16";

/** From the finest to the coarsest. */
const byPrecision: readonly FloatType[] = ["float64", "float32", "float16", "bfloat16"];

/**
 * Largest relative difference of outputs, of the network and of every block, that rounding explains where weights of a
 * type were merged. Measured on networks of up to 16 blocks: a tenth of it or less.
 */
export const outputTolerances: Readonly<Record<FloatType, number>> = {
  float64: 1e-4,
  float32: 1e-4,
  float16: 2e-2,
  bfloat16: 1e-1,
};

/** The type that rounds most among those of a network's tensors; integers are no weights. */
export function coarsestType(tensors: Iterable<{ readonly dtype: DType }>): FloatType {
  let found = 0;
  for (const { dtype } of tensors)
    if (isFloating(dtype)) found = Math.max(found, byPrecision.indexOf(dtype as FloatType));
  return byPrecision[found];
}
