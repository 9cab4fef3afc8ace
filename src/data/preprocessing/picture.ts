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
