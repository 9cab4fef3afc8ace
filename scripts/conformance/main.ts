/**
 * Runs every case of a goldens folder whose family is implemented: a line per case with the worst error and its
 * tolerance, then what is not implemented, by name and count, and `N passed, N failed, N skipped`.
 *
 *   npm run conformance -- DIR [FILTER…] [--json]
 *
 * FILTER: only cases whose id contains one of the words.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpointFile } from "../../src/node.ts";
import type { TensorSource } from "../../src/tensor/index.ts";
import { type BlockCase, checkBlock } from "./blocks.ts";
import { type CheckpointCase, checkCheckpoint } from "./checkpoints.ts";
import { checkFullsize, type FullsizeModel } from "./fullsize.ts";
import { checkHead, type HeadCase } from "./heads.ts";
import { checkMetrics, type MetricsCase } from "./metrics.ts";
import { checkOnnx, type OnnxCase } from "./onnx.ts";
import { checkPruning, type PruningCase } from "./pruning.ts";
import { checkQuantization, type QuantizationCase } from "./quantization.ts";
import { checkRepOptimizer, type RepOptimizerCase } from "./repoptimizer.ts";
import { type CaseResult, messageOf, readCase, runCase } from "./report.ts";
import { checkTraining, type TrainingCase } from "./training.ts";
import { checkTransforms } from "./transforms.ts";

const args = process.argv.slice(2).filter((a) => a !== "--");
const json = args.includes("--json");
const [folder, ...filters] = args.filter((a) => !a.startsWith("--"));
if (!folder || !existsSync(folder)) {
  console.error(
    folder ? `conformance: there is no folder ${folder}` : "usage: npm run conformance -- DIR [FILTER…] [--json]",
  );
  process.exit(2);
}

/** Float64 passes made by make-golden-float64.py, for cases that come without. */
const ownGoldens = join(import.meta.dirname, "../../test/fixtures/golden");

const wanted = (id: string): boolean => !filters.length || filters.some((f) => id.includes(f));
const readJson = <T>(...path: string[]): T | undefined => {
  const file = join(folder, ...path);
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as T) : undefined;
};
const open = async (path: string): Promise<ReadonlyMap<string, TensorSource>> =>
  (await openCheckpointFile(join(folder, path))).entries;

interface Cases {
  readonly blocks?: readonly BlockCase[];
  readonly training?: readonly TrainingCase[];
  readonly repoptimizer?: readonly RepOptimizerCase[];
  readonly pruning?: readonly PruningCase[];
  readonly quantization?: readonly QuantizationCase[];
  readonly heads?: readonly HeadCase[];
  readonly metrics?: readonly MetricsCase[];
  readonly onnx?: readonly OnnxCase[];
}

/** Lists of cases.json that are run; the cases of all others are skipped and counted. */
const understood = ["blocks", "training", "repoptimizer", "heads", "metrics", "quantization", "pruning", "onnx"];

