import type { ShownTask } from "../tasks/index.ts";
import { type EpochEvent, epochLine, type StepEvent, type TrainingEvent } from "../training/index.ts";
import type { Io } from "./io.ts";
import { duration, type ProgressView } from "./progress.ts";

/** Shows a training run: a live line for the steps, a line per epoch, `name` before each, and what `more` says after. */
export function showTraining(
  event: TrainingEvent,
  io: Io,
  progress: ProgressView,
  name = "",
  task?: ShownTask,
  more: (event: StepEvent | EpochEvent) => string = () => "",
): void {
  const before = name && `${name}  `;
  if (event.type === "step")
    progress.update({
      done: event.step,
      total: event.steps,
      line: before + stepLine(event) + more(event),
    });
  else if (event.type === "epoch")
    io.result(name ? { name, ...event } : event, () => before + epochLine(event, task) + more(event));
  else if (event.type === "start" && event.resumedAt) {
    io.note(`${before}resuming at step ${event.resumedAt} of ${event.steps}`);
    for (const change of event.changed) io.warn(`${before}changed since then: ${change}`);
  }
}

/** A step as one line: `epoch 3/30  step 120/1200  loss 0.5123  lr 0.0976  1235 images/s  2 min 5 s left`. */
export const stepLine = (e: StepEvent): string =>
  [
    `epoch ${e.epoch}/${e.epochs}`,
    `step ${e.step}/${e.steps}`,
    `loss ${e.loss.toFixed(4)}`,
    `lr ${Number(e.lr.toPrecision(3))}`,
    `${e.imagesPerSecond.toFixed(0)} images/s`,
    `${duration(e.secondsLeft)} left`,
  ].join("  ");
