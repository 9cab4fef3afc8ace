import { allReduceBfloat16, allReduceMany, alone, type Communicator, shareOf } from "../distributed/index.ts";
import { fmt, listed, must, nearest, RepmlpError } from "../errors.ts";
import type { ParameterRef } from "../graph/index.ts";
import { Buffer, cloneModule, coefficientScalars, isStaged, type Net, Parameter, parameterNames } from "../nn/index.ts";
import {
  type BatchShare,
  type CompileOptions,
  compileSharedStep,
  compileStep,
  type RunningStep,
  StepState,
} from "../runtime/index.ts";
import { rng, type Shape, sameShape, sizeOf, Tensor } from "../tensor/index.ts";
import { gradientStep, type TrainStep, type TrainStepOptions, trainStep, updateStep } from "./train-step.ts";
import { averageOf, type StateAccess, type UpdateRule } from "./transforms/index.ts";
import { ruleOf, type Slots, slotName, slotsOf, trainedOf } from "./update.ts";

export interface LearnerOptions<N extends Net = Net> extends Omit<TrainStepOptions<N>, "inputShape">, CompileOptions {
  /**
   * Parts in which {@link Learner.train} takes a batch, to need less memory: one update with the mean gradient of all
   * its pictures, as if it had been taken at once. Only batch norms see the difference, for their batch is the part.
   * Default 1.
   */
  readonly accumulate?: number;
  /**
   * Processes that train one network together, each with its share of every part of every batch; see {@link ownPlaces}.
   * Default: this one alone.
   */
  readonly communicator?: Communicator;
  /**
   * What gradients travel as between processes. Default `float32`; `bfloat16` halves the bytes and gives each sum an error of
   * up to 2⁻⁷ of its addends' magnitudes: see {@link allReduceBfloat16}.
   */
  readonly gradientExchange?: "float32" | "bfloat16";
  /** What batch norms do about the shares of other processes. Default `local`. */
  readonly batchNormStatistics?: NormStatistics;
}

/**
 * Over several processes, a batch norm in training mode normalises by its own process's share of a batch, and the running
 * statistics are those of process 0 (`local`) or the mean of all (`averaged`); or it normalises by the whole batch, as one
 * process would (`synced`), for messages within the step.
 */
export type NormStatistics = "local" | "averaged" | "synced";

export interface StepResult {
  readonly loss: number;
  /** The task's `output` for the batch, before the update: the network's, `[N, classes]`, of a classification. */
  readonly output: Tensor;
  /** 2-norm of all gradients before clipping; with `clipNorm` or `gradientNorm`. */
  readonly gradientNorm?: number;
  /** All outputs of the step, those of the task and, when asked for, gradients among them. */
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/** What a step is fed beside the pictures: the inputs of the task's loss by name, or the one called `targets`. */
export type StepFeeds = Tensor | Readonly<Record<string, Tensor>>;

const named = (feeds: StepFeeds): Readonly<Record<string, Tensor>> =>
  feeds instanceof Tensor ? { targets: feeds } : feeds;

/** Sizes of the parts of a batch: equal ones, and a smaller last one where they do not divide it. */
export function partSizes(count: number, parts: number): number[] {
  const size = Math.ceil(count / parts);
  return Array.from({ length: Math.ceil(count / size) }, (_, i) => Math.min(size, count - i * size));
}

/** A process's shares of the parts of a batch: where each begins in its part, and how many pictures it has. */
const sharesOf = (count: number, parts: number, group: Communicator): BatchShare[] =>
  partSizes(count, parts).map((size) => {
    const [start, end] = shareOf(size, group);
    return { start, count: end - start };
  });

/** Places in a batch of the pictures that a process takes: its share of each part, in their order. */
export function ownPlaces(count: number, parts: number, group: Communicator): number[] {
  const size = Math.ceil(count / parts);
  return sharesOf(count, parts, group).flatMap((share, i) =>
    Array.from({ length: share.count }, (_, k) => i * size + share.start + k),
  );
}

/** Rows `from` to `from + count` of a tensor, sharing its memory. */
const rowsOf = (t: Tensor, from: number, count: number): Tensor => {
  const row = sizeOf(t.shape.slice(1));
  const values = (t.data as Float32Array<ArrayBuffer>).subarray(from * row, (from + count) * row);
  return new Tensor(t.dtype, [count, ...t.shape.slice(1)], values);
};

/** Parts of a tensor one below the other. */
function joined(parts: readonly Tensor[]): Tensor {
  const [{ dtype, shape }] = parts;
  const whole = Tensor.zeros(dtype, [parts.reduce((n, part) => n + part.shape[0], 0), ...shape.slice(1)]);
  let at = 0;
  for (const { data } of parts) {
    (whole.data as Float32Array).set(data as Float32Array, at);
    at += data.length;
  }
  return whole;
}

interface Compiled {
  readonly graph: TrainStep;
  readonly program: RunningStep;
}

/**
 * Trains a network step by step: compiles one program per batch size, all sharing the state. The model itself keeps its
 * old values until {@link sync} copies the new ones into it.
 *
 * @example
 * // A batch in parts of your own:
 * for (const { images, targets } of parts) await learner.accumulate(images, targets);
 * await learner.update(0.1);
 */
export class Learner<N extends Net = Net> implements StateAccess {
  /** Steps done. */
  step = 0;
  private readonly rule: UpdateRule;
  private readonly communicator: Communicator;
  private readonly state = new StepState();
  private readonly slots: Slots = new Map();
  private readonly sums: Slots = new Map();
  private readonly programs = new Map<string, Compiled>();
  private readonly counts = new Map<ParameterRef, number>();
  /** Pictures whose gradients wait for the update. */
  private waiting = 0;

