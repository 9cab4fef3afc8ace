import type { Dataset } from "../data/index.ts";
import { DataLoader } from "../data/index.ts";
import { fmt, must } from "../errors.ts";
import { type Net, traceModel } from "../nn/index.ts";
import { type CompileOptions, compile, type Program } from "../runtime/index.ts";
import { type Shape, sameShape, sizeOf, Tensor } from "../tensor/index.ts";

/** A compiled network in evaluation mode for batches up to a fixed size. */
export class Predictor {
  private constructor(
    private readonly program: Program,
    readonly batchSize: number,
    readonly inputShape: Shape,
  ) {}

  /**
   * Compiles a network; its present values become constants.
   *
   * @param inputShape  one picture, `[C, H, W]`
   */
  static async create(
    model: Net,
    {
      inputShape,
      batchSize = 1,
      ...options
    }: CompileOptions & { readonly inputShape: Shape; readonly batchSize?: number },
  ): Promise<Predictor> {
    must(
      !model.training,
      "predict/training",
      () => "predict: the model is in training mode. Call model.eval() first.",
      "model",
    );
    model.initialize();
    const { output, names } = traceModel(model, [batchSize, ...inputShape]);
    return new Predictor(await compile({ outputs: { output } }, { ...options, names }), batchSize, inputShape);
  }

  /** `[n, C, H, W]` → `[n, classes]` for any n; the last batch is filled up, which in evaluation mode changes nothing. */
  async run(images: Tensor): Promise<Tensor> {
    const [total, ...shapeOfOne] = images.shape;
    must(
      images.dtype === "float32" && sameShape(shapeOfOne, this.inputShape),
      "predict/input",
      () =>
        `predict: expected float32 pictures [N, ${this.inputShape.join(", ")}], got ${images.dtype} ${fmt(images.shape)}`,
    );
    const size = sizeOf(this.inputShape);
    let out: Float32Array<ArrayBuffer> | undefined;
    let shape: Shape = [];
    for (let start = 0; start < total; start += this.batchSize) {
      const count = Math.min(this.batchSize, total - start);
      const full = count === this.batchSize;
      const values = (images.data as Float32Array<ArrayBuffer>).subarray(start * size, (start + count) * size);
      const chunk = full ? values : new Float32Array(this.batchSize * size);
      if (!full) chunk.set(values);
      const input = new Tensor("float32", [this.batchSize, ...this.inputShape], chunk as Float32Array<ArrayBuffer>);
      const { output } = await this.program.run({ input });
      shape = output.shape.slice(1);
      const width = sizeOf(shape);
      out ??= new Float32Array(total * width);
      out.set((output.data as Float32Array).subarray(0, count * width), start * width);
    }
    return new Tensor("float32", [total, ...shape], out ?? new Float32Array(0));
  }

  dispose(): Promise<void> {
    return this.program.dispose();
  }
}

/** Counts over a data set; averages follow from them, so that parts can be added up exactly. */
export interface Evaluation {
  readonly total: number;
  /** Pictures whose class was the first, or among the first five. */
  readonly top1: number;
  readonly top5: number;
  /** Sum of the cross entropies. */
  readonly lossSum: number;
  /** Seconds in the network alone. */
  readonly seconds: number;
}

/**
 * Rank of the true class, 0 for the best; ties count in favour of the lower class number, as a stable sort does. Against
 * NaN, on either side, the true class loses.
 */
export function rankOf(logits: ArrayLike<number>, label: number): number {
  const own = logits[label];
  let rank = 0;
  for (let i = 0; i < logits.length; i++)
    if (i !== label && !(logits[i] < own || (logits[i] === own && i > label))) rank++;
  return rank;
}

/** Rows of `[N, classes]` whose largest value is at the label. */
export function countCorrect({ data, shape: [, classes] }: Tensor, labels: Int32Array): number {
  let correct = 0;
  for (let i = 0; i < labels.length; i++) {
    const row = (data as Float32Array).subarray(i * classes, (i + 1) * classes);
    if (rankOf(row, labels[i]) === 0) correct++;
  }
  return correct;
}

/** Cross entropy of one row of logits. */
export function rowLoss(logits: ArrayLike<number>, label: number): number {
  let max = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) max = Math.max(max, logits[i]);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - max);
  return Math.log(sum) + max - logits[label];
}

export interface EvaluateOptions extends CompileOptions {
  /** Default 100. */
  readonly batchSize?: number;
  /** Told after every batch. */
  readonly onBatch?: (done: number, total: number) => void;
}

/** Accuracy and loss of a network in evaluation mode on a data set. */
export async function evaluate(
  model: Net,
  data: Dataset,
  { batchSize = 100, onBatch, ...options }: EvaluateOptions = {},
): Promise<Evaluation> {
  const size = Math.min(batchSize, data.length);
  const predictor = await Predictor.create(model, { inputShape: data.imageShape, batchSize: size, ...options });
  const sums = { total: 0, top1: 0, top5: 0, lossSum: 0, seconds: 0 };
  try {
    for await (const { images, labels } of new DataLoader(data, { batchSize: size })) {
      const start = performance.now();
      const logits = await predictor.run(images);
      sums.seconds += (performance.now() - start) / 1000;
      const classes = logits.shape[1];
      must(
        classes >= data.classes.length,
        "evaluate/classes",
        () =>
          `evaluate: the network has ${classes} outputs, the data ${data.classes.length} classes. Use the data that it was trained for.`,
        "usage",
      );
      for (let i = 0; i < labels.length; i++) {
        const row = (logits.data as Float32Array).subarray(i * classes, (i + 1) * classes);
        const rank = rankOf(row, labels[i]);
        sums.top1 += rank < 1 ? 1 : 0;
        sums.top5 += rank < 5 ? 1 : 0;
        sums.lossSum += rowLoss(row, labels[i]);
      }
      sums.total += labels.length;
      onBatch?.(sums.total, data.length);
    }
    return sums;
  } finally {
    await predictor.dispose();
  }
}
