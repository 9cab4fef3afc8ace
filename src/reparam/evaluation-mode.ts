import { listed, must } from "../errors.ts";
import type { Module } from "../nn/index.ts";

/** Throws unless a model is in evaluation mode; names the topmost layers that are not. */
export function mustBeInEvaluationMode(where: string, model: Module, name: string, reason: string): void {
  const training: string[] = [];
  for (const [path, m] of model.modules())
    if (m.training && !training.some((above) => above === "" || path.startsWith(`${above}.`))) training.push(path);
  must(
    !training.length,
    `${where}/training`,
    () => {
      const who = training[0] === "" ? name : `${listed(training, 3)} of ${name}`;
      return `${where}: ${who} ${training.length > 1 ? "are" : "is"} in training mode, ${reason}. Call model.eval() first.`;
    },
    "model",
  );
}
