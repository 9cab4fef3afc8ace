import { readFile } from "node:fs/promises";
import { packageFile } from "../../data/node/index.ts";
import { listed, nearest, RepmlpError } from "../../errors.ts";
import { parseRecipe, type Recipe } from "../recipe.ts";

/** The recipes of the package, by name: files to read, copy and change. */
export const recipeNames = [
  "cifar10-pure-mlp",
  "cifar10-conv",
  "cifar10-acnet",
  "imagenet-repmlp-res50",
  "fine-tune",
  "cityscapes-pspnet",
  "faces",
  "quantize",
  "quantize-merged",
  "prune-l1",
  "prune-resrep",
  "prune-csgd",
  "prune-aofp",
  "prune-gsm",
] as const;

/**
 * A recipe of the package by name, or from a file.
 *
 * @throws `recipe/unknown`, and what {@link parseRecipe} throws
 */
export async function readRecipe(nameOrFile: string): Promise<Recipe> {
  const named = recipeNames.some((name) => name === nameOrFile);
  const path = named ? packageFile("recipes", `${nameOrFile}.json`) : nameOrFile;
  const text = await readFile(path, "utf8").catch((cause) => {
    throw new RepmlpError(
      "recipe/unknown",
      `recipe: "${nameOrFile}" is neither a file nor a recipe of the package. Did you mean ${nearest(nameOrFile, [...recipeNames], 1)}? There are ${listed(recipeNames, 9)}.`,
      "usage",
      { cause },
    );
  });
  return parseRecipe(text, nameOrFile);
}
