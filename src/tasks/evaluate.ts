import { DataLoader, type PictureBatch, type PictureSet, subset } from "../data/index.ts";
import { alone, type Communicator, gatherJson } from "../distributed/index.ts";
import { must } from "../errors.ts";
import { Predictor, shardRange } from "../inference/index.ts";
import type { Net } from "../nn/index.ts";
import type { CompileOptions } from "../runtime/index.ts";
import type { Sums, Task } from "./task.ts";

export interface EvaluateOptions extends CompileOptions {
  /** Default 100. */
  readonly batchSize?: number;
  /** Told after every batch. */
  readonly onBatch?: (done: number, total: number) => void;
  /** Processes that share the work; each has the whole result. Default: this one alone. */
  readonly communicator?: Communicator;
}

/** What a task counts over a data set. */
export interface TaskEvaluation<S extends Sums = Sums> {
  /** Pictures looked at: those that could be read. */
  readonly pictures: number;
  readonly sums: S;
  /** What follows from them. */
  readonly numbers: Readonly<Record<string, number>>;
  /** Sum of the losses; absent where the task has none in evaluation. */
  readonly lossSum?: number;
  /** Seconds in the network alone. */
  readonly seconds: number;
}

/**
 * Results of a network in evaluation mode on a data set, as its task counts them.
 *
 * @throws `evaluate/empty` when none of the pictures could be read; what the task throws when network and data do not fit
 */
export async function evaluateTask<B extends PictureBatch, N extends Net, S extends Sums>(
  task: Task<B, N, S>,
  model: N,
  data: PictureSet<B>,
  { batchSize = 100, communicator = alone, ...options }: EvaluateOptions = {},
): Promise<TaskEvaluation<S>> {
  const { metrics } = task;
  const size = Math.min(batchSize, data.length);
  // Cut between batches, so that every picture is in the same company as in one process.
  const [start, end] = shardRange(data.length, size, { index: communicator.rank, count: communicator.size });
  const own =
    communicator.size === 1
      ? data
      : subset(
          data,
          Array.from({ length: end - start }, (_, i) => start + i),
        );
  const counted = await gatherJson(communicator, await countPart(task, model, own, { ...options, batchSize: size }));
  const { pictures, sums, seconds, lossSum } = counted.reduce((a, b) => ({
    pictures: a.pictures + b.pictures,
    sums: metrics.merge(a.sums, b.sums),
    seconds: Math.max(a.seconds, b.seconds),
    lossSum: a.lossSum + b.lossSum,
  }));
  must(
    pictures > 0,
    "evaluate/empty",
    () => `evaluate: none of the ${data.length} pictures could be read. Check that their files are there.`,
    "file",
  );
  const numbers = metrics.numbers(sums, pictures);
  return { pictures, sums, numbers, ...(metrics.addLoss && { lossSum }), seconds };
}

interface Counted<S extends Sums> {
  readonly pictures: number;
  readonly sums: S;
  readonly lossSum: number;
  readonly seconds: number;
}

async function countPart<B extends PictureBatch, N extends Net, S extends Sums>(
  task: Task<B, N, S>,
  model: N,
  data: PictureSet<B>,
  { batchSize, onBatch, ...options }: Omit<EvaluateOptions, "communicator" | "batchSize"> & { batchSize: number },
): Promise<Counted<S>> {
  const { metrics } = task;
  let [pictures, asked, seconds, lossSum] = [0, 0, 0, 0];
  let sums = metrics.zero();
  if (data.length === 0) return { pictures, sums, lossSum, seconds };
  const outputs = task.outputs?.bind(task);
  const predictor = await Predictor.create(model, {
    inputShape: data.imageShape,
    batchSize,
    outputs,
    ...options,
  });
  try {
    task.checkOutputs?.(predictor.outputShapes, data, "evaluation");
    for await (const batch of new DataLoader(data, { batchSize })) {
      const count = batch.images.shape[0];
      asked += Math.min(batchSize, data.length - asked);
      if (count) {
        const start = performance.now();
        const results = await predictor.runAll(batch.images);
        seconds += (performance.now() - start) / 1000;
        sums = metrics.add(sums, results, batch);
        lossSum = metrics.addLoss?.(lossSum, results, batch) ?? 0;
        pictures += count;
      }
      onBatch?.(asked, data.length);
    }
  } finally {
    await predictor.dispose();
  }
  return { pictures, sums, lossSum, seconds };
}
