import { describePreprocessing } from "../../data/preprocessing/preprocess.ts";
import { listed, RepmlpError } from "../../errors.ts";
import { readRecipe } from "../../recipes/node/read-recipe.ts";
import { type TrainingPlan, type TrainResult, train } from "../../recipes/node/train.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { bestKey, leadingNumber, shownValue } from "../../tasks/shown.ts";
import type { Io } from "../io.ts";
import { type Processes, withProcesses } from "../processes.ts";
import { reexec } from "../reexec.ts";
import type { Call, Run } from "../table.ts";
import { showTraining } from "../training-view.ts";
import { noteRemarks } from "../weights.ts";

/** Trains by a recipe: a thin call of {@link train}. */
export const run: Run<"train"> = async (call) => {
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  return withProcesses(call.io, (processes) => runIn(processes, call));
};

async function runIn(processes: Processes, { args, options, io }: Call<"train">): Promise<undefined> {
  const {
    recipe: name,
    out = "runs/train",
    epochs,
    batchSize,
    lr,
    freeze,
    mean,
    std,
    train: trained,
    fc3BatchNorm,
    insertBatchNorms,
    replaceConvs,
    ...rest
  } = options;
  if (name === undefined)
    throw new RepmlpError("train/recipe", "train: say how with --recipe; see repmlp train --help.", "usage");
  if (!mean !== !std)
    throw new RepmlpError("train/options", "train: --mean and --std belong together. Give both or none.", "usage");
  const forms = [
    ...(fc3BatchNorm ? [{ form: "fc3BatchNorm", flag: "--fc3-batch-norm" }] : []),
    ...(insertBatchNorms ? [{ form: "insertedNorms", flag: "--insert-batch-norms" }] : []),
    ...(replaceConvs ? [{ form: replaceConvs, flag: `--replace-convs ${replaceConvs}` }] : []),
  ];
  if (forms.length > 1)
    throw new RepmlpError(
      "train/options",
      `train: ${forms.map(({ flag }) => flag).join(" and ")} are ${forms.length === 2 ? "two" : "several"} forms to train in. Give one of them.`,
      "usage",
    );
  const base = await readRecipe(name);
  const recipe = {
    ...base,
    ...(epochs !== undefined && { epochs }),
    ...(batchSize !== undefined && { batchSize }),
    ...(lr !== undefined && { lr }),
    ...(trained.length && { train: [...trained] }),
    freeze: [...base.freeze, ...freeze],
  };
  const progress = io.progress();
  const result = await train({
    ...{ data: args.data, recipe, folder: out, signal: io.signal, ...processes, ...rest },
    ...(mean && std && { normalization: { mean, std } }),
    ...(forms.length && { trainingForm: forms[0].form }),
    onEvent: (event, task) => showTraining(event, io, progress, "", task),
    onUnreadable: (error) => io.warn(error.message),
    onStart: (plan) => showPlan(plan, options.init ?? options.backbone, io),
  }).finally(() => progress.stop());
  const { summary, unreadable, task } = result;
  if (unreadable.length) io.note(`left out: ${unreadable.length} unreadable (${listed(unreadable)})`);
  if (!summary.finished) {
    io.note("stopped; the same command with --resume goes on");
    return undefined;
  }
  if (summary.stoppedEarly)
    io.note(
      `ended after epoch ${summary.history.length}: ${leadingNumber(task).label} has not got better for ${recipe.patience} epochs`,
    );
  showResult(result, out, io);
  return undefined;
}

function showPlan(plan: TrainingPlan, init = "", io: Io): void {
  const { loaded, newHead, notes, preprocessing, from, trained, frozen } = plan;
  for (const note of notes) io.warn(note);
  const { missing = [], unexpected = [], mismatched = [] } = loaded ?? {};
  const left = [...missing, ...unexpected, ...mismatched].filter(
    (key) => !key.endsWith("num_batches_tracked") && !newHead.includes(key),
  );
  noteRemarks(io, init, loaded?.remarks ?? []);
  if (left.length) io.note(`not taken from ${init}: ${left.join(", ")}`);
  if (newHead.length) io.note(`new head: ${newHead.join(", ")}`);
  if (from !== undefined) io.note(`pictures: ${describePreprocessing(preprocessing)} (${from})`);
  if (frozen.length) io.note(`${trained.length} of ${trained.length + frozen.length} parameters are trained`);
}

function showResult(result: TrainResult, out: string, io: Io): void {
  const { name, arch, task, summary, weights, averaged, onnx, quantized, curves, events } = result;
  const { best = 0, steps, stoppedEarly } = summary;
  const leading = leadingNumber(task);
  const files = { weights, averaged, onnx, quantized, curves, events };
  io.result({ type: "result", name, arch, [bestKey(task)]: best, steps, stoppedEarly, ...files }, () =>
    [
      `best ${leading.label} ${shownValue(leading, best)}, ${steps} steps`,
      `weights  ${weights}`,
      ...(averaged === undefined ? [] : [`average  ${averaged}`]),
      ...(onnx === undefined ? [] : [`model    ${onnx}`]),
      ...(quantized
        ? [
            `int8     ${quantized.path}, ${quantized.layers.length} layers, ${quantized.sqnr.toFixed(1)} dB beside the network in training`,
          ]
        : []),
      `curves   ${curves}`,
      `logs     ${out}/log.csv, ${out}/log.jsonl, ${events}`,
      ...(arch === undefined ? [] : [`convert with: repmlp convert ${weights} deploy.pth -a ${arch}`]),
    ].join("\n"),
  );
}
