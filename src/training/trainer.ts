import { type Batch, DataLoader, type LoadedBatch, type PictureBatch } from "../data/index.ts";
import { alone, type Communicator, gatherJson } from "../distributed/index.ts";
import { fmt, listed, must, RepmlpError } from "../errors.ts";
import { coefficientMetadata } from "../inference/index.ts";
import { cloneModule, coefficientsOf, countParameters, isStaged, type Net } from "../nn/index.ts";
import { defaultTask, evaluateTask, type Sums, type Task } from "../tasks/index.ts";
import { bestKey, isBetter, leadingNumber, recordKey, trainingNumbers } from "../tasks/shown.ts";
import {
  dtypes,
  isFloating,
  rng,
  type Shape,
  sameShape,
  sizeOf,
  type Tensor,
  type TensorSource,
} from "../tensor/index.ts";
import { splitCheckpoint, type TrainingCheckpoint } from "./checkpoint-store.ts";
import type { EpochRecord, TrainingEvent } from "./events.ts";
import { Learner, ownPlaces, partSizes } from "./learner.ts";
import { preciseBatchNorm } from "./precise-batch-norm.ts";
import { changedSettings, classSettings, groupSettings } from "./run-settings.ts";
import { type EpochSums, readState, type Settings, stateMetadata } from "./run-state.ts";
import { rampValue, type Schedule, scheduleOf } from "./schedule.ts";
import { loadShared, shareValues } from "./shared.ts";
import type { TrainerOptions, TrainingSummary } from "./trainer-options.ts";
import { type Optimizer, sgd } from "./transforms/index.ts";

const noSums = (): { -readonly [K in keyof EpochSums]: number } => ({ loss: 0, images: 0, seconds: 0, waited: 0 });

const secondsSince = (start: number): number => (performance.now() - start) / 1000;

/**
 * Trains a network for some epochs: steps, evaluation, checkpoints. A run that is stopped (at any step) and resumed
 * gives, on the CPU, bit for bit the weights of one that was not, as order, augmentation and dropout follow from the
 * seed and the place alone.
 *
 * The trainer prints nothing; it reports {@link TrainingEvent}s. When it ends, the model holds the final values and is
 * in evaluation mode.
 *
 * @example
 * const trainer = new Trainer(model, { data: { train, validation }, epochs: 30, store: folderStore("run") });
 * const { history } = await trainer.run();
 */
export class Trainer<B extends PictureBatch = Batch, N extends Net = Net> {
  private readonly task: Task<B, N>;
  private readonly loader: DataLoader<B>;
  private readonly learner: Learner<N>;
  private readonly communicator: Communicator;
  private readonly schedule: Schedule;
  private readonly seed: number;
  /** Pictures of an epoch's last batch. */
  private readonly lastBatch: number;
  private readonly optimizer: Optimizer;
  private readonly history: EpochRecord[] = [];
  private sums = noSums();
  /** What the task has counted in this epoch. */
  private counted: Sums;
  /** Best value of the task's leading number. */
  private best: number | undefined;
  private started = false;
  /** Seconds that the last evaluation took. */
  private evaluation = 0;
  private saved: { readonly where: string; readonly step: number } | undefined;
  /** What {@link judged} made last. */
  private last: { readonly step: number; readonly precise: boolean; readonly net: N } | undefined;

