import { fmt, must } from "../errors.ts";
import { input, type Value } from "../graph/index.ts";
import { type Net, type Outputs, toDtype, traceNet } from "../nn/index.ts";
import { isReparameterizable } from "../reparam/contract.ts";
import { mustBeInEvaluationMode } from "../reparam/evaluation-mode.ts";
import type { CompileOptions, Program } from "../runtime/index.ts";
import { rng, type Shape, sameShape, sizeOf, Tensor } from "../tensor/index.ts";
import { Comparison, type Difference, type Disagreement, isWithin, LogitsComparison } from "./compare.ts";

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
  /** What is compared, where a network has several outputs. Default: `output` alone, that of `forward`. */
  readonly outputs?: (net: Net, images: Value) => Outputs;
}

export interface Equivalence extends Difference {
  /** Of several outputs the other ones, by name as their path; absent where there is one alone. */
  readonly outputs?: readonly Difference[];
  /** One entry per merged block that is as wide in both, in order of computation. */
  readonly blocks: readonly Difference[];
  /** Inputs, or pixels where the network tells the classes of these, whose top class is the same. */
  readonly top1: { readonly agree: number; readonly total: number; readonly of?: "pixels" };
  /** Those whose top class differs, up to a thousand. */
  readonly disagreements: readonly Disagreement[];
}

/** Whether two forms are one network, and where they part. */
export interface Verdict {
  readonly passed: boolean;
  /** The first block that differs, in order of computation; `null` when none does, or only what comes after the last. */
  readonly differs: string | null;
}

/** Two forms are equal when the output and *every block's* output are: a wrong block may hardly show at the end. */
export function judge(found: Equivalence, tolerance: number): Verdict {
  const differs = found.blocks.find((block) => !isWithin(block, tolerance))?.path ?? null;
  const outputs = [found, ...(found.outputs ?? [])];
  return { passed: differs === null && outputs.every((output) => isWithin(output, tolerance)), differs };
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
  const { inputShape, samples = 8, seed = 0, dtype = "float32", inputs, outputs: outputsOf, ...rest } = options;
  const compileOptions = { ...rest, outputsOf };
  const reason = "where batch norm uses batch statistics, so outputs cannot match";
  mustBeInEvaluationMode("verify", a, "the first model", reason);
  mustBeInEvaluationMode("verify", b, "the second model", reason);
  must(inputs ?? inputShape, "verify/inputs", () => "verify: pass inputs, or inputShape for random ones", "usage");
  const data = (inputs ?? randomInputs(inputShape!, samples, seed)).cast(dtype);
  const [total, ...shape] = data.shape;
  must(total > 0, "verify/inputs", () => `verify: there are no inputs to compare on, got ${fmt(data.shape)}`, "usage");
  const batch = Math.min(BATCH, total);
  // What is below a block is the block's own: under the name of a branch there may be something else once merged.
  const merging = [...a.modules()].filter(([, m]) => isReparameterizable(m)).map(([path]) => path);
  const isBelow = (path: string, block: string): boolean => path !== block && (!block || path.startsWith(`${block}.`));
  const paths = new Set(merging.filter((path) => !merging.some((block) => isBelow(path, block))));
  const [first, second] = await Promise.all(
    [a, b].map((model) => compileLayers(toDtype(model, dtype), [batch, ...shape], dtype, paths, compileOptions)),
  );
  // Blocks of a pruned network may be narrower.
  const shared = [...first.outputs].flatMap(([path, { shape: own }]) =>
    sameShape(own, second.outputs.get(path)?.shape ?? []) ? [path] : [],
  );
  const output = new LogitsComparison();
  const others = first.others.map((name) => new Comparison(name));
  const blocks = shared.map((path) => new Comparison(path));
  const size = sizeOf(shape);
  let isDense = false;
  for (let start = 0; start < total; start += batch) {
    const count = Math.min(batch, total - start);
    // The last batch is filled up; in evaluation mode samples do not affect each other.
    const chunk = Tensor.zeros(dtype, [batch, ...shape]);
    (chunk.data as Float32Array).set((data.data as Float32Array).subarray(start * size, (start + count) * size));
    const [x, y] = [await first.program.run({ input: chunk }), await second.program.run({ input: chunk })];
    must(
      x.output.size === y.output.size,
      "verify/outputs",
      () =>
        `verify: the outputs are ${fmt(x.output.shape)} and ${fmt(y.output.shape)}; these are not two forms of one model`,
    );
    output.addRows(x.output, y.output, count);
    isDense = x.output.shape.length > 2;
    for (const other of others) {
      const [p, q] = [x[other.path], y[other.path]];
      must(
        q && p.size === q.size,
        "verify/outputs",
        () => `verify: the second model has no output "${other.path}" ${fmt(p.shape)}; compare outputs that both have`,
        "usage",
      );
      other.add(p.data as Float32Array, q.data as Float32Array, (p.size / batch) * count);
    }
    for (const [i, path] of shared.entries()) {
      const [p, q] = [x[layerName(path)], y[layerName(path)]];
      blocks[i].add(p.data as Float32Array, q.data as Float32Array, (p.size / batch) * count);
    }
  }
  await Promise.all([first.program.dispose(), second.program.dispose()]);
  return {
    ...output.result,
    ...(others.length && { outputs: others.map((c) => c.result) }),
    blocks: blocks.map((c) => c.result),
    top1: { agree: output.agree, total: output.total, ...(isDense && { of: "pixels" as const }) },
    disagreements: output.disagreements,
  };
}

const layerName = (path: string): string => `layer:${path}`;

async function compileLayers(
  model: Net,
  shape: Shape,
  dtype: "float32" | "float64",
  paths: ReadonlySet<string>,
  { outputsOf, ...options }: CompileOptions & { readonly outputsOf: VerifyOptions["outputs"] },
): Promise<{ program: Program; outputs: ReadonlyMap<string, Value>; others: readonly string[] }> {
  // Loaded here, so that merging alone does not load the runtime.
  const { compile } = await import("../runtime/index.ts");
  model.initialize();
  const images = input("input", shape, dtype);
  const named = (): Outputs => outputsOf?.(model, images) ?? { output: model.forward(images) };
  const { result, layers, names } = traceNet(model, named, Object.values<Value>);
  const outputs = new Map([...layers].filter(([path]) => paths.has(path)));
  const graph = { ...result, ...Object.fromEntries([...outputs].map(([path, v]) => [layerName(path), v])) };
  const others = Object.keys(result).filter((name) => name !== "output");
  return { program: await compile({ outputs: graph }, { ...options, names }), outputs, others };
}
