import { fmt, must } from "../errors.ts";
import {
  add,
  crossEntropy,
  grad,
  input,
  mul,
  type ParameterRef,
  parameter,
  reshape,
  type Value,
} from "../graph/index.ts";
import { type Net, type Parameter, parameterNames, type TracedModel, traceModel } from "../nn/index.ts";
import type { StepGraph } from "../runtime/index.ts";
import { type Shape, Tensor } from "../tensor/index.ts";
import { flat, stateName } from "./transforms/index.ts";
import { ruleOf, type Slots, slotName, type Trained, trainedOf, type UpdateOptions, update } from "./update.ts";

export interface TrainStepOptions extends UpdateOptions {
  /** Shape of a batch of pictures, `[N, C, H, W]`. */
  readonly inputShape: Shape;
  /** Loss of the network's output and the targets `[N, classes]`. Default: cross entropy with `labelSmoothing`. */
  readonly loss?: (output: Value, targets: Value) => Value;
  /** Default 0. */
  readonly labelSmoothing?: number;
  /**
   * Keeps only what passes between the blocks of the network, and computes their inner values once more for the backward
   * pass (timm's `--grad-checkpointing`, arXiv 1604.06174): bigger batches for about a quarter more time, with the same
   * gradients up to rounding. On the CPU; WebGPU keeps everything. Default false.
   */
  readonly gradCheckpointing?: boolean;
}

/** State that belongs to a parameter, zero at the start. */
const zeroLike = ({ shape, dtype }: Parameter): ParameterRef => ({
  shape,
  dtype,
  source: () => Tensor.zeros(dtype, shape),
});

export interface TrainStep extends StepGraph {
  /** Counters to increase by one per entry and step. */
  readonly counters: readonly ParameterRef[];
  /** Names of the scalar inputs. */
  readonly scalars: readonly string[];
}

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
  { parameters }: Trained,
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
    parameters.map(([, p]) => p.value),
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

/**
 * A complete training step as one graph: forward, loss, backward, optimizer, new running statistics. Inputs `input`,
 * `targets` and the step's scalars; outputs `loss`, `output` and all new state.
 */
export function trainStep(model: Net, options: TrainStepOptions, slots: Slots = new Map()): TrainStep {
  const trained = trainedOf(model, options.group);
  const { traced, loss, gradients } = forwardBackward(model, trained, options);
  const [next, names] = [statistics(traced), new Map(traced.names)];
  const { outputs, scalars } = update({ rule: ruleOf(options), trained, slots, next, names }, gradients, [
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
  const trained = trainedOf(model, options.group);
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
  const trained = trainedOf(model, options.group);
  const next = new Map<ParameterRef, Value>();
  const names = new Map<ParameterRef, string>(parameterNames(model));
  const perPicture = input("scalar:perPicture", [1]);
  const means = sumsOf(trained, sums, names).map((ref) => mul(flat(parameter(ref)), perPicture));
  const { outputs, scalars } = update({ rule: ruleOf(options), trained, slots, next, names }, means);
  return { outputs, next, names, counters: [], scalars: [...scalars, "perPicture"] };
}

/** A slot for the sum of each trained parameter's gradients. */
function sumsOf({ parameters }: Trained, sums: Slots, names: Map<ParameterRef, string>): ParameterRef[] {
  return parameters.map(([key, p]) => {
    const name = slotName(stateName("sum", key));
    const ref = sums.get(name) ?? zeroLike(p);
    sums.set(name, ref);
    names.set(ref, name);
    return ref;
  });
}
