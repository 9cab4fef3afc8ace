import { openClassifier } from "../../src/node.ts";
import type { Prepared, Tasks } from "./task.ts";

/** From a file on the disk to a session that can run, for one picture. */
async function load({ path, threads }: { readonly path: string; readonly threads: number }): Promise<Prepared> {
  return {
    run: async () => {
      const classifier = await openClassifier(path);
      const compiled = await classifier.compile({ threads });
      classifier.close();
      await compiled.dispose();
    },
  };
}

export const loadTasks: Tasks = { load };
