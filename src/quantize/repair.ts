import { must } from "../errors.ts";
import { sizeOf, Tensor } from "../tensor/index.ts";
import { channelMaxima } from "./affine.ts";

/** A layer whose weight is `[outputs, inputs / groups, …]`. */
export interface LinearLayer {
  readonly weight: Tensor;
  readonly bias?: Tensor | undefined;
  /** Default 1. */
  readonly groups?: number;
}

/**
 * What quantizing a weight adds to the mean of each output, to be taken from the bias (Nagel et al., arXiv 1906.04721,
 * section 4.2): Σ (quantized − weight) · mean of what the weight is multiplied by. Where the input is rounded and clamped, too,
 * its mean moves, which adds Σ quantized · (rounded mean − mean). At a border, weights are multiplied by the padding's zeros, so
 * that every place of a kernel has a mean of its own: on a map of 2×2, that of a corner is a quarter of the channel's.
 *
 * @param inputMeans    `[inputs, ...kernel]`, flat
 * @param roundedMeans  the same of the rounded input. Default `inputMeans`
 * @returns `[outputs]`
 * @throws RepmlpError `quantize/means` for another number of means than the layer has inputs and places of its kernel
 */
export function biasShift(
  { weight, groups = 1 }: LinearLayer,
  quantized: Tensor,
  inputMeans: ArrayLike<number>,
  roundedMeans: ArrayLike<number> = inputMeans,
): Tensor {
  const [outputs, perGroup] = weight.shape;
  const inner = sizeOf(weight.shape.slice(2));
  const inputs = perGroup * groups;
  must(
    inputMeans.length === inputs * inner,
    "quantize/means",
    () =>
      `bias correction: ${inputMeans.length} means, expected ${inputs * inner}: ${inputs} input channels times ${inner} places of the kernel.`,
  );
  const [w, q] = [weight.toFloat64(), quantized.toFloat64()];
  const shift = new Float64Array(outputs);
  for (let o = 0; o < outputs; o++) {
    const first = Math.floor(o / (outputs / groups)) * perGroup;
    for (let i = 0; i < perGroup; i++) {
      const [at, from] = [(o * perGroup + i) * inner, (first + i) * inner];
      for (let k = 0; k < inner; k++) {
        const [mean, rounded] = [inputMeans[from + k], roundedMeans[from + k]];
        shift[o] += (q[at + k] - w[at + k]) * mean + q[at + k] * (rounded - mean);
      }
    }
  }
  return Tensor.of("float32", [outputs], shift);
}

/**
 * Cross-layer equalisation of two layers with nothing or a ReLU between them (Nagel et al., arXiv 1906.04721, section 4.1):
 * channel c of the first layer is divided by s = √(r₁ · r₂) / r₂, where r₁ and r₂ are the largest absolute weights that make
 * and read it, and what reads it is multiplied by s. Both weights then have the same range in every channel, and the
 * network computes the same. Unlike there, r₁ takes in the bias: the weights of a dead channel are next to nothing beside it,
 * and dividing by so little would blow up the channel's values. Channels that nothing makes or reads stay as they are.
 *
 * @throws RepmlpError `quantize/layers` where the second layer does not read as many channels as the first makes
 */
export function equalizeLayers(first: LinearLayer, second: LinearLayer): readonly [LinearLayer, LinearLayer] {
  const { groups = 1 } = second;
  const [outputs] = first.weight.shape;
  const [readers, perGroup] = second.weight.shape;
  must(
    outputs === perGroup * groups,
    "quantize/layers",
    () => `equalisation: the first layer makes ${outputs} channels, the second reads ${perGroup * groups}`,
  );
  const biases = first.bias?.toFloat64();
  const made = channelMaxima(first.weight, 0).map((r, c) => Math.max(r, Math.abs(biases?.[c] ?? 0)));
  const inner = sizeOf(second.weight.shape.slice(2));
  /** Channel that a value of the second weight reads. */
  const channelOf = (i: number): number => {
    const row = Math.floor(i / (perGroup * inner));
    return Math.floor(row / (readers / groups)) * perGroup + (Math.floor(i / inner) % perGroup);
  };
  const read = new Float64Array(outputs);
  second.weight.toFloat64().forEach((v, i) => {
    read[channelOf(i)] = Math.max(read[channelOf(i)], Math.abs(v));
  });
  const factors = read.map((r, c) => (r > 0 && made[c] > 0 ? Math.sqrt(made[c] * r) / r : 1));
  const rows = sizeOf(first.weight.shape.slice(1));
  return [
    {
      ...first,
      weight: first.weight.map((v, i) => v / factors[Math.floor(i / rows)]),
      bias: first.bias?.map((v, i) => v / factors[i]),
    },
    { ...second, weight: second.weight.map((v, i) => v * factors[channelOf(i)]) },
  ];
}

/** Running mean and variance per channel, as the batch norm that is inserted behind a convolution gets them. */
export interface InsertedBatchNorm {
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  /** γ and β with which the batch norm, behind the convolution without its bias, changes nothing. */
  readonly weight: Tensor;
  readonly bias: Tensor;
}

/**
 * Collects what a batch norm needs that is inserted between a convolution and its bias (RepVGG's `insert_bn.py`): of each
 * batch of outputs *before* the bias mean and variance per channel, with a moving average of factor 0.9 into which the first
 * batch goes as it is.
 */
export class BatchNormStatistics {
  private mean: Float64Array | undefined;
  private variance: Float64Array | undefined;

  /** @param momentum  share that earlier batches keep. Default 0.9 */
  constructor(readonly momentum: number = 0.9) {}

  /** Adds a batch, `[N, C, …]`; its variance is the biased one. */
  add(outputs: Tensor): this {
    const [batch, count] = outputs.shape;
    const inner = sizeOf(outputs.shape.slice(2));
    const values = outputs.toFloat64();
    const [mean, variance] = [new Float64Array(count), new Float64Array(count)];
    const each = (use: (c: number, v: number) => void): void => {
      for (let n = 0, i = 0; n < batch; n++)
        for (let c = 0; c < count; c++) for (let k = 0; k < inner; k++, i++) use(c, values[i]);
    };
    const samples = batch * inner;
    each((c, v) => {
      mean[c] += v / samples;
    });
    each((c, v) => {
      variance[c] += (v - mean[c]) ** 2 / samples;
    });
    const { momentum } = this;
    const moved = (before: Float64Array | undefined, now: Float64Array): Float64Array =>
      before ? before.map((b, c) => momentum * b + (1 - momentum) * now[c]) : now;
    this.mean = moved(this.mean, mean);
    this.variance = moved(this.variance, variance);
    return this;
  }

  /**
   * The batch norm for a convolution with this bias (default 0): γ = √(variance + eps), β = bias + mean.
   *
   * @throws RepmlpError `quantize/no-batch` before the first batch
   */
  batchNorm({ bias, eps = 1e-5 }: { readonly bias?: Tensor; readonly eps?: number } = {}): InsertedBatchNorm {
    const { mean, variance } = this;
    must(mean && variance, "quantize/no-batch", () => "batch norm: no batch was added. Add outputs first.", "usage");
    const own = bias?.toFloat64();
    const vector = (values: Float64Array): Tensor => Tensor.float32([values.length], values);
    return {
      runningMean: vector(mean),
      runningVar: vector(variance),
      weight: vector(variance.map((v) => Math.sqrt(v + eps))),
      bias: vector(mean.map((m, c) => m + (own?.[c] ?? 0))),
    };
  }
}
