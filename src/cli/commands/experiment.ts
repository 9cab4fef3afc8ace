import { RepmlpError } from "../../errors.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { cifar10Experiment, tableOf } from "../../studies/node/cifar10-experiment.ts";
import { reexec } from "../reexec.ts";
import type { Run } from "../table.ts";
import { textTable } from "../text-table.ts";
import { showTraining } from "../training-view.ts";

/** Runs the paper's experiment: a thin call of {@link cifar10Experiment}. */
export const run: Run<"experiment"> = async ({ args, options, io }) => {
  const { data, epochs, variants, out = "runs/cifar10", lr, seed, overwrite, threads } = options;
  if (args.name !== "cifar10")
    throw new RepmlpError("experiment/name", `experiment: there is cifar10, not "${args.name}".`, "usage");
  if (data === undefined)
    throw new RepmlpError("experiment/data", "experiment: say where CIFAR-10 is with --data.", "usage");
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  const progress = io.progress();
  const { results, finished, files } = await cifar10Experiment({
    ...{ data, epochs, folder: out, lr, seed, overwrite, threads, signal: io.signal },
    ...(variants.length && { variants }),
    onEvent: (variant, event) => showTraining(event, io, progress, variant),
  }).finally(() => progress.stop());
  io.result({ type: "result", finished, results, files }, () => {
    const [head, ...rows] = tableOf(results).map((row) => row.filter((_, i) => i !== 1));
    const differing = results.flatMap(({ variant, differing: list }) =>
      list.map((d) => `${variant}: picture ${d.index}: ${d.train} or ${d.deploy}, margin ${d.margin.toExponential(1)}`),
    );
    return [textTable([head, ...rows]), ...differing, "", ...Object.values(files)].join("\n");
  });
  if (!finished) io.note("stopped; the same command goes on");
  return undefined;
};
