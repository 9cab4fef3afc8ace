import { RepmlpError } from "../../errors.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { cifar10Experiment, type ExperimentName, experiments, tableOf } from "../../studies/node/cifar10-experiment.ts";
import { mustBeAlone } from "../processes.ts";
import { reexec } from "../reexec.ts";
import type { Run } from "../table.ts";
import { textTable } from "../text-table.ts";
import { showTraining } from "../training-view.ts";

/** Runs a paper's experiment: a thin call of {@link cifar10Experiment}. */
export const run: Run<"experiment"> = async ({ args, options, io }) => {
  if (!(args.name in experiments))
    throw new RepmlpError(
      "experiment/name",
      `experiment: there is ${Object.keys(experiments).join(" and ")}, not "${args.name}".`,
      "usage",
    );
  const experiment = args.name as ExperimentName;
  const { data, epochs, variants, out = `runs/${experiment}`, lr, seed, overwrite, threads } = options;
  if (data === undefined)
    throw new RepmlpError("experiment/data", "experiment: say where CIFAR-10 is with --data.", "usage");
  await mustBeAlone(io, "experiment", "repmlp train is the command for several");
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  const progress = io.progress();
  const { results, finished, files } = await cifar10Experiment({
    ...{ experiment, data, epochs, folder: out, lr, seed, overwrite, threads, signal: io.signal },
    ...(variants.length && { variants }),
    onEvent: (variant, event) => showTraining(event, io, progress, variant),
  }).finally(() => progress.stop());
  io.result({ type: "result", finished, results, files }, () => {
    const [head, ...rows] = tableOf(results, experiment).map((row) => row.filter((_, i) => i !== 1));
    const differing = results.flatMap(({ variant, differing: list }) =>
      list.map((d) => `${variant}: picture ${d.index}: ${d.train} or ${d.deploy}, margin ${d.margin.toExponential(1)}`),
    );
    return [textTable([head, ...rows]), ...differing, "", ...Object.values(files)].join("\n");
  });
  if (!finished) io.note("stopped; the same command goes on");
  return undefined;
};
