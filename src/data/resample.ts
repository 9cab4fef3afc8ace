import { must } from "../errors.ts";
import { channelsOf, type Picture, type Region } from "./picture.ts";

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

/** Fixed point as in Pillow: 32 bits less 8 for the pixel and 2 for the sum. */
const fractionBits = 22;
const half = 1 << (fractionBits - 1);
const mul = Math.imul;

/** Weights are handled four at a time: the unrolled loops below take a quarter of the time of plain ones. */
const unroll = 4;

/** How each output position of one axis is summed up from neighbouring input positions. */
interface Taps {
  /** First input position, per output position; never decreases. */
  readonly start: Int32Array;
  /** `[outputs, stride]`, fixed point; those not needed are 0. */
  readonly weights: Int32Array;
  /** Input positions summed up per output position, a multiple of {@link unroll}. */
  readonly stride: number;
}

/** Weights for the outputs from … to−1 of an axis resized from `size` to `target` pixels. */
function taps(size: number, target: number, from: number, to: number, { support, weight }: Filter): Taps {
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
  const stride = unroll * Math.ceil(most / unroll);
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
  const columns = taps(picture.width, width, left, left + region.width, filter);
  const rows = taps(picture.height, height, top, top + region.height, filter);
  const firstRow = rows.start[0];
  const lastRow = Math.min(picture.height, rows.start[region.height - 1] + rows.stride);
  const narrow = new Uint8ClampedArray((lastRow - firstRow) * region.width * channels);
  (channels === 3 ? alongColourRows : alongGreyRows)(picture, firstRow, columns, narrow);
  const data = new Uint8ClampedArray(region.width * region.height * channels);
  alongColumns(narrow, firstRow, rows, region.width * channels, data);
  return { width: region.width, height: region.height, data };
}

/** The whole picture, resized. See {@link resizeRegion}. */
export const resize = (picture: Picture, width: number, height: number, interpolation?: Interpolation): Picture =>
  resizeRegion(picture, { width, height }, { top: 0, left: 0, width, height }, interpolation);

// The outputs are clamped arrays: they clip what the negative lobes of the cubic overshoot. In pictures of fewer pixels
// than `unroll` the loops read past the end, with weight 0.

function alongColourRows({ data, width }: Picture, firstRow: number, columns: Taps, out: Uint8ClampedArray): void {
  const { start, weights, stride } = columns;
  for (let o = 0, row = firstRow * width; o < out.length; row += width)
    for (let x = 0; x < start.length; x++, o += 3) {
      let r = half;
      let g = half;
      let b = half;
      for (let p = 3 * (row + start[x]), k = x * stride, end = k + stride; k < end; k += 4, p += 12) {
        const w0 = weights[k];
        const w1 = weights[k + 1];
        const w2 = weights[k + 2];
        const w3 = weights[k + 3];
        r = (r + mul(w0, data[p]) + mul(w1, data[p + 3]) + mul(w2, data[p + 6]) + mul(w3, data[p + 9])) | 0;
        g = (g + mul(w0, data[p + 1]) + mul(w1, data[p + 4]) + mul(w2, data[p + 7]) + mul(w3, data[p + 10])) | 0;
        b = (b + mul(w0, data[p + 2]) + mul(w1, data[p + 5]) + mul(w2, data[p + 8]) + mul(w3, data[p + 11])) | 0;
      }
      out[o] = r >> fractionBits;
      out[o + 1] = g >> fractionBits;
      out[o + 2] = b >> fractionBits;
    }
}

function alongGreyRows({ data, width }: Picture, firstRow: number, columns: Taps, out: Uint8ClampedArray): void {
  const { start, weights, stride } = columns;
  for (let o = 0, row = firstRow * width; o < out.length; row += width)
    for (let x = 0; x < start.length; x++, o++) {
      let sum = half;
      for (let p = row + start[x], k = x * stride, end = k + stride; k < end; k++, p++)
        sum = (sum + mul(weights[k], data[p])) | 0;
      out[o] = sum >> fractionBits;
    }
}

function alongColumns(
  rows: Uint8ClampedArray,
  firstRow: number,
  { start, weights, stride }: Taps,
  width: number,
  out: Uint8ClampedArray,
): void {
  const sums = new Int32Array(width);
  const [second, third, fourth] = [width, 2 * width, 3 * width];
  for (let y = 0; y < start.length; y++) {
    sums.fill(half);
    for (let t = 0; t < stride; t += 4) {
      const k = y * stride + t;
      const w0 = weights[k];
      const w1 = weights[k + 1];
      const w2 = weights[k + 2];
      const w3 = weights[k + 3];
      const from = (start[y] - firstRow + t) * width;
      // Nearly always the last step is the only one, so that it writes the result itself.
      if (t + 4 < stride)
        for (let x = 0, p = from; x < width; x++, p++)
          sums[x] +=
            mul(w0, rows[p]) + mul(w1, rows[p + second]) + mul(w2, rows[p + third]) + mul(w3, rows[p + fourth]);
      else
        for (let x = 0, p = from, o = y * width; x < width; x++, p++, o++)
          out[o] =
            (sums[x] +
              mul(w0, rows[p]) +
              mul(w1, rows[p + second]) +
              mul(w2, rows[p + third]) +
              mul(w3, rows[p + fourth])) >>
            fractionBits;
    }
  }
}
