import { must } from "../../errors.ts";

/** Mean and standard deviation per channel, on the scale 0 … 1. */
export interface Normalization {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** The statistics nearly every ImageNet model was trained with (R, G, B). */
export const imagenetNormalization: Normalization = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
/** Channels from −1 to 1, which timm calls Inception's. */
export const inceptionNormalization: Normalization = { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] };

/**
 * The normalised value of each byte 0 … 255, one table per channel.
 *
 * Rounds to float32 after each of the three operations, as `ToTensor` followed by `Normalize` does in torchvision, so
 * that the values are equal to the bit.
 *
 * @throws `normalize/channels` when mean or std do not have one value per channel, or a std is not positive
 */
export function normalizationTables(
  { mean, std }: Normalization,
  channels: number,
): readonly Float32Array<ArrayBuffer>[] {
  must(
    mean.length === channels && std.length === channels && std.every((s) => s > 0) && mean.every(Number.isFinite),
    "normalize/channels",
    () =>
      `normalize: pictures have ${channels} channels, got mean [${mean}] and std [${std}]. Give one mean and one positive std per channel`,
    "usage",
  );
  const f = Math.fround;
  return mean.map((m, c) => Float32Array.from({ length: 256 }, (_, v) => f(f(f(v / 255) - f(m)) / f(std[c]))));
}
