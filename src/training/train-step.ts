import { fmt, must } from "../errors.ts";
import { crossEntropy, grad, input, type ParameterRef, parameter, reshape, type Value } from "../graph/index.ts";
import { type Net, type Parameter, traceModel } from "../nn/index.ts";
import type { StepGraph } from "../runtime/index.ts";
import { type DType, type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import type { Optimizer } from "./optimizer.ts";

/** How one parameter is trained, where it differs from the optimizer's settings. */
export interface ParameterGroup {
  /** Default: the optimizer's. */
  readonly weightDecay?: number;
  /** Factor of the learning rate. Default 1. */
  readonly lrScale?: number;
  /** Not trained at all. */
  readonly frozen?: boolean;
}

export interface TrainStepOptions {
  readonly optimizer: Optimizer;
  /** Shape of a batch of pictures, `[N, C, H, W]`. */
  readonly inputShape: Shape;
  /** Loss of the network's output and the targets `[N, classes]`. Default: cross entropy with `labelSmoothing`. */
  readonly loss?: (output: Value, targets: Value) => Value;
  /** Default 0. */
  readonly labelSmoothing?: number;
  /** Settings by parameter key; none means the optimizer's. */
  readonly group?: (key: string, parameter: Parameter) => ParameterGroup | undefined;
  /** Also returns the gradient of every trained parameter, as `grad:<key>`. */
  readonly returnGradients?: boolean;
}

/** State of the optimizer for one parameter and slot. */
class Slot implements ParameterRef {
  readonly dtype: DType;
  private readonly zeros: Tensor;

  constructor(
    readonly shape: Shape,
    dtype: DType,
  ) {
    this.dtype = dtype;
    this.zeros = Tensor.zeros(dtype, shape);
  }

  source(): Tensor {
    return this.zeros;
  }
}

export interface TrainStep extends StepGraph {
  /** Counters to increase by one per entry and step. */
  readonly counters: readonly ParameterRef[];
  /** Names of the scalar inputs. */
  readonly scalars: readonly string[];
}

/** Name of an optimizer state tensor: `optimizer.<slot>:<parameter key>`. */
const slotName = (slot: string, key: string): string => `optimizer.${slot}:${key}`;

/** Slots are kept per parameter, so that steps of several batch sizes share them. */
export type Slots = Map<string, ParameterRef>;

/**
 * A complete training step as one graph: forward, loss, backward, optimizer, new running statistics. Inputs `input`,
 * `targets` and the optimizer's scalars; outputs `loss`, `output` and all new state.
 */
export function trainStep(model: Net, options: TrainStepOptions, slots: Slots = new Map()): TrainStep {
  const { optimizer, inputShape, labelSmoothing = 0, group = () => undefined } = options;
  const traced = traceModel(model, inputShape);
  must(
    traced.output.shape.length === 2 && traced.output.shape[0] === inputShape[0],
    "train-step/output",
    () => `train step: the network must return [N, classes] for a batch, got ${fmt(traced.output.shape)}`,
    "model",
  );
  const targets = input("targets", traced.output.shape);
  const lossOf = options.loss ?? ((y: Value, q: Value) => crossEntropy(y, q, { labelSmoothing }));
  const loss = lossOf(traced.output, targets);
  const trained = [...model.parameters()].filter(([key, p]) => !group(key, p)?.frozen);
  must(trained.length, "train-step/parameters", () => "train step: every parameter is frozen", "usage");
  const gradients = grad(
    loss,
    trained.map(([, p]) => p.value),
  );
  const scalars = Object.fromEntries(optimizer.scalarNames.map((name) => [name, input(`scalar:${name}`, [1])]));
  const next = new Map<ParameterRef, Value>();
  const names = new Map(traced.names);
  for (const [i, [key, p]] of trained.entries()) {
    const size = [sizeOf(p.shape)];
    const { weightDecay = optimizer.weightDecay, lrScale = 1 } = group(key, p) ?? {};
    const refs = Object.fromEntries(
      optimizer.slots.map((slot) => {
        const name = slotName(slot, key);
        const ref = slots.get(name) ?? new Slot(p.shape, p.dtype);
        slots.set(name, ref);
        names.set(ref, name);
        return [slot, ref];
      }),
    );
    const updated = optimizer.update({
      parameter: reshape(p.value, size),
      gradient: reshape(gradients[i], size),
      slots: Object.fromEntries(Object.entries(refs).map(([slot, ref]) => [slot, reshape(parameter(ref), size)])),
      scalars,
      lrScale,
      weightDecay,
    });
    next.set(p, updated.parameter);
    for (const [slot, value] of Object.entries(updated.slots)) next.set(refs[slot], value);
  }
  for (const [ref, value] of traced.updates) next.set(ref, reshape(value, [sizeOf(ref.shape)]));
  const extra = options.returnGradients
    ? Object.fromEntries(trained.map(([key], i) => [`grad:${key}`, gradients[i]]))
    : {};
  return {
    outputs: { loss: reshape(loss, [1]), output: traced.output, ...extra },
    next,
    names,
    counters: traced.counters,
    scalars: optimizer.scalarNames,
  };
}
