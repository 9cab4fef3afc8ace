/** The page's side of `bench/contestants/chromium.ts`. */
import "../../src/web.ts";
import { Stage } from "../contestants/task.ts";

const networks = async () => (await import("../contestants/networks.ts")).networkTasks;
const tfjs = async () => (await import("../contestants/tfjs.ts")).tfjsTasks;
const jax = async () => (await import("../contestants/jax.ts")).jaxTasks;
const benchmark = new Stage({
  train: networks,
  infer: networks,
  buildStep: networks,
  tfjsTrain: tfjs,
  tfjsInfer: tfjs,
  jaxTrain: jax,
  jaxInfer: jax,
});
export type PageTasks = typeof benchmark;
if (!crossOriginIsolated) throw new Error("the page is not cross-origin isolated, so it has no threads");
Object.assign(globalThis, { benchmark });
