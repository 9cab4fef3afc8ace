import type { Shape } from "../tensor/index.ts";

/** How one parameter is trained, where it differs from the optimizer's settings. */
export interface ParameterGroup {
  /** Default: the optimizer's. */
  readonly weightDecay?: number;
  /** Factor of the learning rate. Default 1. */
  readonly lrScale?: number;
  /** Of {@link sgd}. Default: the optimizer's. */
  readonly momentum?: number;
  /** Not trained at all. */
  readonly frozen?: boolean;
}

/**
 * For `group` of a trainer: no weight decay on biases and on the scales of batch norms, that is on everything with
 * fewer than two dimensions. The original RepMLP code decays all parameters, which is the default here too.
 */
export const noDecayOnNormAndBias = (_key: string, { shape }: { readonly shape: Shape }): ParameterGroup | undefined =>
  shape.length < 2 ? { weightDecay: 0 } : undefined;
