import { fmt, must } from "../errors.ts";
import type { Value } from "../graph/index.ts";
import { type Net, toDtype, traceModel } from "../nn/index.ts";
import { isReparameterizable } from "../reparam/contract.ts";
import { mustBeInEvaluationMode } from "../reparam/evaluation-mode.ts";
import type { CompileOptions, Program } from "../runtime/index.ts";
import { rng, type Shape, sizeOf, Tensor, type TypedArray } from "../tensor/index.ts";

export interface VerifyOptions extends CompileOptions {
  /** Pictures to compare on, `[N, …]`. Default: random ones of `inputShape`. */
  readonly inputs?: Tensor;
  /** Shape of one input without the batch, `[C, H, W]`; needed without `inputs`. */
  readonly inputShape?: Shape;
  /** Number of random inputs. Default 8. */
  readonly samples?: number;
  /** Seed of the random inputs. Default 0. */
  readonly seed?: number;
  /** Runs both models in this dtype. Default `float32`; `float64` shows what rounding alone does. */
  readonly dtype?: "float32" | "float64";
}

/** How far two outputs of one layer are apart. */
export interface Difference {
  /** Layer path; empty for the model's output. */
  readonly path: string;
  readonly maxAbs: number;
  /** `maxAbs` divided by the largest absolute value of the first model's output. */
  readonly maxRel: number;
}

export interface Equivalence extends Difference {
  /** One entry per merged block, in order of computation. */
  readonly blocks: readonly Difference[];
  readonly top1: { readonly agree: number; readonly total: number };
  /** Inputs whose top class differs, with how far the first model's top two are apart. */
  readonly disagreements: readonly { readonly index: number; readonly margin: number }[];
}

/** Running maximum of the difference of two outputs. */
class Comparison {
  private worst = 0;
  private scale = 0;

  constructor(private readonly path: string) {}

  add(a: TypedArray, b: TypedArray, count: number): void {
    const [x, y] = [a as Float32Array, b as Float32Array];
    for (let i = 0; i < count; i++) {
      const d = Math.abs(x[i] - y[i]);
      // A NaN on one side must not pass for equality, nor be forgotten at the next value.
      if (!(d <= this.worst) && !Number.isNaN(this.worst)) this.worst = d;
      const s = Math.abs(x[i]);
      if (s > this.scale) this.scale = s;
    }
  }

  get result(): Difference {
    return { path: this.path, maxAbs: this.worst, maxRel: this.worst / (this.scale || 1) };
  }
}

/** Index of the largest of `row`'s values and its lead over the second. */
export function top1(row: ArrayLike<number>): { readonly index: number; readonly margin: number } {
  let index = 0;
  let second = Number.NEGATIVE_INFINITY;
  for (let i = 1; i < row.length; i++) {
    if (row[i] > row[index]) {
      second = row[index];
      index = i;
    } else if (row[i] > second) second = row[i];
  }
  return { index, margin: row[index] - second };
}

/** Random inputs, standard normal. */
export function randomInputs(shape: Shape, samples: number, seed = 0): Tensor {
  const random = rng(seed, "verify");
  return Tensor.float32(
    [samples, ...shape],
    Float64Array.from({ length: samples * sizeOf(shape) }, () => random.normal()),
  );
}

const BATCH = 32;

/**
 * Runs two forms of one model on the same inputs and compares their outputs, and those of every block that has a merged
 * form: the first block that differs is where a conversion went wrong.
 *
 * @throws `verify/training` when one of the models is in training mode: batch statistics make them differ
 */
export async function verifyEquivalence(a: Net, b: Net, options: VerifyOptions = {}): Promise<Equivalence> {
  const { inputShape, samples = 8, seed = 0, dtype = "float32", inputs, ...compileOptions } = options;
  const reason = "where batch norm uses batch statistics, so outputs cannot match";
  mustBeInEvaluationMode("verify", a, "the first model", reason);
  mustBeInEvaluationMode("verify", b, "the second model", reason);
  must(inputs ?? inputShape, "verify/inputs", () => "verify: pass inputs, or inputShape for random ones", "usage");
  const data = (inputs ?? randomInputs(inputShape!, samples, seed)).cast(dtype);
  const [total, ...shape] = data.shape;
  must(total > 0, "verify/inputs", () => `verify: there are no inputs to compare on, got ${fmt(data.shape)}`, "usage");
  const batch = Math.min(BATCH, total);
  const paths = new Set([...a.modules()].filter(([, m]) => isReparameterizable(m)).map(([path]) => path));
  const [first, second] = await Promise.all(
    [a, b].map((model) => compileLayers(toDtype(model, dtype), [batch, ...shape], dtype, paths, compileOptions)),
  );
  const shared = [...first.outputs.keys()].filter((path) => second.outputs.has(path));
  const output = new Comparison("");
  const blocks = shared.map((path) => new Comparison(path));
  const disagreements: { index: number; margin: number }[] = [];
  const size = sizeOf(shape);
  for (let start = 0; start < total; start += batch) {
    const count = Math.min(batch, total - start);
    // The last batch is filled up; in evaluation mode samples do not affect each other.
    const chunk = Tensor.zeros(dtype, [batch, ...shape]);
    (chunk.data as Float32Array).set((data.data as Float32Array).subarray(start * size, (start + count) * size));
    const [x, y] = [await first.program.run({ input: chunk }), await second.program.run({ input: chunk })];
    const classes = x.output.size / batch;
    must(
      x.output.size === y.output.size,
      "verify/outputs",
      () =>
        `verify: the outputs are ${fmt(x.output.shape)} and ${fmt(y.output.shape)}; these are not two forms of one model`,
    );
    output.add(x.output.data, y.output.data, count * classes);
    for (const [i, path] of shared.entries()) {
      const [p, q] = [x[layerName(path)], y[layerName(path)]];
      blocks[i].add(p.data, q.data, (p.size / batch) * count);
    }
    for (let i = 0; i < count; i++) {
      const row = (t: Tensor): Float32Array => (t.data as Float32Array).subarray(i * classes, (i + 1) * classes);
      const [p, q] = [top1(row(x.output)), top1(row(y.output))];
      if (p.index !== q.index) disagreements.push({ index: start + i, margin: p.margin });
    }
  }
  await Promise.all([first.program.dispose(), second.program.dispose()]);
  return {
    ...output.result,
    blocks: blocks.map((c) => c.result),
    top1: { agree: total - disagreements.length, total },
    disagreements,
  };
}

const layerName = (path: string): string => `layer:${path}`;

async function compileLayers(
  model: Net,
  shape: Shape,
  dtype: "float32" | "float64",
  paths: ReadonlySet<string>,
  options: CompileOptions,
): Promise<{ program: Program; outputs: ReadonlyMap<string, Value> }> {
  // Loaded here, so that merging alone does not load the runtime.
  const { compile } = await import("../runtime/index.ts");
  model.initialize();
  const { output, layers, names } = traceModel(model, shape, { dtype });
  const outputs = new Map([...layers].filter(([path]) => paths.has(path)));
  const graph = { output, ...Object.fromEntries([...outputs].map(([path, v]) => [layerName(path), v])) };
  return { program: await compile({ outputs: graph }, { ...options, names }), outputs };
}
