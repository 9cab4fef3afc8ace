import type { Parameter } from "../nn/index.ts";
import type { ParameterGroup } from "./train-step.ts";

/**
 * For `group` of a trainer: no weight decay on biases and on the scales of batch norms, that is on everything with
 * fewer than two dimensions. The original RepMLP code decays all parameters, which is the default here too.
 */
export const noDecayOnNormAndBias = (_key: string, { shape }: Parameter): ParameterGroup | undefined =>
  shape.length < 2 ? { weightDecay: 0 } : undefined;