  constructor(
    readonly model: N,
    private readonly options: TrainerOptions<B, N>,
  ) {
    const { data, epochs, batchSize = 128, seed = 0, lr = 0.1, warmupEpochs, schedule = { kind: "cosine" } } = options;
    const { dropLast = data.train.length > batchSize, prefetch = 2 } = options;
    const usage = (condition: boolean, code: string, message: () => string): void =>
      must(condition, `trainer/${code}`, () => `trainer: ${message()}`, "usage");
    usage(Number.isInteger(epochs) && epochs > 0, "epochs", () => `epochs must be a positive integer, got ${epochs}`);
    usage(Number.isInteger(seed), "seed", () => `seed must be an integer, got ${seed}`);
    usage(Number.isFinite(lr) && lr > 0, "lr", () => `lr must be positive, got ${lr}`);
    usage(
      !options.resume || options.store !== undefined,
      "store",
      () => "resume needs the store that holds the checkpoint. Pass the store of the run that was stopped.",
    );
    const { patience, preciseBatchNorm: precise } = options;
    for (const [name, count] of Object.entries({ patience, "preciseBatchNorm.batches": precise?.batches }))
      usage(
        count === undefined || (Number.isInteger(count) && count > 0),
        "count",
        () => `${name} must be a positive integer, got ${count}`,
      );
    usage(
      patience === undefined || data.validation !== undefined,
      "patience",
      () =>
        `patience ${patience} needs validation data to tell when results no longer get better. Pass data.validation.`,
    );
    // Without a task, the data must be what the default one takes: its checks tell.
    this.task = options.task ?? (defaultTask as PictureTask as Task<B, N>);
    leadingNumber(this.task);
    this.counted = this.task.metrics.zero();
    const { train, validation = train } = data;
    usage(
      sameShape(train.imageShape, validation.imageShape),
      "validation",
      () =>
        `the training data has pictures ${fmt(train.imageShape)}, the validation data ${fmt(validation.imageShape)}. Use two parts of one data set.`,
    );
    this.task.checkData?.(train, validation);
    this.seed = seed;
    const { mix, communicator = alone, accumulate = 1 } = options;
    this.communicator = communicator;
    const share = (count: number): readonly number[] => ownPlaces(count, accumulate, communicator);
    // Every batch is full, so that one program does for all and each step weighs the same.
    const shared = communicator.size > 1 && { share };
    this.loader = new DataLoader(data.train, {
      ...{ batchSize, shuffle: true, seed, dropLast, prefetch, mix, fill: true },
      ...shared,
    });
    this.lastBatch = dropLast ? batchSize : data.train.length - (this.loader.length - 1) * batchSize;
    this.optimizer = options.optimizer ?? sgd({ momentum: 0.9, weightDecay: 1e-4 });
    const plan = { lr, epochs, stepsPerEpoch: this.loader.length, warmupEpochs };
    this.schedule = typeof schedule === "function" ? schedule : scheduleOf(schedule, plan);
    this.mustBeRamps();
    const { device, threads, session, group } = options;
    const { clipNorm, clipValue, gradientNorm, ema, gradCheckpointing, batchNormStatistics, gradientExchange } =
      options;
    this.learner = new Learner(model, {
      ...{ optimizer: this.optimizer, task: this.task, group, device, threads, session },
      ...{ clipNorm, clipValue, gradientNorm, ema, accumulate, gradCheckpointing },
      ...{ communicator, batchNormStatistics, gradientExchange },
    });
    this.mustGoAround();
  }

  /** Every process needs a picture of every part of every batch. */
  private mustGoAround(): void {
    const { size } = this.communicator;
    const { accumulate = 1, data } = this.options;
    const { batchSize } = this.loader;
    for (const count of [Math.min(batchSize, data.train.length), this.lastBatch]) {
      const least = Math.min(...partSizes(count, accumulate));
      must(
        least >= size,
        "trainer/processes",
        () =>
          `trainer: a batch of ${count} pictures${accumulate > 1 ? ` in ${accumulate} parts` : ""} has parts of ${least}, too few for ${size} processes. Choose a larger \`batchSize\`${accumulate > 1 ? ", fewer parts (accumulate)" : ""} or fewer processes.`,
        "usage",
      );
    }
  }

  private mustBeRamps(): void {
    const own = coefficientsOf(this.model);
    const { epochs, coefficients = {} } = this.options;
    for (const [name, ramp] of Object.entries(coefficients)) {
      must(
        own.has(name),
        "trainer/coefficients",
        () =>
          `trainer: the network has no coefficient "${name}"; ${own.size ? `it has ${listed([...own.keys()])}` : "it has none"}.`,
        "usage",
      );
      must(
        Number.isInteger(ramp.epochs) && ramp.epochs > 0 && ramp.epochs < epochs,
        "trainer/coefficients",
        () =>
          `trainer: the coefficient "${name}" takes ${ramp.epochs} epochs to its end. It must be a whole number from 1 and less than the run's ${epochs} epochs, so that the network is trained with its last value, too.`,
        "usage",
      );
    }
  }

  /** Gives the network's coefficients what they are in an epoch, counted from 0. */
  private setCoefficients(epoch: number): void {
    const own = coefficientsOf(this.model);
    for (const [name, ramp] of Object.entries(this.options.coefficients ?? {}))
      own.get(name)?.set(rampValue(ramp, epoch));
  }

