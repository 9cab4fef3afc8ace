import { fmt, must } from "../errors.ts";
import { input, type Value } from "../graph/index.ts";
import { type Net, traceNet } from "../nn/index.ts";
import { type CompileOptions, compile, type Program } from "../runtime/index.ts";
import { type Shape, sameShape, sizeOf, Tensor } from "../tensor/index.ts";

/** A compiled network in evaluation mode for batches up to a fixed size. */
export class Predictor {
  private constructor(
    private readonly program: Program,
    readonly batchSize: number,
    readonly inputShape: Shape,
    private readonly outputs: Readonly<Record<string, Value>>,
  ) {}

  /** Of a whole batch, `[batchSize, …]`, by name. */
  get outputShapes(): Readonly<Record<string, Shape>> {
    return Object.fromEntries(Object.entries(this.outputs).map(([name, { shape }]) => [name, shape]));
  }

  /**
   * Compiles a network; its present values become constants.
   *
   * @param inputShape  one picture, `[C, H, W]`
   * @param outputs     what the network gives for a batch of pictures, by name. Default: `output` is that of `forward`
   */
  static async create<N extends Net>(
    model: N,
    {
      inputShape,
      batchSize = 1,
      outputs: outputsOf = (net, images) => ({ output: net.forward(images) }),
      ...options
    }: CompileOptions & {
      readonly inputShape: Shape;
      readonly batchSize?: number;
      readonly outputs?: (net: N, images: Value) => Readonly<Record<string, Value>>;
    },
  ): Promise<Predictor> {
    must(
      !model.training,
      "predict/training",
      () => "predict: the model is in training mode. Call model.eval() first.",
      "model",
    );
    model.initialize();
    const images = input("input", [batchSize, ...inputShape]);
    const { result: outputs, names } = traceNet(model, () => outputsOf(model, images), Object.values<Value>);
    return new Predictor(await compile({ outputs }, { ...options, names }), batchSize, inputShape, outputs);
  }

  /** `[n, C, H, W]` → `[n, classes]` for any n; the last batch is filled up, which in evaluation mode changes nothing. */
  async run(images: Tensor): Promise<Tensor> {
    return (await this.runAll(images)).output;
  }

  /** All outputs of {@link run} by name, `[n, …]`. */
  async runAll(images: Tensor): Promise<Record<string, Tensor>> {
    const [total, ...shapeOfOne] = images.shape;
    must(
      images.dtype === "float32" && sameShape(shapeOfOne, this.inputShape),
      "predict/input",
      () =>
        `predict: expected float32 pictures [N, ${this.inputShape.join(", ")}], got ${images.dtype} ${fmt(images.shape)}`,
    );
    const size = sizeOf(this.inputShape);
    const results = Object.fromEntries(
      Object.entries(this.outputs).map(
        ([
          name,
          {
            dtype,
            shape: [, ...shape],
          },
        ]) => [name, Tensor.zeros(dtype, [total, ...shape])],
      ),
    );
    for (let start = 0; start < total; start += this.batchSize) {
      const count = Math.min(this.batchSize, total - start);
      const full = count === this.batchSize;
      const values = (images.data as Float32Array<ArrayBuffer>).subarray(start * size, (start + count) * size);
      const chunk = full ? values : new Float32Array(this.batchSize * size);
      if (!full) chunk.set(values);
      const batch = new Tensor("float32", [this.batchSize, ...this.inputShape], chunk as Float32Array<ArrayBuffer>);
      for (const [name, output] of Object.entries(await this.program.run({ input: batch }))) {
        const width = sizeOf(output.shape.slice(1));
        (results[name].data as Float32Array).set(
          (output.data as Float32Array).subarray(0, count * width),
          start * width,
        );
      }
    }
    return results;
  }

  dispose(): Promise<void> {
    return this.program.dispose();
  }
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
