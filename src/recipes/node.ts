export * from "./experiment-node.ts";
export { parseRecipe, type Recipe } from "./recipe.ts";
export { readRecipe, recipeNames, type TrainOptions, type TrainResult, train } from "./train-node.ts";
export * from "./training-data-node.ts";