  /** Tells a network that has several forms in the course of a run how far it is. */
  private setStage(): void {
    if (isStaged(this.model)) this.model.atProgress(this.learner.step / this.totalSteps);
  }

  /** Steps of the whole run. */
  get totalSteps(): number {
    return this.options.epochs * this.loader.length;
  }

  /**
   * Trains to the end, or until the signal stops it. Can be called once.
   *
   * @throws `training/nan-loss`, `training/not-finite` when a loss or a weight is no finite number; the last good
   *   checkpoint is kept and named
   * @throws what the store throws when it cannot be written to, before any step is done
   */
  async run(): Promise<TrainingSummary<N>> {
    must(
      !this.started,
      "trainer/once",
      () => "trainer: run() was called before. Make a new Trainer; with resume: true it goes on from the checkpoint.",
      "usage",
    );
    this.started = true;
    const { epochs } = this.options;
    const begin = performance.now();
    try {
      await this.start();
      const complete = (): boolean => this.loader.state().epoch >= epochs;
      if (this.sums.images && this.loader.state().batch === 0) await this.finishEpoch();
      while (!complete() && !this.exhausted && !(await this.mustStop()))
        if (await this.epoch()) await this.finishEpoch();
      const finished = complete() || this.exhausted;
      const stoppedEarly = finished && !complete();
      const averaged = finished ? await this.finish() : await this.stop();
      const { best, history } = this;
      const { step: steps } = this.learner;
      const seconds = secondsSince(begin);
      if (finished)
        this.report({
          type: "done",
          steps,
          seconds,
          [bestKey(this.task)]: best,
          ...(stoppedEarly && { stoppedEarly }),
        });
      return {
        history,
        steps,
        finished,
        stoppedEarly,
        ...(best !== undefined && { best }),
        ...(averaged && { averaged }),
      };
    } finally {
      await this.learner.dispose();
      this.model.eval();
    }
  }

  /** Whether the signal of any process says so. */
  private async mustStop(): Promise<boolean> {
    const stop = new Float64Array([this.options.signal?.aborted ? 1 : 0]);
    await this.communicator.allReduce(stop, "max");
    return stop[0] > 0;
  }

  /** Whether the leading number has not got better for `patience` epochs. */
  private get exhausted(): boolean {
    const { patience } = this.options;
    const values = this.history.map((r) => r[recordKey("validation", this.task.metrics.leading)] as number);
    const best = values.reduce((at, value, i) => (isBetter(this.task, value, values[at]) ? i : at), 0);
    return patience !== undefined && values.length - 1 - best >= patience;
  }

  /** Numbers of the epoch so far that are shown in training. */
  private trainingNumbers(): readonly (readonly [name: string, value: number])[] {
    const numbers = this.task.metrics.numbers(this.counted, this.sums.images);
    return trainingNumbers(this.task).map(({ name }) => [name, numbers[name]]);
  }

  private report(event: TrainingEvent): void {
    const { callbacks = [], onEvent } = this.options;
    if (this.communicator.rank > 0) return;
    for (const callback of callbacks) callback(event, this.task);
    onEvent?.(event, this.task);
  }

  /** Everything that can go wrong at once: the store, the checkpoint, the network for this data. */
  private async start(): Promise<void> {
    const { data, epochs, store } = this.options;
    if (this.communicator.rank === 0) await store?.prepare(this.checkpointBytes());
    const changed = this.options.resume ? await this.resume() : [];
    this.model.initialize(this.seed);
    await this.mustAgree();
    await shareValues(this.model, this.communicator);
    this.setStage();
    const outputs = await this.compile();
    this.task.checkOutputs?.(outputs, data.train, "training");
    this.report({
      type: "start",
      epochs,
      steps: this.totalSteps,
      stepsPerEpoch: this.loader.length,
      resumedAt: this.learner.step,
      parameters: countParameters(this.model),
      changed,
    });
  }

  /** Processes that were given different data or settings would each train on something else. */
  private async mustAgree(): Promise<void> {
    const { train, validation } = this.options.data;
    const own = { pictures: train.length, "validation pictures": validation?.length ?? 0, ...this.settings() };
    const [first, ...others] = await gatherJson<Settings>(this.communicator, own);
    for (const [i, other] of others.entries())
      for (const name of new Set([...Object.keys(first), ...Object.keys(other)]))
        must(
          first[name] === other[name],
          "trainer/processes",
          () =>
            `trainer: rank ${i + 1} has ${name} ${other[name] ?? "none"}, rank 0 ${first[name] ?? "none"}. Give every process the same data and settings.`,
          "usage",
        );
  }

