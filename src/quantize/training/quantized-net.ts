import { listed, must } from "../../errors.ts";
import {
  abs,
  add,
  asParameter,
  clip,
  div,
  fakeQuantize,
  type IntegerRange,
  input,
  largestOfBatch,
  lsqGradientFactor,
  maximum,
  mul,
  neg,
  reduceMax,
  rewrite,
  round,
  stopGradient,
  sub,
  trace,
  updateBuffer,
  type Value,
} from "../../graph/index.ts";
import {
  BatchNorm,
  Buffer,
  constantInit,
  Module,
  mapModules,
  type Net,
  Parameter,
  parameterNames,
  type StagedNet,
  withPaths,
} from "../../nn/index.ts";
import { deployForm, equivalentInGraph } from "../../reparam/index.ts";
import { type Shape, sizeOf, type Tensor } from "../../tensor/index.ts";
import { fitsPattern } from "../../text.ts";
import { type QuantizationTargetName, quantizationTargets } from "../qdq.ts";
import { type QuantizedGraph, quantizedGraph } from "./sites.ts";

export interface QuantizationAwareOptions {
  /** One picture, `[C, H, W]`. */
  readonly inputShape: Shape;
  /** Machines that the result is for. Default `portable`: 7-bit weights. */
  readonly target?: QuantizationTargetName;
  /**
   * How the ranges of activations are found: `average`, a moving average of the smallest and the largest value of each
   * batch, or `learned` (LSQ), with a scale and a zero point that are trained; they start from what
   * {@link calibrateQuantizedNet} sees. Default `average`.
   */
  readonly activations?: "average" | "learned";
  /** The scale of each output channel: from its `largest` weight at each step, or `learned`. Default `largest`. */
  readonly weights?: "largest" | "learned";
  /** Patterns of weights that stay in float with their inputs, by their keys in the merged form. Default none. */
  readonly keepFloat?: readonly string[];
  /** Share of a run after which batch norms keep their statistics. Default 2/8. */
  readonly freezeBatchNorm?: number;
  /** Share of a run after which the ranges of `average` stay. Default 3/8. */
  readonly freezeObservers?: number;
}

/** The least share of a batch in a moving average of ranges; the first batches count alike. */
const MOMENTUM = 0.01;

/** Smaller scales would overflow when they are divided by. */
const TINY = 1e-30;

/** By how much a learned scale may be smaller than that of all values: a step of training may overshoot. */
const LEAST_SCALE = 8;

const filled = (value: number) => ({ init: constantInit(value) });

/** The range of an activation: keys `min`, `max`, `seen`; learned also `scale`, `zero_point`. All `[1]`. */
class ActivationRange extends Module {
  readonly min = new Buffer([1], filled(0));
  readonly max = new Buffer([1], filled(0));
  /** Batches that the two come from. */
  readonly seen = new Buffer([1], filled(0));
  readonly scale: Parameter | undefined;
  readonly zeroPoint: Parameter | undefined;

  constructor(learned: boolean) {
    super();
    this.scale = learned ? new Parameter([1], filled(1)) : undefined;
    this.zeroPoint = learned ? new Parameter([1], filled(0)) : undefined;
  }

  /** Smallest and largest value, with the batch's own where it is to be seen. */
  observed(x: Value | undefined): readonly [min: Value, max: Value] {
    const { min, max, seen } = this;
    if (!x) return [min.value, max.value];
    const count = add(seen.value, 1);
    const part = maximum(div(1, count), MOMENTUM);
    const moved = (buffer: Buffer, batch: Value): Value => {
      const next = add(buffer.value, mul(sub(batch, buffer.value), part));
      updateBuffer(buffer, next);
      return next;
    };
    updateBuffer(seen, count);
    return [moved(min, neg(largestOfBatch(neg(x)))), moved(max, largestOfBatch(x))];
  }
}

/** Scale and zero point of [min, max], widened so that it holds 0; see {@link affineQuantization}. */
function stepOf([min, max]: readonly [Value, Value], { qmin, qmax }: IntegerRange): readonly [Value, Value] {
  const low = neg(maximum(neg(min), 0));
  const high = maximum(max, 0);
  const scale = maximum(div(sub(high, low), qmax - qmin), TINY);
  return [scale, clip(sub(qmin, round(div(low, scale))), qmin, qmax)];
}

/** Holds ranges by the names of what they are of. */
class Ranges extends Module {
  static override readonly stateNames = {
    activations: (name: string) => `activations.${name}`,
    weights: (name: string) => `weights.${name}`,
  };

  constructor(
    readonly activations: Readonly<Record<string, ActivationRange>>,
    /** Scales `[O]`, by keys of the merged form. */
    readonly weights: Readonly<Record<string, Parameter>>,
  ) {
    super();
  }
}

type Stage = "statistics and ranges" | "statistics" | "ranges" | "fixed";

