/**
 * Writes checkpoints of stopped runs, and where the same runs end when they are not stopped, with the version at hand:
 *
 *   npx tsx test/training/make-run-fixtures.ts [FOLDER]
 *
 * What is in test/fixtures/training/runs was written by the version before optimizers became chains of update rules, and
 * is not to be made again: later versions must still be able to go on from it.
 */
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { adamW, folderStore, saveCheckpointFile, sgd, type TrainerOptions } from "../../src/node.ts";
import { train } from "./support.ts";

/** Each is stopped at step 6, in the middle of its second epoch. */
export const stoppedRuns: Readonly<Record<string, Partial<TrainerOptions>>> = {
  "sgd-nesterov-ema": {
    optimizer: sgd({ momentum: 0.9, nesterov: true, weightDecay: 1e-3 }),
    ema: { decay: 0.9, warmup: true },
    group: (key) => (key.endsWith("bias") ? { weightDecay: 0, lrScale: 2 } : undefined),
  },
  "adamw-clip-norm": { optimizer: adamW({ weightDecay: 0.05 }), lr: 1e-2, clipNorm: 0.5, accumulate: 2 },
};

if (process.argv[1]?.endsWith("make-run-fixtures.ts")) {
  const folder = process.argv[2] ?? "test/fixtures/training/runs";
  mkdirSync(folder, { recursive: true });
  for (const [name, options] of Object.entries(stoppedRuns)) {
    const store = folderStore(join(folder, "temporary"));
    await train({ ...options, store }, 6);
    copyFileSync(join(folder, "temporary", "last.safetensors"), join(folder, `${name}.stopped.safetensors`));
    const { model, summary } = await train(options);
    await saveCheckpointFile(join(folder, `${name}.end.safetensors`), model.stateDict());
    if (summary.averaged)
      await saveCheckpointFile(join(folder, `${name}.averaged.safetensors`), summary.averaged.stateDict());
  }
}
