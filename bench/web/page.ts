/** The page's side of `bench/contestants/chromium.ts`. */
import "../../src/web.ts";
import { jaxTasks } from "../contestants/jax.ts";
import { networkTasks } from "../contestants/networks.ts";
import { type Prepared, type Tasks, type Timed, timed } from "../contestants/task.ts";
import { tfjsTasks } from "../contestants/tfjs.ts";

const tasks: Tasks = { ...networkTasks, ...tfjsTasks, ...jaxTasks };
let ready: Prepared | undefined;

const benchmark = {
  async prepare(task: string, options: unknown): Promise<Readonly<Record<string, number>>> {
    if (!crossOriginIsolated) throw new Error("the page is not cross-origin isolated, so it has no threads");
    ready = await tasks[task](options as never);
    return ready.facts ?? {};
  },
  async run(times: number): Promise<Timed> {
    if (!ready) throw new Error("run before prepare");
    return timed(ready, times);
  },
};
export type PageTasks = typeof benchmark;
Object.assign(globalThis, { benchmark });
