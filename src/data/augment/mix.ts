import { must } from "../../errors.ts";
import { type Rng, rng, sizeOf, Tensor } from "../../tensor/index.ts";
import type { Batch, Draw } from "../sets/dataset.ts";

/** Blends the pictures of a batch with one another, and their labels alike. At least one of the two strengths is needed. */
export interface MixOptions {
  /** Strength of mixup (arXiv 1710.09412), α of Beta(α, α); 0 (default) never uses it. 0.2 is usual. */
  readonly mixup?: number;
  /** Strength of CutMix (arXiv 1905.04899), α of Beta(α, α); 0 (default) never uses it. 1 is usual. */
  readonly cutmix?: number;
  /** How many of the batches are mixed, 0 … 1; default 1. */
  readonly probability?: number;
  /** Where both have a strength: how many of the mixed batches use CutMix, 0 … 1; default 0.5. */
  readonly switchProbability?: number;
}

/** Throws `mix/options` where a field is out of range. */
export function checkMixOptions({ mixup = 0, cutmix = 0, probability = 1, switchProbability = 0.5 }: MixOptions): void {
  must(
    mixup >= 0 && cutmix >= 0 && mixup + cutmix > 0,
    "mix/options",
    () => `mix: mixup and cutmix must not be negative, and one must be positive; got ${mixup} and ${cutmix}`,
    "usage",
  );
  must(
    [probability, switchProbability].every((p) => p >= 0 && p <= 1),
    "mix/options",
    () => `mix: probabilities must be in 0 … 1, got ${probability} and ${switchProbability}`,
    "usage",
  );
}

/**
 * Mixes each picture with the one at the mirrored place of the batch (the first with the last, …), all with one weight.
 * Returns the batch with `targets` `[N, classes]` whether or not it was drawn to be mixed.
 */
export function mixed<B extends Batch>(
  batch: B,
  classes: number,
  options: MixOptions,
  draw: Draw,
  batchNumber: number,
): B {
  const { mixup = 0, cutmix = 0, probability = 1, switchProbability = 0.5 } = options;
  const random = rng(draw.seed, `mix/${draw.epoch}/${batchNumber}`);
  if (random.next() >= probability) return { ...batch, targets: softTargets(batch.labels, classes, 1) };
  const useCutmix = cutmix > 0 && (mixup === 0 || random.next() < switchProbability);
  const images = (batch.images.data as Float32Array<ArrayBuffer>).slice();
  const own = useCutmix
    ? pasteParts(images, batch.images.shape, beta(cutmix, random), random)
    : blend(images, batch.images.shape, beta(mixup, random));
  return {
    ...batch,
    images: new Tensor("float32", batch.images.shape, images),
    targets: softTargets(batch.labels, classes, own),
  };
}

/** One-hot labels, `own` of each picture's and the rest of its partner's. */
function softTargets(labels: Int32Array, classes: number, own: number): Tensor {
  const values = new Float32Array(labels.length * classes);
  labels.forEach((label, i) => {
    values[i * classes + label] += own;
    values[i * classes + labels[labels.length - 1 - i]] += 1 - own;
  });
  return new Tensor("float32", [labels.length, classes], values);
}

/** x ← own·x + (1 − own)·partner, in place. Returns `own`. */
function blend(images: Float32Array, shape: readonly number[], own: number): number {
  const size = sizeOf(shape.slice(1));
  for (let i = 0, j = shape[0] - 1; i < j; i++, j--)
    for (let a = i * size, b = j * size; a < (i + 1) * size; a++, b++) {
      const [x, y] = [images[a], images[b]];
      images[a] = own * x + (1 - own) * y;
      images[b] = own * y + (1 - own) * x;
    }
  return own;
}

/** Exchanges a random rectangle between partners, in place. Returns the part of the area that is left of each picture. */
function pasteParts(images: Float32Array, [n, channels, height, width]: readonly number[], own: number, random: Rng) {
  const side = Math.sqrt(1 - own);
  const [centreY, centreX] = [random.below(height), random.below(width)];
  const cut = (centre: number, length: number): [number, number] => {
    const half = Math.floor(Math.floor(length * side) / 2);
    return [Math.max(0, centre - half), Math.min(length, centre + half)];
  };
  const [top, bottom] = cut(centreY, height);
  const [left, right] = cut(centreX, width);
  for (let i = 0, j = n - 1; i < j; i++, j--)
    for (let c = 0; c < channels; c++)
      for (let y = top; y < bottom; y++) {
        const a = ((i * channels + c) * height + y) * width;
        const b = ((j * channels + c) * height + y) * width;
        const kept = images.slice(a + left, a + right);
        images.copyWithin(a + left, b + left, b + right);
        images.set(kept, b + left);
      }
  return 1 - ((bottom - top) * (right - left)) / (height * width);
}

/** A number from Beta(α, α). */
function beta(alpha: number, random: Rng): number {
  const a = gamma(alpha, random);
  const b = gamma(alpha, random);
  // For a tiny α both may underflow; the distribution is then a coin.
  return a + b > 0 ? a / (a + b) : random.below(2);
}

/** A number from Gamma(shape, 1), by the method of Marsaglia and Tsang (2000). */
function gamma(shape: number, random: Rng): number {
  if (shape < 1) return gamma(shape + 1, random) * (1 - random.next()) ** (1 / shape);
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = random.normal();
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - random.next()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
  }
}
