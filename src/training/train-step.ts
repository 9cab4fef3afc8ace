import { fmt, must } from "../errors.ts";
import {
  add,
  after,
  crossEntropy,
  grad,
  input,
  mul,
  type ParameterRef,
  parameter,
  reshape,
  type Value,
} from "../graph/index.ts";
import { Buffer, type Net, type Parameter, parameterNames, type TracedModel, traceModel } from "../nn/index.ts";
import type { StepGraph } from "../runtime/index.ts";
import { isFloating, type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import { type ClipOptions, checkClip, clipped, globalNorm } from "./clipping.ts";
import { averagedWith, checkEma, type EmaOptions, emaScalarNames } from "./ema.ts";
import type { Optimizer } from "./optimizer.ts";
import { waitedFor } from "./update-order.ts";

/** How one parameter is trained, where it differs from the optimizer's settings. */
export interface ParameterGroup {
  /** Default: the optimizer's. */
  readonly weightDecay?: number;
  /** Factor of the learning rate. Default 1. */
  readonly lrScale?: number;
  /** Not trained at all. */
  readonly frozen?: boolean;
}

export interface TrainStepOptions extends ClipOptions {
  readonly optimizer: Optimizer;
  /** Shape of a batch of pictures, `[N, C, H, W]`. */
  readonly inputShape: Shape;
  /** Loss of the network's output and the targets `[N, classes]`. Default: cross entropy with `labelSmoothing`. */
  readonly loss?: (output: Value, targets: Value) => Value;
  /** Default 0. */
  readonly labelSmoothing?: number;
  /** Settings by parameter key; none means the optimizer's. */
  readonly group?: (key: string, parameter: Parameter) => ParameterGroup | undefined;
  /** Also returns the gradient of every trained parameter before clipping, as `grad:<key>`. */
  readonly returnGradients?: boolean;
  /** Also returns the 2-norm of all gradients before clipping, as `gradientNorm`. Default: with `clipNorm`. */
  readonly gradientNorm?: boolean;
  /**
   * Keeps only what passes between the blocks of the network, and computes their inner values once more for the backward
   * pass (timm's `--grad-checkpointing`, arXiv 1604.06174): bigger batches for about a quarter more time, with the same
   * gradients up to rounding. On the CPU; WebGPU keeps everything. Default false.
   */
  readonly gradCheckpointing?: boolean;
  /**
   * Keeps an exponential moving average of the weights and, as timm's `ModelEmaV2`, of the running statistics. It starts
   * from the values of the first step.
   */
  readonly ema?: EmaOptions;
}

/** State that belongs to a parameter, zero at the start. */
const zeroLike = ({ shape, dtype }: Parameter): ParameterRef => ({
  shape,
  dtype,
  source: () => Tensor.zeros(dtype, shape),
});

/** State that starts from a parameter's values, whichever it has by then. */
const slotLike = (p: Parameter): ParameterRef => ({ dtype: p.dtype, shape: p.shape, source: () => p.source() });

export interface TrainStep extends StepGraph {
  /** Counters to increase by one per entry and step. */
  readonly counters: readonly ParameterRef[];
  /** Names of the scalar inputs. */
  readonly scalars: readonly string[];
}

/** Name of a state tensor beside the model's own: `optimizer.<slot>:<parameter key>`. */
const slotName = (slot: string, key: string): string => `optimizer.${slot}:${key}`;

/** Name of the average of a parameter or buffer, as it is in checkpoints. */
export const emaName = (key: string): string => slotName("ema", key);

/** Slots are kept per parameter, so that steps of several batch sizes share them. */
export type Slots = Map<string, ParameterRef>;

type Trained = readonly (readonly [key: string, parameter: Parameter])[];
type Group = NonNullable<TrainStepOptions["group"]>;

const inheritAll: Group = () => undefined;

function trainedParameters(model: Net, group: Group = inheritAll): Trained {
  const trained = [...model.parameters()].filter(([key, p]) => !group(key, p)?.frozen);
  must(trained.length, "train-step/parameters", () => "train step: every parameter is frozen", "usage");
  return trained;
}

const flat = (value: Value): Value => reshape(value, [sizeOf(value.shape)]);

/**
 * The block of a network that a layer belongs to: its path up to the first number (`stage1.0` of `stage1.0.conv1`), else
 * its first part. What is in no layer, such as the loss, belongs to none.
 */
function blockOf(path: string): string | undefined {
  const parts = path.split(".");
  const number = parts.findIndex((part) => /^\d+$/.test(part));
  return path ? parts.slice(0, number < 0 ? 1 : number + 1).join(".") : undefined;
}

/** Forward, loss and the flat gradient of every trained parameter. */
function forwardBackward(
  model: Net,
  trained: Trained,
  { inputShape, labelSmoothing = 0, loss: lossOf, gradCheckpointing }: Omit<TrainStepOptions, "optimizer">,
): { readonly traced: TracedModel; readonly loss: Value; readonly gradients: readonly Value[] } {
  const traced = traceModel(model, inputShape);
  must(
    traced.output.shape.length === 2 && traced.output.shape[0] === inputShape[0],
    "train-step/output",
    () => `train step: the network must return [N, classes] for a batch, got ${fmt(traced.output.shape)}`,
    "model",
  );
  const targets = input("targets", traced.output.shape);
  const loss = lossOf ? lossOf(traced.output, targets) : crossEntropy(traced.output, targets, { labelSmoothing });
  const gradients = grad(
    loss,
    trained.map(([, p]) => p.value),
    undefined,
    gradCheckpointing ? { recompute: ({ path }) => blockOf(path) } : {},
  );
  return { traced, loss, gradients: gradients.map(flat) };
}

/** What is computed anew only saves memory where the runtime does not hold the first result's for it. */
const shapesFor = ({ gradCheckpointing }: TrainStepOptions): Pick<StepGraph, "shapesFrom"> =>
  gradCheckpointing ? { shapesFrom: "input" } : {};

/** New running statistics, flat. */
const statistics = ({ updates }: TracedModel): Map<ParameterRef, Value> =>
  new Map([...updates].map(([ref, value]) => [ref, flat(value)]));

/** What one update needs beside the gradients. */
interface UpdateContext {
  readonly model: Net;
  readonly trained: Trained;
  readonly options: Omit<TrainStepOptions, "inputShape">;
  readonly slots: Slots;
  /** Gets the new values; those that are in it already (statistics) go into the average. */
  readonly next: Map<ParameterRef, Value>;
  readonly names: Map<ParameterRef, string>;
}

/**
 * Clips, updates every trained parameter, then the average. Returns the outputs and names of the scalar inputs.
 *
 * @param uses  what else is computed with the parameters: updates wait for it, so that they can overwrite them
 */
function update(
  { model, trained, options, slots, next, names }: UpdateContext,
  gradients: readonly Value[],
  uses: readonly Value[] = [],
): { readonly outputs: Record<string, Value>; readonly scalars: readonly string[] } {
  const { optimizer, group = inheritAll, ema, gradientNorm = options.clipNorm !== undefined } = options;
  checkClip(options);
  const scalarNames = [...optimizer.scalarNames, ...(ema ? emaScalarNames : [])];
  const scalars = Object.fromEntries(scalarNames.map((name) => [name, input(`scalar:${name}`, [1])]));
  const slotFor = (name: string, make: () => ParameterRef): ParameterRef => {
    const ref = slots.get(name) ?? make();
    slots.set(name, ref);
    names.set(ref, name);
    return ref;
  };
  const norm = globalNorm(gradients);
  const limited = clipped(gradients, norm, options);
  const before = waitedFor(
    [...uses, ...gradients],
    trained.map(([, p]) => p.value),
    gradients,
  );
  for (const [i, [key, p]] of trained.entries()) {
    const { weightDecay = optimizer.weightDecay, lrScale = 1 } = group(key, p) ?? {};
    const refs = Object.fromEntries(
      optimizer.slots.map((slot) => [slot, slotFor(slotName(slot, key), () => zeroLike(p))]),
    );
    const updated = optimizer.update({
      parameter: flat(p.value),
      gradient: limited[i],
      slots: Object.fromEntries(Object.entries(refs).map(([slot, ref]) => [slot, flat(parameter(ref))])),
      scalars: Object.fromEntries(Object.entries(scalars).map(([name, value]) => [name, after(value, before[i])])),
      lrScale,
      weightDecay,
    });
    next.set(p, updated.parameter);
    for (const [slot, value] of Object.entries(updated.slots)) next.set(refs[slot], value);
  }
  if (ema) {
    checkEma(ema);
    const isTrained = new Set(trained.map(([, p]) => p));
    for (const [p, key] of parameterNames(model)) {
      // What never changes is its own average.
      if (!isTrained.has(p) && !(p instanceof Buffer && isFloating(p.dtype))) continue;
      const ref = slotFor(emaName(key), () => slotLike(p));
      next.set(ref, averagedWith(flat(parameter(ref)), next.get(p) ?? flat(p.value), scalars));
    }
  }
  const own = options.returnGradients
    ? Object.fromEntries(trained.map(([key, p], i) => [`grad:${key}`, reshape(gradients[i], p.shape)]))
    : {};
  return { outputs: { ...own, ...(gradientNorm && { gradientNorm: norm }) }, scalars: scalarNames };
}

/**
 * A complete training step as one graph: forward, loss, backward, optimizer, new running statistics. Inputs `input`,
 * `targets` and the step's scalars; outputs `loss`, `output` and all new state.
 */
export function trainStep(model: Net, options: TrainStepOptions, slots: Slots = new Map()): TrainStep {
  const trained = trainedParameters(model, options.group);
  const { traced, loss, gradients } = forwardBackward(model, trained, options);
  const [next, names] = [statistics(traced), new Map(traced.names)];
  const { outputs, scalars } = update({ model, trained, options, slots, next, names }, gradients, [
    traced.output,
    ...next.values(),
  ]);
  return {
    outputs: { loss: reshape(loss, [1]), output: traced.output, ...outputs },
    next,
    names,
    counters: traced.counters,
    scalars,
    ...shapesFor(options),
  };
}

/**
 * The first half of a step whose batch comes in parts: forward, loss, backward; the gradients' sum over the pictures is
 * added to `sums`, or, where the scalar `addTo` is 0, takes their place. Outputs `loss` and `output`.
 */
export function gradientStep(model: Net, options: TrainStepOptions, sums: Slots): TrainStep {
  const trained = trainedParameters(model, options.group);
  const { traced, loss, gradients } = forwardBackward(model, trained, options);
  const [next, names] = [statistics(traced), new Map(traced.names)];
  const addTo = input("scalar:addTo", [1]);
  for (const [i, ref] of sumsOf(trained, sums, names).entries())
    next.set(ref, add(mul(flat(parameter(ref)), addTo), mul(gradients[i], options.inputShape[0])));
  return {
    outputs: { loss: reshape(loss, [1]), output: traced.output },
    next,
    names,
    counters: traced.counters,
    scalars: ["addTo"],
    ...shapesFor(options),
  };
}

/** The second half: an update with the `sums` of {@link gradientStep} times the scalar `perPicture`. */
export function updateStep(
  model: Net,
  options: Omit<TrainStepOptions, "inputShape">,
  slots: Slots,
  sums: Slots,
): TrainStep {
  const trained = trainedParameters(model, options.group);
  const next = new Map<ParameterRef, Value>();
  const names = new Map<ParameterRef, string>(parameterNames(model));
  const perPicture = input("scalar:perPicture", [1]);
  const means = sumsOf(trained, sums, names).map((ref) => mul(flat(parameter(ref)), perPicture));
  const { outputs, scalars } = update({ model, trained, options, slots, next, names }, means);
  return { outputs, next, names, counters: [], scalars: [...scalars, "perPicture"] };
}

/** A slot for the sum of each trained parameter's gradients. */
function sumsOf(trained: Trained, sums: Slots, names: Map<ParameterRef, string>): ParameterRef[] {
  return trained.map(([key, p]) => {
    const name = slotName("sum", key);
    const ref = sums.get(name) ?? zeroLike(p);
    sums.set(name, ref);
    names.set(ref, name);
    return ref;
  });
}
