import type { Rng } from "../../tensor/index.ts";
import type { ImageShape } from "../sets/dataset.ts";
import type { Augmentation } from "./augmentation.ts";
import { drawOffset } from "./crops.ts";

/** A picture-sized window onto a picture: its upper left corner in pixels (may lie outside) and whether it is mirrored. */
export interface Window {
  readonly top: number;
  readonly left: number;
  readonly flip: boolean;
}

export const wholePicture: Window = { top: 0, left: 0, flip: false };

/** Whether all that these augmentations do to the bytes of a picture is to move a window over it. */
export function isWindow(augment: readonly Augmentation[]): boolean {
  const onBytes = augment.filter(({ kind }) => kind !== "randomErasing" && kind !== "cutout");
  const crops = onBytes.filter(({ kind }) => kind === "randomCrop");
  // A second crop would see the zeros that the first one padded with.
  return crops.length <= 1 && onBytes.every(({ kind }) => kind === "randomCrop" || kind === "horizontalFlip");
}

/** Draws the window that these augmentations amount to, with the same random numbers as when they are made one by one. */
export function drawWindow(augment: readonly Augmentation[], [, height, width]: ImageShape, random: Rng): Window {
  let { top, left, flip } = wholePicture;
  for (const step of augment) {
    if (step.kind === "horizontalFlip") {
      flip = random.next() < step.probability !== flip;
    } else if (step.kind === "randomCrop") {
      top = drawOffset(random, height, step.padding, height);
      const x = drawOffset(random, width, step.padding, width);
      // A window chosen on the mirrored picture lies on the other side of the original.
      left = flip ? -x : x;
    }
  }
  return { top, left, flip };
}

/**
 * Writes a window of the picture at `start` of `pixels` (bytes `[C, H, W]`) to `out` at `outStart`, through one table
 * of 256 values per channel. What lies outside the picture counts as byte 0.
 */
export function copyWindow(
  pixels: Uint8Array,
  start: number,
  [channels, height, width]: ImageShape,
  tables: readonly Float32Array[],
  { top, left, flip }: Window,
  out: Float32Array,
  outStart: number,
): void {
  const plane = height * width;
  const [firstX, lastX] = [Math.max(0, -left), Math.min(width, width - left)];
  const [firstY, lastY] = [Math.max(0, -top), Math.min(height, height - top)];
  for (let c = 0; c < channels; c++) {
    const table = tables[c];
    const to = outStart + c * plane;
    if (top !== 0 || left !== 0) out.fill(table[0], to, to + plane);
    for (let y = firstY; y < lastY; y++) {
      const row = to + y * width;
      const from = start + c * plane + (y + top) * width + left;
      if (flip)
        for (let x = firstX, o = row + width - 1 - firstX; x < lastX; x++, o--) out[o] = table[pixels[from + x]];
      else for (let x = firstX; x < lastX; x++) out[row + x] = table[pixels[from + x]];
    }
  }
}
