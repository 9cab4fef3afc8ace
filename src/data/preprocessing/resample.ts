import { must } from "../../errors.ts";
import { channelsOf, type Picture, type Region } from "./picture.ts";
import { fractionBits, pictureKernel, places, rowTaps } from "./picture-kernel.ts";

export type Interpolation = "bilinear" | "bicubic";

interface Filter {
  /** Half width, in output pixels when shrinking. */
  readonly support: number;
  weight(x: number): number;
}

const filters: Readonly<Record<Interpolation, Filter>> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  // Keys' cubic with a = −1/2.
  bicubic: {
    support: 2,
    weight(x) {
      const d = Math.abs(x);
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
    },
  },
};

/** How each output position of one axis is summed up from neighbouring input positions. */
interface Taps {
  /** First input position, per output position; never decreases. */
  readonly start: Int32Array;
  /** `[outputs, stride]`, fixed point; those not needed are 0. */
  readonly weights: Int32Array;
  /** Input positions summed up per output position. */
  readonly stride: number;
}

/** Weights for the outputs from … to−1 of an axis resized from `size` to `target` pixels, in multiples of `step`. */
function taps(size: number, target: number, from: number, to: number, { support, weight }: Filter, step: number): Taps {
  const scale = size / target;
  // Shrinking widens the filter, so that every input pixel counts (antialiasing).
  const widening = Math.max(scale, 1);
  const reach = support * widening;
  // Pillow multiplies by the reciprocal; a division would round differently.
  const shrink = 1 / widening;
  const first = new Int32Array(to - from);
  const last = new Int32Array(to - from);
  let most = 0;
  for (let o = 0; o < to - from; o++) {
    const centre = (from + o + 0.5) * scale;
    first[o] = Math.max(0, Math.trunc(centre - reach + 0.5));
    last[o] = Math.min(size, Math.trunc(centre + reach + 0.5));
    most = Math.max(most, last[o] - first[o]);
  }
  const stride = step * Math.ceil(most / step);
  // Further left, with zeros in front, where the unused weights would reach past the end.
  const start = first.map((x) => Math.max(0, Math.min(x, size - stride)));
  const weights = new Int32Array((to - from) * stride);
  const exact = new Float64Array(most);
  for (let o = 0; o < to - from; o++) {
    const centre = (from + o + 0.5) * scale;
    let sum = 0;
    for (let x = first[o]; x < last[o]; x++) {
      const w = weight((x - centre + 0.5) * shrink);
      exact[x - first[o]] = w;
      sum += w;
    }
    const k = o * stride - start[o];
    for (let x = first[o]; x < last[o]; x++) {
      const fixed = (sum !== 0 ? exact[x - first[o]] / sum : 0) * (1 << fractionBits);
      weights[k + x] = Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
  }
  return { start, weights, stride };
}

/**
 * The region of `picture` resized to `width` x `height` pixels, computing only what the region needs.
 *
 * Equal to the byte to Pillow's `resize` (antialiasing, 22-bit fixed point, first along rows, rounded to 8 bits, then
 * along columns) followed by a crop. The region must lie inside the resized picture.
 *
 * @throws `resample/region`
 */
export function resizeRegion(
  picture: Picture,
  { width, height }: { readonly width: number; readonly height: number },
  region: Region,
  interpolation: Interpolation = "bilinear",
): Picture {
  const { top, left } = region;
  must(
    top >= 0 && left >= 0 && top + region.height <= height && left + region.width <= width,
    "resample/region",
    () =>
      `resize: the region ${region.width} x ${region.height} at (${left}, ${top}) does not lie inside ${width} x ${height}`,
  );
  must(
    region.width > 0 && region.height > 0,
    "resample/empty",
    () => `resize: ${picture.width} x ${picture.height} pixels to ${width} x ${height} leaves no pixel`,
  );
  const channels = channelsOf(picture);
  const filter = filters[interpolation];
  const columns = taps(picture.width, width, left, left + region.width, filter, rowTaps);
  const rows = taps(picture.height, height, top, top + region.height, filter, 1);
  return { width: region.width, height: region.height, data: resampled(picture, channels, columns, rows) };
}

/** The whole picture, resized. See {@link resizeRegion}. */
export const resize = (picture: Picture, width: number, height: number, interpolation?: Interpolation): Picture =>
  resizeRegion(picture, { width, height }, { top: 0, left: 0, width, height }, interpolation);

/** Source rows are handed to the kernel in bands of about this many bytes, which then stay in the cache. */
const bandBytes = 1 << 18;

/** All of the region's bytes. In pictures narrower than `rowTaps` the kernel reads past a row's end, with weight 0. */
function resampled(picture: Picture, channels: 1 | 3, columns: Taps, rows: Taps): Uint8ClampedArray {
  const kernel = pictureKernel();
  const alongRows = channels === 3 ? kernel.colourRows : kernel.greyRows;
  const pitch = picture.width * channels;
  const width = columns.start.length * channels;
  const first = rows.start[0];
  const last = rows.start[rows.start.length - 1] + rows.stride;
  const band = Math.max(1, Math.floor(bandBytes / pitch));
  const outBytes = rows.start.length * width;
  const [columnStarts, columnWeights, rowStarts, rowWeights, source, narrow, out] = places(
    kernel,
    columns.start.byteLength,
    columns.weights.byteLength,
    rows.start.byteLength,
    rows.weights.byteLength,
    band * pitch,
    (last - first) * width,
    outBytes,
  );
  const numbers = new Int32Array(kernel.memory.buffer);
  numbers.set(
    columns.start.map((x) => x * channels),
    columnStarts / 4,
  );
  numbers.set(columns.weights, columnWeights / 4);
  numbers.set(
    rows.start.map((y) => (y - first) * width),
    rowStarts / 4,
  );
  numbers.set(rows.weights, rowWeights / 4);
  const bytes = new Uint8ClampedArray(kernel.memory.buffer);
  for (let row = first; row < last; row += band) {
    const end = Math.min(last, row + band);
    bytes.set(picture.data.subarray(row * pitch, end * pitch), source);
    alongRows(
      source,
      source + (end - row) * pitch,
      pitch,
      columnStarts,
      columnStarts + columns.start.byteLength,
      columnWeights,
      4 * columns.stride,
      narrow + (row - first) * width,
    );
  }
  kernel.alongColumns(narrow, width, rowStarts, rowWeights, 4 * rows.stride, out, out + outBytes);
  return bytes.slice(out, out + outBytes);
}