  /** @throws `learner/accumulate` unless `accumulate` is a positive integer; what options of an update do not fit */
  constructor(
    readonly model: N,
    private readonly options: LearnerOptions<N>,
  ) {
    const { accumulate = 1, communicator = alone } = options;
    this.communicator = communicator;
    must(
      Number.isInteger(accumulate) && accumulate > 0,
      "learner/accumulate",
      () => `learner: accumulate must be a positive integer, got ${accumulate}`,
      "usage",
    );
    this.rule = ruleOf(options);
  }

  /** Whether gradients are summed before an update, over parts or processes. */
  private get inParts(): boolean {
    return (this.options.accumulate ?? 1) > 1 || this.communicator.size > 1;
  }

  /**
   * Compiles the step for batches of this shape, `[N, C, H, W]`, those of all processes together, now rather than at the
   * first one.
   *
   * @returns the shapes of the task's outputs for a batch, or for its first part
   */
  async compile(inputShape: readonly number[]): Promise<Readonly<Record<string, Shape>>> {
    const [count, ...picture] = inputShape;
    const { accumulate = 1 } = this.options;
    if (!this.inParts) return shapesOf(await this.wholeStep(inputShape));
    const sizes = [...new Set(partSizes(count, accumulate))];
    const parts: Compiled[] = [];
    for (const size of sizes) {
      const [start, end] = shareOf(size, this.communicator);
      parts.push(await this.partStep([end - start, ...picture], size));
    }
    const [first] = parts;
    await this.updateOnly();
    return shapesOf(first);
  }

  private wholeStep(inputShape: readonly number[]): Promise<Compiled> {
    return this.compiled(`${inputShape}`, (options) => trainStep(this.model, { ...options, inputShape }, this.slots));
  }

  /** @param total  pictures of the part in all processes */
  private partStep(inputShape: readonly number[], total: number): Promise<Compiled> {
    const { rank, size } = this.communicator;
    if (size === 1 || this.options.batchNormStatistics !== "synced")
      return this.compiled(`part ${inputShape}`, (options) =>
        gradientStep(this.model, { ...options, inputShape }, this.sums),
      );
    const shares = Array.from({ length: size }, (_, i) => {
      const [start, end] = shareOf(total, { rank: i, size });
      return (end - start) / total;
    });
    const sharedBatch = { rank, shares };
    return this.compiled(`part ${inputShape} of ${total}`, (options) =>
      gradientStep(this.model, { ...options, inputShape, sharedBatch }, this.sums),
    );
  }

  private updateOnly(): Promise<Compiled> {
    return this.compiled("update", (options) => updateStep(this.model, options, this.slots, this.sums));
  }

