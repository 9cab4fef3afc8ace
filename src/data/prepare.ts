import type { Rng } from "../tensor/index.ts";
import { augmented } from "./augment/apply.ts";
import type { Augmentation } from "./augment/augmentation.ts";
import { eraseParts } from "./augment/erase.ts";
import { type Picture, withChannels } from "./picture.ts";
import { normalized, type Preprocessing, preprocess, resizeAndCrop, resizedSize } from "./preprocess.ts";
import { resize } from "./resample.ts";

/**
 * A decoded picture as training input, float32 `[C, H, W]`: {@link preprocess} with random changes in between.
 *
 * A random resized crop starts from the picture as it is, a random crop from the resized picture, and the other changes
 * from the resized and centre-cropped one.
 *
 * @param out memory for the values
 */
export function prepare(
  picture: Picture,
  config: Preprocessing,
  augment: readonly Augmentation[],
  random: Rng,
  out?: Float32Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  if (augment.length === 0) return preprocess(picture, config, out);
  const [, height, width] = config.inputSize;
  const changed = augmented(startOf(picture, config, augment), augment, { height, width }, random);
  const values = normalized(changed, config, out);
  eraseParts(values, config.inputSize, augment, random);
  return values;
}

function startOf(picture: Picture, config: Preprocessing, augment: readonly Augmentation[]): Picture {
  const has = (kind: Augmentation["kind"]): boolean => augment.some((step) => step.kind === kind);
  if (!has("randomResizedCrop") && !has("randomCrop")) return resizeAndCrop(picture, config);
  const start = withChannels(picture, config.inputSize[0]);
  if (has("randomResizedCrop")) return start;
  const { width, height } = resizedSize(start, config);
  return resize(start, width, height, config.interpolation);
}
