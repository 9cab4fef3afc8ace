import { basename, dirname } from "node:path";
import { openClassifier } from "../../inference/node/index.ts";
import { chartsSvg } from "../../report/node/curves.ts";
import { rocChart } from "../../report/node/roc.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { parsePairs } from "../../tasks/index.ts";
import { baselineEmbedders, embeddersOf, type FaceVerification, verifyPairs } from "../../tasks/node/index.ts";
import { readText } from "../read-text.ts";
import { reexec } from "../reexec.ts";
import type { Run } from "../table.ts";
import { mustServe } from "../tasks/index.ts";
import { textTable } from "../text-table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";
import { writeText } from "../write-text.ts";

/** One person or two, on the pairs of a list. */
export const run: Run<"verify-faces"> = async ({ args, options, io }) => {
  const { weights, pairs: list } = args;
  const { data = dirname(list), folds, far: fars, mirror, baselines, roc, batchSize, output, threads } = options;
  const pairs = parsePairs(await readText(list), list);
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  const file = await openClassifier(weights, weightsOptions(options));
  const progress = io.progress();
  try {
    noteRemarks(io, weights, file.remarks);
    mustServe("verify-faces", file.task.kind, weights);
    const own = {
      ...{ mirror, batchSize },
      ...(threads !== undefined && { compile: { threads } }),
      onBatch: (done: number, total: number) => progress.update({ done, total, label: "pictures" }),
    };
    const embedders = [...(baselines ? await baselineEmbedders(file, own) : []), ...(await embeddersOf(file, own))];
    const found: { readonly name: string; readonly result: FaceVerification }[] = [];
    try {
      for (const { name, embed } of embedders)
        found.push({ name, result: await verifyPairs(embed, pairs, data, { folds, fars }) });
    } finally {
      await Promise.all(embedders.map(({ dispose }) => dispose()));
    }
    progress.stop();
    const record = {
      format: "repmlp-verification/1",
      ...{ weights: basename(weights), pairs: pairs.length, folds },
      results: Object.fromEntries(
        found.map(({ name, result: { mean, deviation, perFold, tarAtFar } }) => [
          name,
          { mean, deviation, perFold, tarAtFar: tarAtFar.map(({ asked, tar, far }) => ({ asked, tar, far })) },
        ]),
      ),
    };
    io.result({ type: "result", ...record }, () => table(found, pairs.length, folds));
    if (output !== undefined) await writeText(output, `${JSON.stringify(record, undefined, 2)}\n`);
    if (roc !== undefined)
      await writeText(
        roc,
        await chartsSvg(basename(weights), [rocChart(found.map(({ name, result }) => ({ name, ...result.roc })))]),
      );
    return undefined;
  } finally {
    progress.stop();
    file.close();
  }
};

const percent = (share: number): string => (100 * share).toFixed(2);

function table(
  found: readonly { readonly name: string; readonly result: FaceVerification }[],
  pairs: number,
  folds: number,
): string {
  const [{ result: first }] = found;
  return [
    textTable([
      ["", "accuracy, %", ...first.tarAtFar.map(({ asked }) => `TAR at FAR ${asked}, %`)],
      ...found.map(({ name, result: { mean, deviation, tarAtFar } }) => [
        name,
        `${percent(mean)} ± ${percent(deviation)}`,
        ...tarAtFar.map(({ tar }) => percent(tar)),
      ]),
    ]),
    "",
    `${pairs} pairs, ${folds} folds`,
  ].join("\n");
}