  private async compiled(key: string, graphOf: (options: LearnerOptions<N>) => TrainStep): Promise<Compiled> {
    const staged = isStaged(this.model) ? `${this.model.stage} ${key}` : key;
    const known = this.programs.get(staged);
    if (known) return known;
    this.model.initialize();
    this.model.train();
    const { device, threads, session } = this.options;
    const graph = graphOf(this.options);
    const compile = { state: this.state, device, threads, session };
    const program = await (graph.exchanges
      ? compileSharedStep(graph, this.communicator, compile)
      : compileStep(graph, compile));
    const made = { graph, program };
    this.programs.set(staged, made);
    return made;
  }

  /** Values that the programs have by now; nothing before there is one. */
  private get running(): StepState | undefined {
    return this.programs.size ? this.state : undefined;
  }

  private async run(
    { graph, program }: Compiled,
    feeds: Readonly<Record<string, Tensor>>,
    scalars: Readonly<Record<string, number>>,
    seed = 0,
    share?: BatchShare,
  ): Promise<Record<string, Tensor>> {
    const values = { ...coefficientScalars(this.model), ...scalars };
    const fed = graph.scalars.map((name) => [`scalar:${name}`, Tensor.float32([1], [values[name]])] as const);
    const outputs = await program.step({ ...feeds, ...Object.fromEntries(fed) }, seed, share);
    for (const ref of graph.counters) this.counts.set(ref, (this.counts.get(ref) ?? 0) + 1);
    return outputs;
  }

  /**
   * One step on a batch.
   *
   * @param images  float32 `[N, C, H, W]`
   * @param feeds   what the task's loss takes beside them; of a classification a distribution over classes, float32
   *   `[N, classes]`: see {@link oneHotTargets}
   * @param total   pictures of the batch in all processes, of which those here are this one's; default these
   * @throws `training/nan-loss` when the loss is not finite; the state then already holds the failed step
   */
  async train(images: Tensor, feeds: StepFeeds, lr: number, seed = 0, total = images.shape[0]): Promise<StepResult> {
    if (this.inParts) return this.trainInParts(images, named(feeds), lr, seed, total);
    const step = await this.wholeStep(images.shape);
    const outputs = await this.run(step, { ...named(feeds), input: images }, this.scalars(lr), seed);
    await this.finishStep();
    return this.result(outputs, lr);
  }

  private async trainInParts(
    images: Tensor,
    feeds: Readonly<Record<string, Tensor>>,
    lr: number,
    seed: number,
    total: number,
  ): Promise<StepResult> {
    const { accumulate = 1 } = this.options;
    const parts: Record<string, Tensor>[] = [];
    let loss = 0;
    let from = 0;
    const sizes = partSizes(total, accumulate);
    for (const [i, share] of sharesOf(total, accumulate, this.communicator).entries()) {
      // Each part draws dropout masks of its own.
      const own = accumulate > 1 ? rng(seed, `part/${i}`).below(2 ** 31) : seed;
      const rows = Object.entries(feeds).map(([name, tensor]) => [name, rowsOf(tensor, from, share.count)]);
      const pictures = rowsOf(images, from, share.count);
      const { loss: ofPart, ...part } = await this.addPart(pictures, Object.fromEntries(rows), own, share, sizes[i]);
      parts.push(part);
      loss += ((ofPart.data[0] as number) * share.count) / total;
      from += share.count;
    }
    const whole = Object.keys(parts[0]).map((name) => [name, joined(parts.map((part) => part[name]))]);
    const sum = new Float64Array([loss]);
    await this.communicator.allReduce(sum);
    const update = await this.applyUpdate(lr);
    return this.result({ loss: Tensor.float32([1], [sum[0]]), ...Object.fromEntries(whole), ...update }, lr);
  }

  /**
   * Forward and backward of one part of a batch; its gradients wait for {@link update}.
   *
   * @param images  float32 `[N, C, H, W]`
   * @param feeds   as of {@link train}
   */
  async accumulate(images: Tensor, feeds: StepFeeds, seed = 0): Promise<Pick<StepResult, "loss" | "output">> {
    const { loss, output } = await this.addPart(images, named(feeds), seed);
    return { loss: loss.data[0] as number, output };
  }

  private async addPart(
    images: Tensor,
    feeds: Readonly<Record<string, Tensor>>,
    seed: number,
    share?: BatchShare,
    total = images.shape[0] * this.communicator.size,
  ): Promise<Record<string, Tensor>> {
    const step = await this.partStep(images.shape, total);
    const addTo = this.waiting ? 1 : 0;
    const outputs = await this.run(step, { ...feeds, input: images }, { addTo }, seed, share);
    this.waiting += images.shape[0];
    return outputs;
  }