  /** Compiles the step; also that of a last batch so small that batch norms might not take it. */
  private async compile(): Promise<Readonly<Record<string, Shape>>> {
    const { accumulate = 1, data } = this.options;
    const { imageShape, length } = data.train;
    const whole = Math.min(this.loader.batchSize, length);
    const smallest = (count: number): number => Math.min(...partSizes(count, accumulate));
    const compile = (count: number): Promise<Readonly<Record<string, Shape>>> =>
      this.learner
        .compile([count, ...imageShape])
        .catch((error: unknown) => this.explainBatchNorm(error, count, smallest(count)));
    const outputs = await compile(whole);
    if (smallest(this.lastBatch) === 1) await compile(this.lastBatch);
    return outputs;
  }

  /** Adds to a batch norm's refusal of a single value where that comes from, and what to change. */
  private explainBatchNorm(error: unknown, count: number, part: number): never {
    if (!(error instanceof RepmlpError) || !error.code.endsWith("/samples") || part > 1) throw error;
    const { batchSize } = this.loader;
    const { accumulate = 1, data } = this.options;
    const pictures = (n: number): string => (n === 1 ? "1 picture" : `${n} pictures`);
    const last = count < batchSize && this.loader.length > 1;
    const batch = last
      ? `the last batch of an epoch has ${pictures(count)} (${data.train.length} in batches of ${batchSize})`
      : `a batch has ${pictures(count)}`;
    const divided = count > 1;
    const why = divided ? `${batch}, of which accumulate ${accumulate} makes parts with a single picture` : batch;
    const fitting = Array.from({ length: accumulate }, (_, i) => accumulate - i).find((parts) =>
      [Math.min(batchSize, data.train.length), this.lastBatch].every((n) => Math.min(...partSizes(n, parts)) > 1),
    );
    const advice =
      divided && fitting !== undefined
        ? `Set accumulate to ${fitting}, or choose another \`batchSize\``
        : last
          ? "Leave it out with dropLast: true, or choose another `batchSize`"
          : "Set `batchSize` to 2 or more";
    throw new RepmlpError(
      "trainer/batch-norm",
      `trainer: ${why}: a batch norm would see one value per channel, which has no variance. ${advice}.`,
      "usage",
      { cause: error },
    );
  }

  /** Size of a checkpoint: the state dict, and the optimizer's state for every parameter. */
  private checkpointBytes(): number {
    const bytes = ({ dtype, shape }: Pick<TensorSource, "dtype" | "shape">): number =>
      sizeOf(shape) * dtypes[dtype].bytes;
    const state = [...this.model.state()].reduce((n, [, p]) => n + bytes(p), 0);
    return [...this.learner.optimizerTensors.values()].reduce((n, ref) => n + bytes(ref), state);
  }

  /** Trains to the end of the epoch; false when the signal stopped it before. */
  private async epoch(): Promise<boolean> {
    this.model.train();
    let begin = performance.now();
    for await (const batch of this.loader) {
      this.sums.waited += secondsSince(begin);
      await this.step(batch, begin);
      if (this.loader.state().batch !== 0 && (await this.mustStop())) return false;
      begin = performance.now();
    }
    return true;
  }

  /** @param begin  when the step began to wait for its data */
  private async step(batch: LoadedBatch<B>, begin: number): Promise<void> {
    const { sums, learner, task, totalSteps } = this;
    const { images, epoch } = batch;
    this.setCoefficients(epoch);
    this.setStage();
    const lr = this.rate(learner.step);
    const count = this.loader.indicesOf(epoch, batch.batch).length;
    const feeds = task.feeds(batch, this.options.data.train);
    const { loss, outputs, gradientNorm } = await learner
      .train(images, feeds, lr, stepSeed(this.seed, learner.step), count)
      .catch((error: unknown) => this.explain(error, epoch + 1));
    sums.loss += loss * count;
    await this.count(outputs, batch);
    sums.images += count;
    sums.seconds += secondsSince(begin);
    const imagesPerSecond = sums.images / sums.seconds;
    const left = ((totalSteps - learner.step) * this.loader.batchSize) / imagesPerSecond;
    this.report({
      type: "step",
      epoch: epoch + 1,
      epochs: this.options.epochs,
      step: learner.step,
      steps: totalSteps,
      loss,
      ...Object.fromEntries(this.trainingNumbers()),
      ...this.options.measures?.(),
      lr,
      ...(gradientNorm !== undefined && { gradientNorm }),
      imagesPerSecond,
      secondsLeft: left + (this.options.epochs - epoch) * this.evaluation,
    });
  }

