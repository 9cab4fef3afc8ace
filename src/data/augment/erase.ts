import type { Rng } from "../../tensor/index.ts";
import type { Region } from "../preprocessing/picture.ts";
import type { ImageShape } from "../sets/dataset.ts";
import type { Augmentation, Cutout, RandomErasing } from "./augmentation.ts";
import { between } from "./crops.ts";

/** Makes the changes of the list that act on a normalised picture, in `values` `[C, H, W]` itself. */
export function eraseParts(
  values: Float32Array,
  shape: ImageShape,
  augment: readonly Augmentation[],
  random: Rng,
): void {
  for (const step of augment)
    if (step.kind === "randomErasing") {
      const part = random.next() < step.probability ? drawPart(shape, step, random) : undefined;
      if (part) fill(values, shape, part, step.fill === "noise" ? () => random.normal() : () => 0);
    } else if (step.kind === "cutout") fill(values, shape, drawSquare(shape, step, random), () => 0);
}

/** Ten tries at a rectangle that is smaller than the picture. */
function drawPart([, height, width]: ImageShape, { scale, ratio }: RandomErasing, random: Rng): Region | undefined {
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = height * width * between(random, ...scale);
    const shape = Math.exp(between(random, Math.log(ratio[0]), Math.log(ratio[1])));
    const h = Math.round(Math.sqrt(area * shape));
    const w = Math.round(Math.sqrt(area / shape));
    if (h < height && w < width)
      return { top: random.below(height - h + 1), left: random.below(width - w + 1), height: h, width: w };
  }
  return undefined;
}

function drawSquare([, height, width]: ImageShape, { size }: Cutout, random: Rng): Region {
  const before = Math.floor(size / 2);
  return { top: random.below(height) - before, left: random.below(width) - before, height: size, width: size };
}

function fill(values: Float32Array, [channels, height, width]: ImageShape, part: Region, value: () => number): void {
  const [top, bottom] = [Math.max(0, part.top), Math.min(height, part.top + part.height)];
  const [left, right] = [Math.max(0, part.left), Math.min(width, part.left + part.width)];
  for (let c = 0; c < channels; c++)
    for (let y = top; y < bottom; y++)
      for (let x = left; x < right; x++) values[(c * height + y) * width + x] = value();
}
