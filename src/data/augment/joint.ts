import type { Rng } from "../../tensor/index.ts";
import { channelsOf, crop, type Picture } from "../preprocessing/picture.ts";
import { resize } from "../preprocessing/resample.ts";
import { between, drawOffset, mirrored } from "./crops.ts";

/** Random changes of a picture together with its mask, in this order, as in the code of PSPNet's author; then a crop. */
export interface MaskAugmentation {
  /** Least and greatest factor of height and width. Default 0.5 and 2. */
  readonly scale?: readonly [least: number, greatest: number];
  /** Greatest angle in degrees, either way. Default 0, no rotation. */
  readonly rotate?: number;
  /** Probability of a rotation. Default 0.5. */
  readonly rotateProbability?: number;
  /** Probability of a Gaussian blur of 5 × 5 pixels. Default 0. */
  readonly blur?: number;
  /** Probability of mirroring left and right. Default 0.5. */
  readonly flip?: number;
}

/** A picture with a label for each pixel, row-major. */
export interface Labelled {
  readonly picture: Picture;
  readonly labels: Uint16Array;
}

/** Marks pixels outside of a picture: no label, since those are bytes. */
export const OUTSIDE = 256;

/** Tries at a crop in which a pixel counts. */
const TRIES = 10;

/**
 * A picture and its mask changed at random and cut to a size. Where a picture is smaller, it lies in the middle. Another
 * place is tried where no pixel of a crop counts.
 *
 * @param counts  whether a label counts anywhere
 */
export function augmented(
  pair: Labelled,
  [height, width]: readonly [height: number, width: number],
  { scale = [0.5, 2], rotate = 0, rotateProbability = 0.5, blur = 0, flip = 0.5 }: MaskAugmentation,
  random: Rng,
  counts: (label: number) => boolean,
): Labelled {
  let changed = scaled(pair, between(random, ...scale));
  if (rotate > 0 && random.next() < rotateProbability) changed = turned(changed, between(random, -rotate, rotate));
  if (blur > 0 && random.next() < blur) changed = { ...changed, picture: blurred(changed.picture) };
  if (random.next() < flip) changed = flipped(changed);
  const { picture } = changed;
  for (let attempt = 1; ; attempt++) {
    const [top, left] = [
      [picture.height, height],
      [picture.width, width],
    ].map(([own, wanted]) => (own >= wanted ? drawOffset(random, own, 0, wanted) : -Math.floor((wanted - own) / 2)));
    const cut = window(changed, top, left, height, width);
    if (attempt === TRIES || cut.labels.some((label) => label !== OUTSIDE && counts(label))) return cut;
  }
}

/** Scaled by one factor: the picture bilinearly, the mask to the nearest pixel. */
function scaled({ picture, labels }: Labelled, factor: number): Labelled {
  const [width, height] = [picture.width, picture.height].map((d) => Math.max(1, Math.round(d * factor)));
  const own = new Uint16Array(width * height);
  const source = (o: number, from: number, to: number): number =>
    Math.min(from - 1, Math.floor(((o + 0.5) * from) / to));
  for (let y = 0; y < height; y++) {
    const row = source(y, picture.height, height) * picture.width;
    for (let x = 0; x < width; x++) own[y * width + x] = labels[row + source(x, picture.width, width)];
  }
  return { picture: resize(picture, width, height), labels: own };
}

/** Turned about the centre, counter-clockwise: the picture bilinearly, the mask to the nearest pixel. */
export function turned({ picture, labels }: Labelled, degrees: number): Labelled {
  const { width, height, data } = picture;
  const channels = channelsOf(picture);
  const angle = (degrees * Math.PI) / 180;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const [cx, cy] = [(width - 1) / 2, (height - 1) / 2];
  const out = new Uint8Array(data.length);
  const own = new Uint16Array(labels.length).fill(OUTSIDE);
  const within = (v: number, size: number): number => Math.min(size - 1, Math.max(0, v));
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const sx = cos * (x - cx) - sin * (y - cy) + cx;
      const sy = sin * (x - cx) + cos * (y - cy) + cy;
      const [nx, ny] = [Math.round(sx), Math.round(sy)];
      if (nx < 0 || ny < 0 || nx >= width || ny >= height) continue;
      const at = y * width + x;
      own[at] = labels[ny * width + nx];
      const [x0, y0] = [Math.floor(sx), Math.floor(sy)];
      const [u, v] = [sx - x0, sy - y0];
      const [left, right] = [within(x0, width), within(x0 + 1, width)];
      const [upper, lower] = [within(y0, height) * width, within(y0 + 1, height) * width];
      for (let c = 0; c < channels; c++) {
        const value = (row: number, column: number): number => data[(row + column) * channels + c];
        const above = (1 - u) * value(upper, left) + u * value(upper, right);
        const below = (1 - u) * value(lower, left) + u * value(lower, right);
        out[at * channels + c] = Math.round((1 - v) * above + v * below);
      }
    }
  return { picture: { width, height, data: out }, labels: own };
}

/** Weights of 5 pixels, those that OpenCV takes for a window of 5 (σ = 1.1). */
const blurWeights = (() => {
  const raw = [-2, -1, 0, 1, 2].map((d) => Math.exp(-(d * d) / (2 * 1.1 ** 2)));
  const sum = raw.reduce((a, b) => a + b);
  return raw.map((w) => w / sum);
})();

/** Blurred by a Gaussian of 5 × 5 pixels; beyond the edge the picture is mirrored. */
export function blurred(picture: Picture): Picture {
  const { width, height, data } = picture;
  const channels = channelsOf(picture);
  const mirror = (i: number, size: number): number => {
    const j = i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
    return Math.min(size - 1, Math.max(0, j));
  };
  const rows = new Float32Array(data.length);
  const out = new Uint8Array(data.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let d = -2; d <= 2; d++)
          sum += blurWeights[d + 2] * data[(y * width + mirror(x + d, width)) * channels + c];
        rows[(y * width + x) * channels + c] = sum;
      }
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let d = -2; d <= 2; d++)
          sum += blurWeights[d + 2] * rows[(mirror(y + d, height) * width + x) * channels + c];
        out[(y * width + x) * channels + c] = Math.round(sum);
      }
  return { width, height, data: out };
}

function flipped({ picture, labels }: Labelled): Labelled {
  const { width } = picture;
  const at = (i: number): number => i - (i % width) + width - 1 - (i % width);
  return { picture: mirrored(picture), labels: labels.map((_, i) => labels[at(i)]) };
}

/** The part of a picture and its mask from a corner on, marked where it lies outside. */
export function window(
  { picture, labels }: Labelled,
  top: number,
  left: number,
  height: number,
  width: number,
): Labelled {
  const part = new Uint16Array(height * width).fill(OUTSIDE);
  for (let y = Math.max(0, -top); y < Math.min(height, picture.height - top); y++) {
    const from = (y + top) * picture.width + left;
    for (let x = Math.max(0, -left); x < Math.min(width, picture.width - left); x++)
      part[y * width + x] = labels[from + x];
  }
  return { picture: crop(picture, { top, left, height, width }), labels: part };
}
