import { must } from "../../errors.ts";
import { input, type ParameterRef, reshape, type Value } from "../../graph/index.ts";
import { type Net, parameterNames, traceNet } from "../../nn/index.ts";
import { type CompileOptions, compileStep, type StepGraph } from "../../runtime/index.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";
import type { QuantizedNet } from "./quantized-net.ts";

/** Values of a network's graph, by the network's present parameters, computed as a training step computes them. */
export async function computedFrom(
  net: Net,
  outputs: Readonly<Record<string, Value>>,
  compile: CompileOptions = {},
): Promise<Record<string, Tensor>> {
  net.initialize();
  const program = await compileStep({ outputs, next: new Map(), names: parameterNames(net) }, compile);
  try {
    return await program.step({});
  } finally {
    program.state.dispose();
    await program.dispose();
  }
}

/**
 * Lets a quantized network see batches before it is trained, and starts its ranges from them: those of `average` as they
 * are, learned scales and zero points from the smallest and the largest values, learned scales of weights from the largest
 * weights. Nothing else changes.
 *
 * @param batches  float32 `[N, C, H, W]`
 * @throws RepmlpError `quantize/no-data` without any batch
 */
export async function calibrateQuantizedNet(
  net: QuantizedNet,
  batches: Iterable<Tensor> | AsyncIterable<Tensor>,
  compile: CompileOptions = {},
): Promise<void> {
  net.initialize();
  for (const range of Object.values(net.ranges.activations))
    for (const buffer of [range.min, range.max, range.seen]) buffer.set(Tensor.zeros("float32", [1]));
  const { training } = net;
  let program: Awaited<ReturnType<typeof compileStep>> | undefined;
  let shape = "";
  try {
    for await (const images of batches) {
      if (program && `${images.shape}` !== shape) continue;
      shape = `${images.shape}`;
      program ??= await compileStep(observation(net, images.shape), compile);
      await program.step({ input: images });
    }
    must(program, "quantize/no-data", () => "quantize: there is no calibration data. Give some batches.", "usage");
    const own = new Map(net.state());
    for (const [key, value] of await program.readState()) if (key.startsWith("quantize.")) own.get(key)?.set(value);
  } finally {
    program?.state.dispose();
    await program?.dispose();
    net.train(training);
  }
  await startLearned(net, compile);
}

/** A step that changes nothing but the ranges seen. */
function observation(net: QuantizedNet, shape: readonly number[]): StepGraph {
  const x = input("input", shape);
  const { updates, names } = traceNet(
    net,
    () => net.observing(() => net.forward(x)),
    (output) => [output],
  );
  const flat = [...updates].map(([ref, v]): [ParameterRef, Value] => [ref, reshape(v, [sizeOf(v.shape)])]);
  return { outputs: {}, next: new Map(flat), names };
}

async function startLearned(net: QuantizedNet, compile: CompileOptions): Promise<void> {
  const { activations, weights } = net.ranges;
  const learned = Object.values(activations).some(({ scale }) => scale);
  if (!learned && !Object.keys(weights).length) return;
  const { steps, weightScales } = net.observing(() => net.values());
  const names = new Map<string, Value>();
  for (const [name, [scale, zeroPoint]] of steps) {
    names.set(`scale:${name}`, scale);
    names.set(`zero:${name}`, zeroPoint);
  }
  for (const [key, scale] of weightScales) names.set(`weight:${key}`, scale);
  const found = await computedFrom(net, Object.fromEntries(names), compile);
  for (const [name, { scale, zeroPoint }] of Object.entries(activations)) {
    scale?.set(found[`scale:${name}`]);
    zeroPoint?.set(found[`zero:${name}`]);
  }
  for (const [key, scale] of Object.entries(weights)) scale.set(found[`weight:${key}`]);
}
