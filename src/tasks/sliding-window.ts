import { type Normalization, normalized, type Picture, resize } from "../data/index.ts";
import { crop } from "../data/preprocessing/picture.ts";
import { fmt, must } from "../errors.ts";
import { Tensor } from "../tensor/index.ts";

/** Height and width in pixels. */
export type Size = readonly [height: number, width: number];

/** A network that is ready for pictures of a size: `[n, 3, height, width]` → logits `[n, classes, height, width]`. */
export type PixelClassifier = (images: Tensor) => Promise<Tensor>;

export interface SlidingOptions {
  /** Height and width of what the network takes at once. Pictures that are larger are looked at in overlapping tiles. */
  readonly tile: (picture: Size) => Size;
  /** Distance of two tiles as a share of their size. Default 2/3. */
  readonly stride?: number;
  /** Factors of height and width at which a picture is looked at. Default 1 alone. */
  readonly scales?: readonly number[];
  /** Whether the mirrored picture is looked at, too. Default false. */
  readonly mirror?: boolean;
  /** Tiles per run of the network. Default 4. */
  readonly batchSize?: number;
  /** What the network's input is made with. */
  readonly normalization: Normalization;
}

/** Sizes at which a picture's corners are those of maps of 1/8: the next larger, for looking at pictures as a whole. */
export const wholePicture = (size: Size): Size => size.map((d) => 8 * Math.ceil((d - 1) / 8) + 1) as [number, number];

/**
 * Probabilities of the classes of a picture's pixels, float32 `[classes, H, W]`, as the author of PSPNet finds them: the
 * softmax of overlapping tiles, averaged where they overlap, over the picture and its mirror image, and over scales, from
 * which it is resized back. Where a tile is larger than the picture, what is missing below and at the right is the mean.
 *
 * @param compiled  the network for tiles of a size
 * @throws `segmentation/sliding` for a stride or scale that is none
 */
export async function pixelProbabilities(
  compiled: (tile: Size) => Promise<PixelClassifier>,
  picture: Picture,
  { tile: tileOf, stride = 2 / 3, scales = [1], mirror = false, batchSize = 4, normalization }: SlidingOptions,
): Promise<Tensor> {
  must(
    stride > 0 && stride <= 1 && scales.length > 0 && scales.every((s) => s > 0 && Number.isFinite(s)),
    "segmentation/sliding",
    () =>
      `segmentation: stride must be a share above 0 and up to 1, scales positive numbers, got ${stride} and ${fmt(scales)}`,
    "usage",
  );
  const { width, height } = picture;
  let sum: Float32Array<ArrayBuffer> | undefined;
  let classes = 0;
  for (const scale of scales) {
    const [h, w] = [height, width].map((d) => Math.max(1, Math.round(d * scale)));
    const scaled = h === height && w === width ? picture : resize(picture, w, h);
    const tile = tileOf([h, w]);
    const found = await oneScale(await compiled(tile), scaled, { tile, stride, mirror, batchSize, normalization });
    classes = found.shape[0];
    const back = resizedPlanes(found, [height, width]);
    if (!sum) sum = back;
    else for (let i = 0; i < sum.length; i++) sum[i] += back[i];
  }
  const total = sum as Float32Array<ArrayBuffer>;
  if (scales.length > 1) for (let i = 0; i < total.length; i++) total[i] /= scales.length;
  return new Tensor("float32", [classes, height, width], total);
}

/** Where tiles start along an axis: the last one ends with the picture. */
function startsOf(size: number, tile: number, stride: number): readonly number[] {
  if (size <= tile) return [0];
  const step = Math.max(1, Math.ceil(tile * stride));
  const count = Math.ceil((size - tile) / step) + 1;
  return Array.from({ length: count }, (_, i) => Math.min(i * step, size - tile));
}

interface ScaleOptions extends Required<Pick<SlidingOptions, "stride" | "mirror" | "batchSize" | "normalization">> {
  readonly tile: Size;
}

