import { channelsOf, type Picture } from "../data/index.ts";

type Color = readonly [red: number, green: number, blue: number];

/** A colour for each of `count` classes: hues by the golden angle, so that neighbours differ, in three brightnesses. */
export const classColors = (count: number): readonly Color[] =>
  Array.from({ length: count }, (_, i) => {
    const [hue, value] = [(210 + 137.508 * i) % 360, [0.95, 0.7, 0.85][i % 3]];
    const saturation = [0.65, 0.85, 0.45][(i >> 1) % 3];
    return [5, 3, 1].map((n) => {
      const k = (n + hue / 60) % 6;
      return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
    }) as [number, number, number];
  });

/**
 * A picture with the colours of its pixels' classes laid over it; an edge between two classes is drawn in full colour.
 *
 * @param classes  of each pixel, row-major
 * @param opacity  of the colours. Default 0.5
 */
export function overlay(
  picture: Picture,
  classes: ArrayLike<number>,
  colors: readonly Color[],
  opacity = 0.5,
): Picture & { readonly data: Uint8Array } {
  const { width, height } = picture;
  const channels = channelsOf(picture);
  const data = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const own = classes[at];
      const isEdge = (x + 1 < width && classes[at + 1] !== own) || (y + 1 < height && classes[at + width] !== own);
      const share = isEdge ? 1 : opacity;
      for (let c = 0; c < 3; c++) {
        const value = picture.data[at * channels + (channels === 3 ? c : 0)];
        data[3 * at + c] = Math.round((1 - share) * value + share * (colors[own]?.[c] ?? 0));
      }
    }
  return { width, height, data };
}
