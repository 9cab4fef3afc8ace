import type { Rng } from "../../tensor/index.ts";
import type { Picture } from "../preprocessing/picture.ts";
import { movedX, movedY, rotated, shearedX, shearedY } from "./affine.ts";
import type { AutoAugment, RandAugment } from "./augmentation.ts";
import {
  autoContrasted,
  equalized,
  posterized,
  solarized,
  withBrightness,
  withContrast,
  withSaturation,
  withSharpness,
} from "./color.ts";

interface Operation {
  /** `strength` goes from 0 (nothing) to 1 (all that the paper uses). */
  apply(picture: Picture, strength: number): Picture;
  /** Whether the strength gets a random sign. */
  readonly signed: boolean;
}

const signed = (apply: Operation["apply"]): Operation => ({ apply, signed: true });
const unsigned = (apply: Operation["apply"]): Operation => ({ apply, signed: false });

/** Greatest move, as a part of the picture's side. */
const greatestMove = 150 / 331;

const operations = {
  identity: unsigned((p) => p),
  shearX: signed((p, s) => shearedX(p, 0.3 * s)),
  shearY: signed((p, s) => shearedY(p, 0.3 * s)),
  translateX: signed((p, s) => movedX(p, greatestMove * p.width * s)),
  translateY: signed((p, s) => movedY(p, greatestMove * p.height * s)),
  rotate: signed((p, s) => rotated(p, 30 * s)),
  brightness: signed((p, s) => withBrightness(p, 1 + 0.9 * s)),
  color: signed((p, s) => withSaturation(p, 1 + 0.9 * s)),
  contrast: signed((p, s) => withContrast(p, 1 + 0.9 * s)),
  sharpness: signed((p, s) => withSharpness(p, 1 + 0.9 * s)),
  posterize: unsigned((p, s) => posterized(p, 8 - Math.round(4 * s))),
  solarize: unsigned((p, s) => solarized(p, 255 * (1 - s))),
  autoContrast: unsigned((p) => autoContrasted(p)),
  equalize: unsigned((p) => equalized(p)),
  invert: unsigned((p) => solarized(p, 0)),
} satisfies Readonly<Record<string, Operation>>;

type OperationName = keyof typeof operations;

const randAugmentNames = Object.keys(operations).filter((name) => name !== "invert") as OperationName[];

function applyOperation(picture: Picture, name: OperationName, strength: number, random: Rng): Picture {
  const { apply, signed } = operations[name];
  return apply(picture, signed && random.next() < 0.5 ? -strength : strength);
}

/** Draws `operations` operations, with repetition, and makes them one after the other. */
export function applyRandAugment(picture: Picture, step: RandAugment, random: Rng): Picture {
  let result = picture;
  for (let i = 0; i < step.operations; i++) {
    const name = randAugmentNames[random.below(randAugmentNames.length)];
    result = applyOperation(result, name, step.magnitude / 30, random);
  }
  return result;
}

/** Draws one of the policy's pairs and makes each of its operations with its probability. */
export function applyAutoAugment(picture: Picture, { policy }: AutoAugment, random: Rng): Picture {
  const pairs = policies[policy];
  const pair = pairs[random.below(pairs.length)];
  return pair.reduce<Picture>(
    (p, [name, probability, level]) => (random.next() < probability ? applyOperation(p, name, level / 9, random) : p),
    picture,
  );
}

/** Operation, probability, level 0 … 9. */
type Sub = readonly [OperationName, number, number];