  /** Adds what the task counts of a batch, all processes' shares of it. */
  private async count(outputs: Readonly<Record<string, Tensor>>, batch: B): Promise<void> {
    const { metrics } = this.task;
    if (this.communicator.size === 1) {
      this.counted = metrics.add(this.counted, outputs, batch);
      return;
    }
    const all = await gatherJson(this.communicator, metrics.add(metrics.zero(), outputs, batch));
    this.counted = all.reduce((sums, own) => metrics.merge(sums, own), this.counted);
  }

  private rate(step: number): number {
    const lr = this.schedule(step);
    must(
      Number.isFinite(lr) && lr >= 0,
      "trainer/schedule",
      () => `trainer: the schedule gives the rate ${lr} at step ${step}. It must be finite and not negative.`,
      "usage",
    );
    return lr;
  }

  /** Adds to a failure where it happened and what was kept. */
  private explain(error: unknown, epoch: number): never {
    if (!(error instanceof RepmlpError) || error.code !== "training/nan-loss") throw error;
    throw new RepmlpError(error.code, `${error.message} It happened in epoch ${epoch}. ${this.kept}`, "training", {
      cause: error,
    });
  }

  private get kept(): string {
    return this.saved
      ? `The last good checkpoint is ${this.saved.where} (step ${this.saved.step}).`
      : "No checkpoint had been written yet.";
  }

  private async finishEpoch(): Promise<void> {
    const { sums, learner } = this;
    const { epoch } = this.loader.state();
    this.setCoefficients(epoch - 1);
    await this.sync(epoch);
    const { preciseBatchNorm: precise } = this.options;
    const net = await this.judged(precise !== undefined && (precise.everyEpoch || epoch >= this.options.epochs));
    const validation = await this.validate(net, epoch).catch(async (error: unknown) => {
      // The epoch's training is not lost with it: resumed, the run begins with this validation.
      if (!(error instanceof RepmlpError) || error.kind !== "training") await this.save("last");
      throw error;
    });
    const record: EpochRecord = {
      epoch,
      step: learner.step,
      trainLoss: sums.loss / sums.images,
      ...Object.fromEntries(this.trainingNumbers().map(([name, value]) => [recordKey("train", name), value])),
      ...this.options.measures?.(),
      ...validation,
      lr: this.rate(learner.step - 1),
      seconds: sums.seconds,
      imagesPerSecond: sums.images / sums.seconds,
      dataWait: sums.waited / sums.seconds,
    };
    this.history.push(record);
    this.sums = noSums();
    this.counted = this.task.metrics.zero();
    const value = record[recordKey("validation", this.task.metrics.leading)];
    const best = value !== undefined && isBetter(this.task, value, this.best);
    if (best) this.best = value;
    this.report({ type: "epoch", epochs: this.options.epochs, best, ...record });
    await this.save("last");
    if (best) await this.save("best", net);
  }

  /**
   * The network to be validated, kept and handed out: the averaged one where there is one, with exact batch-norm
   * statistics where they are due. The model itself, after {@link sync}, where neither is.
   */
  private async judged(precise: boolean): Promise<N> {
    const { step } = this.learner;
    if (this.last?.step === step && this.last.precise === precise) return this.last.net;
    const { ema } = this.options;
    const net = ema ? await this.learner.averaged() : precise ? cloneModule(this.model) : this.model;
    if (precise) await this.makePrecise(net);
    await shareValues(net, this.communicator, "buffers");
    this.last = { step, precise, net };
    return net;
  }

  private async makePrecise(net: Net): Promise<void> {
    const { data, preciseBatchNorm: precise, mix, accumulate = 1, device, threads, session } = this.options;
    // Batch norms see a part of a batch at a time.
    const batchSize = Math.ceil(this.loader.batchSize / accumulate);
    const options = { batches: precise?.batches, batchSize, seed: this.seed, mix, device, threads, session };
    await preciseBatchNorm(net, data.train, options);
  }