/** What a quantized network computes its integers from, as values of the graph. */
export interface QuantizedValues {
  /** Weights and biases of the merged form, by key, not yet rounded. */
  readonly equivalents: ReadonlyMap<string, Value>;
  /** Scales `[O]` of the weights that become integers, by key. */
  readonly weightScales: ReadonlyMap<string, Value>;
  /** Scale and zero point, `[1]`, by the name of the activation. */
  readonly steps: ReadonlyMap<string, readonly [scale: Value, zeroPoint: Value]>;
}

/**
 * A network as it will compute in integers, in training: the merged form, whose kernels are made of the branches in the
 * graph by the very definition that conversion uses, and rounded there; activations are rounded, too. Gradients pass
 * straight through to the branches. Its keys are those of the network, and `quantize.…` for the ranges.
 *
 * Batch norms are part of the kernels, by their running statistics. While those still change, the network's training form
 * is run beside for nothing else.
 */
export class QuantizedNet<N extends Net = Net> extends Module implements StagedNet {
  readonly ranges: Ranges;
  readonly options: Required<QuantizationAwareOptions>;
  /** The merged form, for its structure; its own values are not looked at. */
  private readonly deploy: Net;
  private current: Stage = "statistics and ranges";
  /** Whether learned ranges are left aside for those that are seen. */
  private learnedAside = false;

  constructor(
    readonly net: N,
    {
      inputShape,
      target = "portable",
      activations = "average",
      weights = "largest",
      keepFloat = [],
      freezeBatchNorm = 2 / 8,
      freezeObservers = 3 / 8,
    }: QuantizationAwareOptions,
  ) {
    super();
    this.options = {
      ...{ inputShape, target, activations, weights, keepFloat, freezeBatchNorm, freezeObservers },
    };
    for (const [name, share] of Object.entries({ freezeBatchNorm, freezeObservers }))
      must(
        share >= 0 && share <= 1,
        "quantize/freeze",
        () => `quantize: ${name} is a share of the run, from 0 to 1, got ${share}.`,
        "usage",
      );
    this.deploy = deployForm(net as Net);
    const names = parameterNames(this.deploy);
    for (const pattern of keepFloat)
      must(
        [...names.values()].some((key) => fitsPattern(key, pattern)),
        "quantize/keep-float",
        () =>
          `quantize: keepFloat "${pattern}" fits no parameter of the merged network: ${listed([...names.values()], 6)}.`,
        "usage",
      );
    const { graph } = this.merged(input("input", [2, ...inputShape]));
    must(
      graph.weights.size > 0,
      "quantize/nothing",
      () => "quantize: the network has no convolution and no fully connected layer to quantize.",
      "model",
    );
    const learned = activations === "learned";
    const rowsOf = [...graph.weights].map((ref) => [names.get(ref as Parameter)!, ref.shape[0]] as const);
    this.ranges = new Ranges(
      Object.fromEntries([...graph.activations.values()].map((name) => [name, new ActivationRange(learned)])),
      weights === "learned"
        ? Object.fromEntries(rowsOf.map(([key, rows]) => [key, new Parameter([rows], filled(1))]))
        : {},
    );
    this.train(net.training);
  }

  override *members(): ReturnType<Module["members"]> {
    yield* this.net.members();
    yield ["quantize", this.ranges];
  }

  get stage(): string {
    return this.current;
  }

  atProgress(share: number): void {
    const { freezeBatchNorm, freezeObservers, activations } = this.options;
    const statistics = share < freezeBatchNorm;
    const ranges = share < freezeObservers && activations === "average";
    this.current = statistics ? (ranges ? "statistics and ranges" : "statistics") : ranges ? "ranges" : "fixed";
  }

  /** Keys of the weights that become integers, in the merged form. */
  get weightKeys(): readonly string[] {
    const names = parameterNames(this.deploy);
    const { graph } = this.merged(input("input", [2, ...this.options.inputShape]));
    return [...graph.weights].map((ref) => names.get(ref as Parameter)!);
  }

  /** The merged form's output, and what of it becomes integers. */
  private merged(
    x: Value,
    { training = false, deploy = this.deploy } = {},
  ): { readonly output: Value; readonly graph: QuantizedGraph } {
    // Batch norms that no merge takes in go by their running statistics, as the others do.
    for (const [, m] of deploy.modules()) Object.assign(m, { training: training && !(m instanceof BatchNorm) });
    const { result: output } = trace(() => withPaths(deploy, () => deploy.forward(x)));
    const names = parameterNames(deploy);
    const kept = (key: string): boolean => this.options.keepFloat.some((pattern) => fitsPattern(key, pattern));
    return { output, graph: quantizedGraph(output, (ref) => kept(names.get(ref as Parameter)!)) };
  }

  /** What stands for a parameter of the merged form: its equivalent, or the network's own. */
  private valueByKey(): (key: string) => Value {
    const equivalents = equivalentInGraph(this.net);
    const own = new Map(this.net.state());
    return (key) => equivalents.get(key) ?? own.get(key)!.value;
  }

