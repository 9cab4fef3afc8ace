import type { Rng } from "../../tensor/index.ts";
import type { Picture } from "../preprocessing/picture.ts";
import type { Augmentation } from "./augmentation.ts";
import { applyColorJitter } from "./color.ts";
import { applyRandomCrop, applyRandomResizedCrop, mirrored } from "./crops.ts";
import { applyAutoAugment, applyRandAugment } from "./policies.ts";

interface Size {
  readonly height: number;
  readonly width: number;
}

/** Makes the changes of the list that act on bytes; crops give `size`, the other changes keep the size. */
export const augmented = (picture: Picture, augment: readonly Augmentation[], size: Size, random: Rng): Picture =>
  augment.reduce((result, step) => applyStep(result, step, size, random), picture);

function applyStep(picture: Picture, step: Augmentation, { height, width }: Size, random: Rng): Picture {
  switch (step.kind) {
    case "randomCrop":
      return applyRandomCrop(picture, step, height, width, random);
    case "randomResizedCrop":
      return applyRandomResizedCrop(picture, step, height, width, random);
    case "horizontalFlip":
      return random.next() < step.probability ? mirrored(picture) : picture;
    case "colorJitter":
      return applyColorJitter(picture, step, random);
    case "randAugment":
      return applyRandAugment(picture, step, random);
    case "autoAugment":
      return applyAutoAugment(picture, step, random);
    case "randomErasing":
    case "cutout":
      return picture; // They act on the normalised picture.
  }
}
