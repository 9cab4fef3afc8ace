import { DataLoader, type PictureBatch, type PictureSet } from "../data/index.ts";
import { must } from "../errors.ts";
import { Predictor } from "../inference/index.ts";
import type { Net } from "../nn/index.ts";
import type { CompileOptions } from "../runtime/index.ts";
import type { Sums, Task } from "./task.ts";

export interface EvaluateOptions extends CompileOptions {
  /** Default 100. */
  readonly batchSize?: number;
  /** Told after every batch. */
  readonly onBatch?: (done: number, total: number) => void;
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
  { batchSize = 100, onBatch, ...options }: EvaluateOptions = {},
): Promise<TaskEvaluation<S>> {
  const size = Math.min(batchSize, data.length);
  const { metrics } = task;
  const outputs = task.outputs?.bind(task);
  const predictor = await Predictor.create(model, {
    inputShape: data.imageShape,
    batchSize: size,
    outputs,
    ...options,
  });
  let [pictures, asked, seconds, lossSum] = [0, 0, 0, 0];
  let sums = metrics.zero();
  try {
    task.checkOutputs?.(predictor.outputShapes, data, "evaluation");
    for await (const batch of new DataLoader(data, { batchSize: size })) {
      const count = batch.images.shape[0];
      asked += Math.min(size, data.length - asked);
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
  must(
    pictures > 0,
    "evaluate/empty",
    () => `evaluate: none of the ${data.length} pictures could be read. Check that their files are there.`,
    "file",
  );
  const numbers = metrics.numbers(sums, pictures);
  return { pictures, sums, numbers, ...(metrics.addLoss && { lossSum }), seconds };
}
