/** A number per spatial axis. */
export type Pair = readonly [vertical: number, horizontal: number];

export interface ConvAttrs {
  readonly stride: Pair;
  readonly padding: Pair;
  readonly dilation: Pair;
  readonly groups: number;
}

export interface ConvOptions {
  /** Default 1. */
  readonly stride?: number | Pair;
  /** Zeros added on both sides. Default 0. */
  readonly padding?: number | Pair;
  /** Distance between taps. Default 1. */
  readonly dilation?: number | Pair;
  /** Default 1; must divide both channel counts. */
  readonly groups?: number;
}

/** A pair from a number or a pair. */
export const pair = (v: number | Pair): Pair => (typeof v === "number" ? [v, v] : v);
