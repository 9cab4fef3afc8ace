export * from "./experiment-node.ts";
export { parseRecipe, type Recipe } from "./recipe.ts";
export type { StartOptions } from "./start.ts";
export {
  readRecipe,
  recipeNames,
  type TrainingPlan,
  type TrainOptions,
  type TrainResult,
  train,
} from "./train-node.ts";
export * from "./trainable-node.ts";
export * from "./training-data-node.ts";
