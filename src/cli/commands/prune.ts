import { must, RepmlpError } from "../../errors.ts";
import { type PruneFileOptions, pruneFile } from "../../prune/node/prune-file.ts";
import { type CutNetwork, type PruneResult, prune } from "../../recipes/node/prune.ts";
import { readRecipe } from "../../recipes/node/read-recipe.ts";
import { withPruning } from "../../recipes/recipe.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import type { EpochEvent, StepEvent } from "../../training/index.ts";
import { mustBeAlone } from "../processes.ts";
import { reexec } from "../reexec.ts";
import type { Call, Run } from "../table.ts";
import { grouped, scientific, textTable } from "../text-table.ts";
import { showTraining } from "../training-view.ts";
import { modelOptionsOf, noteRemarks, weightsOptions } from "../weights.ts";

/** Cuts a file at once, or prunes a network on a data set: a thin call of {@link pruneFile} or of {@link prune}. */
export const run: Run<"prune"> = async (call) => {
  await mustBeAlone(
    call.io,
    "prune",
    "what it has cut may be trained by several: repmlp train DATA --init pruned.safetensors",
  );
  await (call.options.init === undefined ? atOnce(call) : onData(call, call.options.init));
  return undefined;
};

const change = ([before, after]: readonly [number, number]): string =>
  `${grouped(before)} → ${grouped(after)} (${((100 * after) / before).toFixed(1)} %)`;

const prunedBefore = (path: string): string =>
  `${path}: has been pruned before; shares are of what was left then, not of the whole network`;

async function atOnce({ args: { input, save }, options, io }: Call<"prune">): Promise<void> {
  const { method = "l1", flops = 0.5, layers, atLeast, seed, output, imageSize } = options;
  must(
    method === "l1" || method === "random",
    "prune/init",
    () => `prune: ${method} trains on a data set. Give its folder as the argument, and the network with --init.`,
    "usage",
  );
  must(
    save !== undefined,
    "prune/save",
    () => "prune: say which file to write, or give a data set as the argument and the network with --init.",
    "usage",
  );
  registerNode();
  const result = await pruneFile(input, save, {
    ...{ method, flops, seed, open: weightsOptions(options) },
    ...(atLeast !== undefined && { atLeast }),
    ...(layers.length && { layers }),
    onnx: { ...(output !== undefined && { output }), ...(imageSize && { imageShape: [3, imageSize, imageSize] }) },
  } satisfies PruneFileOptions);
  const { groups, fixed, macs, parameters, again, remarks } = result;
  noteRemarks(io, input, remarks);
  if (again) io.note(prunedBefore(input));
  io.result({ type: "result", load: input, save, ...result }, () =>
    [
      textTable([
        ["channels of", "layers", "before", "after"],
        ...groups.map(({ name, layers: n, before, after }) => [name, String(n), String(before), String(after)]),
      ]),
      "",
      ...fixed.map(({ key, count, reason }) => `${key}: ${count} stay, since ${reason}`),
      `multiply-adds  ${change(macs)}`,
      `parameters     ${change(parameters)}`,
      `weights        ${save}`,
      `fine-tune with: repmlp train DATA --recipe fine-tune --init ${save}`,
    ].join("\n"),
  );
}