  /** Leaves the final values in the model; returns the averaged network where there is one. */
  private async finish(): Promise<N | undefined> {
    const { ema, preciseBatchNorm: precise } = this.options;
    await this.learner.sync();
    const net = ema || precise ? await this.judged(precise !== undefined) : this.model;
    if (ema && precise) await this.makePrecise(this.model);
    else if (precise) this.model.loadStateDict(net.stateDict());
    await shareValues(this.model, this.communicator, "buffers");
    return ema && net.eval();
  }

  /**
   * Copies the values into the model and checks them: the last step of an epoch can spoil the weights although its own
   * loss, computed before the update, was a number.
   */
  private async sync(epoch: number): Promise<void> {
    await this.learner.sync();
    const bad = (await notFinite(this.model.stateDict())) ?? (await notFinite(await this.learner.optimizerState()));
    if (bad !== undefined) this.spoilt(`${bad} holds values that are not finite`, epoch);
  }

  private spoilt(what: string, epoch: number): never {
    throw new RepmlpError(
      "training/not-finite",
      `training: ${what} after step ${this.learner.step} in epoch ${epoch}. Lower the learning rate, or check the data for bad values. ${this.kept}`,
      "training",
    );
  }

  private async validate(net: N, epoch: number): Promise<Readonly<Record<`validation${string}`, number>>> {
    const { data, device, threads, session } = this.options;
    if (!data.validation) return {};
    const begin = performance.now();
    const { pictures, lossSum, numbers } = await evaluateTask(this.task, net.eval(), data.validation, {
      ...{ device, threads, session, communicator: this.communicator },
    });
    this.model.train();
    this.evaluation = secondsSince(begin);
    const results = {
      ...(lossSum !== undefined && { loss: lossSum / pictures }),
      ...Object.fromEntries(this.task.shows.numbers.map(({ name }) => [name, numbers[name]])),
    };
    for (const [name, value] of Object.entries(results))
      if (!Number.isFinite(value)) this.spoilt(`the validation ${name} is not finite`, epoch);
    return Object.fromEntries(Object.entries(results).map(([name, value]) => [recordKey("validation", name), value]));
  }

  private async stop(): Promise<undefined> {
    const { step } = this.learner;
    const { epoch } = this.loader.state();
    await this.sync(epoch + 1);
    if (this.saved?.step !== step) await this.save("last");
    this.report({ type: "stopped", epoch: epoch + 1, step });
    return undefined;
  }

  private async save(name: "last" | "best", net = this.model): Promise<void> {
    const { store, metadata } = this.options;
    const { step } = this.learner;
    if (!store) return;
    if (this.communicator.rank > 0) {
      if (name === "last") this.saved = { where: "the one that process 0 wrote", step };
      return;
    }
    const { best, history, sums, counted } = this;
    const state = { step, loader: this.loader.state(), best, history, sums, counted, settings: this.settings() };
    const entries = net.stateDict();
    if (name === "last") for (const [key, tensor] of await this.learner.optimizerState()) entries.set(key, tensor);
    const where = await store.save(name, {
      entries,
      metadata: { ...metadata, ...coefficientMetadata(net), ...stateMetadata(state, this.task) },
    });
    if (name === "last") this.saved = { where, step };
    this.report({ type: "checkpoint", name, where, step });
  }

  /** What decides the course of the run, beside model and data. */
  private settings(): Settings {
    const { lr = 0.1, epochs, warmupEpochs = 0, schedule = { kind: "cosine" }, mix, coefficients } = this.options;
    const { name: task, settings } = this.task;
    const own = { task, epochs, lr, warmupEpochs, ...settings, stepsPerEpoch: this.loader.length };
    const { clipNorm, clipValue, ema, accumulate = 1, patience, preciseBatchNorm: precise } = this.options;
    const { batchNormStatistics = "local", gradientExchange = "float32" } = this.options;
    const { size } = this.communicator;
    const optimizer = Object.entries(this.optimizer.settings).map(([k, value]) => [`optimizer.${k}`, value] as const);
    return {
      ...own,
      schedule: typeof schedule === "function" ? "a function" : JSON.stringify(schedule),
      ...(mix && { mix: JSON.stringify(mix) }),
      ...(coefficients && { coefficients: JSON.stringify(coefficients) }),
      ...(clipNorm !== undefined && { clipNorm }),
      ...(clipValue !== undefined && { clipValue }),
      ...(accumulate > 1 && { accumulate }),
      ...(ema && { ema: JSON.stringify(ema) }),
      ...(patience !== undefined && { patience }),
      ...(precise && { preciseBatchNorm: JSON.stringify(precise) }),
      ...(size > 1 && { processes: size, batchNormStatistics, gradientExchange }),
      optimizer: this.optimizer.name,
      ...Object.fromEntries(optimizer),
      ...groupSettings(this.model, this.options.group),
      ...classSettings(this.options.data.train),
      ...this.options.settings,
    };
  }

