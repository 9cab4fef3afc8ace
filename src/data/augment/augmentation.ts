import { must } from "../../errors.ts";
import { type Rng, rng } from "../../tensor/index.ts";
import type { Interpolation } from "../preprocessing/resample.ts";
import type { Draw } from "../sets/dataset.ts";

/** Zero-pads by `padding` pixels on each side, then cuts the input size out at a random place. */
export interface RandomCrop {
  readonly kind: "randomCrop";
  readonly padding: number;
}

/** Mirrors left and right. */
export interface HorizontalFlip {
  readonly kind: "horizontalFlip";
  readonly probability: number;
}

/** Cuts out a random part of random shape and resizes it to the input size. */
export interface RandomResizedCrop {
  readonly kind: "randomResizedCrop";
  /** Least and greatest part of the picture's area. */
  readonly scale: readonly [least: number, greatest: number];
  /** Least and greatest width / height. */
  readonly ratio: readonly [least: number, greatest: number];
  readonly interpolation: Interpolation;
}

/** Changes brightness, contrast, saturation and hue, in random order; 0 leaves one as it is. */
export interface ColorJitter {
  readonly kind: "colorJitter";
  /** Factor from 1 − x to 1 + x, but not below 0. */
  readonly brightness: number;
  readonly contrast: number;
  readonly saturation: number;
  /** Greatest turn of the colour circle, 0 … 0.5. */
  readonly hue: number;
}

/** RandAugment (arXiv 1909.13719): some operations drawn from fourteen, all of one strength. */
export interface RandAugment {
  readonly kind: "randAugment";
  /** Operations per picture. */
  readonly operations: number;
  /** Strength, 0 … 30. */
  readonly magnitude: number;
}

/** AutoAugment (arXiv 1805.09501): one of the pairs of operations that were found for a data set. */
export interface AutoAugment {
  readonly kind: "autoAugment";
  readonly policy: "imagenet" | "cifar10";
}

/** Random erasing (arXiv 1708.04896): a rectangle of the normalised picture becomes 0 or noise. */
export interface RandomErasing {
  readonly kind: "randomErasing";
  readonly probability: number;
  /** Least and greatest part of the picture's area. */
  readonly scale: readonly [least: number, greatest: number];
  /** Least and greatest height / width. */
  readonly ratio: readonly [least: number, greatest: number];
  /** What the rectangle is filled with: zeros, or standard normal noise. */
  readonly fill: "zero" | "noise";
}

/** Cutout (arXiv 1708.04552): a square of the normalised picture becomes 0; its centre is any pixel. */
export interface Cutout {
  readonly kind: "cutout";
  /** Side in pixels. */
  readonly size: number;
}

/**
 * A random change of training pictures. Plain data, so that it travels to worker threads and into the record of a run;
 * the functions beside the types fill in the defaults, which are those of torchvision.
 *
 * The changes of a picture are made in the order of the list; erasing and Cutout come after normalisation, whatever
 * their place.
 */
export type Augmentation =
  | RandomCrop
  | HorizontalFlip
  | RandomResizedCrop
  | ColorJitter
  | RandAugment
  | AutoAugment
  | RandomErasing
  | Cutout;

type Options<T> = Partial<Omit<T, "kind">>;

/** `randomCrop({ padding: 4 })` is the usual choice for CIFAR. */
export function randomCrop({ padding = 4 }: Options<RandomCrop> = {}): RandomCrop {
  demand(Number.isInteger(padding) && padding >= 0, "randomCrop", `padding must be an integer from 0, got ${padding}`);
  return { kind: "randomCrop", padding };
}

export function horizontalFlip({ probability = 0.5 }: Options<HorizontalFlip> = {}): HorizontalFlip {
  demandProbability(probability, "horizontalFlip");
  return { kind: "horizontalFlip", probability };
}

export function randomResizedCrop(options: Options<RandomResizedCrop> = {}): RandomResizedCrop {
  const { scale = [0.08, 1], ratio = [3 / 4, 4 / 3], interpolation = "bilinear" } = options;
  demandRange(scale, 1, "randomResizedCrop: scale");
  demandRange(ratio, Number.POSITIVE_INFINITY, "randomResizedCrop: ratio");
  return { kind: "randomResizedCrop", scale, ratio, interpolation };
}

export function colorJitter(options: Options<ColorJitter>): ColorJitter {
  const { brightness = 0, contrast = 0, saturation = 0, hue = 0 } = options;
  demand(Math.min(brightness, contrast, saturation, hue) >= 0, "colorJitter", "strengths must not be negative");
  demand(hue <= 0.5, "colorJitter", `hue must be in 0 … 0.5, got ${hue}`);
  return { kind: "colorJitter", brightness, contrast, saturation, hue };
}

export function randAugment({ operations = 2, magnitude = 9 }: Options<RandAugment> = {}): RandAugment {
  demand(
    Number.isInteger(operations) && operations >= 0,
    "randAugment",
    `operations must be an integer from 0, got ${operations}`,
  );
  demand(
    Number.isInteger(magnitude) && magnitude >= 0 && magnitude <= 30,
    "randAugment",
    `magnitude must be an integer in 0 … 30, got ${magnitude}`,
  );
  return { kind: "randAugment", operations, magnitude };
}

export const autoAugment = ({ policy = "imagenet" }: Options<AutoAugment> = {}): AutoAugment => ({
  kind: "autoAugment",
  policy,
});

export function randomErasing(options: Options<RandomErasing> = {}): RandomErasing {
  const { probability = 0.5, scale = [0.02, 0.33], ratio = [0.3, 3.3], fill = "zero" } = options;
  demandProbability(probability, "randomErasing");
  demandRange(scale, 1, "randomErasing: scale");
  demandRange(ratio, Number.POSITIVE_INFINITY, "randomErasing: ratio");
  return { kind: "randomErasing", probability, scale, ratio, fill };
}

export function cutout({ size = 16 }: Options<Cutout> = {}): Cutout {
  demand(Number.isInteger(size) && size > 0, "cutout", `size must be a positive integer, got ${size}`);
  return { kind: "cutout", size };
}

function demand(condition: boolean, where: string, message: string): void {
  must(condition, "augment/options", () => `${where}: ${message}`, "usage");
}

const demandProbability = (p: number, where: string): void =>
  demand(p >= 0 && p <= 1, where, `probability must be in 0 … 1, got ${p}`);

const demandRange = ([least, greatest]: readonly [number, number], top: number, where: string): void =>
  demand(
    least > 0 && least <= greatest && greatest <= top,
    where,
    `must rise within 0 … ${top}, got [${least}, ${greatest}]`,
  );

/** The random numbers of one picture in one epoch: they do not depend on batches, their order or worker threads. */
export const sampleRng = ({ seed, epoch }: Draw, index: number): Rng => rng(seed, `augment/${epoch}/${index}`);
