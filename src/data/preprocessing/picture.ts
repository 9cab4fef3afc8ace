import { must } from "../../errors.ts";

/** A picture as bytes `[height, width, channels]`, row-major; 1 channel (grey) or 3 (red, green, blue). */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array | Uint8ClampedArray;
}

/**
 * Number of channels, from the amount of data.
 *
 * @throws `picture/size` when it is neither 1 nor 3
 */
export function channelsOf({ width, height, data }: Picture): 1 | 3 {
  const channels = data.length / (width * height);
  must(
    channels === 1 || channels === 3,
    "picture/size",
    () =>
      `picture: ${width} x ${height} pixels need ${width * height} or ${3 * width * height} bytes, got ${data.length}`,
  );
  return channels;
}

/** The picture in 1 or 3 channels: grey is repeated, colour is weighed as in Pillow (ITU-R 601-2 luma). */
export function withChannels(picture: Picture, channels: number): Picture {
  const present = channelsOf(picture);
  if (present === channels) return picture;
  must(
    channels === 1 || channels === 3,
    "picture/channels",
    () => `picture: cannot be given ${channels} channels; only 1 (grey) and 3 (RGB) exist`,
    "usage",
  );
  const { width, height, data } = picture;
  const out = new Uint8Array(width * height * channels);
  if (channels === 3) for (let i = 0; i < out.length; i += 3) out[i] = out[i + 1] = out[i + 2] = data[i / 3];
  else for (let i = 0; i < out.length; i++) out[i] = luma(data[3 * i], data[3 * i + 1], data[3 * i + 2]);
  return { width, height, data: out };
}

/** Brightness 0 … 255 of a colour, with Pillow's integer weights. */
export const luma = (r: number, g: number, b: number): number => (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;

/** Where the pixel at row `y`, column `x` of an upright picture is, by the TIFF tag Orientation; `w` and `h` of the stored one. */
const places: Readonly<Record<number, (y: number, x: number, w: number, h: number) => readonly [number, number]>> = {
  2: (y, x, w) => [y, w - 1 - x],
  3: (y, x, w, h) => [h - 1 - y, w - 1 - x],
  4: (y, x, _, h) => [h - 1 - y, x],
  5: (y, x) => [x, y],
  6: (y, x, _, h) => [h - 1 - x, y],
  7: (y, x, w, h) => [h - 1 - x, w - 1 - y],
  8: (y, x, w) => [x, w - 1 - y],
};

/** The picture upright, by the TIFF tag Orientation: 1 or an unknown value leaves it as it is, 5 to 8 exchange the sides. */
export function oriented(picture: Picture, orientation: number): Picture {
  const place = places[orientation];
  if (!place) return picture;
  const channels = channelsOf(picture);
  const { width: w, height: h } = picture;
  const [width, height] = orientation >= 5 ? [h, w] : [w, h];
  const data = new Uint8Array(picture.data.length);
  for (let y = 0, o = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [row, column] = place(y, x, w, h);
      for (let c = 0, i = (row * w + column) * channels; c < channels; c++) data[o++] = picture.data[i++];
    }
  return { width, height, data };
}

/** A part of a picture (upper left corner and size, in pixels); what lies outside the picture is 0. */
export interface Region {
  readonly top: number;
  readonly left: number;
  readonly height: number;
  readonly width: number;
}

/** Cuts a region out. Copies. */
export function crop(picture: Picture, { top, left, height, width }: Region): Picture {
  const channels = channelsOf(picture);
  const data = new Uint8Array(width * height * channels);
  const first = Math.max(0, -left);
  const last = Math.min(width, picture.width - left);
  if (last <= first) return { width, height, data };
  for (let y = Math.max(0, -top); y < Math.min(height, picture.height - top); y++) {
    const from = ((y + top) * picture.width + left) * channels;
    data.set(picture.data.subarray(from + first * channels, from + last * channels), (y * width + first) * channels);
  }
  return { width, height, data };
}
