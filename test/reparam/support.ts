import type { Value } from "../../src/graph/index.ts";
import { BatchNorm, type Module, type Net, traceModel } from "../../src/nn/index.ts";
import { compile } from "../../src/runtime/index.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { rng, type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";

registerNode();

const uniformTensor = (shape: Shape, low: number, high: number, name: string): Tensor => {
  const random = rng(11, name);
  return Tensor.float32(
    shape,
    Float64Array.from({ length: sizeOf(shape) }, () => low + (high - low) * random.next()),
  );
};

/** Initial weights, and batch norms that would show any mistake: no mean is 0, no variance 1. */
export function withRandomState<M extends Module>(model: M, seed = 0): M {
  model.initialize(seed);
  for (const [path, m] of model.modules()) {
    if (!(m instanceof BatchNorm)) continue;
    const channels = m.runningMean.shape;
    const name = `${seed}/${path}`;
    m.weight?.set(uniformTensor(channels, 0.5, 1.5, `${name}.weight`));
    m.bias?.set(uniformTensor(channels, -0.5, 0.5, `${name}.bias`));
    m.runningMean.set(uniformTensor(channels, -0.5, 0.5, `${name}.mean`));
    m.runningVar.set(uniformTensor(channels, 0.3, 2, `${name}.var`));
  }
  return model;
}

/** As {@link withRandomState}, with batch norms of any kind: negative weights, some 0, small and large eps (ones that float32, which ONNX has for
 * it, holds exactly or nearly). */
export function withAnyNorms<M extends Module>(model: M, seed = 0): M {
  withRandomState(model, seed);
  for (const [path, m] of model.modules()) {
    if (!(m instanceof BatchNorm)) continue;
    const signs = uniformTensor(m.runningMean.shape, -1.5, 1.5, `${seed}/${path}.signs`);
    m.weight?.set(signs.map((v) => (Math.abs(v) < 0.3 ? 0 : v)));
    Object.assign(m, { eps: [2 ** -20, 1e-5, 2 ** -10, 2 ** -3][(seed + path.length) % 4] });
  }
  return model;
}

export const randomTensor = (shape: Shape, name: string): Tensor => uniformTensor(shape, -2, 2, name);

/** A network with the shape of the input to run it on. */
export interface NetCase {
  readonly model: Net;
  readonly shape: Shape;
}

/** Outputs of several networks that are computed in one session: building one takes longer than running it. */
export async function runTogether(
  cases: readonly NetCase[],
  dtype: "float32" | "float64" = "float32",
): Promise<Tensor[]> {
  const outputs: Record<string, Value> = {};
  const feeds: Record<string, Tensor> = {};
  for (const [i, { model, shape }] of cases.entries()) {
    const inputName = `x${i}`;
    outputs[`y${i}`] = traceModel(model, shape, { inputName, dtype }).output;
    feeds[inputName] = randomTensor(shape, shape.join()).cast(dtype);
  }
  await using program = await compile({ outputs }, { threads: 1 });
  const results = await program.run(feeds);
  return cases.map((_, i) => results[`y${i}`]);
}

/** Largest difference, relative to the largest magnitude; NaN counts as infinite. */
export function relativeError(actual: Tensor, expected: Tensor): number {
  if (actual.shape.join() !== expected.shape.join()) return Number.POSITIVE_INFINITY;
  const [a, e] = [actual.toFloat64(), expected.toFloat64()];
  let worst = 0;
  let scale = 0;
  for (let i = 0; i < e.length; i++) {
    const d = Math.abs(a[i] - e[i]);
    worst = Math.max(worst, Number.isNaN(d) ? Number.POSITIVE_INFINITY : d);
    scale = Math.max(scale, Math.abs(e[i]));
  }
  return worst / (scale || 1);
}
