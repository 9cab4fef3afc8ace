import { fmt, must } from "../errors.ts";
import type { Tensor } from "../tensor/index.ts";

/** How well pixels were told apart; see {@link segmentationScores}. */
export interface SegmentationScores {
  /** Per class: pixels of it that were found; those that are of it or were taken for it; those that are of it. */
  readonly intersection: readonly number[];
  readonly union: readonly number[];
  readonly target: readonly number[];
  /** Intersection over union of each class, and the share of its pixels that were found. */
  readonly iou: readonly number[];
  readonly accuracy: readonly number[];
  /** Mean of `iou` over all classes; one that never occurs counts 0, as in the code of PSPNet's author. */
  readonly meanIou: number;
  /** The same over the classes with a union alone, as in mmsegmentation. */
  readonly meanIouPresent: number;
  /** Mean of `accuracy` over all classes. */
  readonly meanAccuracy: number;
  /** Share of all pixels. */
  readonly pixelAccuracy: number;
}

/** Keeps the quotient of a class that never occurs at 0, as the author has it. */
const EPS = 1e-10;

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/**
 * Scores of a confusion matrix, accumulated over a whole data set.
 *
 * @param confusion  `classes` × `classes` counts of pixels, row-major: rows are labels, columns predictions
 */
export function segmentationScores(confusion: ArrayLike<number>, classes: number): SegmentationScores {
  must(
    confusion.length === classes ** 2,
    "segmentation/confusion",
    () => `segmentation: ${classes} classes need ${classes ** 2} counts, got ${confusion.length}`,
  );
  const all = Array.from({ length: classes }, (_, c) => c);
  const sum = (of: (i: number) => number): number => all.reduce((total, i) => total + confusion[of(i)], 0);
  const intersection = all.map((c) => confusion[c * classes + c]);
  const target = all.map((c) => sum((i) => c * classes + i));
  const union = all.map((c) => target[c] + sum((i) => i * classes + c) - intersection[c]);
  const iou = all.map((c) => intersection[c] / (union[c] + EPS));
  const accuracy = all.map((c) => intersection[c] / (target[c] + EPS));
  const present = all.filter((c) => union[c] > 0);
  const total = (counts: readonly number[]): number => counts.reduce((a, b) => a + b, 0);
  return {
    ...{ intersection, union, target, iou, accuracy },
    meanIou: mean(iou),
    meanIouPresent: present.length ? mean(present.map((c) => iou[c])) : 0,
    meanAccuracy: mean(accuracy),
    pixelAccuracy: total(intersection) / (total(target) + EPS),
  };
}

/**
 * Adds pictures to a confusion matrix.
 *
 * @param confusion  as of {@link segmentationScores}; changed in place
 * @param predicted  class of each pixel
 * @param labels  as many; those with `ignoreLabel` are left out
 * @throws `segmentation/label` for a label that is no class, `segmentation/size` unless there are as many of both
 */
export function addToConfusion(
  confusion: number[],
  classes: number,
  predicted: ArrayLike<number>,
  labels: ArrayLike<number>,
  ignoreLabel = 255,
): void {
  must(
    predicted.length === labels.length,
    "segmentation/size",
    () => `segmentation: ${predicted.length} pixels were predicted, ${labels.length} are labelled`,
  );
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    if (label === ignoreLabel) continue;
    mustBeClass(label, classes, ignoreLabel);
    confusion[label * classes + predicted[i]]++;
  }
}

/** Throws `segmentation/label` for a label that is none of the classes. */
export function mustBeClass(label: number, classes: number, ignoreLabel: number): void {
  must(
    Number.isInteger(label) && label >= 0 && label < classes,
    "segmentation/label",
    () =>
      `segmentation: a mask has label ${label}, but there are ${classes} classes (0 … ${classes - 1}), and ${ignoreLabel} for pixels to be ignored. Name all classes, or give the ignoreLabel that the masks have.`,
    "file",
  );
}

/** Class with the largest logit of each pixel: `[N, C, H, W]` → N·H·W numbers. Of equal ones it is the first. */
export function classOfPixels({ data, shape }: Tensor): Uint8Array | Uint16Array {
  must(shape.length === 4, "segmentation/output", () => `segmentation: logits must be [N, C, H, W], got ${fmt(shape)}`);
  const [n, classes, height, width] = shape;
  const size = height * width;
  const values = data as Float32Array;
  const out = classes > 256 ? new Uint16Array(n * size) : new Uint8Array(n * size);
  const best = new Float32Array(size);
  for (let i = 0; i < n; i++) {
    const own = out.subarray(i * size, (i + 1) * size);
    for (let c = 0; c < classes; c++) {
      const at = (i * classes + c) * size;
      for (let p = 0; p < size; p++)
        if (c === 0 || values[at + p] > best[p]) {
          best[p] = values[at + p];
          own[p] = c;
        }
    }
  }
  return out;
}
