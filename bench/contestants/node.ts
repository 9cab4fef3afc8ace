/** The contestant that runs in Node: this package, ONNX Runtime on other graphs, the WebAssembly rivals. */
import "../../src/node.ts";
import { dataTasks } from "./data.ts";
import { jaxTasks } from "./jax.ts";
import { limitTasks } from "./limits.ts";
import { loadTasks } from "./load.ts";
import { networkTasks } from "./networks.ts";
import { plainTasks } from "./plain.ts";
import { ownPeakMb, serve } from "./serve.ts";
import { type Prepared, type Tasks, timed } from "./task.ts";
import { tfjsTasks } from "./tfjs.ts";

const tasks: Tasks = {
  ...networkTasks,
  ...plainTasks,
  ...limitTasks,
  ...loadTasks,
  ...dataTasks,
  ...tfjsTasks,
  ...jaxTasks,
};
let ready: Prepared | undefined;

await serve({
  async prepare(task, options) {
    ready = await tasks[task](options);
    return ready.facts ?? {};
  },
  async run(times) {
    if (!ready) throw new Error("run before prepare");
    return timed(ready, times);
  },
  peakMb: ownPeakMb,
});
