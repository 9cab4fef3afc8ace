export { parseRecipe, type Recipe } from "../recipe.ts";
export type { StartOptions } from "../start.ts";
export type { KnownAtEnd, PrepareContext, Prepared, SavedIntegers } from "./prepared.ts";
export {
  type ChangedLayer,
  type CutNetwork,
  changedLayers,
  type PruneOptions,
  type PrunePhase,
  type PruneResult,
  prune,
} from "./prune.ts";
export { readRecipe, recipeNames } from "./read-recipe.ts";
export {
  type TrainingPlan,
  type TrainOptions,
  type TrainResult,
  train,
} from "./train.ts";
export * from "./trainable.ts";
export * from "./training-data.ts";
