import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { decodePicture } from "../../src/data/node/decode.ts";
import { readNamed, reason } from "../../src/data/node/files.ts";
import type { Picture } from "../../src/data/preprocessing/picture.ts";
import {
  imagenetPreprocessing,
  type Preprocessing,
  preprocess,
  resizeAndCrop,
  resizedSize,
} from "../../src/data/preprocessing/preprocess.ts";
import { must, RepmlpError } from "../../src/errors.ts";
import type { Tensor, TensorSource, TypedArray } from "../../src/tensor/index.ts";

/** The result of one comparison with a reference. */
export interface TransformCheck {
  /** Picture and tensor, e.g. `gray_320x240.jpg/t224.uint8`. */
  readonly id: string;
  readonly passed: boolean;
  /** How far the values are apart. */
  readonly detail: string;
}

/** Opens a safetensors file; `openCheckpoint` of the checkpoint room gives such a map. */
export type ReadTensors = (path: string) => Promise<ReadonlyMap<string, TensorSource>>;

interface PictureRecord {
  readonly file: string;
  readonly tensors: string;
  readonly sizes_after_resize_wh: Readonly<Record<string, readonly number[]>>;
}

/**
 * Compares decoding and preprocessing with references made by Pillow and torchvision: a folder with `transforms.json`,
 * pictures, and for each picture a safetensors file with `decoded_rgb` (or every 8th row and column of it),
 * `t224.uint8` and `t224.normalized_sample` (shorter side 256, crop 224), `r<R>.uint8` (shorter side R, crop R; possibly
 * thinned out). Bytes and floats must be equal; channel means agree to 1e-6. A picture that cannot be read fails.
 *
 * @throws `conformance/record` when transforms.json cannot be used
 */
export async function* checkTransforms(folder: string, readTensors: ReadTensors): AsyncGenerator<TransformCheck> {
  for (const record of await readRecords(join(folder, "transforms.json"))) {
    const name = basename(record.file);
    try {
      yield* checkPicture(folder, name, record, readTensors);
    } catch (error) {
      if (!(error instanceof RepmlpError)) throw error;
      yield { id: `${name}/read`, passed: false, detail: error.message };
    }
  }
}

async function* checkPicture(
  folder: string,
  name: string,
  record: PictureRecord,
  readTensors: ReadTensors,
): AsyncGenerator<TransformCheck> {
  const { bytes } = await readNamed(join(folder, name));
  const picture = await decodePicture(bytes, name);
  const references = await readTensors(join(folder, basename(record.tensors)));
  for (const [key, source] of references) {
    const expected = await source.read();
    yield { id: `${name}/${key}`, ...difference(resultFor(key, picture, expected), expected.data) };
  }
  for (const [key, numbers] of Object.entries(record.sizes_after_resize_wh))
    yield { id: `${name}/${key}`, ...sizeOrMean(key, picture, numbers) };
}

async function readRecords(path: string): Promise<readonly PictureRecord[]> {
  try {
    const { images } = JSON.parse(await readFile(path, "utf8"));
    must(Array.isArray(images), "conformance/record", () => `${path}: no list "images"`, "file");
    return images;
  } catch (cause) {
    if (cause instanceof RepmlpError) throw cause;
    throw new RepmlpError("conformance/record", `${path}: cannot be read (${reason(cause)})`, "file", { cause });
  }
}

/** What our code makes of the picture where the reference has `key`, thinned out to the shape of the reference. */
function resultFor(key: string, picture: Picture, { shape }: Tensor): ArrayLike<number> {
  if (key === "t224.normalized_sample") {
    const values = preprocess(picture, imagenetPreprocessing(224));
    const step = 224 / shape[1];
    return Float32Array.from({ length: 3 * shape[1] * shape[2] }, (_, i) => {
      const [c, y, x] = [Math.floor(i / (shape[1] * shape[2])), Math.floor(i / shape[2]) % shape[1], i % shape[2]];
      return values[(c * 224 + y * step) * 224 + x * step];
    });
  }
  if (key.startsWith("decoded_rgb")) return thinned(picture, key === "decoded_rgb" ? 1 : 8);
  const resized = resizeAndCrop(picture, configOf(key));
  return thinned(resized, resized.height / shape[0]);
}

/** `t224…` and `r320…` name the two kinds of preprocessing. */
function configOf(key: string): Preprocessing {
  const [, kind, digits] = /^([tr])(\d+)/.exec(key) ?? [];
  must(kind, "conformance/record", () => `transforms: a reference is called ${key}, which no check knows`, "file");
  const size = Number(digits);
  return kind === "t" ? imagenetPreprocessing(size) : { ...imagenetPreprocessing(size), resize: size };
}

function thinned({ width, height, data }: Picture, step: number): Uint8Array {
  const rows = Math.ceil(height / step);
  const columns = Math.ceil(width / step);
  return Uint8Array.from({ length: rows * columns * 3 }, (_, i) => {
    const [y, x, c] = [Math.floor(i / (3 * columns)), Math.floor(i / 3) % columns, i % 3];
    return data[(y * step * width + x * step) * 3 + c];
  });
}

function difference(ours: ArrayLike<number>, expected: TypedArray): Omit<TransformCheck, "id"> {
  if (ours.length !== expected.length)
    return { passed: false, detail: `${ours.length} values, the reference has ${expected.length}` };
  let different = 0;
  let largest = 0;
  for (let i = 0; i < ours.length; i++) {
    const distance = Math.abs(ours[i] - Number(expected[i]));
    if (distance !== 0) different++;
    if (!(distance <= largest)) largest = distance;
  }
  return {
    passed: different === 0,
    detail: `${different} of ${ours.length} values differ, largest difference ${largest}`,
  };
}

/** `resize<R>`: size with the shorter side R; `norm_mean_R<R>`: channel means of the float tensor of `r<R>`. */
function sizeOrMean(key: string, picture: Picture, expected: readonly number[]): Omit<TransformCheck, "id"> {
  const size = Number(/\d+$/.exec(key)?.[0]);
  const config = configOf(`r${size}`);
  if (key.startsWith("resize")) {
    const { width, height } = resizedSize(picture, config);
    const passed = width === expected[0] && height === expected[1];
    return { passed, detail: `${width} x ${height}, the reference has ${expected.join(" x ")}` };
  }
  const values = preprocess(picture, config);
  const plane = size * size;
  const means = expected.map((_, c) => values.subarray(c * plane, (c + 1) * plane).reduce((a, b) => a + b, 0) / plane);
  const largest = Math.max(...means.map((mean, c) => Math.abs(mean - expected[c])));
  return { passed: largest <= 1e-6, detail: `channel means differ by at most ${largest.toExponential(1)}` };
}
