export { parseRecipe, type Recipe } from "../recipe.ts";
export type { StartOptions } from "../start.ts";
export {
  readRecipe,
  recipeNames,
  type TrainingPlan,
  type TrainOptions,
  type TrainResult,
  train,
} from "./train.ts";
export * from "./trainable.ts";
export * from "./training-data.ts";