async function* results(): AsyncGenerator<CaseResult> {
  const cases = readJson<Cases>("cases.json") ?? {};
  for (const c of cases.blocks ?? [])
    if (wanted(c.id)) {
      const file = join("float64", `${c.id}.safetensors`);
      const exact = [folder, ownGoldens].map((at) => join(at, file)).find((path) => existsSync(path));
      yield await readCase(
        c.id,
        async () => [await open(c.file), exact ? (await openCheckpointFile(exact)).entries : undefined] as const,
        ([tensors, float64]) => checkBlock(c, tensors, float64),
      );
    }
  for (const c of cases.training ?? [])
    if (wanted(c.id))
      yield await readCase(
        c.id,
        () => open(c.file),
        (tensors) => checkTraining(c, tensors),
      );
  for (const c of cases.repoptimizer ?? [])
    if (wanted(c.id))
      yield await readCase(
        c.id,
        () => open(c.file),
        (tensors) => checkRepOptimizer(c, tensors),
      );
  for (const c of cases.quantization ?? [])
    if (wanted(c.id))
      yield await readCase(
        c.id,
        () => open(c.file),
        (tensors) => checkQuantization(c, tensors),
      );
  for (const c of cases.heads ?? [])
    if (wanted(c.id))
      yield await readCase(
        c.id,
        () => open(c.file),
        (tensors) => checkHead(c, tensors),
      );
  for (const c of cases.metrics ?? [])
    if (wanted(c.id))
      yield await readCase(
        c.id,
        () => open(c.file),
        (tensors) => checkMetrics(c, tensors),
      );
  for (const c of cases.pruning ?? [])
    if (wanted(c.id))
      yield await readCase(
        c.id,
        () => open(c.file),
        (tensors) => checkPruning(c, tensors),
      );
  for (const c of cases.onnx ?? [])
    if (wanted(c.id))
      yield await readCase(
        c.id,
        () => open(c.data_file),
        (tensors) => checkOnnx(c, join(folder, c.file), tensors),
      );
  for (const [list, entries] of Object.entries(cases))
    if (!understood.includes(list))
      for (const { id } of entries as readonly { readonly id: string }[])
        if (wanted(id)) yield { id, status: "skipped", detail: `${list} is not implemented` };
  const checkpoints = readJson<CheckpointCase[]>("checkpoints", "checkpoints.json");
  if (checkpoints) {
    const expected = await open("checkpoints/expected.safetensors");
    for (const c of checkpoints) if (wanted(c.file)) yield await checkCheckpoint(folder, c, expected);
  }
  if (existsSync(join(folder, "transforms", "transforms.json")) && wanted("transforms")) yield* transforms();
  const models = readJson<FullsizeModel[]>("fullsize", "models.json") ?? [];
  const logits = models.length ? await open("fullsize/logits.safetensors") : new Map<string, TensorSource>();
  for (const model of models) if (wanted(`fullsize/${model.name}`)) yield await checkFullsize(model, logits);
}

/** One result per picture. */
async function* transforms(): AsyncGenerator<CaseResult> {
  const byPicture = new Map<string, { id: string; passed: boolean; detail: string }[]>();
  const read = async (path: string): Promise<ReadonlyMap<string, TensorSource>> =>
    (await openCheckpointFile(path)).entries;
  for await (const check of checkTransforms(join(folder, "transforms"), read)) {
    const picture = check.id.split("/")[0];
    byPicture.set(picture, [...(byPicture.get(picture) ?? []), check]);
  }
  for (const [picture, checks] of byPicture)
    yield await runCase(`transforms/${picture}`, async (check) => {
      for (const { id, passed, detail } of checks) check.equal(`${id} (${detail})`, passed, true);
    });
}

const counts = { passed: 0, failed: 0, skipped: 0 };
/** Why cases were skipped, with how many. */
const reasons = new Map<string, number>();
/** What a broken list or folder throws is a failure, too, after the results that came before it. */
async function* guarded(): AsyncGenerator<CaseResult> {
  try {
    yield* results();
  } catch (error) {
    yield { id: folder, status: "failed", detail: messageOf(error) };
  }
}

for await (const result of guarded()) {
  counts[result.status]++;
  if (result.status === "skipped") reasons.set(result.detail, (reasons.get(result.detail) ?? 0) + 1);
  const share = result.worst === undefined ? "" : ` ${(100 * result.worst).toFixed(0)} % of tolerance;`;
  console.log(json ? JSON.stringify(result) : `${result.status.padEnd(7)} ${result.id}:${share} ${result.detail}`);
}
if (!json) for (const [reason, count] of reasons) console.log(`not run: ${count} × ${reason}`);
console.log(
  json
    ? JSON.stringify({ ...counts, reasons: Object.fromEntries(reasons) })
    : `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`,
);
process.exitCode = counts.failed || !counts.passed ? 1 : 0;
