import { RepmlpError } from "../../errors.ts";
import { readRecipe, train } from "../../recipes/train-node.ts";
import { registerNode } from "../../runtime/platform-node.ts";
import { reexec } from "../reexec.ts";
import type { Run } from "../table.ts";
import { showTraining } from "../training-view.ts";

/** Trains by a recipe: a thin call of {@link train}. */
export const run: Run<"train"> = async ({ args, options, io }) => {
  const { recipe: name, out = "runs/train", epochs, batchSize, lr, freeze, arch, init, seed, resume } = options;
  if (name === undefined)
    throw new RepmlpError("train/recipe", "train: say how with --recipe; see repmlp train --help.", "usage");
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  const base = await readRecipe(name);
  const recipe = {
    ...base,
    ...(epochs !== undefined && { epochs }),
    ...(batchSize !== undefined && { batchSize }),
    ...(lr !== undefined && { lr }),
    freeze: [...base.freeze, ...freeze],
  };
  const progress = io.progress();
  const result = await train({
    ...{ data: args.data, recipe, folder: out, resume, seed, signal: io.signal },
    ...{ arch, init, allowMismatch: options.allowMismatch, workers: options.workers, threads: options.threads },
    onEvent: (event) => showTraining(event, io, progress),
    onLoaded: ({ missing, unexpected, mismatched }) => {
      const left = [...missing, ...unexpected, ...mismatched].filter((key) => !key.endsWith("num_batches_tracked"));
      if (left.length) io.note(`not taken from ${init}: ${left.join(", ")}`);
    },
  }).finally(() => progress.stop());
  const { summary, weights, averaged, curves, events, arch: trained } = result;
  if (!summary.finished) {
    io.note("stopped; the same command with --resume goes on");
    return undefined;
  }
  const { bestTop1, steps, stoppedEarly, history } = summary;
  if (stoppedEarly)
    io.note(`ended after epoch ${history.length}: the accuracy has not risen for ${recipe.patience} epochs`);
  io.result({ type: "result", arch: trained, bestTop1, steps, stoppedEarly, weights, averaged, curves, events }, () =>
    [
      `best top-1 ${(100 * bestTop1).toFixed(2)} %, ${steps} steps`,
      `weights  ${weights}`,
      ...(averaged ? [`average  ${averaged}`] : []),
      `curves   ${curves}`,
      `logs     ${out}/log.csv, ${out}/log.jsonl, ${events}`,
      `convert with: repmlp convert ${weights} deploy.pth -a ${trained}`,
    ].join("\n"),
  );
  return undefined;
};
