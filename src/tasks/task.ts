import type { PictureBatch, PictureSet } from "../data/index.ts";
import type { Value } from "../graph/index.ts";
import type { Net, Outputs } from "../nn/index.ts";
import type { DType, Shape, Tensor } from "../tensor/index.ts";

/** What a loss is made of. */
export interface StepInputs {
  /** float32 `[N, C, H, W]`. */
  readonly images: Value;
  /**
   * What the step is fed beside the pictures (labels, masks) under this name; see {@link Task.feeds}. The first axis is
   * the batch. Default float32.
   *
   * @throws `task/input` for a reserved name, or a shape of another number of pictures
   */
  input(name: string, shape: Shape, dtype?: DType): Value;
}

export interface TaskLoss {
  /** One value, the mean over the pictures: the means of a batch's parts, weighted by their pictures, make up its own. */
  readonly loss: Value;
  /** What {@link Metrics} count, in training. */
  readonly outputs: Outputs;
}

/** The part of a task that a training step is made of. */
export interface StepTask<N extends Net = Net> {
  /**
   * Runs the network in training mode and says how far off it is. Labels may enter the forward pass, and the network may
   * be run by other methods than `forward`, with several outputs. Called once per batch size, to build the graph.
   */
  loss(net: N, inputs: StepInputs): TaskLoss;
}

/** Plain JSON: it is saved with a run in the middle of an epoch. */
export type Sums = Readonly<Record<string, number | readonly number[]>>;

/** What is counted over the pictures of an epoch. */
export interface Metrics<B extends PictureBatch = PictureBatch, S extends Sums = Sums> {
  zero(): S;
  /** `sums` with a batch added to them. */
  add(sums: S, outputs: Readonly<Record<string, Tensor>>, batch: B): S;
  /** Sums over two parts of the pictures together. */
  merge(a: S, b: S): S;
  /** The numbers that follow from the sums over so many pictures, by the names of {@link Shows.numbers}. */
  numbers(sums: S, pictures: number): Readonly<Record<string, number>>;
  /** The number that decides which epoch is the best. */
  readonly leading: string;
  readonly higherIsBetter: boolean;
  /**
   * In evaluation: `sum` and the losses of a batch's pictures, each for itself and without what serves training alone
   * (label smoothing). Without it there is no validation loss.
   */
  addLoss?(sum: number, outputs: Readonly<Record<string, Tensor>>, batch: B): number;
}

/** How a number is shown. */
export interface ShownNumber {
  /**
   * In records and logs: `top1` is `trainTop1` and `validationTop1` of an epoch, `eval_top1` in the CSV log, `val/top1`
   * in TensorBoard's.
   */
  readonly name: string;
  /** For people: `top-1`. */
  readonly label: string;
  /** Title of its chart. Default the label. */
  readonly title?: string;
  /** A share from 0 to 1 that is shown in percent. Default false: a number with four significant digits. */
  readonly percent?: boolean;
  /** Whether it is shown during training too, not after validation alone. Default true. */
  readonly training?: boolean;
}

export interface Shows {
  /** What the loss is: `cross entropy`. */
  readonly loss: string;
  /** In the order of the logs' columns. */
  readonly numbers: readonly ShownNumber[];
}

/** What those need of a task who show its results. */
export interface ShownTask {
  readonly name: string;
  readonly shows: Shows;
  readonly metrics: Pick<Metrics, "leading" | "higherIsBetter">;
}

/**
 * What a network is trained for: how a batch becomes a loss, what is counted, which number leads and how results are
 * shown. Training, evaluation, logs and checkpoints know of no other task than the one that they are given.
 */
export interface Task<B extends PictureBatch = PictureBatch, N extends Net = Net, S extends Sums = Sums>
  extends StepTask<N>,
    ShownTask {
  /** Noted with a run; the same name and settings mean the same task. */
  readonly name: string;
  /** Options that a resumed run is compared by. */
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
  /** Values of a batch for the {@link StepInputs.input}s of the loss, by name. */
  feeds(batch: B, data: PictureSet<B>): Readonly<Record<string, Tensor>>;
  /** What the network gives in evaluation mode. Default: `output` is that of `forward`. */
  outputs?(net: N, images: Value): Outputs;
  /** Throws unless the two parts of the data belong together. */
  checkData?(train: PictureSet<B>, validation: PictureSet<B>): void;
  /** Throws unless a network with outputs of these shapes, `[N, …]`, is one for this data. */
  checkOutputs?(outputs: Readonly<Record<string, Shape>>, data: PictureSet<B>, when: "training" | "evaluation"): void;
  readonly metrics: Metrics<B, S>;
}
