export { parseRecipe, type Recipe } from "../recipe.ts";
export type { StartOptions } from "../start.ts";
export {
  type ChangedLayer,
  type CutNetwork,
  changedLayers,
  type PruneOptions,
  type PrunePhase,
  type PruneResult,
  prune,
} from "./prune.ts";
export {
  type PrepareContext,
  type Prepared,
  readRecipe,
  recipeNames,
  type TrainingPlan,
  type TrainOptions,
  type TrainResult,
  train,
} from "./train.ts";
export * from "./trainable.ts";
export * from "./training-data.ts";
