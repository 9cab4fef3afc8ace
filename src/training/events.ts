import type { ShownTask } from "../tasks/index.ts";

/**
 * Results of one epoch, as they go into logs. The task's numbers have names made of theirs: of a classification
 * `trainTop1`, `validationTop1` and `validationTop5`, shares from 0 to 1.
 */
export interface EpochRecord {
  /** From 1. */
  readonly epoch: number;
  /** Steps done since the start of the run. */
  readonly step: number;
  readonly trainLoss: number;
  /** Mean loss in evaluation mode; absent without validation data, and where the task has none. */
  readonly validationLoss?: number;
  /** Learning rate of the last step. */
  readonly lr: number;
  /** Seconds of training, evaluation left out. */
  readonly seconds: number;
  readonly imagesPerSecond: number;
  /** Share of the training time in which the network waited for data. */
  readonly dataWait: number;
  /** Over the epoch's steps, in training mode. */
  readonly [training: `train${string}`]: number;
  /** In evaluation mode; absent without validation data. */
  readonly [validation: `validation${string}`]: number | undefined;
}

export interface StartEvent {
  readonly type: "start";
  readonly epochs: number;
  /** Of the whole run. */
  readonly steps: number;
  readonly stepsPerEpoch: number;
  /** Steps that were done before; 0 for a new run. */
  readonly resumedAt: number;
  /** Trainable values of the network. */
  readonly parameters: number;
  /** Settings that differ from those of the resumed run: `lr: 0.1 → 0.05`. */
  readonly changed: readonly string[];
}

export interface StepEvent {
  readonly type: "step";
  /** From 1. */
  readonly epoch: number;
  readonly epochs: number;
  /** From 1, over all epochs. */
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  readonly lr: number;
  /** 2-norm of all gradients before clipping; with `clipNorm` or `gradientNorm`. */
  readonly gradientNorm?: number;
  readonly imagesPerSecond: number;
  /** Estimate for the rest of the run. */
  readonly secondsLeft: number;
  /** The task's numbers over the epoch so far, in training mode: `top1`. */
  readonly [number: string]: number | "step" | undefined;
}

export interface EpochEvent extends EpochRecord {
  readonly type: "epoch";
  readonly epochs: number;
  /** Whether the task's leading number is the best so far, in validation. */
  readonly best: boolean;
}

export interface CheckpointEvent {
  readonly type: "checkpoint";
  readonly name: "last" | "best";
  /** A path, or another description of the place. */
  readonly where: string;
  readonly step: number;
}

/** The signal ended the run early. */
export interface StoppedEvent {
  readonly type: "stopped";
  readonly epoch: number;
  readonly step: number;
}

export interface DoneEvent {
  readonly type: "done";
  readonly steps: number;
  /** Wall time of this run, or of its part since it was resumed. */
  readonly seconds: number;
  /** Present when the run ended before its last epoch, because the leading number no longer got better. */
  readonly stoppedEarly?: true;
  /** Best value of the leading number in validation, `bestTop1`; absent without validation data. */
  readonly [best: `best${string}`]: number | undefined;
}

/**
 * What a training run reports, in this order: `start`; then for every epoch its `step`s, `epoch` and `checkpoint`s; at
 * the end `done`, or a `checkpoint` and `stopped`.
 */
export type TrainingEvent = StartEvent | StepEvent | EpochEvent | CheckpointEvent | StoppedEvent | DoneEvent;

/**
 * Takes the events of a run: a progress display, a log. It ends the run by aborting the trainer's `signal`, which leaves a
 * checkpoint to resume from; an error that it throws ends it at once. The task says how numbers are shown.
 */
export type TrainingCallback = (event: TrainingEvent, task: ShownTask) => void;
