/** The contestant that runs in Node: this package, ONNX Runtime on other graphs, the WebAssembly rivals. */
import "../../src/node.ts";
import { ownPeakMb, serve } from "./serve.ts";
import { type Homes, Stage } from "./task.ts";

// Loaded when asked for, so that nobody pays for the libraries of the others.
const networks = async () => (await import("./networks.ts")).networkTasks;
const plain = async () => (await import("./plain.ts")).plainTasks;
const limits = async () => (await import("./limits.ts")).limitTasks;
const load = async () => (await import("./load.ts")).loadTasks;
const data = async () => (await import("./data.ts")).dataTasks;
const tfjs = async () => (await import("./tfjs.ts")).tfjsTasks;
const jax = async () => (await import("./jax.ts")).jaxTasks;
const homes: Homes = {
  train: networks,
  infer: networks,
  buildStep: networks,
  plain,
  gemm: limits,
  bandwidth: limits,
  load,
  pictures: data,
  cifar: data,
  tfjsTrain: tfjs,
  tfjsInfer: tfjs,
  jaxTrain: jax,
  jaxInfer: jax,
};
const stage = new Stage(homes);

await serve({
  prepare: (task, options) => stage.prepare(task, options),
  run: (times) => stage.run(times),
  peakMb: ownPeakMb,
});
