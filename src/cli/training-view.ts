import { epochLine, type TrainingEvent } from "../training/index.ts";
import type { Io } from "./io.ts";
import type { ProgressView } from "./progress.ts";

/** Shows a training run: a live line for the steps, a line per epoch, `name` before each. */
export function showTraining(event: TrainingEvent, io: Io, progress: ProgressView, name = ""): void {
  const before = name && `${name}  `;
  if (event.type === "step")
    progress.update({
      done: event.step,
      total: event.steps,
      label: `${before}epoch ${event.epoch}  loss ${event.loss.toFixed(4)}  ${event.imagesPerSecond.toFixed(0)} images/s`,
      secondsLeft: event.secondsLeft,
    });
  else if (event.type === "epoch") io.result(name ? { name, ...event } : event, () => before + epochLine(event));
  else if (event.type === "start" && event.resumedAt) {
    io.note(`${before}resuming at step ${event.resumedAt} of ${event.steps}`);
    for (const change of event.changed) io.warn(`${before}changed since then: ${change}`);
  }
}
