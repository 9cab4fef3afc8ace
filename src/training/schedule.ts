import { must } from "../errors.ts";

/** Learning rate at a step, counted from 0. */
export type Schedule = (step: number) => number;

/** The same rate at every step. */
export const constantRate =
  (lr: number): Schedule =>
  () =>
    lr;

export interface DecayOptions {
  /** Rate after the warm-up. */
  readonly lr: number;
  /** Step at which the minimum is reached; it stays there. */
  readonly totalSteps: number;
  /** Steps of linear warm-up from 0; the very first step has rate 0. Default 0. */
  readonly warmupSteps?: number;
  /** Default 0. */
  readonly minLr?: number;
}

/** lr·t/warmup up to the warm-up's end, then down to the minimum at `totalSteps` as `left` falls from 1 to 0. */
function warmupDecay(
  { lr, totalSteps, warmupSteps = 0, minLr = 0 }: DecayOptions,
  left: (progress: number) => number,
): Schedule {
  must(
    totalSteps > warmupSteps && warmupSteps >= 0,
    "schedule/steps",
    () =>
      `schedule: totalSteps (${totalSteps}) must be more than warmupSteps (${warmupSteps}). Train for more \`epochs\`, in smaller batches (\`batchSize\`), or with a shorter warm-up.`,
    "usage",
  );
  return (step) => {
    if (step < warmupSteps) return (lr * step) / warmupSteps;
    const progress = Math.min(1, (step - warmupSteps) / (totalSteps - warmupSteps));
    return minLr + (lr - minLr) * left(progress);
  };
}

/** Linear warm-up, then half a cosine down to the minimum. */
export const warmupCosine = (options: DecayOptions): Schedule =>
  warmupDecay(options, (progress) => (1 + Math.cos(Math.PI * progress)) / 2);

export interface PolynomialOptions extends DecayOptions {
  /** Exponent of the share of steps that is left; 1, the default, is a straight line. */
  readonly power?: number;
}

/** Linear warm-up, then (1 − progress)^power down to the minimum: PyTorch's `PolynomialLR`, with power 1 `LinearLR`. */
export function warmupPolynomial({ power = 1, ...options }: PolynomialOptions): Schedule {
  must(
    Number.isFinite(power) && power > 0,
    "schedule/power",
    () => `schedule: power must be a positive number, got ${power}`,
    "usage",
  );
  return warmupDecay(options, (progress) => (1 - progress) ** power);
}

export interface StepOptions {
  readonly lr: number;
  /** Steps at which the rate is multiplied by `gamma`, ascending. */
  readonly milestones: readonly number[];
  /** Default 0.1. */
  readonly gamma?: number;
  /** Steps of linear warm-up from 0. Default 0. */
  readonly warmupSteps?: number;
}

/** The rate falls by the factor `gamma` at each milestone. */
export const stepSchedule =
  ({ lr, milestones, gamma = 0.1, warmupSteps = 0 }: StepOptions): Schedule =>
  (step) =>
    step < warmupSteps ? (lr * step) / warmupSteps : lr * gamma ** milestones.filter((m) => step >= m).length;

/** A schedule in epochs, as plain data: it can be written into a checkpoint and compared with another run's. */
export type ScheduleSpec =
  | {
      /** Half a cosine down to `minLr` (default 0) at the end of the run. */
      readonly kind: "cosine";
      readonly minLr?: number;
    }
  | {
      /** A straight line down to `minLr` (default 0) at the end of the run. */
      readonly kind: "linear";
      readonly minLr?: number;
    }
  | {
      /** (1 − progress)^power (default 2) down to `minLr` (default 0) at the end of the run. */
      readonly kind: "polynomial";
      readonly power?: number;
      readonly minLr?: number;
    }
  | {
      /** The rate falls by the factor `gamma` (default 0.1) after each of these epochs, ascending. */
      readonly kind: "step";
      readonly milestones: readonly number[];
      readonly gamma?: number;
    }
  | { readonly kind: "constant" };

export interface SchedulePlan {
  readonly lr: number;
  readonly epochs: number;
  readonly stepsPerEpoch: number;
  /** Epochs of linear warm-up from 0, also parts of one. Default 0. */
  readonly warmupEpochs?: number;
}

/** The rate by step of a schedule that is given in epochs. */
export function scheduleOf(
  spec: ScheduleSpec,
  { lr, epochs, stepsPerEpoch, warmupEpochs = 0 }: SchedulePlan,
): Schedule {
  const warmupSteps = Math.round(warmupEpochs * stepsPerEpoch);
  const decay = { lr, totalSteps: epochs * stepsPerEpoch, warmupSteps };
  switch (spec.kind) {
    case "cosine":
      return warmupCosine({ ...decay, minLr: spec.minLr });
    case "linear":
      return warmupPolynomial({ ...decay, minLr: spec.minLr });
    case "polynomial":
      return warmupPolynomial({ ...decay, minLr: spec.minLr, power: spec.power ?? 2 });
    case "step": {
      const milestones = spec.milestones.map((epoch) => Math.round(epoch * stepsPerEpoch));
      return stepSchedule({ lr, milestones, gamma: spec.gamma, warmupSteps });
    }
    case "constant":
      return stepSchedule({ lr, milestones: [], warmupSteps });
  }
}

/** How a network's coefficient changes in training, by whole epochs. */
export interface CoefficientRamp {
  /** Epochs after which it has arrived. */
  readonly epochs: number;
  /** In the first epoch. Default 0. */
  readonly from?: number;
  /** From then on. Default 1. */
  readonly to?: number;
  /** Default `linear`. */
  readonly curve?: "linear" | "cosine";
}

/** Value in an epoch, counted from 0. */
export function rampValue({ epochs, from = 0, to = 1, curve = "linear" }: CoefficientRamp, epoch: number): number {
  if (epoch >= epochs) return to;
  const share = curve === "linear" ? epoch / epochs : (1 - Math.cos((Math.PI * epoch) / epochs)) / 2;
  return from + (to - from) * share;
}