  /** Takes over the store's last checkpoint; returns the settings that have changed since. */
  private async resume(): Promise<string[]> {
    const checkpoint = await loadShared(this.options.store, this.communicator);
    must(
      checkpoint,
      "trainer/resume",
      () =>
        `trainer: there is no checkpoint "last" to resume from. Check where the run was kept, or begin a new one without resume.`,
      "usage",
    );
    const state = readState(checkpoint, this.task);
    this.loader.restore(state.loader);
    const { epoch, batch } = state.loader;
    const begun = batch ? epoch + 1 : epoch;
    must(
      begun <= this.options.epochs,
      "trainer/epochs",
      () =>
        `trainer: ${checkpoint.where} is in epoch ${begun} (step ${state.step}), but \`epochs\` is ${this.options.epochs}. Set \`epochs\` to ${begun} or more, or begin a new run in another place.`,
      "usage",
    );
    const changed = changedSettings({ ...oldClasses(checkpoint), ...state.settings }, this.settings());
    const bad = await notFinite(checkpoint.entries);
    must(
      bad === undefined,
      "trainer/checkpoint",
      () =>
        `${checkpoint.where}: ${bad} holds values that are not finite, so no run can go on from it. Begin a new run, from the weights of an earlier checkpoint if there is one.`,
      "file",
    );
    const { model, optimizer } = splitCheckpoint(checkpoint.entries);
    try {
      this.model.loadStateDict(model);
    } catch (error) {
      if (!(error instanceof RepmlpError)) throw error;
      const { arch } = checkpoint.metadata;
      const of = arch === undefined ? "" : ` It is of ${arch}.`;
      const advice = "Resume with the network that it was begun with, or start in another place.";
      const message = `${checkpoint.where}: ${error.message}.${of} ${advice}`.replace(/\.{2}/g, ".");
      throw new RepmlpError(error.code, message, "file", { cause: error });
    }
    const slots = await Promise.all([...optimizer].map(async ([key, source]) => [key, await source.read()] as const));
    const anew = this.learner.restore(state.step, new Map(slots));
    if (anew.length) changed.push(`without saved state, starting anew: ${listed(anew, 3)}`);
    this.history.push(...state.history);
    this.sums = { ...state.sums };
    // An older version may have counted less.
    this.counted = { ...this.task.metrics.zero(), ...state.counted };
    this.best = state.best;
    this.saved = { where: checkpoint.where, step: state.step };
    return changed;
  }
}

/** Earlier versions named the classes of a run beside its settings. */
const oldClasses = ({ metadata: { classes } }: TrainingCheckpoint): Settings =>
  classes === undefined ? {} : { classes };

/** A task for whichever pictures and network. */
type PictureTask = Task<PictureBatch, Net>;

/** Seed of a step's dropout masks. */
const stepSeed = (seed: number, step: number): number => rng(seed, `step/${step}`).below(2 ** 31);

/** Key of the first tensor that holds a value which is no finite number. */
async function notFinite(entries: ReadonlyMap<string, TensorSource>): Promise<string | undefined> {
  for (const [key, source] of entries) if (!allFinite(await source.read())) return key;
  return undefined;
}

/** Whether every value is a finite number. */
function allFinite(tensor: Tensor): boolean {
  if (!isFloating(tensor.dtype)) return true;
  const values = tensor.data instanceof Float32Array ? tensor.data : tensor.toFloat64();
  let sum = 0;
  // x − x is 0, or NaN for everything that is not finite.
  for (let i = 0; i < values.length; i++) sum += values[i] - values[i];
  return sum === 0;
}
