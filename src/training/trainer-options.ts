import type { Batch, MixOptions, PictureBatch, PictureSet } from "../data/index.ts";
import type { Communicator } from "../distributed/index.ts";
import type { Net } from "../nn/index.ts";
import type { CompileOptions } from "../runtime/index.ts";
import type { Task } from "../tasks/index.ts";
import type { CheckpointStore } from "./checkpoint-store.ts";
import type { EpochRecord, TrainingCallback } from "./events.ts";
import type { LearnerOptions } from "./learner.ts";
import type { Settings } from "./run-state.ts";
import type { CoefficientRamp, Schedule, ScheduleSpec } from "./schedule.ts";
import type { Optimizer } from "./transforms/index.ts";

/** What the trainer hands on to its {@link Learner}. */
type StepOptions = Pick<
  LearnerOptions,
  | "group"
  | "clipNorm"
  | "clipValue"
  | "gradientNorm"
  | "ema"
  | "accumulate"
  | "gradCheckpointing"
  | "batchNormStatistics"
  | "gradientExchange"
>;

/**
 * With `accumulate`, a batch is taken in that many parts, and a step remains one update with all of its pictures. With
 * `ema`, the averaged network is validated, and it is what the `best` checkpoint holds.
 */
export interface TrainerOptions<B extends PictureBatch = Batch, N extends Net = Net>
  extends CompileOptions,
    StepOptions {
  readonly data: { readonly train: PictureSet<B>; readonly validation?: PictureSet<B> };
  /** What the network is trained for. Default {@link classification}, for pictures of classes. */
  readonly task?: Task<B, N>;
  readonly epochs: number;
  /** Pictures per step. Default 128. */
  readonly batchSize?: number;
  /**
   * Processes that train together, each with its own model and the same options: {@link batchSize} is that of all
   * together, and each takes its share. Process 0 alone reads and writes the store and reports events; its initial values
   * are everybody's; a signal that stops one stops all. Default: this process alone.
   */
  readonly communicator?: Communicator;
  /** Default SGD with momentum 0.9 and weight decay 1e-4. */
  readonly optimizer?: Optimizer;
  /** Highest learning rate. Default 0.1. A schedule given as a function has rates of its own. */
  readonly lr?: number;
  /** Epochs of linear warm-up before the schedule. Default 0. */
  readonly warmupEpochs?: number;
  /** How the rate changes: a description in epochs, or a function of the step. Default a cosine to 0 at the end. */
  readonly schedule?: ScheduleSpec | Schedule;
  /**
   * How the network's coefficients change, by their names, such as VanillaNet's `slope` from 0 to 1 over the first 100
   * epochs: `{ slope: { epochs: 100 } }`. Checkpoints note what they are at the time.
   */
  readonly coefficients?: Readonly<Record<string, CoefficientRamp>>;
  /** Seed of the initial values, the order of the pictures, augmentation and dropout. Default 0. */
  readonly seed?: number;
  /** Leaves out a last batch that is not full. Default true, unless it is the only one. */
  readonly dropLast?: boolean;
  /** Blends pictures and class labels within each batch (mixup, CutMix). Default not. */
  readonly mix?: MixOptions;
  /** Ends the run when the task's leading number has not got better for so many epochs. Needs validation data. */
  readonly patience?: number;
  /**
   * Exact batch-norm statistics ({@link preciseBatchNorm}) for the final network, or before every validation too. The
   * statistics that training keeps are left alone.
   */
  readonly preciseBatchNorm?: { readonly batches: number; readonly everyEpoch?: boolean };
  /** Batches asked for ahead of the one in use. Default 2. */
  readonly prefetch?: number;
  /**
   * Where checkpoints go: `last`, to resume from, after every epoch and on stopping; `best`, the model alone, whenever
   * the task's leading number (top-1) is the best so far: the network that was validated.
   */
  readonly store?: CheckpointStore;
  /**
   * Goes on from the store's `last` checkpoint, which must be there. To begin where there is none yet:
   * `resume: (await store.load("last")) !== undefined`.
   */
  readonly resume?: boolean;
  /** Stops after the step in progress and leaves a checkpoint to resume from. A callback may abort it. */
  readonly signal?: AbortSignal;
  readonly onEvent?: TrainingCallback;
  /** Further takers of the events, such as logs; called before `onEvent`. */
  readonly callbacks?: readonly TrainingCallback[];
  /**
   * What shapes the run beside these options, such as what is done to the pictures: saved with checkpoints; a resumed run
   * reports what has changed.
   */
  readonly settings?: Settings;
  /** Further numbers, which events of steps and epochs tell and the history keeps: what is left of a pruned network. */
  readonly measures?: () => Readonly<Record<`train${string}`, number>>;
  /** Kept with every checkpoint (architecture, class names, …). */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface TrainingSummary<N extends Net = Net> {
  readonly history: readonly EpochRecord[];
  /** Steps done, those before a resume included. */
  readonly steps: number;
  /** False when the run was stopped by its signal. */
  readonly finished: boolean;
  /** Whether it ended before its last epoch because the leading number no longer got better. */
  readonly stoppedEarly: boolean;
  /** Best value of the task's leading number in validation (top-1: 0 … 1); absent without validation data. */
  readonly best?: number;
  /** With `ema`, when finished: the network with the averaged weights, in evaluation mode. */
  readonly averaged?: N;
}
