import { must, RepmlpError } from "../errors.ts";
import type { ParameterRef } from "../graph/index.ts";
import type { Net } from "../nn/index.ts";
import { type CompileOptions, compileStep, type StepProgram, StepState } from "../runtime/index.ts";
import { Tensor } from "../tensor/index.ts";
import { type Slots, type TrainStep, type TrainStepOptions, trainStep } from "./train-step.ts";

export interface LearnerOptions extends Omit<TrainStepOptions, "inputShape">, CompileOptions {}

export interface StepResult {
  readonly loss: number;
  /** The network's output for the batch, before the update, `[N, classes]`. */
  readonly output: Tensor;
  /** All outputs of the step, gradients among them when asked for. */
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/** Targets as a distribution `[N, classes]`: one-hot rows of class numbers. */
export function oneHotTargets(labels: ArrayLike<number>, classes: number): Tensor {
  const q = new Float32Array(labels.length * classes);
  for (let i = 0; i < labels.length; i++) q[i * classes + labels[i]] = 1;
  return new Tensor("float32", [labels.length, classes], q);
}

/**
 * Trains a network step by step: compiles one program per batch size, all sharing the state. The model itself keeps its
 * old values until {@link sync} copies the new ones into it.
 */
export class Learner {
  /** Steps done. */
  step = 0;
  private readonly state = new StepState();
  private readonly slots: Slots = new Map();
  private readonly programs = new Map<string, { readonly graph: TrainStep; readonly program: StepProgram }>();
  private readonly counts = new Map<ParameterRef, number>();

  constructor(
    readonly model: Net,
    private readonly options: LearnerOptions,
  ) {}

  /**
   * Compiles the step for batches of this shape, `[N, C, H, W]`, now rather than at the first one.
   *
   * @returns the number of classes that the network tells apart
   */
  async compile(inputShape: readonly number[]): Promise<{ readonly classes: number }> {
    const { graph } = await this.programFor(inputShape);
    return { classes: graph.outputs.output.shape[1] };
  }

  private async programFor(inputShape: readonly number[]): Promise<{ graph: TrainStep; program: StepProgram }> {
    const key = inputShape.join();
    const known = this.programs.get(key);
    if (known) return known;
    this.model.initialize();
    this.model.train();
    const { device, threads, session, ...rest } = this.options;
    const graph = trainStep(this.model, { ...rest, inputShape }, this.slots);
    const program = await compileStep(graph, { state: this.state, device, threads, session });
    const made = { graph, program };
    this.programs.set(key, made);
    return made;
  }

  /**
   * One step on a batch.
   *
   * @param images   float32 `[N, C, H, W]`
   * @param targets  distribution over classes, float32 `[N, classes]`; see {@link oneHotTargets}
   * @throws `training/nan-loss` when the loss is not finite; the state then already holds the failed step
   */
  async train(images: Tensor, targets: Tensor, lr: number, seed = 0): Promise<StepResult> {
    const { graph, program } = await this.programFor(images.shape);
    const scalars = this.options.optimizer.scalars(lr, this.step + 1);
    const feeds: Record<string, Tensor> = { input: images, targets };
    for (const name of graph.scalars) feeds[`scalar:${name}`] = Tensor.float32([1], [scalars[name]]);
    const outputs = await program.step(feeds, seed);
    const loss = outputs.loss.data[0] as number;
    for (const ref of graph.counters) this.counts.set(ref, (this.counts.get(ref) ?? 0) + 1);
    this.step++;
    if (!Number.isFinite(loss))
      throw new RepmlpError(
        "training/nan-loss",
        `training: the loss is ${loss} at step ${this.step} (learning rate ${lr}). Lower the learning rate, or check the data for bad values.`,
        "training",
      );
    return { loss, output: outputs.output, outputs };
  }

  private get anyProgram(): StepProgram | undefined {
    return this.programs.values().next().value?.program;
  }

  /** Copies the present parameters, statistics and counters into the model. */
  async sync(): Promise<void> {
    const program = this.anyProgram;
    if (!program) return;
    const byKey = new Map([...this.model.state()]);
    const state = await program.readState([...byKey.keys()].filter((key) => program.state.current.has(key)));
    for (const [key, tensor] of state) byKey.get(key)!.set(tensor);
    for (const p of byKey.values()) {
      const count = this.counts.get(p);
      if (!count) continue;
      p.set(Tensor.of("int64", [], [Number(p.data.data[0]) + count]));
      this.counts.delete(p);
    }
  }

  /** Optimizer state by name, e.g. `optimizer.momentum:linear.weight`. */
  async optimizerState(): Promise<Map<string, Tensor>> {
    const program = this.anyProgram;
    if (program) return program.readState(this.slots.keys());
    const restored = [...this.slots].map(async ([name, ref]) => [name, await ref.source().read()] as const);
    return new Map(await Promise.all(restored));
  }

  /** Goes on from saved state: to be called before the first step, after the model has its values. */
  restore(step: number, optimizerState: ReadonlyMap<string, Tensor>): void {
    must(!this.programs.size, "internal/restore", () => "internal: restore() after the first step", "training");
    this.step = step;
    for (const [name, tensor] of optimizerState)
      this.slots.set(name, { dtype: tensor.dtype, shape: tensor.shape, source: () => tensor });
  }

  /** Frees the sessions, and what lies on a device. */
  async dispose(): Promise<void> {
    this.state.dispose();
    await Promise.all([...this.programs.values()].map(({ program }) => program.dispose()));
    this.programs.clear();
  }
}
