export { adamDirection, correctedRate, type MomentOptions } from "./adam.ts";
export { averageOf, type EmaOptions, movingAverage } from "./average.ts";
export { clipByNorm, clipByValue, globalNorm, reportNorm } from "./clip.ts";
export { addDecay, descend, shrinkWeights } from "./descent.ts";
export { type MomentumOptions, withMomentum } from "./momentum.ts";
export { type GradientMultipliers, multiplyGradients } from "./multiply.ts";
export { type AdamWOptions, adamW, type Optimizer, repAdamW, repSgd, type SgdOptions, sgd } from "./optimizers.ts";
export {
  chain,
  flat,
  forEachParameter,
  mustBeIn,
  type ParameterResult,
  type ParameterUpdate,
  type RuleForEach,
  rate,
  type StateAccess,
  type StateTensor,
  type Statistic,
  type StepAt,
  type Subjects,
  stateName,
  type TrainedParameter,
  type Update,
  type UpdateResult,
  type UpdateRule,
  zerosLike,
} from "./rule.ts";
