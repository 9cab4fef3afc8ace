/** Results of one epoch, as they go into logs. Accuracies are shares from 0 to 1. */
export interface EpochRecord {
  /** From 1. */
  readonly epoch: number;
  /** Steps done since the start of the run. */
  readonly step: number;
  readonly trainLoss: number;
  readonly trainTop1: number;
  /** Mean cross entropy and accuracies in evaluation mode; absent without validation data. */
  readonly validationLoss?: number;
  readonly validationTop1?: number;
  readonly validationTop5?: number;
  /** Learning rate of the last step. */
  readonly lr: number;
  /** Seconds of training, evaluation left out. */
  readonly seconds: number;
  readonly imagesPerSecond: number;
  /** Share of the training time in which the network waited for data. */
  readonly dataWait: number;
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
  /** Accuracy in the epoch so far, in training mode. */
  readonly top1: number;
  readonly lr: number;
  /** 2-norm of all gradients before clipping; with `clipNorm` or `gradientNorm`. */
  readonly gradientNorm?: number;
  readonly imagesPerSecond: number;
  /** Estimate for the rest of the run. */
  readonly secondsLeft: number;
}

export interface EpochEvent extends EpochRecord {
  readonly type: "epoch";
  readonly epochs: number;
  /** Whether the validation accuracy is the highest so far. */
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
  /** Best validation accuracy; absent without validation data. */
  readonly bestTop1?: number;
  /** Present when the run ended before its last epoch, because the validation accuracy no longer rose. */
  readonly stoppedEarly?: true;
}

/**
 * What a training run reports, in this order: `start`; then for every epoch its `step`s, `epoch` and `checkpoint`s; at
 * the end `done`, or a `checkpoint` and `stopped`.
 */
export type TrainingEvent = StartEvent | StepEvent | EpochEvent | CheckpointEvent | StoppedEvent | DoneEvent;

/**
 * Takes the events of a run: a progress display, a log. It ends the run by aborting the trainer's `signal`, which leaves a
 * checkpoint to resume from; an error that it throws ends it at once.
 */
export type TrainingCallback = (event: TrainingEvent) => void;
