import { type Rng, sizeOf } from "../../tensor/index.ts";
import { augmented } from "../augment/apply.ts";
import type { Augmentation } from "../augment/augmentation.ts";
import { eraseParts } from "../augment/erase.ts";
import { normalizationTables } from "./normalize.ts";
import { type Picture, withChannels } from "./picture.ts";
import { type Preprocessing, resizeAndCrop, resizedSize, throughTables } from "./preprocess.ts";
import { resize } from "./resample.ts";

/**
 * A decoded picture as training input, float32 `[C, H, W]`: {@link preprocess} with random changes in between.
 *
 * A random resized crop starts from the picture as it is, a random crop from the resized picture, and the other changes
 * from the resized and centre-cropped one.
 */
export function prepare(
  picture: Picture,
  config: Preprocessing,
  augment: readonly Augmentation[],
  random: Rng,
): Float32Array<ArrayBuffer> {
  const values = new Float32Array(sizeOf(config.inputSize));
  prepareInto(values, picture, config, augment, random);
  return values;
}

/** As {@link prepare}, in memory that is there already. */
export function prepareInto(
  values: Float32Array,
  picture: Picture,
  config: Preprocessing,
  augment: readonly Augmentation[],
  random: Rng,
): void {
  const [, height, width] = config.inputSize;
  const changed =
    augment.length === 0
      ? resizeAndCrop(picture, config)
      : augmented(startOf(picture, config, augment), augment, { height, width }, random);
  throughTables(changed, normalizationTables(config, config.inputSize[0]), values);
  eraseParts(values, config.inputSize, augment, random);
}

function startOf(picture: Picture, config: Preprocessing, augment: readonly Augmentation[]): Picture {
  const has = (kind: Augmentation["kind"]): boolean => augment.some((step) => step.kind === kind);
  if (!has("randomResizedCrop") && !has("randomCrop")) return resizeAndCrop(picture, config);
  const start = withChannels(picture, config.inputSize[0]);
  if (has("randomResizedCrop")) return start;
  const { width, height } = resizedSize(start, config);
  return resize(start, width, height, config.interpolation);
}