  private weightScale(key: string, weight: Value): Value {
    const learned = this.learnedAside ? undefined : this.ranges.weights[key];
    const { qmax } = quantizationTargets[this.options.target].weights;
    const rest = weight.shape.slice(1).map((_, i) => i + 1);
    const largest = maximum(div(reduceMax(abs(stopGradient(weight)), rest), qmax), TINY);
    return learned ? maximum(learned.value, div(largest, LEAST_SCALE)) : largest;
  }

  private roundedWeight(key: string, weight: Value): Value {
    const { weights: range } = quantizationTargets[this.options.target];
    const learned = this.ranges.weights[key] !== undefined;
    const perScale = sizeOf(weight.shape) / weight.shape[0];
    return fakeQuantize(weight, this.weightScale(key, weight), {
      ...{ ...range, axis: 0 },
      ...(learned && { stepGradient: lsqGradientFactor(perScale, range.qmax) }),
    });
  }

  /** @param x  the activation, where it is to be seen */
  private stepOf(name: string, x?: Value): readonly [Value, Value] {
    const range = this.ranges.activations[name];
    const seen = stepOf(range.observed(x), quantizationTargets[this.options.target].activations);
    return range.scale && range.zeroPoint && !this.learnedAside
      ? [maximum(range.scale.value, div(seen[0], LEAST_SCALE)), range.zeroPoint.value]
      : seen;
  }

  /** `[N, C, H, W]` → what the network gives, by integers. */
  forward(x: Value): Value {
    const { training, current, options } = this;
    // Of this run only the new statistics are kept.
    if (training && current.startsWith("statistics")) this.net.forward(x);
    const seen = training && current.endsWith("ranges");
    const { output, graph } = this.merged(x, { training });
    const names = parameterNames(this.deploy);
    const standIn = this.valueByKey();
    const { activations: integers } = quantizationTargets[options.target];
    const [result] = rewrite([output], (made, original) => {
      const leaf = asParameter(original);
      if (leaf) {
        const key = names.get(leaf.ref as Parameter)!;
        return graph.weights.has(leaf.ref) ? this.roundedWeight(key, standIn(key)) : standIn(key);
      }
      const name = graph.activations.get(original);
      if (name === undefined) return made;
      const [scale, zeroPoint] = this.stepOf(name, seen ? made : undefined);
      const stepGradient = lsqGradientFactor(sizeOf(made.shape), integers.qmax);
      const isLearned = this.ranges.activations[name].scale !== undefined;
      return fakeQuantize(made, scale, { ...integers, ...(isLearned && { stepGradient }) }, zeroPoint);
    });
    return result;
  }

  /** The output of a merged form with `activation` in the place of each activation that becomes integers. */
  withActivations(x: Value, deploy: Net, activation: (made: Value, name: string) => Value): Value {
    const { output, graph } = this.merged(x, { deploy });
    const [result] = rewrite([output], (made, original) => {
      const name = graph.activations.get(original);
      return name === undefined ? made : activation(made, name);
    });
    return result;
  }

  /** Runs `body`, which sees the network in training mode with ranges that follow its batches, learned ones aside. */
  observing<T>(body: () => T): T {
    const { current } = this;
    const { training } = this;
    this.train();
    Object.assign(this, { current: "ranges", learnedAside: true });
    try {
      return body();
    } finally {
      Object.assign(this, { current, learnedAside: false });
      this.train(training);
    }
  }

  /** What the integers are computed from, as the next training step will. */
  values(): QuantizedValues {
    const names = parameterNames(this.deploy);
    const standIn = this.valueByKey();
    const equivalents = new Map([...names.values()].map((key) => [key, standIn(key)]));
    const { activations } = this.ranges;
    return {
      equivalents,
      weightScales: new Map(this.weightKeys.map((key) => [key, this.weightScale(key, equivalents.get(key)!)])),
      steps: new Map(Object.keys(activations).map((name) => [name, this.stepOf(name)])),
    };
  }

  /** The merged form with values, by key. */
  mergedWith(values: ReadonlyMap<string, Tensor>): Net {
    const names = parameterNames(this.deploy);
    return mapModules(this.deploy, {
      parameter: (p) => {
        const made = p.copy();
        const value = values.get(names.get(p)!);
        if (value) made.set(value);
        return made;
      },
    }).eval();
  }

  /** Throws where no batch has been seen, so that there are no ranges. */
  mustHaveRanges(): void {
    const unseen = Object.entries(this.ranges.activations).find(
      ([, { seen }]) => !seen.isSet || !Number(seen.data.data[0]),
    );
    must(
      !unseen,
      "quantize/no-ranges",
      () =>
        `quantize: nothing has been seen of the activation ${unseen![0]}. Train, or calibrate with calibrateQuantizedNet.`,
      "usage",
    );
  }
}
