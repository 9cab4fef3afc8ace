import { must } from "../../errors.ts";
import type { ImageShape } from "../sets/dataset.ts";
import { imagenetNormalization, type Normalization, normalizationTables } from "./normalize.ts";
import { channelsOf, crop, type Picture, withChannels } from "./picture.ts";
import { pictureKernel, places } from "./picture-kernel.ts";
import { type Interpolation, resizeRegion } from "./resample.ts";

/** How a picture of any size becomes the input of a network; the fields are those of timm. */
export interface Preprocessing extends Normalization {
  /** `[C, H, W]` of the input; C = 1 makes grey pictures. */
  readonly inputSize: ImageShape;
  /** Part of the resized picture's side that the crop keeps, in (0, 1]; default 0.875. Not used where `resize` is given. */
  readonly cropPct?: number;
  /** `center` keeps the aspect ratio and crops; `squash` changes it. Default `center`. */
  readonly cropMode?: "center" | "squash";
  /** Default `bilinear`. */
  readonly interpolation?: Interpolation;
  /** Size before the crop, in pixels: the shorter side (`center`) or both sides (`squash`); or exactly `[height, width]`. */
  readonly resize?: number | readonly [height: number, width: number];
}

/**
 * Preprocessing of the original RepMLP: at 224 the shorter side becomes 256 before the crop, at any other resolution the
 * shorter side becomes the resolution itself.
 */
export const imagenetPreprocessing = (resolution = 224): Preprocessing => ({
  inputSize: [3, resolution, resolution],
  resize: resolution === 224 ? 256 : resolution,
  cropMode: "center",
  interpolation: "bilinear",
  ...imagenetNormalization,
});

/**
 * A decoded picture as network input, float32 `[C, H, W]`; equal to the bit to Pillow and torchvision.
 *
 * @example preprocess({ width, height, data: rgb }, imagenetPreprocessing(224))
 */
export const preprocess = (picture: Picture, config: Preprocessing): Float32Array<ArrayBuffer> =>
  normalized(resizeAndCrop(picture, config), config);

/** The bytes that {@link preprocess} normalises: resized and centre-cropped to `inputSize`, zero-padded where too small. */
export function resizeAndCrop(picture: Picture, config: Preprocessing): Picture {
  const [channels, cropHeight, cropWidth] = config.inputSize;
  const { width, height } = resizedSize(picture, config);
  const top = cropOffset(height, cropHeight);
  const left = cropOffset(width, cropWidth);
  const inside = {
    top: Math.max(0, top),
    left: Math.max(0, left),
    height: Math.min(height, cropHeight),
    width: Math.min(width, cropWidth),
  };
  const resized = resizeRegion(withChannels(picture, channels), { width, height }, inside, config.interpolation);
  if (top >= 0 && left >= 0) return resized;
  return crop(resized, { top: Math.min(0, top), left: Math.min(0, left), height: cropHeight, width: cropWidth });
}

/** The size of a picture after resizing, before the crop, in pixels. */
export function resizedSize(
  { width, height }: { readonly width: number; readonly height: number },
  { inputSize: [, cropHeight, cropWidth], cropPct = 0.875, cropMode = "center", resize }: Preprocessing,
): { width: number; height: number } {
  must(
    cropPct > 0 && cropPct <= 1,
    "preprocess/crop-pct",
    () => `preprocess: cropPct must be in (0, 1], got ${cropPct}`,
    "usage",
  );
  if (resize !== undefined && typeof resize !== "number") return { height: resize[0], width: resize[1] };
  const targetHeight = resize ?? Math.floor(cropHeight / cropPct);
  const targetWidth = resize ?? Math.floor(cropWidth / cropPct);
  if (cropMode === "squash") return { width: targetWidth, height: targetHeight };
  if (targetHeight === targetWidth) return shorterSideTo(targetHeight, width, height);
  const ratio = Math.min(height / targetHeight, width / targetWidth);
  return { width: roundHalfEven(width / ratio), height: roundHalfEven(height / ratio) };
}

/** The longer side is cut down to whole pixels, never rounded up. */
function shorterSideTo(size: number, width: number, height: number): { width: number; height: number } {
  return width <= height
    ? { width: size, height: Math.floor((size * height) / width) }
    : { width: Math.floor((size * width) / height), height: size };
}

/** Where a centred crop starts; negative where it is larger than the picture and needs padding. */
const cropOffset = (size: number, cropSize: number): number =>
  cropSize > size ? -Math.floor((cropSize - size) / 2) : roundHalfEven((size - cropSize) / 2);

/** Python's `round` for numbers from 0: halves go to the even neighbour. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + (floor % 2) : Math.round(x);
}

/** Bytes `[H, W, C]` to normalised float32 `[C, H, W]`. */
export function normalized(picture: Picture, normalization: Normalization): Float32Array<ArrayBuffer> {
  const values = new Float32Array(picture.data.length);
  throughTables(picture, normalizationTables(normalization, channelsOf(picture)), values);
  return values;
}

/** As {@link normalized}, with the tables of {@link normalizationTables}, into `out`. */
export function throughTables(
  { data }: Picture,
  tables: readonly Float32Array<ArrayBuffer>[],
  out: Float32Array,
): void {
  const channels = tables.length;
  const kernel = pictureKernel();
  const tableBytes = 256 * 4;
  const [table, bytes, values] = places(kernel, channels * tableBytes, data.length, data.length * 4);
  const floats = new Float32Array(kernel.memory.buffer);
  new Uint8Array(kernel.memory.buffer).set(data, bytes);
  tables.forEach((numbers, c) => {
    floats.set(numbers, (table + c * tableBytes) / 4);
    const plane = values + (c * data.length * 4) / channels;
    kernel.throughTable(bytes + c, bytes + data.length, channels, table + c * tableBytes, plane);
  });
  out.set(floats.subarray(values / 4, values / 4 + data.length));
}

/** Preprocessing in one line, as it is printed beside every accuracy. */
export function describePreprocessing(config: Preprocessing): string {
  const { inputSize, cropPct = 0.875, cropMode = "center", interpolation = "bilinear", resize, mean, std } = config;
  const [channels, height, width] = inputSize;
  const size =
    resize === undefined ? `${Math.floor(height / cropPct)}` : typeof resize === "number" ? resize : resize.join(" x ");
  const how =
    typeof resize === "object" || cropMode === "squash" ? `resize to ${size}` : `resize the shorter side to ${size}`;
  const colours = channels === 3 ? "RGB" : "grey";
  return `${colours}, ${how} (${interpolation}, antialiased), centre crop ${height} x ${width}, scale to 0..1, mean ${mean.join(", ")}, std ${std.join(", ")}`;
}