/** Probabilities of a picture as it is. */
async function oneScale(
  run: PixelClassifier,
  picture: Picture,
  { tile: [tileHeight, tileWidth], stride, mirror, batchSize, normalization }: ScaleOptions,
): Promise<Tensor> {
  const { width, height } = picture;
  const tiles = startsOf(height, tileHeight, stride).flatMap((top) =>
    startsOf(width, tileWidth, stride).flatMap((left) =>
      (mirror ? [false, true] : [false]).map((isMirrored) => ({ top, left, isMirrored })),
    ),
  );
  const inner = tileHeight * tileWidth;
  const counts = new Float32Array(height * width);
  let sums: Float32Array<ArrayBuffer> | undefined;
  let classes = 0;
  for (let start = 0; start < tiles.length; start += batchSize) {
    const batch = tiles.slice(start, start + batchSize);
    const images = new Float32Array(batch.length * 3 * inner);
    for (const [i, place] of batch.entries())
      images.set(tileOfPicture(picture, place, [tileHeight, tileWidth], normalization), i * 3 * inner);
    const logits = await run(new Tensor("float32", [batch.length, 3, tileHeight, tileWidth], images));
    must(
      logits.shape.length === 4 && logits.shape[2] === tileHeight && logits.shape[3] === tileWidth,
      "segmentation/output",
      () =>
        `segmentation: the network must give [N, classes, ${tileHeight}, ${tileWidth}], got ${fmt(logits.shape)}. Give one that is for segmentation.`,
      "model",
    );
    classes = logits.shape[1];
    sums ??= new Float32Array(classes * height * width);
    const values = softmaxOfPlanes(logits.data as Float32Array, batch.length, classes, inner);
    for (const [i, { top, left, isMirrored }] of batch.entries())
      for (let y = 0; y < Math.min(tileHeight, height - top); y++)
        for (let x = 0; x < Math.min(tileWidth, width - left); x++) {
          const to = (top + y) * width + left + x;
          const from = y * tileWidth + (isMirrored ? tileWidth - 1 - x : x);
          counts[to]++;
          for (let c = 0; c < classes; c++) sums[c * height * width + to] += values[(i * classes + c) * inner + from];
        }
  }
  const total = sums as Float32Array<ArrayBuffer>;
  for (let i = 0; i < total.length; i++) total[i] /= counts[i % counts.length];
  return new Tensor("float32", [classes, height, width], total);
}

/** The network's input for a tile; what is outside of the picture is the mean, which is 0. */
function tileOfPicture(
  picture: Picture,
  { top, left, isMirrored }: { readonly top: number; readonly left: number; readonly isMirrored: boolean },
  [height, width]: Size,
  normalization: Normalization,
): Float32Array {
  const values = normalized(crop(picture, { top, left, height, width }), normalization);
  const [ownHeight, ownWidth] = [picture.height - top, picture.width - left];
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < height; y++) {
      const row = (c * height + y) * width;
      if (y >= ownHeight) values.fill(0, row, row + width);
      else if (ownWidth < width) values.fill(0, row + ownWidth, row + width);
      if (isMirrored) values.subarray(row, row + width).reverse();
    }
  return values;
}

/** Softmax over the classes of `[n, classes, size]`, in place. */
function softmaxOfPlanes(values: Float32Array, n: number, classes: number, size: number): Float32Array {
  for (let i = 0; i < n; i++)
    for (let p = 0; p < size; p++) {
      const at = i * classes * size + p;
      let most = Number.NEGATIVE_INFINITY;
      for (let c = 0; c < classes; c++) most = Math.max(most, values[at + c * size]);
      let sum = 0;
      for (let c = 0; c < classes; c++) sum += values[at + c * size] = Math.exp(values[at + c * size] - most);
      for (let c = 0; c < classes; c++) values[at + c * size] /= sum;
    }
  return values;
}

/** Planes `[C, h, w]` resized bilinearly, pixels' centres aligned as OpenCV has them. */
function resizedPlanes({ data, shape: [planes, h, w] }: Tensor, [height, width]: Size): Float32Array<ArrayBuffer> {
  const values = data as Float32Array<ArrayBuffer>;
  if (h === height && w === width) return values;
  const taps = (to: number, from: number) =>
    Array.from({ length: to }, (_, i) => {
      const place = Math.min(from - 1, Math.max(0, ((i + 0.5) * from) / to - 0.5));
      const first = Math.min(from - 1, Math.floor(place));
      return [first, Math.min(from - 1, first + 1), place - first] as const;
    });
  const [rows, columns] = [taps(height, h), taps(width, w)];
  const out = new Float32Array(planes * height * width);
  for (let c = 0, o = 0; c < planes; c++)
    for (const [y0, y1, v] of rows)
      for (const [x0, x1, u] of columns) {
        const [a, b] = [(c * h + y0) * w, (c * h + y1) * w];
        out[o++] =
          (1 - v) * ((1 - u) * values[a + x0] + u * values[a + x1]) +
          v * ((1 - u) * values[b + x0] + u * values[b + x1]);
      }
  return out;
}
