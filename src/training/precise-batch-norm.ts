import { DataLoader, type MixOptions, type PictureSet } from "../data/index.ts";
import { must } from "../errors.ts";
import { reshape } from "../graph/index.ts";
import { BatchNorm, cloneWith, mapModules, type Net, type Parameter, traceModel } from "../nn/index.ts";
import { type CompileOptions, compileStep, type StepGraph } from "../runtime/index.ts";
import { rng, sizeOf, Tensor } from "../tensor/index.ts";

export interface PreciseBatchNormOptions extends CompileOptions {
  /** Batches to average over; at most those of one epoch are there. Default 200. */
  readonly batches?: number;
  /** Pictures per batch. Default 128, or all where there are fewer. */
  readonly batchSize?: number;
  /** Selects the pictures, their augmentation and the dropout masks. Default 0. */
  readonly seed?: number;
  /** Blends pictures, where training does. */
  readonly mix?: MixOptions;
}

/**
 * Replaces the running statistics of every batch norm by the exact average over some training batches: the mean of their
 * means and of their unbiased variances, summed in float64. The running statistics of training follow the last batches
 * instead, which were normalised with weights that no longer are.
 *
 * Follows fvcore's `update_bn_stats` (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", section 3). Batches, order and
 * augmentation are those of epoch 0 of a shuffled loader with this seed; the network runs in training mode. Nothing else
 * of the model changes, its mode neither.
 *
 * @returns the number of batches averaged over; 0 when the network has no batch norm
 * @throws `precise-batch-norm/batches`; `precise-batch-norm/shared` for a batch norm that is used several times in one
 *   pass, whose uses have statistics of their own
 */
export async function preciseBatchNorm(
  model: Net,
  data: PictureSet,
  { batches = 200, batchSize = 128, seed = 0, mix, ...compile }: PreciseBatchNormOptions = {},
): Promise<number> {
  must(
    Number.isInteger(batches) && batches > 0,
    "precise-batch-norm/batches",
    () => `preciseBatchNorm: batches must be a positive integer, got ${batches}`,
    "usage",
  );
  model.initialize(seed);
  const dropLast = data.length > batchSize;
  const size = Math.min(batchSize, data.length);
  const loader = new DataLoader(data, { batchSize: size, shuffle: true, seed, dropLast, mix, fill: true });
  const { graph, statistics } = statisticsStep(model, [size, ...data.imageShape]);
  if (!statistics.size) return 0;
  const program = await compileStep(graph, compile);
  const sums = new Map([...statistics].map(([name, p]) => [name, new Float64Array(sizeOf(p.shape))]));
  let count = 0;
  try {
    for await (const { images } of loader) {
      await program.step({ input: images }, rng(seed, `precise/${count}`).below(2 ** 31));
      for (const [name, values] of await program.readState(sums.keys())) {
        const sum = sums.get(name)!;
        for (const [i, v] of values.toFloat64().entries()) sum[i] += v;
      }
      if (++count === batches) break;
    }
  } finally {
    program.state.dispose();
    await program.dispose();
  }
  for (const [name, p] of statistics)
    p.set(
      Tensor.of(
        p.dtype,
        p.shape,
        sums.get(name)!.map((v) => v / count),
      ),
    );
  return count;
}

/** A step whose state becomes the statistics of its batch, and the model's buffers that they are for, by name. */
function statisticsStep(
  model: Net,
  inputShape: readonly number[],
): { readonly graph: StepGraph; readonly statistics: ReadonlyMap<string, Parameter> } {
  // With a momentum of 1 the running statistics are those of the batch.
  const copy = mapModules(model, {
    module: (module) => (module instanceof BatchNorm ? cloneWith(module, { momentum: 1 }) : undefined),
  }).train();
  const { updates, counters, names } = traceModel(copy, inputShape);
  must(
    new Set(counters).size === counters.length,
    "precise-batch-norm/shared",
    () => "preciseBatchNorm: a batch norm is used several times in one pass. Give each use a layer of its own.",
    "model",
  );
  const own = new Map([...model.state()]);
  const next = new Map([...updates].map(([ref, value]) => [ref, reshape(value, [sizeOf(value.shape)])]));
  const statistics = new Map<string, Parameter>();
  for (const [, module] of copy.modules()) {
    if (!(module instanceof BatchNorm)) continue;
    for (const buffer of [module.runningMean, module.runningVar]) {
      const name = names.get(buffer);
      if (name !== undefined && next.has(buffer)) statistics.set(name, own.get(name)!);
    }
  }
  return { graph: { outputs: {}, next, names }, statistics };
}