  /**
   * One update with the mean gradient of all pictures given to {@link accumulate} since the last one.
   *
   * @throws `learner/update` when there were none
   */
  async update(lr: number): Promise<Pick<StepResult, "gradientNorm" | "outputs">> {
    const outputs = await this.applyUpdate(lr);
    return { ...normOf(outputs), outputs };
  }

  private async applyUpdate(lr: number): Promise<Record<string, Tensor>> {
    must(
      this.waiting,
      "learner/update",
      () => "learner: update() without gradients. Call accumulate() with at least one part of a batch before.",
      "usage",
    );
    const update = await this.updateOnly();
    const pictures = await this.sumOverProcesses();
    const outputs = await this.run(update, {}, { ...this.scalars(lr), perPicture: 1 / pictures });
    this.waiting = 0;
    await this.finishStep();
    return outputs;
  }

  /** Sums the gradients of all processes where they lie; returns the number of their pictures. */
  private async sumOverProcesses(): Promise<number> {
    const { communicator, waiting } = this;
    const { size } = communicator;
    if (size === 1) return waiting;
    const pictures = new Float64Array([waiting]);
    await communicator.allReduce(pictures);
    const { batchNormStatistics } = this.options;
    const averaged = batchNormStatistics === "averaged" ? this.statistics : [];
    const { gradientExchange } = this.options;
    const inHalf = (array: Float32Array<ArrayBuffer>): Promise<void> => allReduceBfloat16(communicator, array);
    await this.state.change([...this.sums.keys(), ...averaged], async (values) => {
      await allReduceMany(
        communicator,
        values.slice(0, this.sums.size),
        gradientExchange === "bfloat16" ? inHalf : undefined,
      );
      await allReduceMany(communicator, values.slice(this.sums.size));
      for (const array of values.slice(this.sums.size)) for (let i = 0; i < array.length; i++) array[i] /= size;
    });
    return pictures[0];
  }

  /** Names of the running statistics that steps change. */
  private get statistics(): string[] {
    const names = [...this.programs.values()].flatMap(({ graph }) =>
      [...graph.next.keys()].flatMap((ref) => (ref instanceof Buffer ? [graph.names.get(ref)!] : [])),
    );
    return [...new Set(names)];
  }

  private async finishStep(): Promise<void> {
    this.step++;
    await this.rule.afterStep?.(this);
  }

  /** Of the step to come. */
  private scalars(lr: number): Record<string, number> {
    const at = { lr, step: this.step + 1 };
    return Object.fromEntries(Object.entries(this.rule.scalars ?? {}).map(([name, of]) => [name, of(at)]));
  }

  private result(outputs: Record<string, Tensor>, lr: number): StepResult {
    const loss = outputs.loss.data[0] as number;
    if (!Number.isFinite(loss))
      throw new RepmlpError(
        "training/nan-loss",
        `training: the loss is ${loss} at step ${this.step} (learning rate ${lr}). Lower the learning rate, or check the data for bad values.`,
        "training",
      );
    return { loss, output: outputs.output, ...normOf(outputs), outputs };
  }

  /** Copies the present parameters, statistics and counters into the model. */
  async sync(): Promise<void> {
    const { running } = this;
    if (!running) return;
    const byKey = new Map([...this.model.state()]);
    const state = await running.read([...byKey.keys()].filter((key) => running.current.has(key)));
    for (const [key, tensor] of state) byKey.get(key)!.set(tensor);
    for (const p of byKey.values()) {
      const count = this.counts.get(p);
      if (!count) continue;
      p.set(Tensor.of("int64", [], [Number(p.data.data[0]) + count]));
      this.counts.delete(p);
    }
  }

  /**
   * A copy of the model with the average of its weights and statistics; what is not averaged (counters, frozen
   * parameters) has its present value. Needs the option `ema`. Copies the present values into the model, as
   * {@link sync} does.
   */
  async averaged(): Promise<N> {
    must(this.options.ema, "learner/ema", () => "learner: averaged() needs the option ema, such as { decay: 0.999 }");
    await this.sync();
    const net = cloneModule(this.model);
    const parameters = [...parameterNames(net)].filter(([, key]) => this.slots.has(slotName(averageOf(key))));
    const values = await this.stateOf(parameters.map(([, key]) => slotName(averageOf(key))));
    for (const [p, key] of parameters) p.set(values.get(slotName(averageOf(key)))!);
    return net;
  }

