import type { PictureSet, Preprocessing } from "../../data/index.ts";
import type { TaskMetadata } from "../../inference/index.ts";
import type { ModelOptions } from "../../models/index.ts";
import type { Net, Parameter } from "../../nn/index.ts";
import type { QuantizedExport } from "../../quantize/index.ts";
import type { CompileOptions } from "../../runtime/index.ts";
import type { Shape, Tensor } from "../../tensor/index.ts";
import { fitsPattern } from "../../text.ts";
import {
  chain,
  noDecayOnNormAndBias,
  type ParameterGroup,
  type TrainerOptions,
  type UpdateRule,
} from "../../training/index.ts";
import { mustFitSome, type Recipe } from "../recipe.ts";

/** What is known of a run when its network is there. */
export interface PrepareContext {
  /** `[1, C, H, W]`. */
  readonly inputShape: Shape;
  readonly stepsPerEpoch: number;
}

/** A network with what a run puts into it: how it is trained, and what is kept of it. */
export interface Prepared {
  /** What is trained. */
  readonly net: Net;
  /** Before the recipe's optimizer. */
  readonly rule?: UpdateRule | undefined;
  /** Goes before what the recipe says of a parameter. */
  readonly group?: ((key: string, parameter: Parameter) => ParameterGroup | undefined) | undefined;
  /** What a checkpoint must state for the network to be made again, beside its own options. */
  readonly options?: ModelOptions;
  /** Further numbers of the events, at each step and epoch. */
  readonly measures?: TrainerOptions["measures"];
  /** What batch norms do about the other processes' shares of a batch where the run asks for nothing else. Default `local`. */
  readonly batchNormStatistics?: TrainerOptions["batchNormStatistics"];
  /** What shapes the run beside the recipe, for a resumed one to be compared with. */
  readonly settings?: TrainerOptions["settings"];
  /** Before the first step of a run that is not resumed: what has to be seen of its first batches. */
  readonly start?: (batches: AsyncIterable<Tensor>, options: CompileOptions) => Promise<void>;
  /** The network whose weights are written, of the one that was trained or of its average. Default that one itself. */
  readonly kept?: (trained: Net) => Net;
  /** Writes into the run's folder what is made of the trained network beside its weights. */
  readonly save?: (trained: Net, folder: string, known: KnownAtEnd) => Promise<SavedIntegers>;
}

/** A network in integers, in a file. */
export interface SavedIntegers extends Omit<QuantizedExport, "model"> {
  readonly path: string;
}

/** What is known of a run at its end. */
export interface KnownAtEnd {
  readonly arch: string | undefined;
  /** What a file states of the task. */
  readonly task: TaskMetadata;
  readonly classes: readonly string[];
  readonly preprocessing: Preprocessing;
  readonly validation: PictureSet;
}

/** What the recipe says, and what a run has prepared. */
export function withPrepared(
  settings: Omit<TrainerOptions, "data">,
  { rule, group, measures }: Prepared,
): Omit<TrainerOptions, "data"> {
  const { optimizer, group: own } = settings;
  return {
    ...settings,
    ...(rule && optimizer && { optimizer: chain(rule, optimizer) }),
    ...(group && { group: (key, parameter) => ({ ...own?.(key, parameter), ...group(key, parameter) }) }),
    ...(measures && { measures }),
  };
}

/** What a recipe says, as the trainer takes it. */
export function trainerOptions(
  recipe: Recipe,
  model: Net,
  head: readonly string[] = [],
): Omit<TrainerOptions, "data" | "task"> {
  const { epochs, batchSize, lr, warmupEpochs, schedule, optimizer, mix } = recipe;
  const { accumulate, gradCheckpointing, clipNorm, clipValue, ema, patience, preciseBatchNorm, coefficients } = recipe;
  const keys = [...model.parameters()].map(([key]) => key);
  mustFitSome(recipe.train, keys, "recipe: train");
  mustFitSome(recipe.freeze, keys, "recipe: freeze");
  mustFitSome(Object.keys(recipe.lrScale), keys, "recipe: lrScale");
  return {
    ...{ epochs, batchSize, lr, warmupEpochs, schedule, optimizer, mix, group: groupOf(recipe, head) },
    ...{ accumulate, gradCheckpointing, clipNorm, clipValue, ema, patience, preciseBatchNorm, coefficients },
  };
}

const groupOf =
  ({ train, freeze, lrScale, headLrScale, decayNormAndBias }: Recipe, head: readonly string[]) =>
  (key: string, parameter: Parameter): ParameterGroup => {
    const fits = (pattern: string): boolean => fitsPattern(key, pattern);
    return {
      ...(decayNormAndBias ? undefined : noDecayOnNormAndBias(key, parameter)),
      frozen: !train.some(fits) || freeze.some(fits),
      lrScale:
        Object.entries(lrScale).find(([pattern]) => fits(pattern))?.[1] ?? (head.includes(key) ? headLrScale : 1),
    };
  };
