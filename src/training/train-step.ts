import { fmt, must } from "../errors.ts";
import {
  add,
  constant,
  grad,
  input,
  isExchanged,
  mul,
  type ParameterRef,
  parameter,
  reachable,
  reshape,
  type SharedBatch,
  type Value,
} from "../graph/index.ts";
import { type Net, type Parameter, parameterNames, type Traced, traceNet } from "../nn/index.ts";
import type { StepGraph } from "../runtime/index.ts";
import { defaultTask, type StepInputs, type StepTask, type TaskLoss } from "../tasks/index.ts";
import { type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import { flat, stateName } from "./transforms/index.ts";
import { ruleOf, type Slots, slotName, type Trained, trainedOf, type UpdateOptions, update } from "./update.ts";

export interface TrainStepOptions<N extends Net = Net> extends UpdateOptions {
  /** Shape of a batch of pictures, `[N, C, H, W]`. */
  readonly inputShape: Shape;
  /** What the network is trained for. Default {@link classification}. */
  readonly task?: StepTask<N>;
  /**
   * Keeps only what passes between the blocks of the network, and computes their inner values once more for the backward
   * pass (timm's `--grad-checkpointing`, arXiv 1604.06174): bigger batches for about a quarter more time, with the same
   * gradients up to rounding. On the CPU; WebGPU keeps everything. Default false.
   */
  readonly gradCheckpointing?: boolean;
  /** The batch that batch norms norm as a whole, of which the pictures are one process's share. Default: they are all. */
  readonly sharedBatch?: SharedBatch;
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
  /** Names of the outputs that are the task's: a row per picture. */
  readonly perPicture: readonly string[];
  /** Whether processes exchange values within it. */
  readonly exchanges?: boolean;
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

/** What a task's loss asks for becomes inputs of the step. */
function stepInputs(inputShape: Shape): StepInputs {
  const declared = new Map<string, Value>();
  return {
    images: input("input", inputShape),
    input(name, shape, dtype) {
      must(
        name !== "input" && !name.includes(":") && shape[0] === inputShape[0],
        "task/input",
        () =>
          `task: the input "${name}" ${fmt(shape)} needs a name without a colon that is not "input", and ${inputShape[0]} rows: one per picture.`,
        "usage",
      );
      const value = declared.get(name) ?? input(name, shape, dtype);
      declared.set(name, value);
      return value;
    },
  };
}

/** Outputs of a step that are not the task's. */
const isReserved = (name: string): boolean => name === "loss" || name === "gradientNorm" || name.includes(":");

function checkLoss({ loss, outputs }: TaskLoss, [pictures]: Shape): void {
  must(
    sizeOf(loss.shape) === 1,
    "task/loss",
    () => `task: the loss must be one value, the mean over the pictures, got ${fmt(loss.shape)}.`,
    "model",
  );
  for (const [name, { shape }] of Object.entries(outputs))
    must(
      !isReserved(name) && shape[0] === pictures,
      "task/output",
      () =>
        `task: the output "${name}" ${fmt(shape)} needs a name without a colon that is neither "loss" nor "gradientNorm", and ${pictures} rows: one per picture.`,
      "model",
    );
}

interface Forward extends Omit<Traced<TaskLoss>, "result">, TaskLoss {}

/** Forward and loss as the task has them. */
function forward<N extends Net>(
  model: N,
  { inputShape, task = defaultTask, sharedBatch }: Pick<TrainStepOptions<N>, "inputShape" | "task" | "sharedBatch">,
): Forward {
  const inputs = stepInputs(inputShape);
  const { result, ...traced } = traceNet(
    model,
    () => task.loss(model, inputs),
    ({ loss, outputs }) => [loss, ...Object.values(outputs)],
    { feedsScalars: true, sharedBatch },
  );
  checkLoss(result, inputShape);
  return { ...traced, ...result };
}

/** Forward, loss and the flat gradient of every trained parameter: of the loss, or of `weight` times it. */
function forwardBackward<N extends Net>(
  model: N,
  { parameters }: Trained,
  options: TrainStepOptions<N>,
  weight?: number,
): { readonly traced: Forward; readonly gradients: readonly Value[] } {
  const traced = forward(model, options);
  const gradients = grad(
    traced.loss,
    parameters.map(([, p]) => p.value),
    weight === undefined ? undefined : constant(Tensor.full(traced.loss.dtype, traced.loss.shape, weight)),
    options.gradCheckpointing ? { recompute: ({ path }) => blockOf(path) } : {},
  );
  return { traced, gradients: gradients.map(flat) };
}

/** What is computed anew only saves memory where the runtime does not hold the first result's for it. */
const shapesFor = ({
  gradCheckpointing,
}: Pick<TrainStepOptions, "gradCheckpointing">): Pick<StepGraph, "shapesFrom"> =>
  gradCheckpointing ? { shapesFrom: "input" } : {};

/** New running statistics, flat. */
const statistics = ({ updates }: Forward): Map<ParameterRef, Value> =>
  new Map([...updates].map(([ref, value]) => [ref, flat(value)]));

/** What the first part of a step gives: the loss, and the task's outputs. */
const results = ({ loss, outputs }: TaskLoss): Pick<TrainStep, "outputs" | "perPicture"> => ({
  outputs: { loss: reshape(loss, [1]), ...outputs },
  perPicture: Object.keys(outputs),
});

/**
 * A complete training step as one graph: forward, loss, backward, optimizer, new running statistics. Inputs `input`,
 * those of the task (`targets`) and the step's scalars; outputs `loss`, those of the task (`output`) and all new state.
 *
 * @throws `task/input`, `task/loss`, `task/output` for a task whose loss does not fit
 */
export function trainStep<N extends Net>(model: N, options: TrainStepOptions<N>, slots: Slots = new Map()): TrainStep {
  const trained = trainedOf(model, options.group);
  const { traced, gradients } = forwardBackward(model, trained, options);
  const [next, names] = [statistics(traced), new Map(traced.names)];
  const { outputs, scalars } = update({ rule: ruleOf(options), trained, slots, next, names }, gradients, [
    ...Object.values(traced.outputs),
    ...next.values(),
  ]);
  const first = results(traced);
  return {
    ...first,
    outputs: { ...first.outputs, ...outputs },
    next,
    names,
    counters: traced.counters,
    scalars: [...scalars, ...traced.scalars],
    ...shapesFor(options),
  };
}

/**
 * The first half of a step whose batch comes in parts: forward, loss, backward; the gradients' sum over the pictures is
 * added to `sums`, or, where the scalar `addTo` is 0, takes their place. Outputs `loss` and those of the task.
 */
export function gradientStep<N extends Net>(model: N, options: TrainStepOptions<N>, sums: Slots): TrainStep {
  const trained = trainedOf(model, options.group);
  // Where pictures of other processes are in the statistics, the losses must have their weights before their gradient is taken.
  const [pictures] = options.inputShape;
  const [before, after] = options.sharedBatch ? [pictures, 1] : [undefined, pictures];
  const { traced, gradients } = forwardBackward(model, trained, options, before);
  const [next, names] = [statistics(traced), new Map(traced.names)];
  const addTo = input("scalar:addTo", [1]);
  for (const [i, ref] of sumsOf(trained, sums, names).entries())
    next.set(ref, add(mul(flat(parameter(ref)), addTo), mul(gradients[i], after)));
  return {
    ...results(traced),
    exchanges: reachable(next.values()).some(({ outputs: [value] }) => isExchanged(value)),
    next,
    names,
    counters: traced.counters,
    scalars: ["addTo", ...traced.scalars],
    ...shapesFor(options),
  };
}

/** The second half: an update with the `sums` of {@link gradientStep} times the scalar `perPicture`. */
export function updateStep(model: Net, options: UpdateOptions, slots: Slots, sums: Slots): TrainStep {
  const trained = trainedOf(model, options.group);
  const next = new Map<ParameterRef, Value>();
  const names = new Map<ParameterRef, string>(parameterNames(model));
  const perPicture = input("scalar:perPicture", [1]);
  const means = sumsOf(trained, sums, names).map((ref) => mul(flat(parameter(ref)), perPicture));
  const { outputs, scalars } = update({ rule: ruleOf(options), trained, slots, next, names }, means);
  return { outputs, next, names, counters: [], scalars: [...scalars, "perPicture"], perPicture: [] };
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