/** The pairs of the AutoAugment paper, as torchvision has them. */
const policies: Readonly<Record<AutoAugment["policy"], readonly (readonly [Sub, Sub])[]>> = {
  imagenet: [
    [
      ["posterize", 0.4, 8],
      ["rotate", 0.6, 9],
    ],
    [
      ["solarize", 0.6, 5],
      ["autoContrast", 0.6, 0],
    ],
    [
      ["equalize", 0.8, 0],
      ["equalize", 0.6, 0],
    ],
    [
      ["posterize", 0.6, 7],
      ["posterize", 0.6, 6],
    ],
    [
      ["equalize", 0.4, 0],
      ["solarize", 0.2, 4],
    ],
    [
      ["equalize", 0.4, 0],
      ["rotate", 0.8, 8],
    ],
    [
      ["solarize", 0.6, 3],
      ["equalize", 0.6, 0],
    ],
    [
      ["posterize", 0.8, 5],
      ["equalize", 1, 0],
    ],
    [
      ["rotate", 0.2, 3],
      ["solarize", 0.6, 8],
    ],
    [
      ["equalize", 0.6, 0],
      ["posterize", 0.4, 6],
    ],
    [
      ["rotate", 0.8, 8],
      ["color", 0.4, 0],
    ],
    [
      ["rotate", 0.4, 9],
      ["equalize", 0.6, 0],
    ],
    [
      ["equalize", 0, 0],
      ["equalize", 0.8, 0],
    ],
    [
      ["invert", 0.6, 0],
      ["equalize", 1, 0],
    ],
    [
      ["color", 0.6, 4],
      ["contrast", 1, 8],
    ],
    [
      ["rotate", 0.8, 8],
      ["color", 1, 2],
    ],
    [
      ["color", 0.8, 8],
      ["solarize", 0.8, 7],
    ],
    [
      ["sharpness", 0.4, 7],
      ["invert", 0.6, 0],
    ],
    [
      ["shearX", 0.6, 5],
      ["equalize", 1, 0],
    ],
    [
      ["color", 0.4, 0],
      ["equalize", 0.6, 0],
    ],
    [
      ["equalize", 0.4, 0],
      ["solarize", 0.2, 4],
    ],
    [
      ["solarize", 0.6, 5],
      ["autoContrast", 0.6, 0],
    ],
    [
      ["invert", 0.6, 0],
      ["equalize", 1, 0],
    ],
    [
      ["color", 0.6, 4],
      ["contrast", 1, 8],
    ],
    [
      ["equalize", 0.8, 0],
      ["equalize", 0.6, 0],
    ],
  ],
  cifar10: [
    [
      ["invert", 0.1, 0],
      ["contrast", 0.2, 6],
    ],
    [
      ["rotate", 0.7, 2],
      ["translateX", 0.3, 9],
    ],
    [
      ["sharpness", 0.8, 1],
      ["sharpness", 0.9, 3],
    ],
    [
      ["shearY", 0.5, 8],
      ["translateY", 0.7, 9],
    ],
    [
      ["autoContrast", 0.5, 0],
      ["equalize", 0.9, 0],
    ],
    [
      ["shearY", 0.2, 7],
      ["posterize", 0.3, 7],
    ],
    [
      ["color", 0.4, 3],
      ["brightness", 0.6, 7],
    ],
    [
      ["sharpness", 0.3, 9],
      ["brightness", 0.7, 9],
    ],
    [
      ["equalize", 0.6, 0],
      ["equalize", 0.5, 0],
    ],
    [
      ["contrast", 0.6, 7],
      ["sharpness", 0.6, 5],
    ],
    [
      ["color", 0.7, 7],
      ["translateX", 0.5, 8],
    ],
    [
      ["equalize", 0.3, 0],
      ["autoContrast", 0.4, 0],
    ],
    [
      ["translateY", 0.4, 3],
      ["sharpness", 0.2, 6],
    ],
    [
      ["brightness", 0.9, 6],
      ["color", 0.2, 8],
    ],
    [
      ["solarize", 0.5, 2],
      ["invert", 0, 0],
    ],
    [
      ["equalize", 0.2, 0],
      ["autoContrast", 0.6, 0],
    ],
    [
      ["equalize", 0.2, 0],
      ["equalize", 0.6, 0],
    ],
    [
      ["color", 0.9, 9],
      ["equalize", 0.6, 0],
    ],
    [
      ["autoContrast", 0.8, 0],
      ["solarize", 0.2, 8],
    ],
    [
      ["brightness", 0.1, 3],
      ["color", 0.7, 0],
    ],
    [
      ["solarize", 0.4, 5],
      ["autoContrast", 0.9, 0],
    ],
    [
      ["translateY", 0.9, 9],
      ["translateY", 0.7, 9],
    ],
    [
      ["autoContrast", 0.9, 0],
      ["solarize", 0.8, 3],
    ],
    [
      ["equalize", 0.8, 0],
      ["invert", 0.1, 0],
    ],
    [
      ["translateY", 0.7, 9],
      ["autoContrast", 0.9, 0],
    ],
  ],
};