async function onData({ args: { input, save }, options, io }: Call<"prune">, init: string): Promise<void> {
  const { method, recipe: name, epochs, batchSize, lr, out = "runs/prune", fineTuneEpochs, flops, share } = options;
  const { layers, atLeast, set, modelOption, mask, mean, std, ...rest } = options;
  if (save !== undefined)
    throw new RepmlpError("prune/save", `prune: with --init results go to a folder (--out), not to ${save}.`, "usage");
  if (!mean !== !std)
    throw new RepmlpError("prune/options", "prune: --mean and --std belong together. Give both or none.", "usage");
  const base = await readRecipe(name ?? defaultRecipe[method ?? "l1"]);
  const recipe = withPruning(
    {
      ...base,
      ...(epochs !== undefined && { epochs }),
      ...(batchSize !== undefined && { batchSize }),
      ...(lr !== undefined && { lr }),
      model: { ...base.model, ...modelOptionsOf(modelOption) },
    },
    {
      ...(method && { method }),
      ...(flops !== undefined && { flops }),
      ...(share !== undefined && { share }),
      ...(layers.length && { layers }),
      ...(atLeast !== undefined && { atLeast }),
      ...modelOptionsOf(set, ["--set", "lasso=0.01"]),
    },
    fineTuneEpochs,
  );
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  const progress = io.progress();
  const result = await prune({
    ...{ ...rest, data: input, init, recipe, folder: out, signal: io.signal },
    ...(mask !== undefined && { mask }),
    ...(mean && std && { normalization: { mean, std } }),
    onEvent: (event, task, phase) => showTraining(event, io, progress, phase, task, leftOf),
    onUnreadable: (error) => io.warn(error.message),
    onRemarks: (remarks) => noteRemarks(io, init, remarks),
    onCut: (cut) => {
      if (cut.again) io.note(prunedBefore(init));
      io.result({ type: "cut", ...cut }, () => cutText(cut));
    },
  }).finally(() => progress.stop());
  if (!result.finished) io.note("stopped; the same command with --resume goes on");
  else showResult(result, io);
}

/** The recipe of a method. */
const defaultRecipe = {
  l1: "prune-l1",
  random: "prune-l1",
  resrep: "prune-resrep",
  csgd: "prune-csgd",
  aofp: "prune-aofp",
  gsm: "prune-gsm",
  magnitude: "prune-gsm",
  ticket: "prune-gsm",
} as const;

/** What an event tells of the network's cost. */
const leftOf = (event: StepEvent | EpochEvent): string => {
  const left = (event as Readonly<Record<string, unknown>>).trainMultiplyAdds;
  return typeof left === "number" ? `  multiply-adds ${(100 * left).toFixed(1)} %` : "";
};

const percent = (top1: number): string => `${(100 * top1).toFixed(2)} %`;

function cutText({ layers, macs, parameters, zeros, bytes, top1, imagesPerSecond, exactness }: CutNetwork): string {
  const { maxAbs, maxRel, agree, total } = exactness;
  const sizes = (shape: readonly number[]): string => shape.join(" x ");
  return [
    ...(layers.length
      ? [
          textTable([
            ["weight", "before", "after"],
            ...layers.map(({ key, before, after }) => [key, sizes(before), sizes(after)]),
          ]),
          "",
        ]
      : []),
    ...(zeros
      ? [
          textTable([
            ["weight", "values", "zeros"],
            ...Object.entries(zeros).map(([key, { weights, zeros: n }]) => [
              key,
              grouped(weights),
              `${grouped(n)} (${((100 * n) / weights).toFixed(1)} %)`,
            ]),
          ]),
          "",
        ]
      : []),
    `multiply-adds  ${change(macs)}`,
    `parameters     ${change(parameters)}`,
    `file           ${change(bytes)} bytes`,
    `pictures/s     ${imagesPerSecond.map((n) => n.toFixed(0)).join(" → ")} (rough)`,
    `top-1          ${percent(top1.given)} as given, ${percent(top1.trained)} as trained, ${percent(top1.cut)} as cut`,
    `cutting        changes outputs by at most ${scientific(maxAbs)} (${scientific(maxRel)} of the largest), same class on ${agree} of ${total} pictures`,
  ].join("\n");
}

function showResult(result: PruneResult, io: Call<"prune">["io"]): void {
  const { tuned, weights = "", pruned, sparse, plot, arch } = result;
  io.result({ type: "result", ...result }, () =>
    [
      ...(tuned === undefined ? [] : [`top-1 ${percent(tuned)} after fine-tuning`]),
      `weights  ${weights}`,
      `as cut   ${pruned}`,
      ...(sparse ? [`sparse   ${sparse.path} (${grouped(sparse.bytes)} bytes)`] : []),
      `plot     ${plot}`,
      ...(arch === undefined ? [] : [`convert with: repmlp convert ${weights} deploy.safetensors`]),
    ].join("\n"),
  );
}
