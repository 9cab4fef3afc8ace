import type { Pair } from "../graph/index.ts";

/** A convolution as it stands in a network, with all that is asked for filled in. */
export interface ConvPlace {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly kernelSize: Pair;
  readonly stride: Pair;
  readonly padding: Pair;
  readonly dilation: Pair;
  readonly groups: number;
}
