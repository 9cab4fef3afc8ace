import { channelsOf, type Picture } from "../preprocessing/picture.ts";

/** Where output pixels come from: input x = a·x + b·y + c, input y = d·x + e·y + f. */
export type AffineMap = readonly [a: number, b: number, c: number, d: number, e: number, f: number];

/** 16 bits of fraction, as in Pillow. */
const fixed = (v: number): number => Math.floor(v * 65536 + 0.5);

/** The picture moved by an affine map, nearest pixel, 0 outside; equal to Pillow's `transform(AFFINE, NEAREST)`. */
export function transformed(picture: Picture, [a, b, c, d, e, f]: AffineMap): Picture {
  const { width, height, data } = picture;
  const channels = channelsOf(picture);
  const out = new Uint8Array(data.length);
  const [stepXx, stepXy, stepYx, stepYy] = [fixed(a), fixed(b), fixed(d), fixed(e)];
  // Pixels are looked up at their centres.
  const startX = fixed(c + a / 2 + b / 2);
  const startY = fixed(f + d / 2 + e / 2);
  for (let y = 0, o = 0; y < height; y++)
    for (let x = 0; x < width; x++, o += channels) {
      const fromX = Math.floor((startX + stepXx * x + stepXy * y) / 65536);
      const fromY = Math.floor((startY + stepYx * x + stepYy * y) / 65536);
      if (fromX < 0 || fromX >= width || fromY < 0 || fromY >= height) continue;
      const from = (fromY * width + fromX) * channels;
      for (let k = 0; k < channels; k++) out[o + k] = data[from + k];
    }
  return { width, height, data: out };
}

/** Moves each row by `amount` pixels per pixel of height. */
export const shearedX = (picture: Picture, amount: number): Picture => transformed(picture, [1, amount, 0, 0, 1, 0]);

export const shearedY = (picture: Picture, amount: number): Picture => transformed(picture, [1, 0, 0, amount, 1, 0]);

/** Moves the picture by whole pixels, to the left for positive numbers. */
export const movedX = (picture: Picture, pixels: number): Picture =>
  transformed(picture, [1, 0, Math.trunc(pixels), 0, 1, 0]);

export const movedY = (picture: Picture, pixels: number): Picture =>
  transformed(picture, [1, 0, 0, 0, 1, Math.trunc(pixels)]);

/** Turns about the centre, counter-clockwise, by `degrees`. */
export function rotated(picture: Picture, degrees: number): Picture {
  const angle = (-degrees * Math.PI) / 180;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const [x, y] = [picture.width / 2, picture.height / 2];
  return transformed(picture, [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]);
}
