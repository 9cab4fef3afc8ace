import type { Rng } from "../../tensor/index.ts";
import { channelsOf, crop, type Picture, type Region } from "../preprocessing/picture.ts";
import { resize } from "../preprocessing/resample.ts";
import type { RandomCrop, RandomResizedCrop } from "./augmentation.ts";

/** Uniform in [least, greatest). */
export const between = (random: Rng, least: number, greatest: number): number =>
  least + (greatest - least) * random.next();

/** Where a window of `size` pixels starts in `length` pixels with `padding` more on each side. */
export const drawOffset = (random: Rng, length: number, padding: number, size: number): number =>
  random.below(Math.max(0, length + 2 * padding - size) + 1) - padding;

export function applyRandomCrop(
  picture: Picture,
  { padding }: RandomCrop,
  height: number,
  width: number,
  random: Rng,
): Picture {
  const top = drawOffset(random, picture.height, padding, height);
  const left = drawOffset(random, picture.width, padding, width);
  return crop(picture, { top, left, height, width });
}

export function applyRandomResizedCrop(
  picture: Picture,
  step: RandomResizedCrop,
  height: number,
  width: number,
  random: Rng,
): Picture {
  return resize(crop(picture, drawPart(picture, step, random)), width, height, step.interpolation);
}

/** Ten tries at a part that fits, then the largest centred part of an allowed shape, as in torchvision. */
function drawPart({ width, height }: Picture, { scale, ratio }: RandomResizedCrop, random: Rng): Region {
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = width * height * between(random, ...scale);
    const shape = Math.exp(between(random, Math.log(ratio[0]), Math.log(ratio[1])));
    const w = Math.round(Math.sqrt(area * shape));
    const h = Math.round(Math.sqrt(area / shape));
    if (w > 0 && w <= width && h > 0 && h <= height)
      return { top: random.below(height - h + 1), left: random.below(width - w + 1), height: h, width: w };
  }
  const shape = width / height;
  const w = shape > ratio[1] ? Math.max(1, Math.round(height * ratio[1])) : width;
  const h = shape < ratio[0] ? Math.max(1, Math.round(width / ratio[0])) : height;
  return { top: Math.floor((height - h) / 2), left: Math.floor((width - w) / 2), height: h, width: w };
}

/** Mirrors left and right. */
export function mirrored(picture: Picture): Picture {
  const channels = channelsOf(picture);
  const { width, height, data } = picture;
  const out = new Uint8Array(data.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const from = (y * width + x) * channels;
      const to = (y * width + width - 1 - x) * channels;
      for (let c = 0; c < channels; c++) out[to + c] = data[from + c];
    }
  return { width, height, data: out };
}
