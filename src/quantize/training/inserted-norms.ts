import { asParameter, reachable, type Value } from "../../graph/index.ts";
import { BatchNorm, type Net, traceModel } from "../../nn/index.ts";
import { type CompileOptions, compile } from "../../runtime/index.ts";
import type { Tensor } from "../../tensor/index.ts";
import { BatchNormStatistics } from "../repair.ts";

/**
 * Gives batch norms that were inserted into a merged network, and change nothing yet (see `insertBatchNorms` and
 * `withFc3BatchNorm`), the statistics of their inputs, with scale and shift that undo them: outputs stay what they are, and
 * training mode normalises by statistics that are true. As RepVGG's `insert_bn.py`, with a moving average over the batches.
 *
 * @param batches  float32 `[N, C, H, W]`, all of one shape
 * @returns how many batch norms there were; one that has statistics already is left alone
 */
export async function startInsertedNorms(
  net: Net,
  batches: Iterable<Tensor> | AsyncIterable<Tensor>,
  options: CompileOptions = {},
): Promise<number> {
  const norms = new Map(
    [...net.modules()].flatMap(([, m]) =>
      m instanceof BatchNorm && isIdentity(m) ? [[m.runningMean, m] as const] : [],
    ),
  );
  if (!norms.size) return 0;
  const { training } = net;
  net.eval();
  const collected = new Map([...norms.values()].map((bn) => [bn, new BatchNormStatistics()]));
  let program: Awaited<ReturnType<typeof compile>> | undefined;
  let shape = "";
  try {
    for await (const images of batches) {
      if (program && `${images.shape}` !== shape) continue;
      shape = `${images.shape}`;
      program ??= await compile({ outputs: inputsOf(net, images.shape, norms) }, options);
      const made = await program.run({ input: images });
      for (const [i, bn] of [...norms.values()].entries()) collected.get(bn)!.add(made[`norm:${i}`]);
    }
  } finally {
    await program?.dispose();
    net.train(training);
  }
  for (const [bn, statistics] of collected) {
    const { runningMean, runningVar, weight, bias } = statistics.batchNorm({ eps: bn.eps });
    bn.runningMean.set(runningMean);
    bn.runningVar.set(runningVar);
    bn.weight?.set(weight);
    bn.bias?.set(bias);
  }
  return norms.size;
}

/** What each of the norms gets, as outputs. */
function inputsOf(net: Net, shape: readonly number[], norms: ReadonlyMap<unknown, BatchNorm>): Record<string, Value> {
  const { output } = traceModel(net, shape);
  const found = new Map<unknown, Value>();
  for (const { op, inputs } of reachable([output]))
    if (op.name === "batchNorm") found.set(asParameter(inputs[3])?.ref, inputs[0]);
  return Object.fromEntries([...norms.keys()].map((ref, i) => [`norm:${i}`, found.get(ref)!]));
}

const every = (t: Tensor, value: number): boolean => t.toFloat64().every((v) => Math.abs(v - value) < 1e-6);

function isIdentity({ runningMean, runningVar, weight, bias, eps }: BatchNorm): boolean {
  return (
    weight?.isSet === true &&
    bias?.isSet === true &&
    runningMean.isSet &&
    runningVar.isSet &&
    every(runningMean.data, 0) &&
    every(runningVar.data, 1) &&
    every(bias.data, 0) &&
    every(weight.data, Math.sqrt(1 + eps))
  );
}