  /**
   * State that rules keep beside the model's own, by name: `optimizer.momentum:linear.weight`,
   * `optimizer.ema:linear.weight`.
   */
  get optimizerTensors(): ReadonlyMap<string, ParameterRef> {
    slotsOf(this.rule, trainedOf(this.model, this.options.group), this.slots);
    return this.slots;
  }

  /** Values of {@link optimizerTensors}. */
  optimizerState(): Promise<Map<string, Tensor>> {
    return this.stateOf([...this.optimizerTensors.keys()]);
  }

  /**
   * Present values by name: of parameters and statistics by their keys, of what rules keep as `optimizer.<name>`.
   *
   * @throws `learner/state` for a name that there is not
   */
  async readState(names: Iterable<string>): Promise<Map<string, Tensor>> {
    const wanted = [...names];
    this.mustKnow(wanted);
    return this.stateOf(wanted);
  }

  /**
   * Replaces values between two steps; the next one goes on from them. Names as of {@link readState}.
   *
   * @throws `learner/state` for a name that there is not, or a value of another shape or type
   */
  async writeState(values: ReadonlyMap<string, Tensor>): Promise<void> {
    const refs = this.mustKnow(values.keys());
    for (const [name, { dtype, shape }] of refs) {
      const value = values.get(name)!;
      must(
        value.dtype === dtype && sameShape(value.shape, shape),
        "learner/state",
        () =>
          `learner: ${name} is ${dtype} ${fmt(shape)}, the value to be written is ${value.dtype} ${fmt(value.shape)}.`,
        "usage",
      );
    }
    for (const [name, ref] of refs) {
      const value = values.get(name)!;
      if (ref instanceof Parameter) ref.set(value.clone());
      else this.slots.set(name, { ...ref, source: () => value.clone() });
    }
    this.running?.write(values);
  }

  private mustKnow(names: Iterable<string>): Map<string, ParameterRef> {
    const known = new Map<string, ParameterRef>([...this.model.state(), ...this.optimizerTensors]);
    const found = [...names].map((name): [string, ParameterRef] => {
      const ref = known.get(name);
      must(
        ref,
        "learner/state",
        () => `learner: there is no state "${name}". Did you mean ${listed(nearest(name, [...known.keys()]), 3)}?`,
        "usage",
      );
      return [name, ref];
    });
    return new Map(found);
  }

  private async stateOf(names: readonly string[]): Promise<Map<string, Tensor>> {
    const present = this.state.current;
    const running = (await this.running?.read(names.filter((name) => present.has(name)))) ?? new Map<string, Tensor>();
    const model = new Map<string, ParameterRef>(this.model.state());
    const restored = names.map(async (name) => {
      const ref = this.slots.get(name) ?? model.get(name)!;
      return [name, running.get(name) ?? (await ref.source().read())] as const;
    });
    return new Map(await Promise.all(restored));
  }

  /**
   * Goes on from saved state: to be called before the first step, after the model has its values. What the rules do not
   * keep any more is forgotten.
   *
   * @returns names of the state that was not saved: it starts anew
   */
  restore(step: number, optimizerState: ReadonlyMap<string, Tensor>): readonly string[] {
    must(!this.programs.size, "internal/restore", () => "internal: restore() after the first step", "training");
    this.step = step;
    const names = [...this.optimizerTensors.keys()];
    for (const name of names) {
      const tensor = optimizerState.get(name);
      if (tensor) this.slots.set(name, { dtype: tensor.dtype, shape: tensor.shape, source: () => tensor });
    }
    return names.filter((name) => !optimizerState.has(name));
  }

  /** Frees the sessions, and what lies on a device. */
  async dispose(): Promise<void> {
    this.state.dispose();
    await Promise.all([...this.programs.values()].map(({ program }) => program.dispose()));
    this.programs.clear();
  }
}

const shapesOf = ({ graph }: Compiled): Readonly<Record<string, Shape>> =>
  Object.fromEntries(graph.perPicture.map((name) => [name, graph.outputs[name].shape]));

const normOf = ({ gradientNorm }: Readonly<Record<string, Tensor>>): Pick<StepResult, "gradientNorm"> =>
  gradientNorm && { gradientNorm: gradientNorm.data[0] as number };
